"""Gains measured by real episodes: paired ones, and against those of the process as it ran.

The interval of a mean difference is, at each end, the wider of Student's and the studentised
bootstrap's. Student's alone is fooled by what a gate has to fear most, a policy that is a little
better most of the time and fails badly now and then: with such differences of mean zero (5 to 20
episodes, exponential) it lets 8-11 % through, a percentile bootstrap 9-18 %, the studentised one
4-6 %. Student's keeps that one from being too narrow when few resamples vary. A failure so rare
that no gate episode shows it passes any gate: that is a matter of their number.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dreaming.statistics import (
    studentised_difference,
    studentised_interval,
    t_interval,
    welch_interval,
)


@dataclass(frozen=True)
class Gain:
    """A mean gain per episode; the true one lies below `lower`, and above `upper`, with at most
    the error probability asked for, each."""

    mean: float
    lower: float
    upper: float


def paired_gain(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], error: float
) -> Gain:
    """The gain of one policy over another; episode i of both was reset with the same seed.

    `ValueError` when they cannot be paired.
    """
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    if ours.shape != theirs.shape or ours.ndim != 1 or ours.size < 2:
        raise ValueError(
            f"paired returns need the same number of episodes, at least two; got shapes "
            f"{ours.shape} and {theirs.shape}: evaluate both with the same seeds"
        )
    difference, level = _finite(ours) - _finite(theirs), 1 - 2 * error
    return _widest(
        difference.mean(),
        t_interval(difference, level=level),
        studentised_interval(difference, level=level),
    )


def separate_gain(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " m"], error: float
) -> Gain:
    """The gain of one policy over another, from independent episodes of both, at least two each."""
    ours, theirs = (_finite(np.asarray(x, np.float64)) for x in (ours, theirs))
    level = 1 - 2 * error
    return _widest(
        ours.mean() - theirs.mean(),
        welch_interval(ours, theirs, level=level),
        studentised_difference(ours, theirs, level=level),
    )


def _finite(x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        raise ValueError("a return is not finite; look at the rewards of the task")
    return x


def _widest(mean: float, *intervals: tuple[float, float]) -> Gain:
    low, high = zip(*intervals, strict=True)
    return Gain(float(mean), min(low), max(high))
