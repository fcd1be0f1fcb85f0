"""The image part of the benchmark: rates, operations, shares and predictions."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.efficientzero.config import AgentConfig, ReplayConfig
from dreaming.flops import count_flops
from experiments.bench import images as bench_images
from experiments.bench.case import PassingOn, Workload, filled_state, make_workload
from experiments.bench.peak import device_memory, host_memory, matrix_peak
from experiments.bench.predict import minutes_per_game, refreshed_states
from experiments.command.progress import Progress
from experiments.config import BenchmarkConfig

TINY = BenchmarkConfig(
    size="nano",
    batch=4,
    searches=4,
    num_simulations=3,
    refresh_batch=4,
    capacity=64,
    dreams=4,
    unroll_steps=2,
    updates_per_call=2,
    frame=[32, 32, 1],
    window=2,
    num_actions=3,
    bins=21,
    repetitions=1,
)
NAMES = {
    "device": "peak_flops_per_s",
    "search": "searches_per_s simulations_per_s one_device_searches_per_s speedup "
    "ceiling_searches_per_s share_of_ceiling mflops_per_search flops_per_s mfu compile_s",
    "act": "decisions_per_s compile_s",
    "dream": "steps_per_s compile_s",
    "env": "decisions_per_s",
    "refresh": "states_per_s compile_s",
    "learn": "updates_per_s samples_per_s update_ms gflops_per_update flops_per_s mfu compile_s",
    "update": "sample_ms forward_backward_ms optimiser_ms priorities_ms sample_share "
    "forward_backward_share optimiser_share priorities_share parts_over_whole",
    "predict": "minutes_per_game learn_minutes refresh_minutes act_minutes",
}


@pytest.fixture(scope="module")
def case() -> Workload:
    return make_workload(TINY)


@pytest.mark.slow
def test_every_figure_is_there_and_they_agree(case):
    figures = bench_images.measure(case, Progress(stream=io.StringIO()))
    names = {f"{group}/{name}" for group, each in NAMES.items() for name in each.split()}
    assert set(figures) - {"device/peak_memory_mb"} == names
    assert all(math.isfinite(x) and x >= 0 for x in figures.values()), figures
    shares = [x for name, x in figures.items() if name.endswith("_share")]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    assert figures["search/simulations_per_s"] == pytest.approx(
        3 * figures["search/searches_per_s"]
    )
    assert figures["learn/samples_per_s"] == pytest.approx(4 * figures["learn/updates_per_s"])
    speedup = figures["search/searches_per_s"] / figures["search/one_device_searches_per_s"]
    assert figures["search/speedup"] == pytest.approx(speedup)
    peak = figures["device/peak_flops_per_s"]
    assert figures["learn/mfu"] == pytest.approx(figures["learn/flops_per_s"] / peak)


def test_operations_of_an_update_by_hand(case):
    """`nano` on two frames of 32x32x1: 8x8 patches, halved to 4x4; 16 channels."""
    conv = lambda side, before, after, k=9: 2 * side**2 * k * before * after
    dense = lambda *sizes: sum(2 * a * b for a, b in zip(sizes, sizes[1:], strict=False))
    residual = lambda side, channels: 2 * conv(side, channels, channels)
    flat = conv(4, 16, 16, k=1)
    first = conv(8, 2, 16, k=16)
    encode = first + residual(8, 16) + residual(4, 16)
    plane = dense(3, 16)
    step = plane + conv(4, 17, 16) + residual(4, 16)
    prefix = flat + 4 * (dense(256, 32) + dense(32, 32)) + dense(32, 32, 21)
    predict = residual(4, 16) + 2 * flat + dense(256, 32, 21) + dense(256, 32, 3)
    goes_on = flat + dense(256, 32, 1)
    project, predictor = dense(256, 64, 64, 64), dense(64, 32, 64)
    # A gradient costs twice its forward pass; nothing asks for that of frames and actions.
    learned = 3 * encode - first + 2 * (3 * (step + prefix + goes_on + project + predictor) - plane)
    learned += 3 * 3 * predict
    compared = 2 * (encode + project)
    state = jax.eval_shape(case.agent.init, jax.random.key(0))
    counted = count_flops(case.agent.learn, state) / (2 * 4)  # updates in a call, windows in each
    assert counted == pytest.approx(learned + compared, rel=0.02)


def test_operations_of_a_search_by_hand(case):
    inputs = jax.eval_shape(
        lambda: (case.model.init(case.key("init")), case.latents(4), jnp.zeros((4, 2), jnp.uint32))
    )
    counted = count_flops(bench_images.make_searcher(case), *inputs)
    loop = count_flops(bench_images.make_network_loop(case), *inputs)
    assert counted == pytest.approx(loop, rel=0.02) and counted > 0


def test_minutes_of_a_game_by_hand():
    game = AgentConfig(real_steps=1000, learn_after=200, replay=ReplayConfig(capacity=700))
    # 800 updates; refreshes before updates 0, 200, 400, 600 find 200, 400, 600 and 700 states.
    assert refreshed_states(game) == 1900
    minutes = minutes_per_game(game, updates_per_s=2, refreshed_per_s=10, acted_per_s=5)
    assert minutes["learn_minutes"] == pytest.approx(400 / 60)
    assert minutes["refresh_minutes"] == pytest.approx(190 / 60)
    assert minutes["act_minutes"] == pytest.approx(200 / 60)
    assert minutes["minutes_per_game"] == pytest.approx(790 / 60)
    twice = replace(game, updates_per_step=2.0)  # 1600 updates: twice as many refreshes
    assert refreshed_states(twice) == 200 + 300 + 400 + 500 + 600 + 3 * 700


def test_the_ring_is_filled_and_every_row_can_be_reached(case):
    ring = filled_state(case).ring
    assert int(ring.added) == 64 and bool(jnp.all(ring.priority > 0))
    assert 0 < float(jnp.std(ring.o.astype(jnp.float32)))


def test_a_donating_function_is_given_its_last_state():
    start: Any = jnp.int32(0)
    call = PassingOn(jax.jit(lambda x: x + 1, donate_argnums=0), start)
    for _ in range(3):
        call()
    assert np.asarray(call.state) == 3


def test_a_peak_is_measured():
    assert matrix_peak("float32", jax.devices(), 1, sizes=(64,)) > 1e6
    assert matrix_peak("float32", jax.devices()[:1], 1, sizes=(64,)) > 1e6
    assert host_memory() > 10
    assert device_memory(jax.devices("cpu")) is None


def test_shapes_follow_the_device_and_can_all_be_set(monkeypatch):
    assert make_workload(BenchmarkConfig()).shapes()["size"] == "small"
    assert make_workload(BenchmarkConfig(size="base", batch=48)).shapes()["batch"] == 48
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = make_workload(BenchmarkConfig()).shapes()
    assert (shapes["size"], shapes["batch"], shapes["compute"]) == ("base", 256, "bfloat16")


def test_rates_and_operations_of_a_learner_that_is_known():
    """A stand-in whose update is one product of 8x8 matrices; a batch of 4, 2 updates a call."""
    learn = jax.jit(lambda x: (x @ x @ x, {}), donate_argnums=0)
    agent = SimpleNamespace(learn=learn, refresh=jax.jit(lambda x: x * 1, donate_argnums=0))
    case: Any = SimpleNamespace(agent=agent, config=make_workload(TINY).config, repetitions=1)
    start: Any = jnp.eye(8)
    state, refreshed = bench_images.refresh_figures(case, start)
    state, figures = bench_images.learn_figures(case, state, peak=1e9)
    np.testing.assert_array_equal(np.asarray(state), np.eye(8))
    assert figures["learn/gflops_per_update"] == pytest.approx(2 * 8**3 / 1e9)
    assert figures["learn/samples_per_s"] == pytest.approx(4 * figures["learn/updates_per_s"])
    assert figures["learn/mfu"] == pytest.approx(figures["learn/flops_per_s"] / 1e9)
    assert figures["learn/update_ms"] == pytest.approx(1e3 / figures["learn/updates_per_s"])
    assert refreshed["refresh/states_per_s"] > 0
