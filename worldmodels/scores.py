"""Scores of predicted probabilities, intervals and rankings. NumPy and SciPy alone.

A score that the data leave undefined is None, never a number that looks like one.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats


def brier(p: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> float | None:
    """Brier score, the mean of (p - happened)^2; None without a case."""
    return float(np.square(p - happened).mean()) if p.size else None


def calibration_error(
    p: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"], bins: int = 10
) -> float | None:
    """Expected calibration error: mean |mean p - frequency| over equal-width bins, by cases."""
    if not p.size:
        return None
    index = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.zeros(bins)
    np.add.at(gaps, index, p - happened)
    return float(np.abs(gaps).sum() / p.size)


def auroc(score: Float[np.ndarray, " n"], happened: Bool[np.ndarray, " n"]) -> float | None:
    """Probability that a case that happened scores higher than one that did not; ties count half.

    None when all cases happened, or none did.
    """
    happened = np.asarray(happened, bool)
    positive, negative = int(happened.sum()), int((~happened).sum())
    if not positive or not negative:
        return None
    ranks = stats.rankdata(score)
    above = ranks[happened].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's rank correlation, tied ranks averaged; None if `x` or `y` does not vary."""
    if len(x) < 2:
        return None
    a, b = (stats.rankdata(each) - (len(x) + 1) / 2 for each in (x, y))
    size = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / size) if size > 0 else None


def half_width(
    between: Float[np.ndarray, "*B"], within: Float[np.ndarray, "*B"], members: int, level: float
) -> Float[np.ndarray, "*B"] | None:
    """Half the width of the members' predictive interval.

    t * sqrt((1 + 1 / members) * between + within): reality is taken as one more draw from the
    members' distribution (variance `between` them, divisor members - 1), plus the variance `within`
    each member by chance. Degrees of freedom by Welch and Satterthwaite: members - 1 without
    chance, more with it. None for a single member without chance.
    """
    if members == 1 and not within.any():
        return None
    of_members = (1 + 1 / members) * between
    variance = of_members + within
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (members - 1) * np.square(variance / of_members)
    freedom = np.where(of_members > 1e-12 * variance, freedom, np.inf)
    return stats.t.ppf((1 + level) / 2, np.maximum(freedom, 1)) * np.sqrt(variance)


def set_coverage(
    p: Float[np.ndarray, "n S"], happened: Float[np.ndarray, "n S"], level: float
) -> float | None:
    """Share of cases inside the smallest set of outcomes that holds `level` of the probability.

    `happened` is one-hot. Equally probable outcomes are in the set together.
    """
    if not len(p):
        return None
    of_it = (p * happened).sum(-1, keepdims=True)
    likelier = np.where(p > of_it + 1e-6, p, 0.0).sum(-1)
    return float(((likelier < level) & (of_it[:, 0] > 0)).mean())
