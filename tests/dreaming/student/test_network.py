"""A student whose normalisers are refitted says what it said, and sees what it could not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreaming.observe.log import Log
from dreaming.student.network import fresh_student, renormalised, student_logits
from envs.types import Context, Features, Trace, action_features

SPACES = Features(Box(-99, 99, (3,), np.float32)), action_features(Discrete(2))


def log_of(means, deviations, seed=0):
    """Three episodes of Gaussian observations."""
    random, traces = np.random.default_rng(seed), []
    for _ in range(3):
        o = (random.normal(size=(21, 3)) * deviations + means).astype(np.float32)
        a, r = random.integers(2, size=20), np.ones(20)
        traces.append(Trace(o, a, r, terminated=True, truncated=False))
    return Log(traces, *SPACES)


def contexts(window, rows=40, seed=1):
    """Random contexts, some of them young."""
    random = np.random.default_rng(seed)
    o = random.normal(size=(rows, window, 3)) * 3 + 1
    a = np.eye(2)[random.integers(2, size=(rows, window - 1))]
    age = random.integers(1, window + 1, size=(rows, 1))
    valid = np.arange(window) >= window - age
    o, a = (jnp.asarray(x, jnp.float32) for x in (o, a * valid[:, :-1, None]))
    elapsed = jnp.zeros((rows, window), jnp.int32)
    return Context(o=o, a=a, elapsed=elapsed, valid=jnp.asarray(valid))


def student_of(log, window, recurrent):
    """A student with weights that are far from nothing."""
    student = fresh_student(log, window, 8, jax.random.key(0), recurrent=recurrent)
    layers = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape) / 3, student["layers"]
    )
    return student | {"layers": layers}


@pytest.mark.parametrize(("window", "recurrent"), [(1, False), (3, False), (3, True)])
def test_new_normalisers_are_folded_into_the_first_layer(window, recurrent):
    first, grown = log_of([0, 2, 5], [1, 3, 0]), log_of([1, -1, 4], [2, 1, 0.5], seed=2)
    student, context = student_of(first, window, recurrent), contexts(window)
    assert student["scale"]["o_std"][2] == 1  # it was constant
    again = renormalised(student, grown)
    np.testing.assert_allclose(again["scale"]["o_std"], [2, 1, 0.5], rtol=0.3)
    before, after = (student_logits(x, context) for x in (student, again))
    assert np.asarray(before).std() > 0.1
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    moved = again | {"layers": student["layers"]}  # it is the layer that keeps them
    assert np.abs(student_logits(moved, context) - before).max() > 1e-2
