"""What a candidate has to beat: the process as it ran, and the policy that stands for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dreaming.gate.returns import separate_gain
from dreaming.gate.words import number
from envs.types import Trace

LEAST_EPISODES = 10  # of closed episodes, for an interval of what the process earned
CLEARLY = 0.025  # error probability of "the clone earns less than its log"


@dataclass(frozen=True)
class Incumbent:
    """What is deployed until now.

    `params` is a student: the deployed policy or, in round 0, a clone of the log's behaviour, which
    stands for the process where it has to be asked what it would do. `returns` are the process's
    own, of the closed episodes of the newest policy in the log.
    """

    params: Any
    is_clone: bool
    returns: Float[np.ndarray, " n"]
    newest: Sequence[int]  # which episodes of the log these are
    policy: str | None  # the newest one's name, if the log gives it
    logged: Float[np.ndarray, " E"]  # returns of all closed episodes, which a clone is cloned from

    @classmethod
    def of(
        cls, deployed: Any, clone: Any, traces: Sequence[Trace], name: str | None = None
    ) -> "Incumbent":
        """`deployed` is None in round 0; `name` is what its episodes are recorded under, the newest
        policy counts if there is none of these."""
        last = traces[-1].policy
        if name is not None and any(trace.policy == name for trace in traces):
            last = name
        closed = [i for i, trace in enumerate(traces) if not trace.is_open]
        newest = [i for i in closed if traces[i].policy == last]
        earned = lambda rows: np.array([traces[i].rewards.sum() for i in rows], np.float64)
        params = clone if deployed is None else deployed
        return cls(params, deployed is None, earned(newest), newest, last, earned(closed))

    def among(self, chosen: Int[np.ndarray, " n"]) -> "Incumbent":
        """The same, of a log of the `chosen` episodes alone, in order."""
        place = {int(number): i for i, number in enumerate(chosen)}
        kept = [i for i, number in enumerate(self.newest) if number in place]
        newest, returns = [place[self.newest[i]] for i in kept], self.returns[kept]
        logged = returns if self.logged.size == self.returns.size else self.logged
        return replace(self, returns=returns, newest=newest, logged=logged)

    @property
    def has_run(self) -> bool:
        """Whether there are enough logged returns to compare with."""
        return self.returns.size >= LEAST_EPISODES

    @property
    def name(self) -> str:
        """What `params` is, in words."""
        return "behaviour cloning" if self.is_clone else "the deployed policy"

    @property
    def as_it_ran(self) -> str:
        """The process as it ran, in words; without a logged return it says nothing."""
        if not self.returns.size:
            return "the process as it ran"
        who = f" of {self.policy}" if self.policy else ""
        earned = number(float(self.returns.mean()))
        return f"the process as it ran ({earned} in {self.returns.size} logged episodes{who})"

    def too_few(self) -> list[str]:
        """A line where there are too few logged returns."""
        if self.has_run:
            return []
        who = f" by {self.policy}, its newest policy," if self.policy else ""
        return [
            f"the log holds {self.returns.size} closed episodes{who} and {LEAST_EPISODES} are "
            f"needed to compare with the process as it ran: {self.name} alone is what to beat"
        ]

    def hidden_state(self, cloned: Float[np.ndarray, " n"], window: int) -> list[str]:
        """A line where a clone earns clearly less (`cloned`) than the log it was cloned from."""
        if not self.is_clone or self.logged.size < LEAST_EPISODES:
            return []
        gain = separate_gain(cloned, self.logged, CLEARLY)
        if gain.upper >= 0:
            return []
        return [blind(number(-gain.mean), window)]


def blind(less: str, window: int) -> str:
    """What it means that a clone earns less than its log."""
    seen = "the newest observation" if window == 1 else f"the newest {window} observations"
    return (
        f"behaviour cloning earns {less} less per episode than the log it was cloned from: what "
        f"acted there knew more than {seen} (try context.window={4 * window}), or the log is too "
        "short to clone it"
    )
