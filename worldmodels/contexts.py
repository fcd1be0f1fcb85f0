"""The network input for a context: one row of features per observation, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float


def row_size(window: int, observation_size: int, action_size: int) -> int:
    """F, the number of features in a row of `context_rows`."""
    return observation_size if window == 1 else 2 * observation_size + action_size + 1


def context_rows(
    o: Float[Array, "*B W O"],
    a: Float[Array, "*B V A"],
    valid: Bool[Array, "*B W"],
    scale: dict,
) -> Float[Array, "*B W F"]:
    """Rows of a context; V = W - 1.

    A row holds the observation (in standard deviations from the mean), its change since the row
    before (in typical one-step changes), the action in between, and `valid`; all 0 before the
    episode. The change is given because a velocity, a small difference of two large numbers, is
    hard to learn. With W = 1 a row is the observation alone: F = O.
    """
    x = (o - scale["o_mean"]) / scale["o_std"] * valid[..., None]
    if o.shape[-2] == 1:
        return x
    change = (o[..., 1:, :] - o[..., :-1, :]) / scale["o_step"] * valid[..., :-1, None]
    first = lambda u: jnp.concatenate([jnp.zeros_like(u[..., :1, :]), u], axis=-2)
    return jnp.concatenate([x, first(change), first(a), valid[..., None]], axis=-1)


def observation_scale(
    o: Float[np.ndarray, "N n"], change: Float[np.ndarray, "M n"]
) -> dict[str, np.ndarray]:
    """Mean and standard deviation of numbers `o`, and the deviation of one-step changes (at least
    1 % of the former)."""
    mean, std = o.mean(0), o.std(0)
    std = np.where(std > 1e-6, std, 1.0)
    return {"o_mean": mean, "o_std": std, "o_step": np.maximum(change.std(0), 1e-2 * std)}


def among_all(scale: dict, is_number: Bool[np.ndarray, " O"]) -> dict:
    """Normalisers of all features, from those of the numbers alone: a category or a bit has mean 0,
    deviation and change 1, and lies between 0 and 1."""
    others = {"o_mean": 0.0, "o_std": 1.0, "o_step": 1.0, "o_low": 0.0, "o_high": 1.0}
    found = dict(scale)
    for name in others.keys() & scale.keys():
        found[name] = np.full(len(is_number), others[name])
        found[name][is_number] = scale[name]
    return found
