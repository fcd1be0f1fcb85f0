"""Stages in chunks, in full and cut short."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreaming.metrics import chunk_sizes, in_chunks
from worldmodels.loops import further


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [
        (0, []),
        (50, [50]),
        (3000, [100] * 30),
        (250, [50] * 5),
        (3001, [100] * 30 + [1]),
        (130, [100, 30]),
    ],
)
def test_steps_are_few_calls_and_few_programs(steps, sizes):
    assert chunk_sizes(steps, 100) == sizes


def test_every_chunk_is_told_once():
    told = []
    advance = lambda state, size: (state + size, {"loss": state})
    update = lambda n, **metrics: told.append((n, metrics))
    assert in_chunks(advance, 0, [100, 100, 1], update) == 201
    assert told == [(100, {"loss": 0.0}), (100, {"loss": 100.0}), (1, {"loss": 200.0})]


def test_what_is_left_out_is_counted_and_moves_the_schedule():
    """Of ten chunks every second one is left out, but never the last."""
    told, moved = [], []
    advance = lambda state, size: (state + 1, {"loss": 0.0})

    def update(n, left_out=0, **_):
        told.append((n, left_out))
        return 10

    hasten = lambda state, steps: moved.append(steps) or state
    taken = in_chunks(advance, 0, [10] * 10, update, hasten)
    assert sum(n for n, _ in told) == 100
    assert sum(left_out for _, left_out in told) == sum(moved) == 100 - 10 * taken
    assert taken == 6  # the first two tell the pace, then one of two


def test_a_schedule_goes_on_where_it_would_be_and_nothing_else_changes():
    schedule = optax.cosine_decay_schedule(1.0, 100)
    rate = lambda step: np.asarray(schedule(step))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    params = jnp.zeros(2)
    state = optimiser.init(params)
    for _ in range(3):
        _, state = optimiser.update(jnp.ones(2), state, params)
    moved = further(state, 40)
    update, _ = optimiser.update(jnp.ones(2), state, params)
    later, _ = optimiser.update(jnp.ones(2), moved, params)
    ratio = np.asarray(later) / np.asarray(update)
    np.testing.assert_allclose(ratio, rate(43) / rate(3), rtol=1e-5)
