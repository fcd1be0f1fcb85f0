"""A convolution whose gradient can be made for loops.

XLA for CPUs has no fast routine for the gradient of a kernel inside a `scan`, where it is five to
fifty times slower than outside of one (jax-ml/jax#12868). As one matrix product per place of the
kernel it is fast there; outside of loops, and elsewhere, XLA is faster when left to itself:

    with within_loops():  # while a program is traced
        jax.lax.scan(gradient_step, ...)
"""

import contextlib
import contextvars
import functools
from typing import Any

import jax
import jax.numpy as jnp

AXES = ("NHWC", "HWIO", "NHWC")
LOOPS = contextvars.ContextVar("LOOPS", default=False)


@contextlib.contextmanager
def within_loops():
    """What is traced in the body follows gradients inside of loops."""
    token = LOOPS.set(True)
    try:
        yield
    finally:
        LOOPS.reset(token)


def convolve(x, kernel, strides, padding, **rest: Any):
    """`jax.lax.conv_general_dilated` of channels-last images, for `flax.linen.Conv`."""
    if jax.default_backend() != "cpu" or not LOOPS.get():
        rest = {"dimension_numbers": AXES} | rest
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **rest)
    return _convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=AXES)


def _forward(x, kernel, strides, padding):
    return _convolve(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, kept, dy):
    x, kernel = kept
    plain = lambda x: jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=AXES
    )
    (dx,) = jax.vjp(plain, x)[1](dy)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    ends = [(n - 1) * stride + 1 for n, stride in zip(dy.shape[1:3], strides, strict=True)]

    def at(i, j):
        seen = padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        return jnp.einsum("bhwc,bhwd->cd", seen, dy)

    height, width = kernel.shape[:2]
    dk = jnp.stack([jnp.stack([at(i, j) for j in range(width)]) for i in range(height)])
    return dx, dk.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)
