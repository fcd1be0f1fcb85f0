"""What a fit hands on beside its dynamics: a policy head that knows the log's behaviour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.config import SearchConfig
from dreaming.observe.log import Log
from dreaming.world.certify import foreseen
from dreaming.world.fitting import imitate
from dreaming.world.physics import LearnedPhysics
from envs.types import Features, Trace, action_features
from worldmodels.config import ModelConfig

SHARE = 0.75  # of the actions that are what the sign of o says; the others are drawn


def log_of(seed: int, purpose: float) -> Log:
    """Noise; an action says whether o > 0 with probability `purpose`, else anything."""
    draw = np.random.default_rng(seed)
    traces = []
    for _ in range(20):
        o = draw.normal(size=(101, 1)).astype(np.float32)
        right = (o[:-1, 0] > 0).astype(int)
        a = np.where(draw.random(100) < purpose, right, draw.integers(2, size=100))
        traces.append(Trace(o, a, np.zeros(100), False, True))
    spaces = Features(Box(-9, 9, (1,))), action_features(Discrete(2))
    return Log(traces, *spaces)


@pytest.mark.parametrize("purpose", [SHARE, 0.0])
def test_the_policy_head_clones_the_behaviour_and_nothing_else_changes(purpose):
    log, unseen = log_of(0, purpose), log_of(1, purpose)
    physics = LearnedPhysics(ModelConfig(latent=4, width=16, members=1))
    fit = physics.planner(log)
    model = fit.model
    params = model.init(jax.random.key(0), fit.scale)
    cloned = imitate(model, params, log.replay(), jax.random.key(1))
    p = purpose + (1 - purpose) / 2
    entropy = -sum(x * np.log(x) for x in (p, 1 - p))
    ideal = 1 - entropy / np.log(2)  # McFadden's R^2 of who knows the behaviour itself
    assert foreseen(model, cloned, unseen, window=1) == pytest.approx(ideal, abs=0.06)
    kept = {name: x for name, x in params["net"].items() if name != "policy"}
    same = jax.tree.map(jnp.array_equal, kept, {name: cloned["net"][name] for name in kept})
    assert all(jax.tree.leaves(same))


def walks(episodes: int) -> Log:
    """A corridor of five places, walked at random."""
    draw, traces = np.random.default_rng(0), []
    for _ in range(episodes):
        a = draw.integers(2, size=12)
        o = np.clip(2 + np.cumsum([0, *(2 * a - 1)]), 0, 4)
        traces.append(Trace(o, a, o[1:] == 4, False, True))
    return Log(traces, Features(Discrete(5)), action_features(Discrete(2)))


def test_no_step_is_trusted_in_a_world_that_nothing_could_be_held_out_for():
    physics = LearnedPhysics(ModelConfig(name="counts"))
    once = lambda stage, total, like, work: work(lambda *_, **__: None)
    fitted = physics.fitted(walks(1), SearchConfig(), 12, jax.random.key(0), once)
    assert fitted.fidelity == {} and fitted.judges == []
    assert fitted.world.u_max < 0  # no uncertainty is as low
