"""Published scores of Atari-100k: `published.csv` by game, `methods.csv` with sources and rules."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Method:
    """A published method: raw mean scores by game, and how they came about; "" = not known."""

    column: str
    title: str
    source: str
    runs: str  # training runs per game
    observations: str
    sticky: str
    life_loss: str  # whether a lost life ends a training episode
    reward: str
    evaluation: str
    differs: str  # from the protocol of `dreaming atari100k`
    mean: str  # human-normalised aggregates, digit by digit as printed there
    median: str
    above_human: str
    printed_in: str
    scores: dict[str, float]


@cache
def table() -> dict[str, dict[str, float]]:
    """column -> game -> raw score; columns `random` and `human` are the ends of the scale."""
    with (HERE / "published.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name != "game"]
    return {name: {row["game"]: float(row[name]) for row in rows if row[name]} for name in columns}


@cache
def methods() -> tuple[Method, ...]:
    """All published methods, in the order of the file."""
    with (HERE / "methods.csv").open(encoding="utf-8") as file:
        return tuple(Method(**row, scores=table()[row["column"]]) for row in csv.DictReader(file))


def human_normalised(game: str, score: float) -> float:
    """0 = uniformly random actions, 1 = a human."""
    low, high = table()["random"][game], table()["human"][game]
    return (score - low) / (high - low)
