"""Scores with their intervals. NumPy and SciPy alone; every draw comes from a given seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

Statistic = Callable[[np.ndarray], np.ndarray]  # reduces the last axis
Interval = tuple[float, float]
SAME = 1e-12  # values whose interval is so narrow, as a share of its ends, differ by rounding alone


def mean(x: Float[np.ndarray, "*B n"]) -> Float[np.ndarray, "*B"]:
    """Mean over the last axis."""
    return np.mean(x, axis=-1)


def iqm(x: Float[np.ndarray, "*B n"]) -> Float[np.ndarray, "*B"]:
    """Interquartile mean over the last axis: the lowest and highest quarter are left out."""
    return np.asarray(stats.trim_mean(x, 0.25, axis=-1))


def bootstrap_interval(
    x: Float[np.ndarray, " n"],
    statistic: Statistic = mean,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic of n independent values."""
    x = _values(x)
    draws = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    return _percentiles(statistic(x[draws]), level)


def stratified_interval(
    tasks: Sequence[np.ndarray],
    statistic: Statistic = iqm,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of a statistic of all scores; runs are resampled within each task.

    `tasks` holds the scores of each task; they need not have the same number of runs.
    """
    drawn = resampled(tasks, seed=seed, resamples=resamples)
    return _percentiles(statistic(np.concatenate(drawn, axis=1)), level)


def resampled(
    tasks: Sequence[Any], *, seed: int = 0, resamples: int = 2000
) -> list[Float[np.ndarray, "S _"]]:
    """S = `resamples` bootstrap draws of the n scores of each task, within the task."""
    strata = [_values(scores) for scores in tasks]
    if not strata:
        raise ValueError("scores of at least one task are needed, got none")
    rng = np.random.default_rng(seed)
    return [x[rng.integers(len(x), size=(resamples, len(x)))] for x in strata]


def t_interval(differences: Float[np.ndarray, " n"], *, level: float = 0.95) -> Interval:
    """Student's interval of the mean of n >= 2 values."""
    x = _values(differences)
    if len(x) < 2:
        raise ValueError("an interval needs at least 2 values, got 1")
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def studentised_interval(
    x: Float[np.ndarray, " n"], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Bootstrap-t interval of the mean of n >= 2 values; it follows their skewness.

    Resamples are smoothed by one standard error (Polansky & Schucany, 1997): a resample without
    variation has no t value, one with very little (31 equal episodes and a different one) a huge
    one. The interval is clipped to the range of the values, as a mean lies inside it.
    """
    x = _values(x)
    low, high = t_interval(x, level=level)  # refuses n = 1
    if high - low <= SAME * (abs(low) + abs(high)):
        return low, high
    rng, root = np.random.default_rng(seed), np.sqrt(len(x))
    error = float(x.std(ddof=1) / root)
    drawn = x[rng.integers(len(x), size=(resamples, len(x)))]
    drawn = drawn + error * rng.normal(size=drawn.shape)
    t = (drawn.mean(axis=1) - x.mean()) / (drawn.std(axis=1, ddof=1) / root)
    t_low, t_high = _percentiles(t, level)
    low, high = float(x.mean()) - t_high * error, float(x.mean()) - t_low * error
    return max(low, float(x.min())), min(high, float(x.max()))


def welch_interval(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], *, level: float = 0.95
) -> Interval:
    """Welch's interval of mean(x) - mean(y), for independent samples of at least 2 values each."""
    x, y = _values(x), _values(y)
    if min(len(x), len(y)) < 2:
        raise ValueError("an interval needs at least 2 values of each, got 1")
    error, freedom = _welch(x.var(ddof=1) / len(x), y.var(ddof=1) / len(y), len(x), len(y))
    half = float(stats.t.ppf((1 + level) / 2, freedom) * error) if error else 0.0
    gain = float(x.mean() - y.mean())
    return gain - half, gain + half


def _welch(of_x: Any, of_y: Any, n: int, m: int) -> tuple[Any, Any]:
    """(standard error of a difference of means, its degrees of freedom), from squared errors."""
    total = of_x + of_y
    each = of_x**2 / (n - 1) + of_y**2 / (m - 1)
    return np.sqrt(total), total**2 / np.maximum(each, 1e-300)


def studentised_difference(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " m"],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Bootstrap-t interval of mean(x) - mean(y), for independent samples of at least 2 values each;
    smoothed as in `studentised_interval`, and clipped to the differences that can be."""
    x, y = _values(x), _values(y)
    low, high = welch_interval(x, y, level=level)  # refuses n = 1
    if high - low <= SAME * (abs(low) + abs(high)):
        return low, high
    rng = np.random.default_rng(seed)

    def drawn(each: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Errors of the means of resamples, and their squared standard errors."""
        smooth = each.std(ddof=1) / np.sqrt(len(each))
        values = each[rng.integers(len(each), size=(resamples, len(each)))]
        values = values + smooth * rng.normal(size=values.shape)
        return values.mean(axis=1) - each.mean(), values.var(axis=1, ddof=1) / len(each)

    (dx, of_x), (dy, of_y) = drawn(x), drawn(y)
    t_low, t_high = _percentiles((dx - dy) / np.sqrt(of_x + of_y), level)
    error = float(np.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y)))
    gain = float(x.mean() - y.mean())
    least, most = float(x.min() - y.max()), float(x.max() - y.min())
    return max(gain - t_high * error, least), min(gain - t_low * error, most)


def summary(returns: Float[np.ndarray, " n"], *, seed: int = 0) -> dict[str, Any]:
    """{"mean", "iqm", "ci", "episodes"}; `ci` is the 95 % bootstrap interval of the mean."""
    x = _values(returns)
    low, high = bootstrap_interval(x, seed=seed)
    return {
        "mean": float(x.mean()),
        "iqm": float(iqm(x)),
        "ci": [low, high],
        "episodes": len(x),
    }


def _values(x: Any) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected one or more finite numbers in a row, got shape {x.shape}: {x}")
    return x


def _percentiles(x: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(x, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
