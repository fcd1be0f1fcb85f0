"""Value targets worked out by hand: terminations, truncations, open ends, absorbing rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.targets import (
    lambda_returns,
    n_step_values,
    n_step_values_each,
    shortened_steps,
    trusts_n_step,
    value_prefixes,
)

NOTHING = [False] * 4


@pytest.fixture(autouse=True)
def strict():
    """No silent promotion of ranks or types in this arithmetic."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


def targets(r, terminated, is_real_step, v, n, discount=0.5):
    """n-step values of one window, as a list."""
    arrays = jnp.array(r), jnp.array(terminated), jnp.array(is_real_step), jnp.array(v)
    return n_step_values(*arrays, discount, n).tolist()


def test_in_the_middle_of_an_episode():
    r, v = [1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0]
    real = [True] * 4
    one = [1 + 0.5 * 20, 2 + 0.5 * 30, 3 + 0.5 * 40, 4 + 0.5 * 50]
    assert targets(r, NOTHING, real, v, n=1) == one
    two = [1 + 0.5 * 2 + 0.25 * 30, 2 + 0.5 * 3 + 0.25 * 40, 3 + 0.5 * 4 + 0.25 * 50]
    assert targets(r, NOTHING, real, v, n=2) == two
    four = [1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 4 + 0.0625 * 50]
    assert targets(r, NOTHING, real, v, n=4) == four


def test_a_termination_ends_the_sum_and_absorbing_rows_are_worth_nothing():
    # Step 1 terminates; from row 2 on the episode is over, so v is 0 there.
    r, v = [1.0, 2.0, 7.0, 7.0], [10.0, 20.0, 0.0, 0.0, 0.0]
    terminated, real = [False, True, False, False], [True, True, False, False]
    assert targets(r, terminated, real, v, n=1) == [1 + 0.5 * 20, 2, 0, 0]
    assert targets(r, terminated, real, v, n=2) == [1 + 0.5 * 2, 2, 0]
    assert targets(r, terminated, real, v, n=3) == [1 + 0.5 * 2, 2]
    anything = [10.0, 20.0, 99.0, 99.0, 99.0]  # what stands behind the end is not read
    assert targets(r, terminated, real, anything, n=2)[:2] == [1 + 0.5 * 2, 2]


@pytest.mark.parametrize("why", ["truncated", "still open"])
def test_where_an_episode_is_cut_its_last_value_stands_in(why):
    # Steps 0 and 1 are real; row 2 is the last observation, worth 30, however far n reaches.
    r, v = [1.0, 2.0, 7.0, 7.0], [10.0, 20.0, 30.0, 99.0, 99.0]
    real = [True, True, False, False]
    assert targets(r, NOTHING, real, v, n=1)[:2] == [1 + 0.5 * 20, 2 + 0.5 * 30]
    bootstrapped = [1 + 0.5 * 2 + 0.25 * 30, 2 + 0.5 * 30]
    assert targets(r, NOTHING, real, v, n=2)[:2] == bootstrapped
    assert targets(r, NOTHING, real, v, n=3)[:2] == bootstrapped


def test_rows_and_members_are_independent():
    random = np.random.default_rng(0)
    r, v = random.normal(size=(2, 3, 4)), random.normal(size=(2, 3, 5))
    ends, real = random.random((2, 3, 4)) < 0.3, random.random((2, 3, 4)) < 0.8
    arrays = [jnp.asarray(x, jnp.float32) for x in (r, v)]
    whole = n_step_values(arrays[0], jnp.asarray(ends), jnp.asarray(real), arrays[1], 0.9, 2)
    assert whole.shape == (2, 3, 3)
    for at in np.ndindex(2, 3):
        alone = targets(arrays[0][at], ends[at], real[at], arrays[1][at], n=2, discount=0.9)
        np.testing.assert_allclose(whole[at], alone, rtol=1e-6)


def returns(r, discount_t, v, lam):
    """Lambda returns of one walk, as a list."""
    column = lambda x: jnp.array(x)[:, None]
    return lambda_returns(column(r), column(discount_t), column(v), lam)[:, 0].tolist()


def test_lambda_returns_by_hand():
    r, discount_t, v = [1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [99.0, 10.0, 20.0, 30.0]
    assert returns(r, discount_t, v, lam=0.0) == [1 + 0.5 * 10, 2 + 0.5 * 20, 3 + 0.5 * 30]
    g2 = 3 + 0.5 * 30
    g1 = 2 + 0.5 * g2
    assert returns(r, discount_t, v, lam=1.0) == [1 + 0.5 * g1, g1, g2]
    g1 = 2 + 0.5 * (0.5 * 20 + 0.5 * g2)
    g0 = 1 + 0.5 * (0.5 * 10 + 0.5 * g1)
    assert returns(r, discount_t, v, lam=0.5) == [g0, g1, g2]


def test_what_lies_behind_a_certain_end_does_not_count():
    assert returns([1.0, 2.0, 9.0], [0.5, 0.0, 0.5], [0.0, 0.0, 99.0, 99.0], 1.0)[:2] == [2, 2]


def test_lambda_returns_satisfy_their_equation():
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.random(shape), jnp.float32)
    r, discount_t, v, lam = draw(6, 4), draw(6, 4), draw(7, 4), 0.8
    g = lambda_returns(r, discount_t, v, lam)
    later = jnp.concatenate([g[1:], v[-1:]])
    expected = r + discount_t * ((1 - lam) * v[1:] + lam * later)
    np.testing.assert_allclose(g, expected, rtol=1e-6)


def test_every_window_has_its_own_number_of_steps():
    r = jnp.array([[1.0, 2.0, 3.0, 4.0]] * 3)
    v = jnp.array([[10.0, 20.0, 30.0, 40.0, 50.0]] * 3)
    real, goes_on = jnp.ones((3, 4), bool), jnp.zeros((3, 4), bool)
    z = n_step_values_each(r, goes_on, real, v, 0.5, jnp.array([1, 2, 3]), most=3)
    by_hand = [
        [1 + 10.0, 2 + 15.0],
        [1 + 1 + 7.5, 2 + 1.5 + 10.0],
        [1 + 1 + 0.75 + 5.0, 2 + 1.5 + 1 + 6.25],
    ]
    np.testing.assert_allclose(z, by_hand)
    ended = goes_on.at[:, 1].set(True)  # nothing counts that comes after
    z = n_step_values_each(r, ended, real, v, 0.5, jnp.array([1, 2, 3]), most=3)
    np.testing.assert_allclose(z, [[11.0, 2.0], [2.0, 2.0], [2.0, 2.0]])
    cut = real.at[:, 1:].set(False)  # known up to row 1, whose value stands in
    z = n_step_values_each(r, goes_on, cut, v, 0.5, jnp.array([1, 2, 3]), most=3)
    np.testing.assert_allclose(z, [[11.0, 20.0]] * 3)


def test_old_data_are_followed_for_fewer_steps():
    ages = jnp.array([0, 29_999, 30_000, 99_999, 1_000_000])
    assert shortened_steps(ages, 5, 30_000).tolist() == [5, 5, 4, 2, 1]


def test_n_step_returns_are_trusted_early_and_for_the_newest():
    ages = jnp.array([0, 4999, 5000, 50_000])
    trusts = lambda real_steps: trusts_n_step(ages, jnp.int32(real_steps), 30_000, 5000).tolist()
    assert trusts(29_999) == [True] * 4
    assert trusts(30_000) == [True, True, False, False]


def test_value_prefixes_restart():
    r = jnp.array([[1.0, 1, 1, 1, 1, 1, 1], [0.0, 2, -1, 5, 0, 0, 3]])
    by_hand = [[1, 2, 3, 1, 2, 3, 1], [0, 2, 1, 5, 5, 5, 3]]
    np.testing.assert_array_equal(value_prefixes(r, 3), by_hand)
    np.testing.assert_array_equal(value_prefixes(r, 1), r)
    np.testing.assert_array_equal(value_prefixes(r, 9), np.cumsum(r, 1))
