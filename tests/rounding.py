"""Accelerators' matrix products on a CPU: their inputs are rounded unless precision is named."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax import lax
from jax.extend.core.primitives import dot_general_p
from jax.interpreters import mlir

MANTISSA = {"tf32": 10, "bfloat16": 7}  # bits that are kept


@contextlib.contextmanager
def rounded(to: str) -> Iterator[None]:
    """Inputs of float32 products are rounded to `to`, except where `highest` is asked for."""
    platforms = mlir._platform_specific_lowerings
    plain, special = mlir._lowerings.get(dot_general_p), platforms["cpu"].get(dot_general_p)
    entry: Any = special or plain
    original = entry.rule
    short = lambda x: lax.reduce_precision(x, 8, MANTISSA[to])
    highest = lax.Precision.HIGHEST

    def product(x, y, *, precision, **params):
        exact = dict(params, precision=(highest, highest))
        return dot_general_p.bind(short(x), short(y), **exact)

    lowered = mlir.lower_fun(product, multiple_results=False)

    def rule(context, x, y, *, precision, **params):
        is_exact = precision is not None and all(each == highest for each in precision)
        floats = all(aval.dtype == "float32" for aval in context.avals_in)
        lower = original if is_exact or not floats else lowered
        return lower(context, x, y, precision=precision, **params)

    jax.clear_caches()
    mlir.register_lowering(dot_general_p, rule, platform="cpu")
    try:
        yield
    finally:
        if special is None:
            del platforms["cpu"][dot_general_p]
        else:
            platforms["cpu"][dot_general_p] = special
        jax.clear_caches()
