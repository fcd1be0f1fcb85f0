"""Augmentation of stacked frames by small shifts and changes of brightness."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

PAD = 4  # most pixels of a shift, in each direction
INTENSITY = 0.05  # relative standard deviation of the brightness, cut off at two of them


def shift(x: Num[Array, "W H V F"], by) -> Num[Array, "W H V F"]:
    """A stack shifted by `by` = (down, right), each -PAD..PAD; the border is repeated."""
    at = lambda size, by: jnp.clip(jnp.arange(size) - by, 0, size - 1)
    return x[:, at(x.shape[1], by[0])[:, None], at(x.shape[2], by[1])]


def augment(x: Num[Array, "B W H V F"], key: jax.Array) -> Float[Array, "B W H V F"]:
    """Every stack with its own random shift and brightness, the same for all of its frames (DrQ;
    Yarats et al., 2021): x (1 + 0.05 clip(N(0, 1), -2, 2))."""
    shift_key, light_key = jax.random.split(key)
    by = jax.random.randint(shift_key, (x.shape[0], 2), -PAD, PAD + 1)
    by = jax.lax.optimization_barrier(by)  # drawn once; fused, they are drawn for every pixel
    light = jnp.clip(jax.random.normal(light_key, (x.shape[0], 1, 1, 1, 1)), -2, 2)
    return jax.vmap(shift)(x, by) * (1 + INTENSITY * light)
