"""A fit compiles once, repeats itself, and learns what the log holds: also its chances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.observe.replay import every_row, make_replay, sample_windows
from envs.dream import start_context
from envs.tabular import corridor, from_traces
from envs.types import Features, Trace
from worldmodels.actions import make_head
from worldmodels.config import FitConfig, LossWeights, ModelConfig
from worldmodels.fit import fit_optimiser, init_fit, make_fit
from worldmodels.vectors.family import make_mlp
from worldmodels.vectors.measure import measure_scale

CONFIG = FitConfig(steps=20, batch=3, unroll_steps=1, td_steps=1, discount=0.99, target_decay=0.75)


@pytest.fixture(scope="module")
def fitting(tiny, windows):
    """(model, scale, fit, draws): a compiled fit of one step per call on the same windows for ever.

    `draws` grows whenever the program is traced.
    """
    model, params = tiny()
    batch, draws = windows(model, length=3), []

    def sample(replay, key, rows, length):
        draws.append((rows, length))
        return batch

    return model, params["scale"], make_fit(model, CONFIG, sample, chunk=1), draws


def test_several_calls_compile_one_program(fitting):
    model, scale, fit, draws = fitting
    state = init_fit(model, CONFIG, scale, jax.random.key(0))
    state, _ = fit(state, None)
    traced = len(draws)
    for _ in range(3):
        state, metrics = fit(state, None)
    assert len(draws) == traced >= 1 and int(state.fit_steps) == 4
    assert fit._cache_size() == 1
    assert set(draws) == {(3, 1 + 1 + 1)}  # K steps, n more, and the last observation
    assert all(np.isfinite(x) for x in metrics.values())
    assert set(metrics) >= {"fit/loss", "fit/gradient_norm", "fit/reward_loss"}


def test_a_fit_repeats_itself_and_seeds_differ(fitting):
    model, scale, fit, _ = fitting
    ends = []
    for seed in (0, 0, 1):
        state = init_fit(model, CONFIG, scale, jax.random.key(seed))
        for _ in range(2):
            state, _ = fit(state, None)
        ends.append(jax.tree.leaves(state.params["net"]))
    one, again, other = ends
    assert all((x == y).all() for x, y in zip(one, again, strict=True))
    assert any((x != y).any() for x, y in zip(one, other, strict=True))


def test_the_loss_of_the_same_windows_falls(fitting):
    model, scale, fit, _ = fitting
    state = init_fit(model, CONFIG, scale, jax.random.key(0))
    state = state.replace(params=state.params | {"scale": scale})  # a base that is not random
    losses = []
    for _ in range(20):
        state, metrics = fit(state, None)
        losses.append(float(metrics["fit/loss"]))
    assert losses[-1] < 0.96 * losses[0]  # at a rate of 2e-3


def test_the_slow_copy_moves_a_share_of_the_way(fitting):
    model, scale, fit, _ = fitting
    start = init_fit(model, CONFIG, scale, jax.random.key(0))
    after, _ = fit(start, None)
    trees = (start.params["net"], after.params["net"], after.target_params["net"])
    moved = 0.0
    for old, new, slow in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(slow, 0.75 * old + 0.25 * new, atol=1e-6)
        moved = max(moved, float(np.abs(new - old).max()))
    assert moved > 1e-4


def test_only_kernels_decay(tiny):
    _, params = tiny()
    config = FitConfig(steps=100, learning_rate=0.1, weight_decay=0.5)
    optimiser = fit_optimiser(config)
    still = jax.tree.map(jnp.zeros_like, params["net"])

    @jax.jit
    def step(net):
        updates, _ = optimiser.update(still, optimiser.init(net), net)
        return optax.apply_updates(net, updates)

    after = step(params["net"])
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(params["net"]), jax.tree.leaves(after), strict=True
    ):
        decays = path[-1].key == "kernel"
        np.testing.assert_allclose(y, x * (1 - 0.1 * 0.5) if decays else x, rtol=1e-5)


def test_the_scales_of_a_log_by_hand():
    config = ModelConfig(latent=8, value_bins=5)
    o = np.array([[0.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
    change, r, ends = np.diff(o, axis=0), [np.array([1.0, 1.0])], [True]
    rules = {"config": config, "discount": 0.9}
    scale = measure_scale(o, change, r, ends, **rules, is_number=np.array([True, True]))
    np.testing.assert_allclose(scale["o_mean"], [2, 7])
    np.testing.assert_allclose(scale["o_std"], [np.sqrt(8 / 3), 1])  # constant: left as it is
    np.testing.assert_allclose(scale["o_step"], 0.01 * scale["o_std"])  # steady changes: a floor
    np.testing.assert_allclose(scale["reward_support"], [0, 1])
    np.testing.assert_allclose(scale["value_support"], [0, 2.5, 5, 7.5, 10], rtol=1e-6)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(scale))
    is_number = np.array([False, True, False, True])  # bits, and the same two numbers
    mixed = measure_scale(o, change, r, ends, **rules, is_number=is_number)
    others = {"o_mean": 0, "o_std": 1, "o_step": 1, "o_low": 0, "o_high": 1}
    for name, value in others.items():
        np.testing.assert_array_equal(mixed[name][~is_number], [value] * 2)
        np.testing.assert_array_equal(mixed[name][is_number], scale[name])


def record(table, num_steps, seed):
    """Episodes of a uniformly random policy on a table, cut after 20 steps."""
    random, traces = np.random.default_rng(seed), []
    while sum(map(len, traces)) < num_steps:
        s, ended, rows = 0, False, []
        while not ended and len(rows) < 20:
            a = random.integers(table.num_actions)
            n = random.choice(table.num_states, p=table.p[s, a])
            ended = bool(table.terminated[s, a, n])
            rows.append((s, a, table.r[s, a, n]))
            s = n
        o, a, r = map(np.array, zip(*rows, strict=True))
        traces.append(Trace(np.append(o, s), a, r, ended, not ended))
    return traces


@pytest.mark.parametrize(
    ("kind", "codes"), [("discrete", 2), pytest.param("box", 4, marks=pytest.mark.slow)]
)
def test_a_small_fit_learns_where_a_corridor_leads_and_how_often(kind, codes):
    """Outcome probabilities of every pair within 0.1 of the log's, rewards and ends as well.

    With discrete observations a code is the next observation; else codes are found by the fit.
    """
    size = 3
    traces = record(corridor(size, slip=0.25), 1500, seed=0)
    expected = from_traces(traces, size, 2)
    space = Discrete(size) if kind == "discrete" else Box(0, size - 1, (1,))
    observation, action = Features(space), Features(Discrete(2))
    if kind == "box":
        traces = [dataclasses.replace(t, observations=t.observations[:, None]) for t in traces]
    config = ModelConfig(latent=8, width=16, members=2, chance_codes=codes, features=8)
    # Hidden codes are told apart by what they explain: the observation must outweigh the rest.
    weights, steps = (LossWeights(observation=10), 800) if kind == "box" else (LossWeights(), 400)
    rules = {"unroll_steps": 1, "discount": 0.99, "learning_rate": 5e-3, "weights": weights}
    fit_config = FitConfig(steps, batch=64, **rules)
    model, params = fitted(traces, observation, action, config, fit_config)

    s, a = np.divmod(np.arange(2 * (size - 1)), 2)  # every pair but those of the end
    o = observation.flatten(s if kind == "discrete" else s[:, None])
    p, o, r, ends = outcomes(model, params, start_context(o, 2), jnp.eye(2)[a])
    n = observation.unflatten(np.asarray(o)).reshape(o.shape[:2])
    seen = np.sum(p[..., None] * np.eye(size)[np.rint(n).astype(int)], axis=0)
    np.testing.assert_allclose(seen, expected.p[s, a], atol=0.1)
    np.testing.assert_allclose((p * r).sum(0), (expected.p * expected.r).sum(-1)[s, a], atol=0.1)
    end = (expected.p * expected.terminated).sum(-1)[s, a]
    np.testing.assert_allclose((p * ends).sum(0), end, atol=0.1)


def fitted(traces, observation, action, config, fit_config):
    """(model, params) of a whole fit on a log."""
    head = make_head(action.factors, action.size)
    replay = make_replay(traces, observation, action, head, members=2, key=jax.random.key(1))
    o = [observation.flatten(trace.observations) for trace in traces]
    r, ends = [trace.rewards for trace in traces], [bool(t.terminated[-1]) for t in traces]
    numbers = [x[:, observation.is_box] for x in o]
    change = np.concatenate([np.diff(x, axis=0) for x in numbers])
    rules = {"config": config, "discount": 0.99, "is_number": observation.is_box}
    scale = measure_scale(np.concatenate(numbers), change, r, ends, **rules)
    model = make_mlp(config, observation.parts, head, scale)
    state = init_fit(model, fit_config, scale, jax.random.key(0))
    rows = lambda: every_row(replay, len(np.concatenate(o)), head, 1)
    params = model.prepared(state.params, rows())
    state = state.replace(params=params, target_params=params)
    sample = functools.partial(sample_windows, head=head)
    fit = make_fit(model, fit_config, sample, chunk=200)
    for _ in range(fit_config.steps // 200):
        state, _ = fit(state, replay)
    return model, model.measured(state.params, rows())


def outcomes(model, params, context, a):
    """Probability [C, B], observation [C, B, O], reward and probability of an end of each code."""

    @jax.jit
    def ask(params, context, a):
        logits, y = model.afterstate(params, model.root(params, context), a)
        each = []
        for c in range(model.num_codes):
            z, step = model.outcome(params, y, jnp.full(len(a), c))
            each.append((model.decode(params, z), step.r, 1 - step.continuation))
        return jax.nn.softmax(logits).T, *map(jnp.stack, zip(*each, strict=True))

    return ask(params, context, a)
