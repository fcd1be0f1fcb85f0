"""PUCT with true dynamics finds the way; what it returns are shares of visits and mean backups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import SearchConfig
from dreaming.search.puct import make_puct
from envs.dream import start_context
from envs.tabular import TabularModel, corridor, from_gym
from worldmodels.actions import make_head

STATES, ACTIONS, N, DISCOUNT = 5, 2, 50, 0.9
MODEL = TabularModel(corridor(STATES), DISCOUNT)
HEAD = make_head((ACTIONS,), ACTIONS)


@functools.cache
def teacher(explore):
    config = SearchConfig(num_simulations=N)
    return jax.jit(make_puct(MODEL, HEAD, config, DISCOUNT, explore))


def ask(explore, states, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(states))
    z = MODEL.root(MODEL.params, start_context(np.eye(STATES)[states], ACTIONS))
    return teacher(explore)(MODEL.params, z, keys, 1.0)


def test_the_end_of_a_corridor_is_found():
    result = ask(False, [1, 2, 3])
    np.testing.assert_array_equal(result.action, 1)
    np.testing.assert_array_equal(result.visits.sum(-1), N)
    np.testing.assert_allclose(result.pi_search, result.visits / N)
    assert (result.pi_search[:, 1] > 0.5).all() and (result.q[:, 1] > result.q[:, 0]).all()
    by_hand = (DISCOUNT ** np.array([2, 1, 0])).astype(np.float32)  # of going on right
    assert (result.v_search <= by_hand + 1e-5).all()  # a mean of backups is never the best


def test_exploring_draws_actions_from_the_visits():
    result = ask(True, [2] * 400)
    share = float(jnp.mean(result.action == 1))
    assert abs(share - float(jnp.mean(result.pi_search[:, 1]))) < 0.1
    assert 0.5 < share and len(np.unique(result.visits[:, 1])) > 5  # noise differs by row


def test_models_of_chance_are_refused():
    slippery = TabularModel(from_gym("FrozenLake-v1"), DISCOUNT)
    with pytest.raises(ValueError, match="a model without chance"):
        make_puct(slippery, HEAD, SearchConfig(), DISCOUNT)


class OneWay(TabularModel):
    """Going right, which is what pays, is illegal everywhere."""

    def predict(self, params, z):
        v, pi, legal = super().predict(params, z)
        return v, pi, legal * jnp.array([1.0, -1.0])


def test_noise_does_not_bring_back_what_is_illegal():
    model = OneWay(corridor(STATES), DISCOUNT)
    teach = make_puct(model, HEAD, SearchConfig(num_simulations=N), DISCOUNT, explore=True)
    z = model.root(model.params, start_context(np.eye(STATES)[[2] * 64], ACTIONS))
    result = jax.jit(teach)(model.params, z, jax.random.split(jax.random.key(0), 64), 1.0)
    assert (result.visits[:, 1] == 0).all() and (result.action == 0).all()
