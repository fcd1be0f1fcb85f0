"""Weighted per-decision doubly robust evaluation with logged propensities.

Jiang & Li (2016), Thomas & Brunskill (2016): the fitted values, corrected by their errors on the
log, each weighed by the importance ratio of policy to behaviour up to its step:
    J = mean_e V(o_e[0]) + sum_t discount^t sum_e w_et (r + discount goes_on V(o[t+1]) - Q(o, a)),
    w_et = rho_et / sum_e rho_et,  rho_et = product of pi / propensity up to step t.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from dreaming.gate.logged_steps import Steps, Valued, ask
from dreaming.observe.log import Log

SAME = 1e-5  # action features that differ by less belong to the same action
RESAMPLES = 500


def ratios(log: Log, steps: Steps, policy: Any) -> Float[np.ndarray, " N"] | None:
    """pi(a | o) / propensity of each logged step.

    None without propensities, or when a logged action is not among the actions that the policy
    lists: the probability of an action that can only be sampled is unknown.
    """
    recorded = [trace.propensities for trace in log.traces if trace.propensities is not None]
    if len(recorded) < len(log.traces):
        return None
    p_logged = np.concatenate(recorded)
    a, p = ask(policy, steps.head, steps.now)
    is_it = np.abs(np.asarray(a) - np.asarray(steps.a)[:, None]).max(-1) < SAME
    is_it = is_it[: p_logged.size]
    if not is_it.any(-1).all():
        return None
    return (np.asarray(p, np.float64)[: p_logged.size] * is_it).sum(-1) / p_logged


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
    discount: float,
    weights: Float[np.ndarray, "B E"],
) -> Float[np.ndarray, " B"]:
    """J of a policy (see above) under B weightings of the episodes."""
    count = len(log)
    part = lambda x: np.asarray(x, np.float64)[:count]
    error = part(steps.r) + discount * part(steps.goes_on) * part(valued.v_next) - part(valued.q)
    error = by_episode(log, error, 0.0)
    first = by_episode(log, part(valued.v), 0.0)[:, 0]
    total = weights @ rho
    mean_error = (weights @ (rho * error)) / np.where(total > 0, total, 1)
    return weights @ first / weights.sum(1) + mean_error @ discount ** np.arange(rho.shape[1])


def episode_bootstrap(episodes: int, seed: int) -> Float[np.ndarray, "B E"]:
    """Equal weights in the first row, Exp(1) weights in RESAMPLES others."""
    drawn = np.random.default_rng(seed).exponential(size=(RESAMPLES, episodes))
    return np.concatenate([np.ones((1, episodes)), drawn])
