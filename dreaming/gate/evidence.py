"""Three estimates, from the log alone, of the gain of a candidate over the incumbent.

G1 fitted-Q evaluation, G2 weighted doubly robust, G3 the judge's dreams; each (gain, lower, upper),
NaN where unknown. G1 and G2 estimate discounted returns, G3 returns to the horizon; all in raw
rewards.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dreaming.config import GateConfig
from dreaming.gate import doubly_robust
from dreaming.gate.fitted_q import evaluate_fitted, make_members
from dreaming.gate.logged_steps import Evaluate, Steps, Valued, make_steps
from dreaming.observe.log import Log
from dreaming.statistics import t_interval
from dreaming.world.judge import Judge, systematic_error

DIVERGED = 0.1  # a value has diverged if it leaves the range that rewards allow by this share of it


@dataclass
class Evidence:
    """Computes the three estimates for any candidate against one incumbent."""

    log: Log
    window: int
    discount: float
    incumbent: Any
    judge: Judge
    config: GateConfig
    level: float
    key: jax.Array

    def __post_init__(self):
        ensemble = self.config.members, self.config.width
        arguments = self.log, self.window, self.discount, self.key, *ensemble
        self._steps, self._evaluate = make_fitted_q(*arguments)
        self._old = self._evaluate(self.incumbent)
        self._old_ratios = doubly_robust.ratios(self.log, self._steps, self.incumbent)
        self._old_dreams = self.judge.returns(self.incumbent)
        self._errors = self.judge.errors()

    def of(self, candidate: Any) -> dict[str, Any]:
        """The three estimates and their sample sizes, with the keys of `offline.unknown`."""
        new = self._evaluate(candidate)
        fitted, diverged = self.fitted_q(new)
        robust, effective = self.robust(candidate, new)
        dreamed, dreams = self.dreamed(candidate)
        return {
            "intervals": np.stack([fitted, robust, dreamed]),
            "effective": effective,
            "diverged": diverged,
            "segments": self._errors.size,
            "dreams": dreams,
        }

    def fitted_q(self, new: Valued) -> tuple[np.ndarray, int]:
        """G1 and the number of diverged members; NaN if more than an eighth diverged.

        The mean over members, plus and minus Student's quantile times their standard deviation
        (not divided by sqrt(M): under the bootstrap it is the error of the estimate itself).
        """
        values = np.stack([np.asarray(x.values, np.float64) for x in (new, self._old)])
        rewards = np.concatenate([trace.rewards for trace in self.log.traces])
        lowest, highest = min(rewards.min(), 0.0), max(rewards.max(), 0.0)
        lowest, highest = lowest / (1 - self.discount), highest / (1 - self.discount)
        slack = DIVERGED * (highest - lowest)
        inside = (values >= lowest - slack) & (values <= highest + slack)  # NaN is outside
        diverged = int((~inside.all(0)).sum())
        if diverged > values.shape[1] / 8:
            return np.full(3, np.nan), diverged
        values = np.clip(np.nan_to_num(values, nan=lowest), lowest, highest)
        gain = values[0] - values[1]
        half = stats.t.ppf((1 + self.level) / 2, gain.size - 1) * gain.std(ddof=1)
        return np.array([gain.mean(), gain.mean() - half, gain.mean() + half]), diverged

    def robust(self, candidate: Any, new: Valued) -> tuple[np.ndarray, float]:
        """G2 and its effective episodes (NaN without propensities); NaN below `least_effective`."""
        ratios = doubly_robust.ratios(self.log, self._steps, candidate)
        if ratios is None or self._old_ratios is None:
            return np.full(3, np.nan), np.nan
        fill = lambda x: np.cumprod(doubly_robust.by_episode(self.log, x, 1.0), axis=1)
        rhos = fill(ratios), fill(self._old_ratios)
        effective = min(map(doubly_robust.effective_samples, rhos))
        if effective < self.config.least_effective:
            return np.full(3, np.nan), effective
        seed = int(np.asarray(jax.random.key_data(self.key)).ravel()[-1])
        weights = doubly_robust.episode_bootstrap(len(self.log.traces), seed)
        drawn = [
            doubly_robust.weighted_doubly_robust(
                self.log, self._steps, valued, rho, self.discount, weights
            )
            for valued, rho in zip((new, self._old), rhos, strict=True)
        ]
        gain = drawn[0] - drawn[1]
        ends = np.quantile(gain[1:], [(1 - self.level) / 2, (1 + self.level) / 2])
        return np.array([gain[0], *ends]), effective

    def dreamed(self, candidate: Any) -> tuple[np.ndarray, int]:
        """G3 and the number of dreams; NaN without a judge or with too few segments.

        The judge's error per segment is multiplied by the number of segments in a dream of mean
        length, of candidate or incumbent, whichever is longer.
        """
        returns, lengths = self.judge.returns(candidate)
        error = systematic_error(self._errors, self.level)
        if not returns.size or error is None:
            return np.full(3, np.nan), returns.size
        gain = returns - self._old_dreams[0]
        low, high = t_interval(gain, level=self.level)
        longest = max(lengths.mean(), self._old_dreams[1].mean())
        error *= max(1.0, longest / self.judge.segment)
        return np.array([gain.mean(), low - error, high + error]), returns.size


MOST_PAIRS = 4096  # most (observation, action) pairs for `counted_q`, a feature each


def make_fitted_q(
    log: Log, window: int, discount: float, key: jax.Array, members: int = 32, width: int = 256
) -> tuple[Steps, Evaluate]:
    """The steps of the log, and a function that evaluates a policy on them. `key` is typed."""
    steps = make_steps(log, window, discount)
    pairs = steps.x.shape[-1] * steps.a.shape[-1]
    categories = bool(jnp.all(jnp.sum(steps.x != 0, -1) == 1) & jnp.all(steps.x >= 0))
    if categories and window == 1 and pairs <= MOST_PAIRS and len(log.action.factors) == 1:
        from dreaming.gate.counted_q import count, evaluate_counted

        counts = count(steps, discount, key, members)
        return steps, functools.partial(evaluate_counted, steps, counts)
    ensemble = make_members(steps, discount, key, members, width)
    return steps, functools.partial(evaluate_fitted, steps, ensemble, discount)
