"""The verdict on a candidate, and whether a log can speak for one at all."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dreaming.gate.incumbent import Incumbent
from dreaming.gate.words import number
from dreaming.student.network import mixture
from envs.types import Trace


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is accepted, and why.

    `gain` is the mean gain per episode over what is nearest to it, [lower, upper] its interval; NaN
    = unknown. If accepted, the candidate acts in `share` of the steps, else the incumbent. The gate
    took `steps` real steps in `episodes` pairs of episodes. `trial` is its number in the lineage,
    None where nothing was tried.
    """

    accept: bool
    lower: float
    upper: float
    gain: float
    reasons: tuple[str, ...]
    share: float = 1.0
    steps: int = 0
    episodes: int = 0
    trial: int | None = None
    is_gated: bool = True

    @property
    def word(self) -> str:
        """ "accept", "reject" or, where no gate was asked, "ungated": as in result.json."""
        return "ungated" if not self.is_gated else "accept" if self.accept else "reject"

    def because(self, reason: str) -> "Verdict":
        """The same verdict with one more reason, named first."""
        return replace(self, reasons=(reason, *self.reasons))

    def deployed(self, candidate: Any, incumbent: Incumbent, before: Any) -> Any:
        """Parameters of what is deployed: the candidate, its mixture with the incumbent or, if it
        was rejected, what was deployed `before` (None: nothing, the process goes on as it ran)."""
        if not self.accept:
            return before
        return candidate if self.share == 1 else mixture(incumbent.params, candidate, self.share)


def ungated() -> Verdict:
    """The verdict without a gate: the candidate is deployed."""
    why = "deployed without a test: the gate is off"
    return Verdict(True, -np.inf, np.inf, np.nan, (why,), is_gated=False)


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
