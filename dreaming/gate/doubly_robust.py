"""Weighted per-decision doubly robust evaluation with logged propensities.

Jiang & Li (2016), Thomas & Brunskill (2016): the fitted values, corrected by their errors on the
log, each weighed by the importance ratio of policy to behaviour up to its step:
    J = mean_e V(o_e[0]) + sum_t sum_e w_et (r + goes_on V(o[t+1]) - Q(o, a)),
    w_et = rho_et / sum_e rho_et,  rho_et = product of pi / propensity up to step t,
with V and Q for the steps that are left: the undiscounted return of an episode.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dreaming.gate.logged_steps import Steps, Valued
from dreaming.observe.log import Log
from dreaming.student.network import probability

RESAMPLES = 500


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
    weights: Float[np.ndarray, "B E"],
) -> Float[np.ndarray, " B"]:
    """J of a policy (see above) under B weightings of the episodes."""
    count = len(log)
    part = lambda x: np.asarray(x, np.float64)[:count]
    error = part(steps.r) + part(steps.goes_on) * part(valued.v_next) - part(valued.q)
    error = by_episode(log, error, 0.0)
    first = by_episode(log, part(valued.v), 0.0)[:, 0]
    total = weights @ rho
    mean_error = (weights @ (rho * error)) / np.where(total > 0, total, 1)
    return weights @ first / weights.sum(1) + mean_error.sum(1)


def episode_bootstrap(episodes: int, seed: int) -> Float[np.ndarray, "B E"]:
    """Equal weights in the first row, Exp(1) weights in RESAMPLES others."""
    drawn = np.random.default_rng(seed).exponential(size=(RESAMPLES, episodes))
    return np.concatenate([np.ones((1, episodes)), drawn])
