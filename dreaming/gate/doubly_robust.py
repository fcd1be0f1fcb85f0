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

import jax
import numpy as np
from jaxtyping import Float

from dreaming.gate.logged_steps import Steps, Valued
from dreaming.observe.log import Log
from dreaming.student.network import probability


def ratios(log: Log, steps: Steps, policy: Any) -> Float[np.ndarray, " N"] | None:
    """pi(a | o) / propensity of each logged step.

    None where an episode lacks propensities, and for actions with densities.
    """
    recorded = [trace.propensities for trace in log.traces if trace.propensities is not None]
    if len(recorded) < len(log.traces) or steps.head.kind == "box":
        return None
    p_logged = np.concatenate(recorded)
    now = steps.now
    p = _probability(policy, now.context, steps.head, now.legal, steps.a)
    return np.asarray(p, np.float64)[: p_logged.size] / p_logged


_probability = jax.jit(probability, static_argnums=2)


def by_episode(log: Log, x: Float[np.ndarray, " N"], fill: float) -> Float[np.ndarray, "E T"]:
    """Values per step as one row per episode, with `fill` after its end."""
    ends = np.cumsum([len(trace) for trace in log.traces])
    rows = np.split(x, ends[:-1])
    longest = max(map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows])


def effective_samples(rho: Float[np.ndarray, "E T"]) -> float:
    """(sum rho)^2 / sum rho^2 over episodes, the least over all steps."""
    total, square = rho.sum(0), np.square(rho).sum(0)
    return float(np.where(square > 0, total**2 / np.where(square > 0, square, 1), 0.0).min())


def weighted_doubly_robust(
    log: Log,
    steps: Steps,
    valued: Valued,
    rho: Float[np.ndarray, "E T"],
    weights: Float[np.ndarray, "M E"],
) -> Float[np.ndarray, " M"]:
    """J of a policy (see above) by M members, each with its own weights of the episodes."""
    part = lambda x: np.asarray(x, np.float64)[: len(log)]
    r, goes_on = part(steps.r), part(steps.goes_on)

    def corrected(v, v_next, q, weight) -> float:
        error = by_episode(log, r + goes_on * part(v_next) - part(q), 0.0)
        first = by_episode(log, part(v), 0.0)[:, 0]
        total = weight @ rho
        mean_error = (weight @ (rho * error)) / np.where(total > 0, total, 1)
        return weight @ first / weight.sum() + mean_error.sum()

    members = zip(valued.v, valued.v_next, valued.q, weights, strict=True)
    return np.array([corrected(*member) for member in members])
