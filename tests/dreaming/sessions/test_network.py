"""A reader: rows it may not see have no effect, their order has none, and sums add up."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from dreaming.sessions.network import (
    answer,
    init_reader,
    nothing,
    pi_logits,
    read,
    remembered,
    summed,
)
from dreaming.sessions.types import Memory, Rows, Sums, rows_of

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def rows_like(shape, count: int, seed: int = 0) -> Rows:
    """Drawn rows, all of them valid."""
    random = np.random.default_rng(seed)
    hot = lambda n: np.eye(n, dtype=np.float32)[random.integers(n, size=count)]
    return rows_of(
        {
            "o": hot(shape.o_size),
            "a": hot(shape.num_actions),
            "r": random.normal(size=count).astype(np.float32),
            "known": random.random(count) < 0.5,
            "outcome": random.integers(-1, shape.num_outcomes, count),
            "day": np.arange(count) // 3,
            "valid": np.ones(count, bool),
        }
    )


_init = jax.jit(init_reader, static_argnums=1)
_read = jax.jit(read, static_argnums=1)
_summed = jax.jit(summed)
_answer = jax.jit(answer, static_argnums=1)


@jax.jit
def _thrice(params):
    return jax.tree.map(lambda x: 3 * x, params)


look = jax.jit(
    lambda params, shape, rows, o: pi_logits(params, shape, read(params, shape, rows), o),
    static_argnums=1,
)


@pytest.fixture(params=["set", "linear"])
def reader(request, shape):
    """(parameters, shape) of both kinds, whose heads are not near zero."""
    mine = dataclasses.replace(shape, kind=request.param)
    params = _thrice(_init(jax.random.key(1), mine))
    return params, mine


def only(rows: Rows, keep) -> Rows:
    return jax.tree.map(lambda x: x[keep], rows)


def test_a_mask_is_absence_and_order_means_nothing(reader):
    params, shape = reader
    rows, o = rows_like(shape, 6), rows_like(shape, 5, seed=1).o
    see = lambda rows: look(params, shape, rows, o)
    hidden = dataclasses.replace(rows, valid=np.arange(6) % 2 == 0)
    np.testing.assert_allclose(see(hidden), see(only(rows, slice(0, 6, 2))), **CLOSE)
    np.testing.assert_allclose(see(rows), see(only(rows, np.array([5, 3, 1, 0, 2, 4]))), **CLOSE)
    assert not np.allclose(see(rows), see(hidden), **CLOSE)  # the rows say something
    none = dataclasses.replace(rows, valid=np.zeros(6, bool))
    alone = jax.jit(pi_logits, static_argnums=1)(params, shape, nothing(shape), o)
    np.testing.assert_allclose(see(none), alone, **CLOSE)


def test_a_reward_that_is_not_known_says_nothing(reader):
    params, shape = reader
    rows = rows_like(shape, 4)
    unknown = dataclasses.replace(rows, known=np.zeros(4, bool))
    other = dataclasses.replace(unknown, r=rows.r + 7)
    np.testing.assert_array_equal(
        _read(params, shape, unknown).keys, _read(params, shape, other).keys
    )


def test_memory_grows_row_by_row(reader):
    params, shape = reader
    rows = rows_like(shape, 4)
    whole = _read(params, shape, rows)
    one_by_one = [_read(params, shape, only(rows, slice(i, i + 1))) for i in range(4)]
    for name in ("keys", "values"):
        parts = np.concatenate([getattr(each, name) for each in one_by_one])
        np.testing.assert_allclose(getattr(whole, name), parts, **CLOSE)


def test_sums_of_linear_attention_add_and_subtract(shape):
    shape = dataclasses.replace(shape, kind="linear")
    params = _thrice(_init(jax.random.key(1), shape))
    rows, o = rows_like(shape, 6), rows_like(shape, 5, seed=1).o
    total = lambda rows: _summed(params, _read(params, shape, rows))
    first, rest = only(rows, slice(0, 3)), only(rows, slice(3, 6))
    both: Sums = jax.tree.map(np.add, total(first), total(rest))
    left: Sums = jax.tree.map(np.subtract, total(rows), total(first))
    see = lambda sums: _answer(params, shape, sums, o)[0]
    np.testing.assert_allclose(see(both), see(total(rows)), **CLOSE)
    np.testing.assert_allclose(see(left), see(total(rest)), **CLOSE)
    # What is kept does not grow with the rows.
    assert total(rows).outer.shape == total(first).outer.shape == (1, 2, 6, 4)


def test_what_is_kept_of_a_memory_goes_by_kind(reader):
    params, shape = reader
    kept = remembered(params, shape, _read(params, shape, rows_like(shape, 3)))
    assert isinstance(kept, Memory if shape.kind == "set" else Sums)


def test_a_batch_of_sessions_is_each_of_them(reader):
    params, shape = reader
    each = [rows_like(shape, 4, seed) for seed in (0, 1)]
    o = rows_like(shape, 3, seed=2).o
    both: Rows = jax.tree.map(lambda *x: np.stack(x), *each)
    together = look(params, shape, both, np.stack([o, o]))
    apart = [look(params, shape, rows, o) for rows in each]
    np.testing.assert_allclose(together, np.stack(apart), **CLOSE)
