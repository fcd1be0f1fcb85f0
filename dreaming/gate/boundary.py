"""Looking at the same test several times: how much error probability each look may use.

A group-sequential test looks at growing shares of its episodes and stops when it knows. The error
probability that may have been spent by a share t of the episodes is a function of t (Lan & DeMets,
1983); a look rejects where its z value lies above a boundary, which is such that all looks together
spend exactly that much. Here z values are those of a mean of independent, equally distributed
differences, so that z_t sqrt(t) is a Brownian motion.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

SHARES = (0.25, 0.5, 1.0)  # of the episodes of a trial, at its looks
POINTS, REACH = 2001, 8.0  # of the integration, and how many deviations wide it is


def first_most(share: float) -> float:
    """The square root: half of the error probability is for the first quarter of the episodes.

    Of the power family (Kim & DeMets, 1987), so that what is clear at once is decided at once.
    """
    return math.sqrt(share)


@functools.lru_cache(maxsize=64)
def errors_of_looks(
    error: float,
    shares: tuple[float, ...] = SHARES,
    spent: Callable[[float], float] = first_most,
) -> tuple[float, ...]:
    """The one-sided error probability at which each look tests, so that all spend `error`.

    `spent(share)` is the part of `error` that may be spent by a share of the episodes.
    """
    used = np.diff([0.0, *(error * spent(share) for share in shares)])
    found = []
    x = density = np.zeros(0)  # of the Brownian motion, where no look has stopped it
    for before, share, part in zip((0.0, *shares), shares, used, strict=False):
        step = math.sqrt(share - before)
        y = np.linspace(-REACH, REACH, POINTS) * math.sqrt(share)
        if before == 0:
            now = stats.norm.pdf(y, scale=step)
        else:
            now = stats.norm.pdf(y[:, None] - x, scale=step) @ density * (x[1] - x[0])
        above = (np.cumsum(now[::-1])[::-1] - now / 2) * (y[1] - y[0])  # P(the motion is above y)
        limit = float(np.interp(-part, -above, y))
        found.append(float(stats.norm.sf(limit / math.sqrt(share))))
        x, density = y, np.where(y < limit, now, 0.0)
    return tuple(found)
