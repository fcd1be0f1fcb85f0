"""Scalars as distributions over a fixed support."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def scalar_to_support(x: Float[Array, "*B"], support: Float[Array, " S"]) -> Float[Array, "*B S"]:
    """Two-hot weights whose mean under `support` is `x`, clipped to its ends."""
    x = jnp.clip(x, support[0], support[-1])
    upper = jnp.clip(jnp.searchsorted(support, x), 1, support.size - 1)
    lower = upper - 1
    w = (x - support[lower]) / (support[upper] - support[lower])
    one_hot = lambda index: jax.nn.one_hot(index, support.size)
    return (1 - w)[..., None] * one_hot(lower) + w[..., None] * one_hot(upper)


def support_to_scalar(
    logits: Float[Array, "*B S"], support: Float[Array, " S"]
) -> Float[Array, "*B"]:
    """The mean of `support` under softmax(`logits`)."""
    return jax.nn.softmax(logits.astype(jnp.float32)) @ support


def reward_support(rewards: np.ndarray, bins: int) -> np.ndarray:
    """Increasing support of logged rewards and 0: their distinct values when those are few.

    0 belongs to it because nothing is earned after the end.
    """
    atoms = np.unique(np.append(np.asarray(rewards, np.float32), np.float32(0)))
    if atoms.size == 1:
        return np.array([0, 1], np.float32)
    if atoms.size <= bins:
        return atoms
    return np.linspace(atoms[0], atoms[-1], bins, dtype=np.float32)


def value_bounds(
    rewards: np.ndarray, terminated: np.ndarray, discount: float
) -> tuple[float, float]:
    """The least and greatest discounted return that logged rewards allow.

    A reward that only ever comes with the end is earned once; any other may come at every step:
    max(0, r_on) / (1 - discount) and max(0, r_end) at the end, likewise for the least.
    """
    rewards, terminated = np.asarray(rewards, float), np.asarray(terminated, bool)
    on, end = rewards[~terminated], rewards[terminated]
    extreme = lambda f, x: float(f(x.max(initial=0), 0) if f is max else f(x.min(initial=0), 0))
    low = min(extreme(min, on) / (1 - discount), extreme(min, end))
    high = max(extreme(max, on) / (1 - discount), extreme(max, end))
    return low, (high if high > low else low + 1.0)
