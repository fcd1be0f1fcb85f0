"""Learning curves of online runs: returns of the collected episodes, by real steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pages import page, plots

BINS = 40  # number of bins of a curve, of equal numbers of real steps
RETURN = "collect/return"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSONL file; lines that cannot be read are left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def round_of(result: Mapping[str, Any]) -> str:
    """Which round's student is deployed, and what each earned; "" without rounds."""
    if not (earned := result.get("earned_by_round")):
        return ""
    told = ", ".join("–" if x is None else f"{x:.1f}" for x in earned)
    return f"the student of round {result['deployed_round']} (by round they earned {told})"


def is_online(result: Mapping[str, Any]) -> bool:
    """Whether a result is of an online run."""
    return "rounds" in result


def returns_by_step(metrics: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(real steps, returns of the episodes that had ended by then), from lines of metrics.jsonl."""
    known = [(row["step"], row[RETURN]) for row in metrics if row.get(RETURN) is not None]
    x, y = np.array(known, float).reshape(-1, 2).T
    return x, y


def binned(x: np.ndarray, y: np.ndarray, end: float) -> tuple[list[float], list[float]]:
    """(last step of each bin that is not empty, mean of `y` in it)."""
    edges = np.linspace(0, end, BINS + 1)
    number = np.clip(np.searchsorted(edges, x), 1, BINS)
    there = np.unique(number)
    return edges[there].tolist(), [float(y[number == n].mean()) for n in there]


def section(result: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    """The section with the curve of an online run and its final return; '' for other runs."""
    x, y = returns_by_step(metrics)
    if not is_online(result) or not x.size:
        return ""
    end, deployed = float(result.get("real_steps") or x[-1]), result.get("deployed_return")
    ends = [(end, deployed["mean"], *deployed["ci"])] if deployed else []
    svg = plots.learning([binned(x, y, end)], ends, points=(x.tolist(), y.tolist()))
    return page.section(
        "Return while it was learned",
        "Each point is what the episodes earned that ended there, exploration included; the line "
        "is their mean. At the end stands what is deployed, in fresh episodes without exploration, "
        "with its 95% interval.",
        f'<div class="wide">{svg}</div>',
    )


def group_section(curves: Sequence[Mapping[str, Any]]) -> str:
    """The curves of several seeds; each has `real_steps` and `returns`."""
    lines = [(curve["real_steps"], curve["returns"]) for curve in curves]
    if not lines:
        return ""
    caption = "Return while it was learned, exploration included; a line per seed"
    return f'<div class="wide">{page.figure(plots.learning(lines, []), caption)}</div>'
