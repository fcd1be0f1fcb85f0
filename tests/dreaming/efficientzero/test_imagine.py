"""Walks in a model of numbers, by hand; what is learned from them, and for how long."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import SearchConfig
from dreaming.efficientzero.agent import init_agent, make_agent, make_agent_model
from dreaming.efficientzero.config import AgentConfig, ImagineConfig, ReplayConfig
from dreaming.efficientzero.imagine import imagined_windows, walk

CONFIG = AgentConfig(
    size="nano",
    window=2,
    bins=11,
    unroll_steps=2,
    envs=2,
    updates_per_call=5,
    refresh_batch=8,
    compute="float32",
    search=SearchConfig(num_simulations=2, max_considered=2),
    replay=ReplayConfig(capacity=12, batch=4),
    imagine=ImagineConfig(weight=0.5, roots=4, steps=3, batch=3),
)


class Counting:
    """A model of numbers: action 1 adds 1, and half of all steps are the last."""

    def encode(self, params, frames):
        return jnp.sum(frames, axis=(1, 2, 3, 4)).astype(jnp.float32)

    begin = staticmethod(lambda latent: latent)

    def afterstate(self, params, z, a):
        return None, z + params * a[:, 1]

    def outcome(self, params, y, c):
        return y, SimpleNamespace(continuation=jnp.full_like(y, 0.5))


def test_a_walk_does_what_the_search_says():
    def teach(params, z, keys):
        """Action 1 below 9, then 0 for ever."""
        pi = jax.nn.one_hot((z < 9).astype(jnp.int32), 2)
        return SimpleNamespace(pi_search=pi, v_search=10 * z)

    frames = jnp.array([7, 5, 20], jnp.uint8).reshape(3, 1, 1, 1, 1)
    pi = jnp.array([[0.0, 1], [1, 0], [0, 1]])
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 3))
    model: Any = Counting()
    a, pi_search, v_search, reached = walk(model, teach, 1.0, frames, pi, keys, steps=4)
    assert a.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    assert v_search.tolist() == [[80, 90, 90, 90], [50, 60, 70, 80], [210] * 4]
    assert pi_search[0, :, 1].tolist() == [1, 0, 0, 0] and pi_search.shape == (3, 4, 2)
    np.testing.assert_allclose(reached, [[0.5, 0.25, 0.125, 0.0625]] * 3)


def test_nothing_is_learned_where_a_walk_began_at_rows_that_are_gone():
    """Slots 0..5 were refreshed, and 0 and 1 written over since then."""
    model = make_agent_model(CONFIG, (16, 16, 1), 3)
    abstract = jax.eval_shape(lambda: init_agent(model, CONFIG, jax.random.key(0)))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    slots, walks = jnp.array([0, 2, 3, 1]), (4, 3)
    state = state.replace(
        version=jnp.int32(2),
        ring=state.ring.replace(
            has_step=jnp.ones(12, bool),
            version=jnp.where(jnp.arange(12) < 2, -1, 2),
            added=jnp.int32(14),
        ),
        imagined=state.imagined.replace(
            slots=slots, a=jnp.full(walks, 2), v_search=jnp.ones(walks), weight=jnp.ones(walks)
        ),
    )
    config = dataclasses.replace(CONFIG, imagine=dataclasses.replace(CONFIG.imagine, batch=4))
    found = imagined_windows(state, jax.random.key(1), config)
    assert found.o.shape == (4, 2, 16, 16, 1) and found.weight.shape == walks
    assert sorted(found.weight[:, 0].tolist()) == [0, 0, 1, 1]
    assert jnp.argmax(found.a, -1).tolist() == [[2] * 3] * 4


def test_an_agent_imagines_only_if_asked():
    """Nothing is compiled: shapes alone."""
    asked = make_agent(CONFIG, (16, 16, 1), 3, jax.devices()[:1])
    state = jax.eval_shape(asked.init, jax.random.key(0))
    refreshed = jax.eval_shape(asked.refresh, state)
    learned, metrics = jax.eval_shape(asked.learn, refreshed)
    assert jax.tree.map(lambda x: x.shape, learned) == jax.tree.map(lambda x: x.shape, state)
    assert refreshed.imagined.pi_search.shape == (4, 3, 3)
    assert {"learn/imagined_value_loss", "learn/imagined_policy_loss"} < set(metrics)
    config = dataclasses.replace(CONFIG, imagine=ImagineConfig())
    state = jax.eval_shape(make_agent(config, (16, 16, 1), 3).init, jax.random.key(0))
    assert state.imagined is None
