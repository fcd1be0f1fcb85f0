"""Many gradient steps, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def avoids_loops(convolves: bool) -> bool:
    """Whether gradients are better kept out of loops.

    XLA has no fast routine for gradients of convolutions inside of loops on a CPU: they take five
    to fifty times as long there (jax-ml/jax#12868).
    """
    return convolves and jax.default_backend() == "cpu"


def repeated(step: Callable, count: int, *, convolves: bool = False, **compiled: Any) -> Callable:
    """`run(state, *rest) -> (state, metrics)`: `state, metrics = step(state, i, *rest)` for i in
    0..count-1, and means of the metrics. `compiled` are arguments of `jax.jit`.

    One program, or a program per step where gradients avoid loops.
    """

    def scanned(state, *rest):
        each = lambda state, i: step(state, i, *rest)
        state, metrics = jax.lax.scan(each, state, jnp.arange(count))
        return state, jax.tree.map(jnp.mean, metrics)

    if not avoids_loops(convolves):
        return jax.jit(scanned, **compiled)
    once = jax.jit(step, **compiled)

    def one_by_one(state, *rest):
        told = []
        for i in range(count):
            state, metrics = once(state, jnp.int32(i), *rest)
            told.append(metrics)
        return state, jax.tree.map(lambda *x: jnp.mean(jnp.stack(x)), *told)

    return one_by_one


def scale_gradient(x, factor: float):
    """`x` itself, with its gradient multiplied by `factor`."""
    return x * factor + jax.lax.stop_gradient(x) * (1 - factor)
