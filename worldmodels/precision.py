"""Matrix products in full float32.

Accelerators round the inputs of matrix products, to TF32 (10 bits) or bfloat16 (7 bits), unless
asked not to. Networks bear that. What is solved in closed form, and what is a sum of large numbers
that nearly cancel, does not: there a fitted value goes from 42 to 1e23.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, in which no input of a matrix product is rounded, on any device."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run
