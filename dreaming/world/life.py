"""How long episodes last: in dreams of the log's own behaviour, against the log.

Logged episodes that were cut off tell how long they lasted at least, so the log's mean is that of
Kaplan and Meier's survival curve (1958) up to a limit, with Greenwood's variance.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int
from scipy import special, stats

from dreaming.world.judge import dream
from envs.dream import World
from envs.types import Trace

DREAMS = 512  # dreamed episodes, of short ones,
STEPS, FEWEST = 1 << 17, 32  # of long ones as many as have so many steps, but not fewer
SLOW = 16
UNSEEN = 0.5  # endings that are taken to be due where none was seen


@dataclass(frozen=True)
class Life:
    """Mean steps of an episode, of at most `limit` each."""

    mean: float
    limit: int
    odds: float  # log odds of mean / limit, kept finite
    error: float  # their standard error

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, between 0 and `limit`; it holds the mean."""
        ends = self.odds + stats.norm.ppf([0.025, 0.975]) * self.error
        low, high = self.limit * special.expit(ends)
        return float(min(low, self.mean)), float(max(high, self.mean))


def logged_life(lengths: Int[np.ndarray, " n"], ended: Bool[np.ndarray, " n"], limit: int) -> Life:
    """That of logged episodes, of which `ended` were not cut off."""
    ended = ended & (lengths <= limit)
    lengths = np.minimum(lengths, limit)
    count = lambda x: np.bincount(x, minlength=limit + 1)[1:]
    deaths, at_risk = count(lengths[ended]), count(lengths)[::-1].cumsum()[::-1]
    survival = np.cumprod(1 - deaths / np.maximum(at_risk, 1))
    to_come = np.append(survival[:-1], 0.0)[::-1].cumsum()[::-1]  # from each step on
    risk = np.maximum(at_risk * (at_risk - deaths), 1.0)
    variance = np.sum(np.square(to_come) * deaths / risk)
    mean, error = 1 + survival[:-1].sum(), np.sqrt(variance)
    return _life(mean, error, limit, lengths.sum() / limit, bool(deaths[:-1].any()))


def dreamed_life(lengths: Int[np.ndarray, " n"], logged: Life) -> Life:
    """That of dreamed episodes: in doubt by their number, and as the log that the dream is of."""
    limit = logged.limit
    error = lengths.std() / np.sqrt(lengths.size)
    life = _life(lengths.mean(), error, limit, lengths.size, bool((lengths < limit).any()))
    return dataclasses.replace(life, error=float(np.hypot(life.error, logged.error)))


def _life(mean: float, error: float, limit: int, whole: float, has_ended: bool) -> Life:
    """Of a mean, its standard error and as many steps as `whole` episodes have."""
    share = mean / limit
    if has_ended:
        error = error / (limit * share * (1 - share))
    else:
        share, error = 1 - min(0.5, UNSEEN / whole), 1 / np.sqrt(UNSEEN)
    return Life(float(mean), limit, float(special.logit(share)), float(error))


def limit_of(horizon: int, traces: Sequence[Trace]) -> int:
    """Steps that are compared: until the longest logged episode is over, or the dream."""
    return min(horizon, max(map(len, traces)))


def dreams_of(limit: int, model: Any) -> int:
    """Number of dreamed episodes; a step of frames is taken to cost as much as SLOW of vectors."""
    steps = STEPS // SLOW if getattr(model, "convolves", False) else STEPS
    return min(DREAMS, max(FEWEST, steps // limit))


def dreamed_lengths(world: World, policy: Any, key: jax.Array, limit: int) -> Int[np.ndarray, " n"]:
    """Steps of dreamed episodes of a policy from logged starts, of at most `limit` each."""
    return dream(world, policy, key, dreams_of(limit, world.model), limit)[1]


def life_figures(
    lengths: Int[np.ndarray, " n"], limit: int, traces: Sequence[Trace]
) -> dict[str, float]:
    """Figures of a certificate: `life_dreamed` by the `lengths` of dreamed episodes, `life_logged`,
    each with `_low` and `_high`, in steps, of at most `limit`."""
    logged = logged_life(*lengths_of(traces), limit)
    found = {}
    for name, life in (("logged", logged), ("dreamed", dreamed_life(lengths, logged))):
        low, high = life.interval
        found |= {f"life_{name}": life.mean, f"life_{name}_low": low, f"life_{name}_high": high}
    return found


def lengths_of(traces: Sequence[Trace]) -> tuple[np.ndarray, np.ndarray]:
    """(steps of each episode, whether it ended by itself)."""
    ended = [bool(trace.terminated[-1]) for trace in traces]
    return np.array([len(trace) for trace in traces]), np.array(ended)
