"""What the finished tree says where values are noise: no fortune, whatever was overrated."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from dreaming.config import SearchConfig
from dreaming.search.teachers import make_teacher
from tests.dreaming.search.test_teachers import DISCOUNT, HEAD, LAKE, LINE, SIMULATIONS, Lab, roots
from worldmodels.actions import make_head
from worldmodels.types import Prediction

ROWS = 2048


class Place(struct.PyTreeNode):
    """A state that no other path reaches: the key of its noise."""

    key: jax.Array


@dataclass(frozen=True)
class NoisyLeaves:
    """Nothing is ever earned, and every value is off by one deviation, independently."""

    actions: int
    num_codes: int = 1

    def value(self, z):
        return jax.vmap(lambda k: jax.random.normal(jax.random.wrap_key_data(k)))(z.key)

    def predict(self, params, z):
        rows = len(z.key)
        return self.value(z), jnp.zeros((rows, self.actions)), jnp.ones((rows, self.actions))

    def afterstate(self, params, z, a):
        fold = lambda k, i: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(k), i))
        return jnp.zeros((len(a), 1)), Place(jax.vmap(fold)(z.key, 1 + jnp.argmax(a, -1)))

    def outcome(self, params, y, c):
        v, pi_logits, legal_logits = self.predict(params, y)
        zero = jnp.zeros_like(v)
        rest = {"pi_logits": pi_logits, "legal_logits": legal_logits, "uncertainty": zero}
        return y, Prediction(r=zero, continuation=zero + 1, v=v, **rest)


@functools.cache
def searched(actions: int, simulations: int, readout: str):
    """The results of ROWS searches, whose true value is 0."""
    head, config = make_head((actions,), actions), SearchConfig(readout=readout)
    config.num_simulations = simulations
    teach = jax.jit(make_teacher(NoisyLeaves(actions), head, config, 0.99))
    z = Place(jax.random.key_data(jax.random.split(jax.random.key(0), ROWS)))
    return teach(None, z, jax.random.key(1), 10.0)


@pytest.mark.parametrize("readout", ["greedy", "mean"])
@pytest.mark.parametrize(("actions", "simulations"), [(4, 16), (18, 50)])
def test_noisy_values_teach_no_fortune(actions, simulations, readout):
    result = searched(actions, simulations, readout)
    best = float(np.max(result.q, -1).mean())  # what a value by the best leaf would promise
    assert best > (1.4 if readout == "greedy" else 0.4)
    assert 0.1 < float(result.v_search.mean()) < 0.3  # deviations


def test_the_action_is_one_that_the_halving_left():
    """However well an action that was given up looks by a single leaf."""
    result = searched(18, 50, "mean")
    visits, rows = np.asarray(result.visits), np.arange(ROWS)
    np.testing.assert_array_equal(visits[rows, result.action], visits.max(-1))
    assert (np.argmax(result.q, -1) != np.asarray(result.action)).mean() > 0.1


@pytest.mark.parametrize("codes", [1, 3])
def test_the_value_is_the_policys_mean_over_mean_backups(codes):
    """Not of the values that it is read from: for a tree with and without chance nodes."""
    model = Lab(LAKE if codes == 3 else LINE, codes)
    z, key = roots(model), jax.random.key(0)
    means = lambda readout: teacher_of(codes, readout)(model.params, z, key, 1.0)
    greedy, mean = means("greedy"), means("mean")
    by_hand = lambda result: np.sum(np.asarray(result.pi_search) * np.asarray(mean.q), -1)
    np.testing.assert_allclose(mean.v_search, by_hand(mean), atol=1e-5)
    np.testing.assert_allclose(greedy.v_search, by_hand(greedy), atol=1e-5)
    assert np.abs(np.asarray(greedy.q) - np.asarray(mean.q)).max() > 0.01


@functools.cache
def teacher_of(codes: int, readout: str):
    """The tree search of `test_teachers.py`."""
    config = SearchConfig(num_simulations=SIMULATIONS[codes], readout=readout)
    return jax.jit(make_teacher(Lab(LINE, codes), HEAD, config, DISCOUNT, gumbel_scale=0.0))
