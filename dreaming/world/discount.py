"""How far a policy has to look ahead: the discount, by the rewards of a log."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from envs.types import Trace
from worldmodels.config import FitConfig

DISCOUNTS = (0.99, 0.995, 0.998, 0.999)  # few, so that logs of a kind share their programs
LEAST_WEIGHT = 0.05  # of a reward that decides
DECIDES = 0.95  # share of the variance of returns
ALIKE = 1e-6  # returns that differ by less than this share of what is earned differ by rounding


def deciding_steps(traces: Sequence[Trace]) -> int | None:
    """Steps from the start of an episode within which what tells returns apart is earned.

    The variance of returns is the sum over time steps of the covariance of the reward with the
    return; from the result on, at most 1 - DECIDES of it is left. Episodes that were cut off while
    they went on say nothing; None where returns are alike.
    """
    rewards = [np.asarray(trace.rewards, float) for trace in traces if _is_closed(trace)]
    g = np.array([r.sum() for r in rewards])
    if len(g) < 2 or np.ptp(g) <= ALIKE * max(np.abs(r).sum() for r in rewards):
        return None
    covariance = np.zeros(max(map(len, rewards)))
    for r, above in zip(rewards, g - g.mean(), strict=True):
        covariance[: len(r)] += above * r
    left = covariance[::-1].cumsum()[::-1]  # from each step on
    return int(np.flatnonzero(left > (1 - DECIDES) * covariance.sum())[-1]) + 1


def _is_closed(trace: Trace) -> bool:
    return bool(trace.terminated[-1] or trace.truncated[-1])


def discount_of(steps: int | None) -> float:
    """The least of DISCOUNTS under which a reward after so many steps has its LEAST_WEIGHT."""
    return next((x for x in DISCOUNTS if x ** (steps or 0) >= LEAST_WEIGHT), DISCOUNTS[-1])


def discounted(config: FitConfig, traces: Sequence[Trace]) -> FitConfig:
    """`config` with the discount of a log, unless it has its own."""
    if config.discount:
        return config
    return dataclasses.replace(config, discount=discount_of(deciding_steps(traces)))


def discount_line(config: FitConfig, traces: Sequence[Trace]) -> str:
    """What the discount is and why; a hint where a reward that decides lies beyond it."""
    steps, discount = deciding_steps(traces), discounted(config, traces).discount
    if steps is None:
        return f"discount {discount:g}: the returns of this log are alike"
    weight, better = discount**steps, discount_of(steps)
    if weight >= LEAST_WEIGHT:
        within = f"what tells returns apart is earned within {steps} steps"
        return f"discount {discount:g}: {within} of an episode"
    hint = f"hint: what tells returns apart is earned up to {steps} steps after the start of an "
    hint += f"episode, where a reward weighs {weight:.1%} under a discount of {discount:g}; "
    further = f"fit.discount={better:g}" if better > discount else "fewer, longer steps"
    return f"{hint}try {further}"
