"""Dreams factor by factor: what was counted, what is guessed from few rows, and what is refused."""

import jax
import numpy as np
import pytest

from worldmodels.factors import BIT, FactorError, FactorModel, factor_sizes

MODEL = FactorModel((3, 2, BIT))


def hot(values, n):
    return np.eye(n, dtype=np.float32)[np.asarray(values)]


def encoded(a, b, c):
    """Observations of two categories and a bit."""
    return np.concatenate([hot(a, 3), hot(b, 2), np.asarray(c, np.float32)[:, None]], 1)


def logged(count: int, seed: int = 0):
    """Action 0 keeps everything, action 1 draws all anew and sets the bit."""
    random = np.random.default_rng(seed)
    draw = lambda: (random.integers(3, size=count), random.integers(2, size=count))
    a = random.integers(2, size=count)
    (x, y), (x2, y2) = draw(), draw()
    bit = random.integers(2, size=count)
    keep = a == 0
    after = encoded(np.where(keep, x, x2), np.where(keep, y, y2), np.where(keep, bit, 1))
    return encoded(x, y, bit), hot(a, 2), after


def test_tables_come_near_the_truth_and_are_probabilities():
    tables = MODEL.fit(*logged(20_000))
    for table in tables:
        np.testing.assert_allclose(table.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(tables[0][:, 0], np.eye(3), atol=0.01)
    np.testing.assert_allclose(tables[0][:, 1], 1 / 3, atol=0.03)
    np.testing.assert_allclose(tables[2][:, 1, 1], 1, atol=0.01)


def test_that_a_value_stays_is_learned_from_other_values():
    o, a, after = logged(24, seed=1)
    seen = o[:, 2] == 0  # value 2 of the first factor never came up
    tables = MODEL.fit(o[seen], a[seen], after[seen])
    assert tables[0][2, 0, 2] > 0.6 > 0.45 > tables[0][2, 1, 2]


def test_steps_follow_the_tables():
    tables = MODEL.fit(*logged(20_000))
    o, _, _ = logged(2000, seed=2)
    dreamed = jax.jit(MODEL.step)
    key = lambda seed: jax.random.key_data(jax.random.key(seed))
    step = lambda a, seed: np.asarray(dreamed(tables, o, hot([a] * 2000, 2), key(seed)))
    assert (step(0, 0) == o).all(1).mean() > 0.98
    drawn = step(1, 0)
    np.testing.assert_allclose(drawn[:, :3].mean(0), 1 / 3, atol=0.05)
    assert drawn[:, 5].mean() > 0.98 and (drawn[:, :3].sum(1) == 1).all()
    assert (step(1, 0) == drawn).all() and (step(1, 1) != drawn).any()


def test_numbers_are_refused():
    assert factor_sizes([("categorical", 3), ("binary", 2)]) == (3, BIT, BIT)
    with pytest.raises(FactorError, match="box features cannot be dreamed factor by factor"):
        factor_sizes([("categorical", 3), ("box", 2)])


def test_a_category_with_one_value_is_no_bit():
    sizes = factor_sizes([("categorical", 1), ("binary", 1)])
    model = FactorModel(sizes)
    o = np.stack([np.ones(40), np.arange(40) % 2], 1).astype(np.float32)
    tables = model.fit(o, hot([0] * 40, 2), o[::-1])
    assert [table.shape[-1] for table in tables] == [1, 2]
    key = jax.random.key_data(jax.random.key(0))
    after = np.asarray(jax.jit(model.step)(tables, o, hot([1] * 40, 2), key))
    assert (after[:, 0] == 1).all() and set(after[:, 1]) == {0, 1}
