"""Value targets worked out by hand: terminations, truncations, open ends, absorbing rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.targets import lambda_returns, n_step_values

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
