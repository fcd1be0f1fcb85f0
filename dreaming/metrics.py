"""Metrics as plain numbers, and errors that name those that are not finite."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dreaming.errors import LossError

FEWEST = 5  # chunks of one size for one of the most steps, so that they are of one size
LEARNING_RATES = {"clone": "baselines", "rehearse": "distill"}  # stages with another config name


def chunk_sizes(steps: int, most: int) -> list[int]:
    """`steps` in chunks of at most `most`, of one size where that is not much smaller; each size is
    a program of its own."""
    even = math.gcd(steps, most)
    if FEWEST * even >= most or steps < most:
        return [even] * (steps // even)
    return [most] * (steps // most) + [steps % most]


def in_chunks(
    advance: Callable,
    state: Any,
    sizes: Sequence[int],
    update: Callable,
    hasten: Callable | None = None,
) -> Any:
    """The state after `state, metrics = advance(state, size)` for all `sizes`, numbers of steps.

    `update(steps, **metrics)` is called once per call of `advance`, but one call later, so that
    the device never waits for the host. It may return how many steps to leave out, where time is
    short; `hasten(state, steps)` is the state whose schedules are further by so many. The next
    `update` counts them, and is told of them as `left_out`."""
    told, left_out, to_come = None, 0, list(sizes)
    while to_come:
        size = to_come.pop(0)
        state, metrics = advance(state, size)
        if told is not None:
            late = _tell(update, *told, left_out) or 0
            left_out = _leave_out(to_come, late) if hasten else 0
            if hasten and left_out:
                state = hasten(state, left_out)
        told = size, metrics
    if told is not None:
        _tell(update, *told, left_out)
    return state


def _leave_out(to_come: list[int], late: float) -> int:
    """Take about `late` steps from the front of `to_come`, but never the last chunk; how many."""
    left_out = 0
    while len(to_come) > 1 and left_out + to_come[0] / 2 < late:
        left_out += to_come.pop(0)
    return left_out


def _tell(update: Callable, size: int, metrics: Any, left_out: int) -> float | None:
    shortened = {"left_out": left_out} if left_out else {}
    return update(size + left_out, **shortened, **finite(metrics))


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
