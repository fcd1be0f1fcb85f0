"""What a log gives without a dream: its own frequencies, and the better of what was tried."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.config import BaselineConfig
from dreaming.observe.log import Log
from dreaming.student.baselines import (
    best_value,
    clone_loss,
    conservative_q_loss,
    fit_baselines,
    soft_best_value,
    value_of,
)
from dreaming.student.network import student_logits
from envs.dream import World, start_context
from envs.tabular import TabularModel, corridor
from envs.types import Features, Trace, action_features
from worldmodels.actions import make_head

CONFIG = BaselineConfig(steps=500, batch=128, learning_rate=1e-2, width=16)
# How often actions 0 and 1 were taken in each of three states; each episode has one step.
COUNTS = np.array([[30, 30], [48, 12], [60, 0]])


def make_log(reward, **fields):
    """Episodes of one step that end with `reward(s, a)`."""
    pairs = [(s, a) for s, a in np.ndindex(3, 2) for _ in range(COUNTS[s, a])]
    trace = lambda s, a: Trace(
        np.array([s, 0]), np.array([a]), np.array([reward(s, a)]), True, False, **fields
    )
    return Log([trace(*pair) for pair in pairs], Features(Discrete(3)), Features(Discrete(2)))


@pytest.fixture(scope="module")
def trained():
    """Logits [3, 2] of both baselines; action 1 earns 1, action 0 nothing."""
    log, model, told = make_log(lambda s, a: float(a)), TabularModel(corridor(3), 0.9), []
    world = World(
        model=model,
        params=model.params,
        observation_space=log.observation.space,
        action_space=log.action.space,
        horizon=1,
        starts=start_context(np.eye(3), 2),
        initial=np.ones(3, bool),
        card={"discount": 0.9, "value_span": 10.0},
    )
    update = lambda done, **metrics: told.append(metrics)
    with jax.numpy_rank_promotion("allow"):
        baselines = fit_baselines(log, world, CONFIG, jax.random.key(0), update)
        logits = {
            name: np.asarray(student_logits(params, start_context(np.eye(3), 2)))
            for name, params in baselines.items()
        }
    return logits, baselines, told


def test_the_clone_acts_as_often_as_the_log(trained):
    logits, baselines, _ = trained
    pi = jax.nn.softmax(logits["behaviour_cloning"])
    np.testing.assert_allclose(pi, COUNTS / COUNTS.sum(-1, keepdims=True), atol=0.06)
    assert not baselines["behaviour_cloning"]["greedy"]  # it clones the randomness too


def test_conservative_q_prefers_the_better_action_and_shuns_the_unknown(trained):
    logits, baselines, _ = trained
    q = logits["conservative_q"]
    assert q[0, 1] > q[0, 0] + 0.1  # tried equally often, and better
    assert q[2, 0] > q[2, 1] + 1  # never tried: not believed to be good
    assert baselines["conservative_q"]["greedy"]


def test_both_report_their_loss(trained):
    _, _, told = trained
    names = [f"clone/{name}_loss" for name in ("behaviour_cloning", "conservative_q")]
    assert [list(metrics) for metrics in told] == [[name] for name in names]


def student(q):
    """A student of one layer whose outputs at states 0..2 are the rows of `q`."""
    layers = [{"w": jnp.asarray(q, jnp.float32), "b": jnp.zeros(2)}]
    return {"layers": layers, "scale": {"o_mean": jnp.zeros(3), "o_std": jnp.ones(3)}}


def q_loss(log, row, alpha=0.0):
    """The loss of one logged step under hand-made values, slow ones 10 times as large."""
    q = np.array([[0.5, 0.25], [1.0, 3.0], [0.0, 0.0]])
    rules = {"window": 1, "discount": 0.9, "unit": 2.0, "alpha": alpha}
    arguments = log.head, log.replay(), jnp.array([row])
    return conservative_q_loss(student(q), student(10 * q), *arguments, **rules)


def test_conservative_q_by_hand():
    spaces = Features(Discrete(3)), Features(Discrete(2))
    trace = Trace(np.array([0, 1, 2]), np.array([0, 1]), np.array([0.0, 6.0]), True, False)
    log = Log([trace], *spaces)
    # Going on: Q = 0.5, target 0 + 0.9 * max(10, 30) = 27: Huber 26.5 - 0.5.
    np.testing.assert_allclose(q_loss(log, 0), 26.0, rtol=1e-5)
    # Ending: Q = 3, target 6 / 2 = 3, whatever the last observation promises.
    np.testing.assert_allclose(q_loss(log, 1), 0.0, atol=1e-6)
    gap = np.log(np.exp(1) + np.exp(3)) - 3
    np.testing.assert_allclose(q_loss(log, 1, alpha=2.0), 2 * gap, rtol=1e-5)


def test_illegal_actions_promise_nothing():
    spaces = Features(Discrete(3)), Features(Discrete(2))
    masks = np.array([[True, True], [True, False], [True, False]])
    o, a, r = np.array([0, 1, 2]), np.array([0, 0]), np.array([0.0, 2.0])
    trace = Trace(o, a, r, True, False, action_masks=masks)
    log = Log([trace], *spaces)
    np.testing.assert_allclose(q_loss(log, 0), 0.9 * 10 - 0.5 - 0.5, rtol=1e-5)  # not 0.9 * 30
    np.testing.assert_allclose(q_loss(log, 1), 0.0, atol=1e-6)
    # In state 1 there is but one legal action: nothing is promised beside it, nothing to clone.
    np.testing.assert_allclose(q_loss(log, 1, alpha=2.0), 0.0, atol=1e-6)
    flat = student(np.zeros((3, 2)))
    loss = lambda row: float(clone_loss(flat, log.head, log.replay(), jnp.array([row]), 1))
    assert loss(0) == pytest.approx(np.log(2)) and loss(1) == pytest.approx(0)


def test_q_over_numbers_is_a_parabola_around_the_mean():
    head = make_head((), 2)
    out = jnp.asarray([[0.5, -3.0, 0.0, 1.0, 7.0]])  # mean, curve before softplus, best value
    np.testing.assert_allclose(value_of(head, out, jnp.array([[0.5, -1.0]])), [7.0])  # clipped mean
    fall = np.log(2) * 0.25 + np.log(1 + np.e) * 4
    np.testing.assert_allclose(value_of(head, out, jnp.array([[0.0, 1.0]])), [7 - fall], rtol=1e-5)
    np.testing.assert_allclose(best_value(head, out, None), [7.0])
    steep = jnp.asarray([[0, 0, -9, -9, 7.0]])
    assert 7 < soft_best_value(head, steep, None)[0] < 7 + np.log(16) + 1e-4


def test_conservative_q_over_numbers_finds_the_better_side():
    """One state, reward = a: the mean moves up; the student has no value output left."""
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (200, 1)).astype(np.float32)
    trace = Trace(np.zeros((201, 1), np.float32), actions, actions[:, 0], True, False)
    spaces = Box(-1, 1, (1,)), Box(-1, 1, (1,), np.float32)
    log = Log([trace], Features(spaces[0]), action_features(spaces[1]))
    world = World(
        model=TabularModel(corridor(3), 0.5),
        params={},
        observation_space=spaces[0],
        action_space=spaces[1],
        horizon=1,
        starts=start_context(np.eye(1), 1),
        initial=np.ones(1, bool),
        card={"discount": 0.5, "value_span": 4.0},
    )
    config = BaselineConfig(steps=400, batch=64, learning_rate=1e-2, width=16, conservatism=0.1)
    with jax.numpy_rank_promotion("allow"):
        params = fit_baselines(log, world, config, jax.random.key(0), lambda *_, **__: None)
        q = params["conservative_q"]
        mean = student_logits(q, start_context(np.zeros((1, 1)), 1))[0, 0]
    assert q["layers"][-1]["b"].shape == (2,)
    assert mean > 0.5
