"""Estimates that an accelerator must not spoil: its matrix products round their inputs."""

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.gate import fitted_q
from dreaming.gate.fitted_q import Choices
from dreaming.gate.logged_steps import ask, make_steps
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.student.network import fresh_student
from envs.types import Features, action_features
from tests.rounding import rounded
from worldmodels.support import support_to_scalar
from worldmodels.vectors.base import base_changes, init_base


@pytest.fixture(scope="module")
def asked():
    """(steps of a random log of CartPole, a policy's actions there)."""
    task = gymnasium.make("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(list(record("CartPole-v1", "random", 500, 0)), *spaces)
    steps = make_steps(log, 1, 100)
    at = functools.partial(ask, fresh_student(log, 1, 8, jax.random.key(3)), steps)
    return steps, Choices(at(steps.rows), at(steps.rows + 1), at(steps.begins))


def values_of(asked, make, evaluate):
    steps, choices = asked
    members = make(steps, jax.random.key(0), members=4, width=128)
    return np.asarray(evaluate(steps, members, choices).values)


@pytest.mark.parametrize(("to", "off"), [("tf32", 0.005), ("bfloat16", 0.05)])
def test_fitted_values_are_those_of_full_precision(asked, to, off):
    """Where no precision is named they are another policy's."""
    plain: Any = fitted_q.make_members
    ours: Any = plain, fitted_q._evaluate
    careless = jax.jit(plain.__wrapped__.__wrapped__, static_argnames=("members", "width"))
    careless = careless, jax.jit(ours[1].__wrapped__.__wrapped__)
    expected = values_of(asked, *ours)
    with rounded(to):
        found, spoilt = values_of(asked, *ours), values_of(asked, *careless)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(spoilt / expected - 1).max() > off


@pytest.mark.parametrize("to", ["tf32", "bfloat16"])
def test_means_of_supports_and_changes_of_the_base_are_exact(to):
    support = jnp.linspace(-3000, 3001, 51)
    logits = jax.random.normal(jax.random.key(0), (64, 51))
    base = init_base(jax.random.key(1), 64, 4, 2, 2, 4)
    x, a = jax.random.normal(jax.random.key(2), (64, 4)), jnp.eye(2)[jnp.arange(64) % 2]
    both = lambda: (
        jax.jit(support_to_scalar)(logits, support),
        jax.jit(base_changes)(base, x, a),
        jax.jit(jnp.matmul)(jax.nn.softmax(logits), support),  # names no precision
    )
    *exact, plain = both()
    with rounded(to):
        *found, careless = both()
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(careless - plain).max() > 0.01
