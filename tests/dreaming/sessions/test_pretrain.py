"""Pretraining: what is asked lies outside of what is read, and a unit is no weight."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from dreaming.sessions import pretrain
from dreaming.sessions.types import Pool, rows_of


def pool_of(day: list[int], shape: Any) -> Pool:
    """Two sessions with decisions on these days."""
    count = len(day)
    hot = lambda n: np.tile(np.eye(n, dtype=np.float32)[np.arange(count) % n], (2, 1, 1))
    ones = np.ones((2, count))
    rows = {"o": hot(shape.o_size), "a": hot(shape.num_actions), "r": ones.astype(np.float32)}
    rows |= {"known": ones > 0, "valid": ones > 0, "outcome": np.zeros((2, count), np.int32)}
    rows |= {"day": np.tile(np.array(day, np.int32), (2, 1))}
    others: Any = np.zeros((2, 0, shape.o_size), np.float32)
    none: Any = np.zeros((2, 0), np.int32)
    right: Any = np.zeros((2, count), np.int32)
    return Pool(rows_of(rows), right, others, none)


def test_two_different_days_are_asked_and_nothing_that_is_read(shape):
    day = [0, 0, 0, 0, 1, 2, 2]
    draw = jax.jit(pretrain.drawn, static_argnums=2)
    batch, queries, asked = draw(pool_of(day, shape), jax.random.key(0), 32)
    days = np.array(day)[np.asarray(queries)]
    assert not asked.all()  # two short days have fewer decisions than are drawn
    read = np.take_along_axis(np.asarray(batch.rows.valid), np.asarray(queries), 1)
    assert read.any() and not (read & np.asarray(asked)).any()
    for each, is_asked in zip(days, np.asarray(asked), strict=True):
        assert len(set(each[is_asked])) == 2
        assert is_asked.sum() == np.isin(day, each[is_asked]).sum()


def test_what_does_not_count_is_not_in_the_loss(params, shape):
    batch, queries, asked = pretrain.drawn(pool_of([0, 0, 1, 2, 2], shape), jax.random.key(0), 4)
    assert not asked.all()
    right = np.array(batch.right)
    for i in range(4):
        for query, is_asked in zip(np.asarray(queries)[i], np.asarray(asked)[i], strict=True):
            right[i, query] = 0 if is_asked else 3
    other: Any = dataclasses.replace(batch, right=right)
    assert (right != batch.right).any()
    loss = jax.jit(lambda batch: pretrain.pretrain_loss(params, shape, batch, queries, asked)[0])
    assert loss(other) == loss(batch)


def test_the_unit_of_rewards_is_not_trained(params):
    optimiser = pretrain.make_optimiser(params, 0.1, 10)
    gradient = jax.tree.map(np.ones_like, params)
    found: Any = optimiser.update(gradient, optimiser.init(params), params)
    change = found[0]
    assert change["r_scale"] == 0 and (np.asarray(change["pi"][0]["w"]) != 0).all()


@pytest.mark.parametrize("updates, sizes", [(5, [5]), (40, [20, 20]), (45, [5] * 9)])
def test_as_many_updates_as_were_asked_for(updates, sizes, family, monkeypatch):
    done, seeds = [], []
    rows = SimpleNamespace(rows=SimpleNamespace(r=np.ones(3)))
    monkeypatch.setattr(pretrain, "make_pool", lambda *x, **_: seeds.append((x[1], x[3])) or rows)
    count = lambda state, pools, keys: (done.append(keys.size), (state, {}))[1]
    monkeypatch.setattr(pretrain, "make_updates", lambda *args: count)
    config = pretrain.PretrainConfig(updates=updates, own_rounds=2, own_updates=5, width=8)
    told = []
    pretrain.pretrain(family, config, 900, lambda size, **_: told.append(size))
    assert done == told == [*sizes, 5, 5]
    # Deployments and draws of each pool are its own, and nothing that is held back is among them.
    numbers = np.concatenate([each for each, _ in seeds])
    assert np.unique(numbers).size == numbers.size and len({seed for _, seed in seeds}) == 3
    for seed in (0, 899, 900, 901):
        assert not np.isin(pretrain.held_back(seed, 64), numbers).any()
