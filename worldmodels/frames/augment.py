"""Augmentation of stacked frames: what a small shift or another brightness does not change."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

PAD = 4  # pixels that a frame may be shifted by, each way
INTENSITY = 0.05  # relative deviation of the brightness, cut off at two of them


def shift(x: Num[Array, "W H V F"], by) -> Num[Array, "W H V F"]:
    """A stack moved by `by` = (down, right), each -PAD..PAD; what comes in repeats the border."""
    padded = jnp.pad(x, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")
    return jax.lax.dynamic_slice(padded, (0, PAD - by[0], PAD - by[1], 0), x.shape)


def augment(x: Num[Array, "B W H V F"], key: jax.Array) -> Float[Array, "B W H V F"]:
    """Every stack shifted and brightened for itself, all of its frames alike (DrQ; Yarats et al.,
    2021): x (1 + 0.05 clip(N(0, 1), -2, 2))."""
    shift_key, light_key = jax.random.split(key)
    by = jax.random.randint(shift_key, (x.shape[0], 2), -PAD, PAD + 1)
    light = jnp.clip(jax.random.normal(light_key, (x.shape[0], 1, 1, 1, 1)), -2, 2)
    return jax.vmap(shift)(x, by) * (1 + INTENSITY * light)
