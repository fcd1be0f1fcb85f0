"""Augmentation moves and brightens whole stacks, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.frames.augment import INTENSITY, PAD, augment, shift


@pytest.mark.parametrize("by", [(0, 0), (1, -3), (-PAD, PAD)])
def test_a_shift_repeats_the_border(by):
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 2), np.uint8)
    rows = np.clip(np.arange(8) - by[0], 0, 7)
    columns = np.clip(np.arange(9) - by[1], 0, 8)
    np.testing.assert_array_equal(shift(jnp.asarray(x), by), x[:, rows][:, :, columns])


def test_every_stack_is_moved_as_a_whole_and_for_itself():
    frame = jnp.zeros((12, 12)).at[6, 6].set(100.0)
    stacks = jnp.broadcast_to(frame[None, None, :, :, None], (400, 3, 12, 12, 1))
    moved = np.asarray(augment(stacks, jax.random.key(0)))[..., 0]
    assert (moved == moved[:, :1]).all()  # the frames of one stack stay together
    flat = moved[:, 0].reshape(400, -1)
    assert ((flat > 0).sum(1) == 1).all()
    at = np.stack(np.divmod(flat.argmax(1), 12), 1) - 6
    assert {tuple(x) for x in at.tolist()} == {(i, j) for i in range(-4, 5) for j in range(-4, 5)}
    light = flat.max(1) / 100
    assert abs(light - 1).max() <= 2 * INTENSITY + 1e-6 and light.std() > INTENSITY / 2
