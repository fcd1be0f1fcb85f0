"""What of a long log is learned from: whole episodes, evenly spread over it."""

import numpy as np
from jaxtyping import Int

from dreaming.config import LogConfig
from dreaming.errors import ConfigError


def most_rows(config: LogConfig, row_bytes: int) -> int:
    """Rows of observations that fit into the bounds of `config`, each of `row_bytes`."""
    return min(config.most_steps, (config.most_mib << 20) // max(1, row_bytes))


def chosen_episodes(rows: Int[np.ndarray, " E"], most: int) -> Int[np.ndarray, " n"]:
    """Which episodes, of so many `rows` each, are learned from: all, or as many evenly spread ones
    as have at most `most` rows together, first and newest among them.

    Every episode has the same chance, whatever its length: what is learned of lengths and returns
    stays unbiased. Raises `ConfigError` where not even two of them fit.
    """
    if rows.sum() <= most:
        return np.arange(rows.size)
    spread = lambda count: np.linspace(0, rows.size - 1, count).round().astype(int)
    least, beyond = 0, rows.size  # so many fit, so many do not
    while beyond - least > 1:
        middle = (least + beyond) // 2
        fits = rows[spread(middle)].sum() <= most
        least, beyond = (middle, beyond) if fits else (least, middle)
    if least < 2:
        raise ConfigError(
            f"of {rows.size} episodes with {rows.sum():,} observations no two fit into the "
            f"{most:,} that log.most_steps and log.most_mib allow; raise them, or log shorter "
            "episodes"
        )
    return spread(least)
