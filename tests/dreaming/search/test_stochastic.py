"""A learned model of a random task dreams its outcomes as often as the log saw them."""

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import SearchConfig
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.world.physics import LearnedPhysics, world_of
from envs import tabular
from envs.dream import start_context
from envs.real import make_real
from envs.types import Features, action_features
from worldmodels.config import FitConfig, ModelConfig

STATES, ACTIONS = 16, 4


def test_dreamed_transitions_are_as_frequent_as_logged_ones():
    task = make_real("FrozenLake-v1")
    traces = list(record("FrozenLake-v1", "random", 5000, seed=3))
    log = Log(traces, Features(task.observation_space), action_features(task.action_space))
    physics = LearnedPhysics(ModelConfig(members=3), FitConfig(steps=1500, learning_rate=3e-3))
    fit = physics.planner(log)
    assert fit.model.num_codes == 3  # where the floor may carry one
    learned = fit.learn(jax.random.key(0), lambda *_, **__: None)
    world = world_of(fit, learned, 100, SearchConfig(), {})

    logged = tabular.from_traces(traces, STATES, ACTIONS)
    taken = np.zeros((STATES, ACTIONS))
    for trace in traces:
        np.add.at(taken, (np.asarray(trace.observations)[:-1], trace.actions), 1)
    dreamed = dreamed_frequencies(world, draws=256)
    distance = 0.5 * np.abs(dreamed - logged.p).sum(-1)
    # 256 draws of three outcomes alone are 0.04 away from their own probabilities.
    assert (distance * taken).sum() / taken.sum() < 0.1
    assert distance[taken >= 100].max() < 0.15


def dreamed_frequencies(world, draws: int) -> np.ndarray:
    """[S, A, S'] how often each next state was dreamed, `draws` times from every pair."""
    dream = world.dream("member")
    pairs = [(s, a) for s in range(STATES) for a in range(ACTIONS)]
    s, a = (np.repeat(x, draws) for x in zip(*pairs, strict=True))
    context = jax.tree.map(jnp.asarray, start_context(np.eye(STATES, dtype=np.float32)[s], ACTIONS))
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), len(s)))

    @jax.jit
    def step(params, context, keys, a):
        state, _ = dream.initial(params, context, keys)
        return dream.step(params, state, a)[1].o

    o = np.asarray(step(world.params, context, keys, jnp.eye(ACTIONS)[a]))
    counts = np.zeros((STATES, ACTIONS, STATES))
    np.add.at(counts, (s, a, o.argmax(-1)), 1)
    return counts / draws
