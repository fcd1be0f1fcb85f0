"""What of a long log is learned from: whole episodes, evenly spread over it."""

from typing import Any

import numpy as np
from jaxtyping import Int

from dreaming.config import LogConfig
from dreaming.errors import ConfigError


def most_rows(config: LogConfig, row_bytes: int) -> int:
    """Rows of observations that fit into the bounds of `config`, each of `row_bytes`."""
    return min(config.most_steps, (config.most_mib << 20) // max(1, row_bytes))


def chosen_episodes(
    rows: Int[np.ndarray, " E"], most: int, newest: Any = ()
) -> Int[np.ndarray, " n"]:
    """Which episodes, of so many `rows` each, are used: all, or as many evenly spread ones as have
    at most `most` rows together.

    Every episode has the same chance, whatever its length: what is learned of lengths and returns
    stays unbiased. Those of the `newest` policy, which are compared with, come first, in up to half
    of the room. Episodes longer than half of the room are left out. Raises `ConfigError` where
    fewer than two fit.
    """
    if rows.sum() <= most:
        return np.arange(rows.size)
    fits = np.flatnonzero(rows <= most // 2)
    first = np.intersect1d(fits, np.asarray(newest, int))
    kept = spread(first, rows, most // 2) if first.size < fits.size else first[:0]
    others = np.setdiff1d(fits, kept)
    found = np.sort(np.append(kept, spread(others, rows, most - int(rows[kept].sum()))))
    if found.size < 2:
        raise ConfigError(
            f"of {rows.size} episodes with {rows.sum():,} observations no two fit into the "
            f"{most:,} that log.most_steps and log.most_mib allow; raise them, or log shorter "
            "episodes"
        )
    return found


def spread(
    episodes: Int[np.ndarray, " n"], rows: Int[np.ndarray, " E"], most: int
) -> Int[np.ndarray, " k"]:
    """As many evenly spread `episodes` as have at most `most` rows together."""
    evenly = lambda count: episodes[np.linspace(0, episodes.size - 1, count).round().astype(int)]
    least, beyond = 0, episodes.size + 1  # so many fit, so many do not
    while beyond - least > 1:
        middle = (least + beyond) // 2
        fits = rows[evenly(middle)].sum() <= most
        least, beyond = (middle, beyond) if fits else (least, middle)
    return evenly(least)
