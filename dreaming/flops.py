"""Floating-point operations of a program, counted from its jaxpr: 2 for a multiply-add.

Matrix products and convolutions count in full, padding included, as in the literature, except the
zeros that the gradient of a strided convolution inserts; other operations are left out. A loop
body counts once per iteration; of a branch the more expensive side counts.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count_flops(function: Callable, *args: Any) -> int:
    """FLOPs of one call; nothing is compiled or run. `args` may be shapes.

    Raises `ValueError` for a loop of unknown length.
    """
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr: core.Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "scan":
        return params["length"] * _of(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_of(branch.jaxpr) for branch in params["branches"])
    inner = sum(_of(x) for x in _jaxprs(params))
    if name == "while" and inner:
        raise ValueError("a while loop does not say how often it runs; use scan or fori_loop")
    devices = params["mesh"].size if name == "shard_map" else 1
    return devices * inner


def _jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
    found = [getattr(x, "jaxpr", x) for x in params.values()]
    return [x for x in found if isinstance(x, core.Jaxpr)]


def _of_product(equation: core.JaxprEqn) -> int:
    (contracting, _), _ = equation.params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(shape[i] for i in contracting)


def _of_convolution(equation: core.JaxprEqn) -> int:
    kernel = _shape(equation.invars[1])
    features = equation.params["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[features]
    spread = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(_shape(equation.outvars[0])) * per_output // spread


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
