"""Metrics as plain numbers, and errors that name those that are not finite."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreaming.errors import LossError

LEARNING_RATES = {"clone": "baselines", "rehearse": "distill"}  # stages with another config name


def in_chunks(advance: Callable, state: Any, calls: int, chunk: int, update: Callable) -> Any:
    """The state after `calls` calls of `state, metrics = advance(state)`.

    `update(chunk, **metrics)` is called once per call of `advance`, but one call later, so that
    the device never waits for the host."""
    told: Any = None
    for _ in range(calls):
        state, metrics = advance(state)
        if told is not None:
            update(chunk, **finite(told))
        told = metrics
    update(chunk, **finite(told))
    return state


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an offline stage as floats. Raises `LossError` if one is not finite."""
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
    """Raise `LossError` if metrics of an online agent up to update `updates` are not finite.

    Updates that are not finite have not changed params, optimiser or priorities, so the state is
    still good.
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
