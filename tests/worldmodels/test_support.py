"""Two-hot supports give back the scalar; the bounds of a log are those worked out by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodels.support import (
    reward_support,
    scalar_to_histogram,
    scalar_to_support,
    support_to_scalar,
    value_bounds,
    value_support,
)


@pytest.fixture(autouse=True)
def strict():
    """No silent promotion of ranks or types in this arithmetic."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def test_a_gaussian_histogram_by_hand():
    support = jnp.array([-2.0, 0, 2, 4])  # bins 2 wide from -3 to 5, so the deviation is 1.5
    below = lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2)))
    cuts = np.array([below((edge - 1) / 1.5) for edge in (-3, -1, 1, 3, 5)])
    expected = np.diff(cuts) / (cuts[-1] - cuts[0])
    found = scalar_to_histogram(jnp.array([1.0, 9.0]), support)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_allclose(expected, [0.0881, 0.4119, 0.4119, 0.0881], atol=1e-4)
    np.testing.assert_allclose(found[1], scalar_to_histogram(jnp.array(4.0), support), atol=1e-6)


@pytest.mark.parametrize("x", [-2.0, -0.3, 0.0, 0.5, 1.9])
def test_the_mean_of_a_gaussian_histogram_is_the_scalar(x):
    support = jnp.arange(11.0) - 5
    weights = scalar_to_histogram(jnp.array([[x]]), support)
    assert weights.shape == (1, 1, 11)
    assert float(weights[0, 0] @ support) == pytest.approx(x, abs=1e-3)
    assert float(jnp.max(weights)) < 0.5  # more than two atoms share it


@st.composite
def supports(draw):
    """Increasing supports, evenly spaced or not, of 2 to 9 atoms."""
    gaps = draw(st.lists(st.floats(2**-6, 50, width=32), min_size=1, max_size=8))
    low = draw(st.floats(-100, 100, width=32))
    return np.float32(low) + np.concatenate([[0], np.cumsum(gaps)]).astype(np.float32)


@given(supports(), st.floats(0, 1))
def test_the_mean_of_two_hot_weights_is_the_scalar(support, share):
    x = np.float32(support[0] + share * (support[-1] - support[0]))
    weights = np.asarray(scalar_to_support(jnp.asarray(x), jnp.asarray(support)))
    assert weights @ support == pytest.approx(np.clip(x, *support[[0, -1]]), abs=1e-3)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and weights.min() >= -1e-6
    (used,) = np.nonzero(weights > 1e-6)
    assert used.size <= 2 and np.ptp(used) <= 1  # neighbours only


def test_two_hot_by_hand():
    support = jnp.array([-1.0, 0.0, 4.0])
    got = scalar_to_support(jnp.array([[-1.0, 0.0, 4.0], [1.0, -0.25, 3.0]]), support)
    expected = [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0.75, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_what_lies_outside_is_clipped_to_the_ends():
    got = scalar_to_support(jnp.array([-9.0, 9.0]), jnp.array([-1.0, 0.0, 4.0]))
    np.testing.assert_array_equal(got, [[1, 0, 0], [0, 0, 1]])


def test_logits_come_back_as_a_scalar():
    support = jnp.array([-2.0, 1.0, 10.0])
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1e-9, 1.0, 1e-9]]))
    np.testing.assert_allclose(support_to_scalar(logits, support), [1.75, 1.0], atol=1e-5)
    half = support_to_scalar(logits.astype(jnp.bfloat16), support)
    assert half.dtype == jnp.float32  # scalars leave in full precision


@pytest.mark.parametrize(
    ("rewards", "bins", "expected"),
    [
        ([1.0, 1.0, 1.0], 51, [0, 1]),  # CartPole: 0 is earned after the end
        ([-1.0, -1.0], 51, [-1, 0]),  # MountainCar
        ([0.0, 0.0], 51, [0, 1]),  # nothing was earned, yet a support needs two atoms
        ([3.0, -2.0, 3.0, 0.5], 4, [-2, 0, 0.5, 3]),
        ([3.0, -2.0, 3.0, 0.5, 1.0], 4, [-2, 0, 1, 3]),  # too many values: least, median, most
    ],
)
def test_reward_support_by_hand(rewards, bins, expected):
    support = reward_support(np.array(rewards), bins)
    np.testing.assert_allclose(support, np.array(expected, np.float32))
    assert support.dtype == np.float32


def test_no_reward_of_the_log_is_out_of_reach():
    rewards = np.random.default_rng(0).normal(size=200)
    support = reward_support(rewards, 51)
    assert support.size == 51 and (np.diff(support) > 0).all()
    assert support[0] <= min(rewards.min(), 0) + 1e-6 and support[-1] >= rewards.max() - 1e-6


@pytest.mark.parametrize(
    ("rewards", "terminated", "expected"),
    [
        ([1, 1, 1], [0, 0, 1], (0, 10)),  # 1 at every step for ever
        ([-1, -1, -1], [0, 0, 1], (-10, 0)),
        ([0, 0, 5], [0, 0, 1], (0, 5)),  # 5 only ever comes with the end: once
        ([0, 0, -5], [0, 0, 1], (-5, 0)),
        ([-1, 0.5, 20], [0, 0, 1], (-10, 20)),  # 20 once exceeds 0.5 for ever
        ([-1, 3, 20], [0, 0, 1], (-10, 30)),
        ([0, 0], [0, 1], (0, 1)),  # no reward at all: still a range
    ],
)
def test_value_bounds_by_hand(rewards, terminated, expected):
    got = value_bounds([np.array(rewards, float)], [bool(terminated[-1])], discount=0.9)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, (-20, 20)),  # 2 for ever
        (2, (-0.2 / 0.19, 0.2 / 0.19)),  # 2 - 0.5 * 2 * 1.8 in turns: (2 - 1.8) / (1 + 0.9) each
        (9, (0, 2.0 / 3.439 / 0.1 * (1 - 0.9 + 0.81 - 0.729))),  # all four steps
    ],
)
def test_rewards_that_take_turns_do_not_add_up(window, expected):
    r = np.array([2.0, -2.0, 2.0, -2.0])
    got = value_bounds([r, np.zeros(1)], [False, False], discount=0.9, window=window)
    assert got == pytest.approx(expected)


def test_a_value_support_is_even_where_values_usually_lie():
    support = value_support((-10.0, 0.0), (-10.0, 0.0), 11)
    np.testing.assert_allclose(support, np.arange(-10.0, 1.0), atol=1e-5)
    support = value_support((-10.0, 10.0), (-10.0, 110.0), 51)
    steps = np.diff(support)
    assert support.size == 51 and support[0] == -10 and support[-1] == pytest.approx(110)
    np.testing.assert_allclose(steps[:44], 20 / 44, rtol=1e-4)  # 45 even atoms, then 6 wider steps
    assert support[44] == pytest.approx(10, abs=1e-4)
    np.testing.assert_allclose(steps[45:] / steps[44:-1], steps[-1] / steps[-2], rtol=1e-3)
    both = value_support((-1.0, 1.0), (-90.0, 90.0), 5)
    np.testing.assert_allclose(both, [-90, -1, 0, 1, 90], rtol=1e-5)
