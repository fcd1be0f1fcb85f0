"""Figures of a step as plain numbers, or one line that says which is not finite."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreaming.errors import LossError

LEARNING_RATES = {"clone": "baselines", "rehearse": "distill"}  # whose part is not their own name


def in_chunks(advance: Callable, state: Any, calls: int, chunk: int, update: Callable) -> Any:
    """The state after `state, metrics = advance(state)`, `calls` times; `update(chunk, **metrics)`
    after each but the first, and at the end: told are the metrics of the call before, so that the
    device never waits for the host."""
    told: Any = None
    for _ in range(calls):
        state, metrics = advance(state)
        if told is not None:
            update(chunk, **finite(told))
        told = metrics
    update(chunk, **finite(told))
    return state


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an offline stage as floats. Raises `LossError` for those not finite."""
    figures = {name: float(x) for name, x in metrics.items()}
    if bad := not_finite(figures):
        name, x = next(iter(bad.items()))
        part = name.partition("/")[0]
        part = LEARNING_RATES.get(part, part)
        raise LossError(
            f"{name} became {x}; nothing of this stage was kept: lower {part}.learning_rate, "
            "or look for extreme values in the log"
        )
    return figures


def check_losses(metrics: Mapping[str, Any], updates: int) -> None:
    """Raise `LossError` naming what of an online agent's loss is not finite, by update `updates`.

    The update that met it, and those after it in the call, have left params, optimiser and
    priorities as they were: the state is the last good one.
    """
    bad = [name.removeprefix("learn/") for name in not_finite(metrics)]
    if bad := [name for name in bad if name != "loss"]:
        raise LossError(
            f"{', '.join(bad)} not finite by update {updates}; nothing was learned from it: lower "
            "optimiser.learning_rate, or look for rewards or frames that are not numbers"
        )


def not_finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are NaN or infinite."""
    return {name: float(x) for name, x in metrics.items() if not np.isfinite(x)}
