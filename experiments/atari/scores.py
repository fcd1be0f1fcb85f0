"""Aggregates of human-normalised scores over games and runs (Agarwal et al., 2021).

`runs` maps each game to the scores of its runs, n of them; published columns often have one number
per game, the mean of its runs. Of those, aggregates over all runs are not known: the interquartile
mean of means is another, usually higher number.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dreaming.statistics import iqm, resampled

Runs = Mapping[str, Sequence[float]]
HUMAN = 1.0
LEVEL = 0.95
# Scores of each game as arrays [..., n] -> aggregate [...].
Aggregate = Callable[[Sequence[np.ndarray]], np.ndarray]


def by_game(games: Sequence[np.ndarray]) -> np.ndarray:
    """Mean score of each game [..., G]."""
    return np.stack([x.mean(axis=-1) for x in games], axis=-1)


def gap(x: np.ndarray) -> np.ndarray:
    """Optimality gap: by how much scores lie below a human on average, those above counting 0."""
    return HUMAN - np.mean(np.minimum(x, HUMAN), axis=-1)


pooled = lambda games: np.concatenate(games, axis=-1)
AGGREGATES: dict[str, Aggregate] = {
    "mean": lambda games: by_game(games).mean(axis=-1),
    "median": lambda games: np.median(by_game(games), axis=-1),
    "iqm": lambda games: iqm(pooled(games)),
    "optimality_gap": lambda games: gap(pooled(games)),
    "iqm_by_game": lambda games: iqm(by_game(games)),
    "optimality_gap_by_game": lambda games: gap(by_game(games)),
    "above_human": lambda games: np.sum(by_game(games) > HUMAN, axis=-1),
}
OF_RUNS = ("iqm", "optimality_gap")  # not known of one number per game


def aggregates(runs: Runs, *, means_only: bool = False) -> dict[str, float | None]:
    """All aggregates; those over runs are None where only means of games are known."""
    games = [np.asarray(x, float) for x in runs.values()]
    unknown = OF_RUNS if means_only else ()
    return {
        name: None if name in unknown else float(aggregate(games))
        for name, aggregate in AGGREGATES.items()
    }


def intervals(runs: Runs, *, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """Stratified bootstrap intervals of the aggregates, [low, high]; runs are drawn anew within
    each game. None where a game has a single run: nothing is known of its spread."""
    if min(map(len, runs.values())) < 2:
        return dict.fromkeys(AGGREGATES)
    drawn = list(resampled(list(runs.values()), seed=seed, resamples=resamples))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {name: np.quantile(x(drawn), ends).tolist() for name, x in AGGREGATES.items()}


def profile(runs: Runs, levels: Sequence[float]) -> list[float]:
    """Performance profile: at each level the share of runs that score more, games weighed alike."""
    games = [np.asarray(x, float) for x in runs.values()]
    return [float(np.mean([np.mean(x > level) for x in games])) for level in levels]
