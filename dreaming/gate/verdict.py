"""Accept or reject the candidate: paired episodes in the real task, an interval, words.

The interval of the mean difference is, at each end, the wider of Student's and the studentised
bootstrap's. Student's alone is fooled by what a gate has to fear most, a policy that is a little
better most of the time and fails badly now and then: with such differences of mean zero (5 to 20
episodes, exponential) it lets 8-11 % through, a percentile bootstrap 9-18 %, the studentised one
4-6 %. Student's keeps that one from being too narrow when few resamples vary. A failure so rare
that no gate episode shows it passes any gate: that is a matter of their number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dreaming.config import GateConfig
from dreaming.statistics import studentised_interval, t_interval
from dreaming.student.network import mixture
from envs.types import Trace


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is accepted, and why.

    `gain` is the mean difference per episode, [lower, upper] its interval; NaN = unknown. If
    accepted, the candidate acts in `share` of the steps, else the incumbent. The gate took `steps`
    real steps.
    """

    accept: bool
    lower: float
    upper: float
    gain: float
    reasons: tuple[str, ...]
    share: float = 1.0
    steps: int = 0

    @property
    def word(self) -> str:
        """ "accept" or "reject", as in result.json."""
        return "accept" if self.accept else "reject"

    def because(self, reason: str) -> "Verdict":
        """The same verdict with one more reason, named first."""
        return replace(self, reasons=(reason, *self.reasons))

    def deployed(self, candidate: Any, incumbent: Any) -> Any:
        """Parameters of the deployed student: candidate, incumbent or a mixture of both."""
        if not self.accept:
            return incumbent
        return candidate if self.share == 1 else mixture(incumbent, candidate, self.share)


def real_gate(
    candidate: Any,
    incumbent: Any,
    *,
    real: Callable,
    rounds: int,
    config: GateConfig,
    once: Callable,
) -> Verdict:
    """The verdict from paired episodes in the real task."""
    seeds = config.seeds(rounds)
    tried = lambda update: {
        "candidate": real(candidate, seeds, update), "incumbent": real(incumbent, seeds, update)
    }  # fmt: skip
    scores = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    paired = once("gate", 2 * len(seeds), dict(candidate=scores, incumbent=scores), tried)
    (ours, our_steps), (theirs, their_steps) = paired["candidate"], paired["incumbent"]
    verdict = gate(ours, theirs, level=config.level, min_gain=config.min_gain)
    return replace(verdict, steps=int(our_steps.sum() + their_steps.sum()))


def gate(
    candidate_returns: Any,
    incumbent_returns: Any,
    *,
    level: float = 0.95,
    min_gain: float | int = 0,
    incumbent: str = "behaviour cloning",
    seed: int = 0,
) -> Verdict:
    """Accept iff the lower bound of the gain is above `min_gain` (>= 0).

    Episode i of both was reset with the same seed. `ValueError` when they cannot be paired.
    """
    min_gain = float(min_gain)
    candidate = np.asarray(candidate_returns, np.float64)
    other = np.asarray(incumbent_returns, np.float64)
    if candidate.shape != other.shape or candidate.ndim != 1 or candidate.size == 0:
        raise ValueError(
            f"paired returns need the same number of episodes, got shapes {candidate.shape} "
            f"and {other.shape}; evaluate both with the same seeds"
        )
    if not (np.isfinite(candidate).all() and np.isfinite(other).all()):
        raise ValueError("a return is not finite; look at the rewards of the task")
    difference = candidate - other
    gain, n = float(difference.mean()), len(difference)
    if n == 1:
        reason = f"one paired episode ({gain:+.1f}) has no interval; at least two are needed"
        return Verdict(False, -np.inf, np.inf, gain, (reason,))
    lower, upper = interval(difference, level, seed)
    episodes = f"over {n} paired episodes"
    if not difference.any():
        reason = f"no difference {episodes}: the candidate earned what {incumbent} earned in each"
        return Verdict(False, lower, upper, gain, (reason,))
    more, amount = ("more", gain) if gain >= 0 else ("less", -gain)
    ends = (lower, upper) if gain >= 0 else (-upper, -lower)
    reasons = [
        f"the candidate earned {number(amount)} [{number(ends[0])}, {number(ends[1])}] "
        f"per episode {more} than {incumbent} {episodes} ({level:.0%} interval)"
    ]
    accept = lower > min_gain
    bar = f"the least gain asked for, {number(min_gain)}" if min_gain else "zero"
    if not accept and upper <= min_gain:
        reasons.append(f"even the upper bound, {number(upper)}, is not above {bar}")
    elif not accept:
        reasons.append(
            f"the lower bound of the gain, {number(lower)}, is not above {bar}: "
            f"{n} episodes do not tell it from chance"
        )
    return Verdict(accept, lower, upper, gain, tuple(reasons))


def interval(difference: np.ndarray, level: float, seed: int) -> tuple[float, float]:
    """The wider of Student's and the studentised bootstrap's interval of the mean, at each end."""
    low, high = t_interval(difference, level=level)
    boot_low, boot_high = studentised_interval(difference, seed=seed, level=level)
    return min(low, boot_low), max(high, boot_high)


def ungated() -> Verdict:
    """The verdict without a gate: the candidate is deployed."""
    return Verdict(True, -np.inf, np.inf, np.nan, ("deployed without a test: the gate is off",))


def no_evidence(why: str) -> Verdict:
    """The verdict without a real task and without a usable log: reject, because of `why`."""
    reason = f"no evidence: there is no real environment to test in, {why}"
    return Verdict(False, -np.inf, np.inf, np.nan, (reason,))


def improvable(traces: Iterable[Trace]) -> tuple[bool, str]:
    """(whether a log distinguishes good from bad at all, and if not, why in words).

    It does when an episode was ended by the task, when returns of closed episodes differ, or, if
    none is closed, when rewards differ.
    """
    returns, rewards, terminated = [], set(), False
    for trace in traces:
        if not trace.is_open:
            returns.append(float(trace.rewards.sum()))
        rewards.update(np.unique(trace.rewards).tolist())
        terminated |= bool(trace.terminated[-1])
    if terminated or len(set(returns)) > 1 or (not returns and len(rewards) > 1):
        return True, ""
    if not rewards:
        return False, "not improvable: the log holds no episode"
    if not returns:
        return False, (
            "not improvable: no episode of the log was closed and every step earned "
            f"{number(rewards.pop())}, so nothing distinguishes good from bad"
        )
    which = "the one closed episode" if len(returns) == 1 else f"all {len(returns)} closed episodes"
    return False, (
        f"not improvable: {which} of the log returned {number(returns[0])} and the task ended "
        "none of them, so nothing distinguishes good from bad; record a log with a success in it"
    )


def number(x: float) -> str:
    """A number as text: one decimal from 10 on, else three significant digits."""
    return f"{x:.1f}" if abs(x) >= 10 or x == 0 else f"{x:.3g}"
