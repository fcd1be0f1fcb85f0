"""Three estimates, from the log alone, of the gain of a candidate over the incumbent.

G1 fitted-Q evaluation, G2 weighted doubly robust, G3 the judge's dreams; each of the undiscounted
return of an episode, in raw rewards, by the policy that draws as it would where it is deployed.

What a candidate has to beat is the process as it ran: the mean logged return of its newest policy,
which no estimate has to guess. The incumbent's own policy (in round 0 a clone) is asked as well:
there an estimate that flatters everybody flatters both.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from dreaming.config import GateConfig
from dreaming.gate import doubly_robust
from dreaming.gate.fitted_q import evaluate_fitted, make_members
from dreaming.gate.incumbent import CLEARLY, Incumbent
from dreaming.gate.logged_steps import Evaluate, Steps, Valued, make_steps, possible
from dreaming.gate.returns import Gain
from dreaming.observe.log import Log
from dreaming.statistics import t_interval
from dreaming.world.judge import Dreamed, Judge, spread_of_models, systematic_error

WIDER = 1.25  # members share the bias of few steps: without it 77 % of 90 % intervals held (study)
DIVERGED = 0.1  # a value has diverged if it leaves the range that rewards allow by this share of it
UNKNOWN = Gain(np.nan, np.nan, np.nan)
Gains = tuple[Gain, Gain]  # over the incumbent's policy, over the process as it ran


class Asked(NamedTuple):
    """What the log says of a candidate: values, importance ratios (None: unknown), dreams."""

    new: Valued
    ratios: Float[np.ndarray, " N"] | None
    dreamed: Dreamed


@dataclass
class Evidence:
    """Computes the three estimates for any candidate against one incumbent.

    `horizon`: the steps of an episode.
    """

    log: Log
    window: int
    horizon: int
    incumbent: Incumbent
    judge: Judge
    config: GateConfig
    key: jax.Array

    def __post_init__(self):
        ensemble = self.config.members, self.config.width
        arguments = self.log, self.window, self.horizon, self.key, *ensemble
        self._steps, self._weights, self._evaluate = make_fitted_q(*arguments)
        old = self.incumbent.params
        self._old = self._evaluate(old)
        self._old_ratios = doubly_robust.ratios(self.log, self._steps, old)
        self._old_dreams = self.judge.dreams(old)
        self._errors = self.judge.errors()

    def of(self, candidate: Any, error: float) -> dict[str, Any]:
        """The three estimates and their sample sizes, with the keys of `offline.unknown`."""
        new, ratios, dreamed = asked = self.asked(candidate)
        firm = [nearer(each) for each in self.gains(asked, error)]
        speaks = ~np.isnan([gain.mean for gain, _ in firm]) & self.counts
        likely = [nearer(each) for each in self.gains(asked, agreeing(int(speaks.sum())))]
        return {
            "intervals": np.array([[gain.mean, gain.lower, gain.upper] for gain, _ in firm]),
            "over": np.array([which for _, which in firm], float),
            "likely": np.array([gain.lower for gain, _ in likely]),
            "error": error,
            "effective": self.effective(ratios),
            "diverged": int(self.diverged(new).sum()),
            "segments": self._errors.size,
            "opinions": spread_of_models(dreamed.returns, dreamed)[1] + 1,
        }

    @property
    def counts(self) -> Bool[np.ndarray, "3"]:
        """Which estimates may speak for a candidate: the judge only if it is independent."""
        return np.array([True, True, self.judge.is_independent])

    def asked(self, candidate: Any) -> Asked:
        """What the log says of a candidate, before any error probability is chosen."""
        ratios = doubly_robust.ratios(self.log, self._steps, candidate)
        return Asked(self._evaluate(candidate), ratios, self.judge.dreams(candidate))

    def gains(self, asked: Asked, error: float) -> tuple[Gains, Gains, Gains]:
        """G1, G2 and G3; each end of an interval is wrong with probability `error`."""
        new, ratios, dreamed = asked
        return (
            self.fitted_q(new, error),
            self.robust(new, ratios, error),
            self.dreamed(dreamed, error),
        )

    def diverged(self, new: Valued) -> Bool[np.ndarray, " M"]:
        """Whose values of the candidate or the incumbent left what rewards allow."""
        values = np.stack([np.asarray(x.values, np.float64) for x in (new, self._old)])
        lowest, highest = possible(self._steps.paid, self.horizon)
        slack = DIVERGED * (highest - lowest)
        inside = (values >= lowest - slack) & (values <= highest + slack)  # NaN is outside
        return np.asarray(~inside.all(0))

    def fitted_q(self, new: Valued, error: float) -> Gains:
        """G1; unknown if more than an eighth of the members diverged.

        The values are cut to what rewards allow.
        """
        if self.diverged(new).mean() > 1 / 8:
            return UNKNOWN, UNKNOWN
        values = np.stack([np.asarray(x.values, np.float64) for x in (new, self._old)])
        lowest, highest = possible(self._steps.paid, self.horizon)
        ours, theirs = np.clip(np.nan_to_num(values, nan=lowest), lowest, highest)
        return self._spread(ours, theirs, error)

    def _spread(self, ours: Float[np.ndarray, " M"], theirs: Float[np.ndarray, " M"], error: float):
        """The gains of a value per member over the incumbent's, and over the log's mean return.

        The mean over members, plus and minus Student's quantile times their standard deviation
        (not divided by sqrt(M): under the bootstrap it is the error of the estimate itself) times
        WIDER.
        """

        def over(others: Float[np.ndarray, " M"]) -> Gain:
            gain = ours - others
            half = WIDER * stats.t.isf(error, gain.size - 1) * gain.std(ddof=1)
            return Gain(gain.mean(), gain.mean() - half, gain.mean() + half)

        return over(theirs), over(self._as_it_ran())

    def effective(self, ratios: Float[np.ndarray, " N"] | None) -> float:
        """Effective episodes of G2, the fewer of candidate and incumbent; NaN without ratios."""
        if ratios is None or self._old_ratios is None:
            return np.nan
        return min(doubly_robust.effective_samples(self.log, rho) for rho in self._rhos(ratios))

    def robust(self, new: Valued, ratios: Float[np.ndarray, " N"] | None, error: float) -> Gains:
        """G2; unknown without ratios, and below `least_effective` episodes."""
        if not self.effective(ratios) >= self.config.least_effective:
            return UNKNOWN, UNKNOWN
        ours, theirs = (
            doubly_robust.weighted_doubly_robust(self.log, self._steps, valued, rho, self._weights)
            for valued, rho in zip((new, self._old), self._rhos(ratios), strict=True)
        )
        return self._spread(ours, theirs, error)

    def _rhos(self, ratios: Any) -> list[Float[np.ndarray, " N"]]:
        """Importance ratios up to each step, of candidate and incumbent."""
        both: tuple[Any, Any] = ratios, self._old_ratios
        return [doubly_robust.along(self.log, x) for x in both]

    def dreamed(self, dreamed: Dreamed, error: float) -> Gains:
        """G3; unknown without members enough or segments enough.

        The judge's error per segment is multiplied by the number of segments in a dream of mean
        length, of candidate or incumbent, whichever is longer.
        """
        old, wrong = self._old_dreams, systematic_error(self._errors, 1 - 2 * error)
        if wrong is None or np.isnan(spread_of_models(dreamed.returns, dreamed)[0]):
            return UNKNOWN, UNKNOWN
        longest = max(dreamed.lengths.mean(), old.lengths.mean())
        wrong *= max(1.0, longest / self.judge.segment)
        paired = widened(dreamed.returns - old.returns, dreamed, error, wrong)
        if not self.incumbent.has_run:
            return paired, UNKNOWN
        returns = self.incumbent.returns
        low, high = t_interval(returns, level=1 - 2 * error)
        more = wrong + (high - low) / 2
        return paired, widened(dreamed.returns - returns.mean(), dreamed, error, more)

    def of_clone(self) -> Float[np.ndarray, " 3"]:
        """(gain, lower, upper) of a clone over the log that it was cloned from, by G1; NaN where
        the incumbent is no clone, or has not run alone."""
        incumbent = self.incumbent
        alone = incumbent.is_clone and incumbent.has_run
        if not alone or incumbent.logged.size > incumbent.returns.size:
            return np.full(3, np.nan)
        _, gain = self.fitted_q(self._old, CLEARLY)
        return np.array([gain.mean, gain.lower, gain.upper])

    def _as_it_ran(self) -> Float[np.ndarray, " M"]:
        """The log's own mean return of the newest policy, under the members' weights of the
        episodes; NaN where there are too few."""
        if not self.incumbent.has_run:
            return np.full(len(self._weights), np.nan)
        mine = self._weights[:, self.incumbent.newest]
        return mine @ self.incumbent.returns / mine.sum(1)


def agreeing(speaking: int) -> float:
    """Error probability of the lower bound of an estimate that agrees with another one.

    Of `speaking` estimates, n (n - 1) pairs can be one that is firm and one that agrees: if they
    err independently, a pair does at most as often as a single one is firm in error.
    """
    return 1 / max(2, speaking * (speaking - 1))


def nearer(gains: Gains) -> tuple[Gain, int]:
    """(the gain over what is harder to beat, which of the two that is), with the lower of both
    upper bounds."""
    over_policy, over_log = gains
    which = int(over_log.lower < over_policy.lower)  # False where either is unknown
    uppers = np.array([gain.upper for gain in gains])
    upper = np.fmin(*uppers)
    return Gain(gains[which].mean, gains[which].lower, float(upper)), which


def widened(x: Float[np.ndarray, " n"], dreamed: Dreamed, error: float, more: float) -> Gain:
    """The mean of `x`, a value per dream, with an interval by the spread of models, and `more`."""
    spread, freedom = spread_of_models(x, dreamed)
    half = float(stats.t.isf(error, freedom)) * spread + more
    return Gain(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


MOST_PAIRS = 4096  # most (observation, action) pairs for `counted_q`, a feature each


def make_fitted_q(
    log: Log, window: int, horizon: int, key: jax.Array, members: int = 32, width: int = 256
) -> tuple[Steps, Float[np.ndarray, "M E"], Evaluate]:
    """The steps of the log, the members' weights of its episodes, and a function that evaluates a
    policy on them. `key` is typed."""
    steps = make_steps(log, window, horizon)
    pairs = steps.x.shape[-1] * steps.a.shape[-1]
    categories = bool(jnp.all(jnp.sum(steps.x != 0, -1) == 1) & jnp.all(steps.x >= 0))
    if categories and window == 1 and pairs <= MOST_PAIRS and len(log.action.factors) == 1:
        from dreaming.gate.counted_q import count, evaluate_counted

        ensemble, evaluate = count(steps, key, members), evaluate_counted
    else:
        ensemble, evaluate = make_members(steps, key, members, width), evaluate_fitted
    weights = np.asarray(ensemble.weights, np.float64)[:, : len(log.traces)]
    return steps, weights, functools.partial(evaluate, steps, ensemble)
