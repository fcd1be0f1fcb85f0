"""Three estimates, from the log alone, of the gain of a candidate over the incumbent.

G1 fitted-Q evaluation, G2 weighted doubly robust, G3 the judge's dreams; each of the undiscounted
return of an episode, in raw rewards, by the policy that draws as it would where it is deployed.

What a candidate has to beat is the process as it ran: the mean logged return of its newest policy,
which no estimate has to guess. The incumbent's own policy (in round 0 a clone) is asked as well:
there an estimate that flatters everybody flatters both.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import stats

from dreaming.config import GateConfig
from dreaming.gate import doubly_robust
from dreaming.gate.fitted_q import evaluate_fitted, make_members
from dreaming.gate.incumbent import CLEARLY, Incumbent
from dreaming.gate.logged_steps import Evaluate, Steps, Valued, make_steps
from dreaming.gate.returns import Gain
from dreaming.observe.log import Log
from dreaming.statistics import t_interval
from dreaming.world.judge import Dreamed, Judge, spread_of_models, systematic_error

DIVERGED = 0.1  # a value has diverged if it leaves the range that rewards allow by this share of it
UNKNOWN = Gain(np.nan, np.nan, np.nan)
Gains = tuple[Gain, Gain]  # over the incumbent's policy, over the process as it ran


@dataclass
class Evidence:
    """Computes the three estimates for any candidate against one incumbent.

    Each end of an interval is wrong with probability `error`. `horizon`: the steps of an episode.
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
        new = self._evaluate(candidate)
        fitted, diverged = self.fitted_q(new, error)
        robust, effective = self.robust(candidate, new, error)
        dreamed, opinions = self.dreamed(candidate, error)
        nearest, over = zip(*map(nearer, (fitted, robust, dreamed)), strict=True)
        return {
            "intervals": np.array([[gain.mean, gain.lower, gain.upper] for gain in nearest]),
            "over": np.array(over, float),
            "error": error,
            "effective": effective,
            "diverged": diverged,
            "segments": self._errors.size,
            "opinions": opinions,
        }

    def fitted_q(self, new: Valued, error: float) -> tuple[Gains, int]:
        """G1 and the number of diverged members; unknown if more than an eighth diverged.

        The mean over members, plus and minus Student's quantile times their standard deviation
        (not divided by sqrt(M): under the bootstrap it is the error of the estimate itself).
        """
        values = np.stack([np.asarray(x.values, np.float64) for x in (new, self._old)])
        lowest, highest = possible(self.log, self.horizon)
        slack = DIVERGED * (highest - lowest)
        inside = (values >= lowest - slack) & (values <= highest + slack)  # NaN is outside
        diverged = int((~inside.all(0)).sum())
        if diverged > values.shape[1] / 8:
            return (UNKNOWN, UNKNOWN), diverged
        ours, theirs = np.clip(np.nan_to_num(values, nan=lowest), lowest, highest)

        def over(others: Float[np.ndarray, " M"]) -> Gain:
            gain = ours - others
            half = stats.t.isf(error, gain.size - 1) * gain.std(ddof=1)
            return Gain(gain.mean(), gain.mean() - half, gain.mean() + half)

        return (over(theirs), over(self._as_it_ran(self._weights))), diverged

    def robust(self, candidate: Any, new: Valued, error: float) -> tuple[Gains, float]:
        """G2 and its effective episodes (NaN without ratios); unknown below `least_effective`."""
        ratios = doubly_robust.ratios(self.log, self._steps, candidate)
        if ratios is None or self._old_ratios is None:
            return (UNKNOWN, UNKNOWN), np.nan
        fill = lambda x: np.cumprod(doubly_robust.by_episode(self.log, x, 1.0), axis=1)
        rhos = fill(ratios), fill(self._old_ratios)
        effective = min(map(doubly_robust.effective_samples, rhos))
        if effective < self.config.least_effective:
            return (UNKNOWN, UNKNOWN), effective
        seed = int(np.asarray(jax.random.key_data(self.key)).ravel()[-1])
        weights = doubly_robust.episode_bootstrap(len(self.log.traces), seed)
        ours, theirs = (
            doubly_robust.weighted_doubly_robust(self.log, self._steps, valued, rho, weights)
            for valued, rho in zip((new, self._old), rhos, strict=True)
        )

        def over(others: Float[np.ndarray, " B"]) -> Gain:
            gain = ours - others
            low, high = np.quantile(gain[1:], [error, 1 - error])
            return Gain(gain[0], low, high)

        return (over(theirs), over(self._as_it_ran(weights))), effective

    def dreamed(self, candidate: Any, error: float) -> tuple[Gains, int]:
        """G3 and how many members dreamed; unknown without judges enough or segments enough.

        The judge's error per segment is multiplied by the number of segments in a dream of mean
        length, of candidate or incumbent, whichever is longer.
        """
        dreamed, old = self.judge.dreams(candidate), self._old_dreams
        wrong = systematic_error(self._errors, 1 - 2 * error)
        _, others = spread_of_models(dreamed.returns, dreamed)
        if wrong is None or np.isnan(spread_of_models(dreamed.returns, dreamed)[0]):
            return (UNKNOWN, UNKNOWN), others + 1
        longest = max(dreamed.lengths.mean(), old.lengths.mean())
        wrong *= max(1.0, longest / self.judge.segment)
        paired = widened(dreamed.returns - old.returns, dreamed, error, wrong)
        returns, logged = self.incumbent.returns, UNKNOWN
        if self.incumbent.has_run:
            low, high = t_interval(returns, level=1 - 2 * error)
            half = (high - low) / 2
            more = float(np.hypot(wrong, half))
            logged = widened(dreamed.returns - returns.mean(), dreamed, error, more)
        return (paired, logged), others + 1

    def of_clone(self) -> Float[np.ndarray, " 3"]:
        """(gain, lower, upper) of a clone over the log that it was cloned from, by G1; NaN where
        the incumbent is no clone, or has not run alone."""
        incumbent = self.incumbent
        alone = incumbent.is_clone and incumbent.has_run
        if not alone or incumbent.logged.size > incumbent.returns.size:
            return np.full(3, np.nan)
        (_, gain), _ = self.fitted_q(self._old, CLEARLY)
        return np.array([gain.mean, gain.lower, gain.upper])

    def _as_it_ran(self, weights: Float[np.ndarray, "B E"]) -> Float[np.ndarray, " B"]:
        """The log's own mean return of the newest policy, under weightings of the episodes; NaN
        where there are too few."""
        if not self.incumbent.has_run:
            return np.full(len(weights), np.nan)
        mine = weights[:, self.incumbent.newest]
        return mine @ self.incumbent.returns / mine.sum(1)


def nearer(gains: Gains) -> tuple[Gain, int]:
    """(the gain over what is harder to beat, which of the two that is), with the lower of both
    upper bounds."""
    over_policy, over_log = gains
    which = int(over_log.lower < over_policy.lower)  # False where either is unknown
    uppers = np.array([gain.upper for gain in gains])
    upper = np.fmin(*uppers)
    return Gain(gains[which].mean, gains[which].lower, float(upper)), which


def widened(x: Float[np.ndarray, " n"], dreamed: Dreamed, error: float, more: float) -> Gain:
    """The mean of `x`, a value per dream, with an interval by the spread of models and by `more`,
    the bound on an error that is independent of it."""
    spread, freedom = spread_of_models(x, dreamed)
    half = float(np.hypot(stats.t.isf(error, freedom) * spread, more))
    return Gain(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def possible(log: Log, horizon: int) -> tuple[float, float]:
    """The least and the highest return that an episode of `horizon` steps can have, by the rewards
    that the log paid for going on and for ending."""
    ends = [trace.rewards[-1] for trace in log.traces if trace.terminated[-1]]
    on = np.concatenate([t.rewards[: len(t) - bool(t.terminated[-1])] for t in log.traces])
    lowest, highest = min(on.min(initial=0.0), 0.0), max(on.max(initial=0.0), 0.0)
    least, most = min([lowest, *ends]), max([highest, *ends])
    return (horizon - 1) * lowest + least, (horizon - 1) * highest + most


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
