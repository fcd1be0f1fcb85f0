"""Scalars as distributions over a fixed support."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from worldmodels.precision import exact

SIGMA = 0.75  # deviation of a Gaussian histogram, in bins


def scalar_to_support(x: Float[Array, "*B"], support: Float[Array, " S"]) -> Float[Array, "*B S"]:
    """Two-hot weights whose mean under `support` is `x`, clipped to its ends."""
    x = jnp.clip(x, support[0], support[-1])
    upper = jnp.clip(jnp.searchsorted(support, x, method="compare_all"), 1, support.size - 1)
    lower = upper - 1
    w = (x - support[lower]) / (support[upper] - support[lower])
    one_hot = lambda index: jax.nn.one_hot(index, support.size)
    return (1 - w)[..., None] * one_hot(lower) + w[..., None] * one_hot(upper)


def scalar_to_histogram(x: Float[Array, "*B"], support: Float[Array, " S"]) -> Float[Array, "*B S"]:
    """Probabilities of the bins about the atoms of an even `support` under a Gaussian about `x`,
    normalised (HL-Gauss; Farebrother et al., 2024, "Stop Regressing"). `x` is clipped to the ends;
    the standard deviation is SIGMA bins.

    The mean under `support` is `x`, except in the outermost three bins.
    """
    width = support[1] - support[0]
    edges = jnp.append(support - width / 2, support[-1] + width / 2)
    x = jnp.clip(x, support[0], support[-1])
    below = jax.scipy.special.ndtr(-jnp.subtract.outer(x, edges) / (SIGMA * width))
    return jnp.diff(below) / (below[..., -1:] - below[..., :1])


@exact
def support_to_scalar(
    logits: Float[Array, "*B S"], support: Float[Array, " S"]
) -> Float[Array, "*B"]:
    """The mean of `support` under softmax(`logits`)."""
    return jax.nn.softmax(logits.astype(jnp.float32)) @ support


def reward_support(rewards: np.ndarray, bins: int) -> np.ndarray:
    """Increasing support for logged rewards: their distinct values if at most `bins`, else their
    quantiles, so that small rewards are distinguished beside a rare large one.

    It contains 0, the reward after the end of an episode.
    """
    atoms = np.unique(np.append(np.asarray(rewards, np.float32), np.float32(0)))
    if atoms.size == 1:
        return np.array([0, 1], np.float32)
    if atoms.size <= bins:
        return atoms
    inner = np.quantile(rewards, np.linspace(0, 1, bins - 1)).astype(np.float32)
    return np.unique(np.append(inner, np.float32(0)))


def value_support(
    usual: tuple[float, float], possible: tuple[float, float], bins: int
) -> np.ndarray:
    """Increasing support: evenly spaced over the `usual` range of values, with growing steps from
    there to the ends of the `possible` range."""
    outside = lambda near, far: abs(far - near) > 1e-6 * (usual[1] - usual[0])
    low, high = outside(usual[0], possible[0]), outside(usual[1], possible[1])
    few = max(1, bins // 8)
    inner = np.linspace(*usual, bins - few * (low + high))
    step = inner[1] - inner[0]
    tail = lambda far: step * np.geomspace(1, 1 + abs(far) / step, few + 1)[1:] - step
    below = usual[0] - tail(possible[0] - usual[0])[::-1] if low else []
    above = usual[1] + tail(possible[1] - usual[1]) if high else []
    return np.concatenate([below, inner, above]).astype(np.float32)


def value_bounds(
    rewards: Sequence[np.ndarray], terminated: Sequence[bool], discount: float, window: int = 1
) -> tuple[float, float]:
    """The least and greatest discounted return that logged rewards allow.

    `rewards` are those of each episode, `terminated` says whether its last step terminated. The
    rewards of terminating steps (r_end) are earned once, all others (r_on) perhaps at every step:
    the greatest return is the larger of max(0, r_on) / (1 - discount) and max(0, r_end), likewise
    the least. With `window` > 1, r_on are discounted averages over `window` consecutive steps (or
    whole shorter episodes): rewards that come only now and then do not add up.
    """
    last = [r[-1] for r, over in zip(rewards, terminated, strict=True) if over]
    on = [r[: len(r) - bool(over)] for r, over in zip(rewards, terminated, strict=True)]
    on = np.concatenate([_averages(r, discount, window) for r in on if len(r)] or [np.zeros(0)])
    extreme = lambda f, x: float(f(np.append(x, 0.0)))
    low = min(extreme(np.min, on) / (1 - discount), extreme(np.min, last))
    high = max(extreme(np.max, on) / (1 - discount), extreme(np.max, last))
    return low, (high if high > low else low + 1.0)


def _averages(r: np.ndarray, discount: float, window: int) -> np.ndarray:
    """Discounted averages of r[t : t + window] for all t, or of all r if there are fewer."""
    weights = discount ** np.arange(min(window, len(r)))
    return np.convolve(r, weights[::-1] / weights.sum(), mode="valid")


EPSILON = 1e-3  # of the linear part of `squash`; keeps the inverse well-defined for large values


def squash(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (MuZero, appendix F)."""
    return jnp.sign(x) * (jnp.sqrt(jnp.abs(x) + 1) - 1) + EPSILON * x


def unsquash(y: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The inverse of `squash`."""
    root = jnp.sqrt(1 + 4 * EPSILON * (jnp.abs(y) + 1 + EPSILON))
    return jnp.sign(y) * (jnp.square((root - 1) / (2 * EPSILON)) - 1)
