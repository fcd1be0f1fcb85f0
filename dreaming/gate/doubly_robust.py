"""Weighted per-decision doubly robust evaluation with logged propensities.

Jiang & Li (2016), Thomas & Brunskill (2016): the fitted values, corrected by their errors on the
log, each weighed by the importance ratio of policy to behaviour up to its step:
    J = mean_e V(o_e[0]) + sum_t sum_e w_et (r + goes_on V(o[t+1]) - Q(o, a)),
    w_et = rho_et / sum_e rho_et,  rho_et = product of pi / propensity up to step t,
with V and Q for the steps that are left: the undiscounted return of an episode.

Each member of the fitted values is corrected under the weights of the episodes that it was fitted
with: its errors on the log it has seen are smaller than those elsewhere, and only the spread of
members that saw different logs tells by how much.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from dreaming.gate.logged_steps import Steps, Valued, taken
from dreaming.observe.log import Log


def ratios(log: Log, steps: Steps, policy: Any) -> Float[np.ndarray, " N"] | None:
    """pi(a | o) / propensity of each logged step.

    None where an episode lacks propensities, and for actions with densities.
    """
    recorded = [trace.propensities for trace in log.traces if trace.propensities is not None]
    if len(recorded) < len(log.traces) or steps.head.kind == "box":
        return None
    p_logged = np.concatenate(recorded)
    p = taken(policy, steps)
    return np.asarray(p, np.float64)[: p_logged.size] / p_logged


def along(log: Log, x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Products of `x`, a value per step, from the start of each episode on."""
    ends = np.cumsum([len(trace) for trace in log.traces])
    return np.concatenate([np.cumprod(part) for part in np.split(x, ends[:-1])])


def summed(log: Log, x: Float[np.ndarray, " N"], *, stays: bool) -> Float[np.ndarray, " T"]:
    """Sums over all episodes at each time step; one that is over counts with its last value if it
    `stays`, else no more."""
    lengths = np.array([len(trace) for trace in log.traces])
    ends = np.cumsum(lengths)
    t = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    total = np.bincount(t, x)
    if stays:
        total += np.bincount(lengths, x[ends - 1])[:-1].cumsum()
    return total


def effective_samples(log: Log, rho: Float[np.ndarray, " N"]) -> float:
    """(sum rho)^2 / sum rho^2 over episodes, the least over all time steps."""
    total, square = (summed(log, x, stays=True) for x in (rho, np.square(rho)))
    return float(np.where(square > 0, total**2 / np.where(square > 0, square, 1), 0.0).min())


def weighted_doubly_robust(
    log: Log,
    steps: Steps,
    valued: Valued,
    rho: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "M E"],
) -> Float[np.ndarray, " M"]:
    """J of a policy (see above) by M members, each with its own weights of the episodes."""
    part = lambda x: np.asarray(x, np.float64)[: len(log)]
    r, goes_on = part(steps.r), part(steps.goes_on)
    lengths = np.array([len(trace) for trace in log.traces])
    first = np.cumsum(lengths) - lengths

    def corrected(v, v_next, q, weight) -> float:
        error, weighed = r + goes_on * part(v_next) - part(q), np.repeat(weight, lengths) * rho
        total = summed(log, weighed, stays=True)
        mean_error = summed(log, weighed * error, stays=False) / np.where(total > 0, total, 1)
        return weight @ part(v)[first] / weight.sum() + mean_error.sum()

    members = zip(valued.v, valued.v_next, valued.q, weights, strict=True)
    return np.array([corrected(*member) for member in members])
