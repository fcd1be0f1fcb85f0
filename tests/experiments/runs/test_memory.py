"""Out of memory: the knob that lowers it, and by how much."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from dreaming.efficientzero.config import AgentConfig, ReplayConfig
from dreaming.errors import ConfigError
from experiments.runs.memory import Knob, advice, agent_knobs, halves, out_of_memory_told

FULL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate {}."
FRAME, ACTIONS = (32, 32, 1), 3
CONFIG = AgentConfig(size="small", envs=8, replay=ReplayConfig(capacity=2400, batch=64))


@pytest.mark.parametrize(
    ("missing", "value", "freed"),
    [("0 bytes", 50, "5.0 GB"), ("6442450944 bytes", 24, "7.6 GB"), ("8.00GiB", 12, "8.8 GB")],
)
def test_the_first_setting_that_frees_enough(missing, value, freed):
    knobs = [Knob("size", "nano", 2e10), halves("batch", 100, 1e8, 2), halves("rest", 10, 1e8)]
    line = advice(FULL.format(missing), knobs)
    assert f"batch=100 takes about 10.0 GB; batch={value} frees about {freed}" in line
    assert "others: rest=10 1.0 GB, size=nano 20.0 GB" in line


def test_what_no_setting_frees_is_halved_at_first():
    assert "batch=50 frees" in advice(FULL.format("70.0GiB"), [halves("batch", 100, 1e8)])


def test_halves_stay_multiples():
    assert [value for value, _ in halves("capacity", 2400, 1.0, 8).lower][:4] == [
        1200,
        600,
        296,
        144,
    ]


def test_the_ring_is_counted_exactly_and_smaller_networks_take_less():
    capacity, batch, refresh, size = agent_knobs(CONFIG, FRAME, ACTIONS, {"replay.batch": "batch"})
    # A frame; pi_search; a, r, elapsed, episode, v_search, v, version, priority; three flags.
    per_row = 32 * 32 + 4 * ACTIONS + 8 * 4 + 3
    assert capacity.name == "replay.capacity"
    assert capacity.bytes == pytest.approx(2400 * per_row, abs=8)
    assert batch.name == "batch" and batch.bytes > 64 * 6 * 4 * 32 * 32 * 4  # its frames alone
    assert refresh.bytes > 256 * 17 * 2 * 2 * 32 * 4  # the latents of its trees alone
    assert [value for value, _ in size.lower] == ["nano"] and size.lower[0][1] < size.bytes


def test_late_unrolls_count_and_sequences_stay_whole():
    batch = lambda config: agent_knobs(config, FRAME, ACTIONS)[1]
    late = batch(dataclasses.replace(CONFIG, late_unroll_steps=10))
    assert late.bytes > batch(CONFIG).bytes + 64 * 5 * 4 * 32 * 32 * 4  # frames of 5 more steps
    replay = ReplayConfig(capacity=2400, batch=48, sequence=6)
    lower = batch(dataclasses.replace(CONFIG, replay=replay)).lower
    assert [value for value, _ in lower] == [24, 12, 6]


def test_only_a_lack_of_memory_is_explained():
    knobs = lambda: [halves("batch", 4, 1e9)]
    with pytest.raises(ConfigError, match="batch=2 frees about 2.0 GB"), out_of_memory_told(knobs):
        raise jax.errors.JaxRuntimeError(FULL.format("1.5GiB"))
    with pytest.raises(ConfigError, match="batch=2"), out_of_memory_told(knobs):
        raise MemoryError
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), out_of_memory_told(knobs):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_what_jax_itself_raises_is_explained():
    with pytest.raises(ConfigError, match="140737.5 GB more did not fit"):
        with out_of_memory_told(lambda: [halves("batch", 4, 1e9)]):
            jnp.zeros(1 << 47, jnp.uint8)
