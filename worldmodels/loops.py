"""Many gradient steps, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def avoids_loops(convolves: bool) -> bool:
    """Whether gradients should be kept out of compiled loops: with convolutions on a CPU.

    XLA has no fast CPU routine for gradients of convolutions inside loops: they take five to fifty
    times as long (jax-ml/jax#12868).
    """
    return convolves and jax.default_backend() == "cpu"


def repeated(step: Callable, count: int, *, convolves: bool = False, **compiled: Any) -> Callable:
    """`run(state, *rest) -> (state, metrics)`: `state, metrics = step(state, i, *rest)` for i in
    0..count-1; returns the last state and the mean metrics. `compiled` are arguments of `jax.jit`.

    All steps are one program or, if `avoids_loops(convolves)`, each step is a call of one.
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


def further(opt_state: Any, steps: int) -> Any:
    """The state of an optimiser whose schedules are further by so many steps."""
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
    ahead = lambda x: x._replace(count=x.count + steps) if is_schedule(x) else x
    return jax.tree.map(ahead, opt_state, is_leaf=is_schedule)


def scale_gradient(x, factor: float):
    """`x` itself, with its gradient multiplied by `factor`."""
    return x * factor + jax.lax.stop_gradient(x) * (1 - factor)
