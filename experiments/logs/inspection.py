"""Figures of a log, without model or device."""

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from dreaming.statistics import iqm
from envs.types import Trace
from experiments.logs.warnings import warnings

BINS = 10
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
MOST_FEATURES = 64  # most features that are shown one by one; those of frames are not
SAMPLE = 1500  # observations compared with each other, to measure coverage


def inspect(traces: Sequence[Trace], spaces: dict[str, gymnasium.Space]) -> dict[str, Any]:
    """All figures of a log of at least one episode, and `warnings`."""
    observation, action = spaces["observation_space"], spaces["action_space"]
    o = joined([trace.observations for trace in traces], observation, "o")
    a = joined([trace.actions for trace in traces], action, "a")
    r = np.concatenate([trace.rewards for trace in traces])
    closed = [trace for trace in traces if not trace.is_open]
    has = lambda name: sum(getattr(trace, name) is not None for trace in traces)
    figures = {
        "spaces": {
            name: " ".join(str(space).split())
            for name, space in (("observation", observation), ("action", action))
        },
        "episodes": {
            "count": len(traces),
            "steps": len(r),
            "terminated": sum(bool(trace.terminated[-1]) for trace in traces),
            "truncated": sum(bool(trace.truncated[-1]) for trace in traces),
            "open": len(traces) - len(closed),
            "sessions": len({trace.session for trace in traces} - {None}),
            "policies": sorted({trace.policy for trace in traces if trace.policy}),
        },
        "returns": spread([float(trace.rewards.sum()) for trace in closed]),
        "lengths": spread([len(trace) for trace in traces]),
        "rewards": {
            "mean": float(r.mean()),
            "min": float(r.min()),
            "max": float(r.max()),
            "distinct": len(np.unique(r)),
        },
        "actions": [balance(*leaf) for leaf in a],
        "observations": [feature for leaf in o for feature in ranges(*leaf)],
        "recorded": {name: has(name) for name in ("propensities", "action_masks", "times")},
        "coverage": coverage(traces, o, a),
    }
    figures["warnings"] = list(warnings(traces, action, o, figures))
    return figures


def leaves(space: gymnasium.Space, x: Any, name: str) -> Iterator[tuple[str, Any, np.ndarray]]:
    """(name, simple space, values) of every leaf of a nested space."""
    if isinstance(space, Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, x[key], f"{name}.{key}")
    elif isinstance(space, Tuple):
        for i, inner in enumerate(space.spaces):
            yield from leaves(inner, x[i], f"{name}.{i}")
    else:
        yield name, space, np.asarray(x)


def joined(rows: Sequence[Any], space: gymnasium.Space, name: str) -> list[tuple[str, Any, Any]]:
    """(name, simple space, concatenated values of all episodes) of every leaf."""
    each = [list(leaves(space, x, name)) for x in rows]
    return [
        (*leaf[0][:2], np.concatenate([x for _, _, x in leaf])) for leaf in zip(*each, strict=True)
    ]


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """Count, mean, interquartile mean, range and histogram of values; None without values."""
    if not values:
        return None
    x = np.asarray(values, float)
    counts, edges = np.histogram(x, BINS if np.ptp(x) else 1)
    return {
        "count": len(x),
        "mean": float(x.mean()),
        "iqm": float(iqm(x)),
        "min": float(x.min()),
        "max": float(x.max()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def balance(name: str, space: Any, a: np.ndarray) -> dict[str, Any]:
    """Balance of the actions: shares per value of each factor, or quantiles per dimension."""
    if isinstance(space, Discrete):
        return {"name": name, "factors": [_shares(a, int(space.start), int(space.n))]}
    if isinstance(space, MultiDiscrete | MultiBinary):
        sizes = np.ravel(space.nvec) if isinstance(space, MultiDiscrete) else [2] * a[0].size
        start = np.ravel(getattr(space, "start", np.zeros(len(sizes), int)))
        columns = a.reshape(len(a), -1).T
        factors = [_shares(*each) for each in zip(columns, start, sizes, strict=True)]
        return {"name": name, "factors": factors}
    low, high = (np.broadcast_to(x, space.shape).ravel() for x in (space.low, space.high))
    columns = a.reshape(len(a), -1).T
    quantiles = [np.percentile(x, QUANTILES).tolist() for x in columns]
    ends = zip(quantiles, low.tolist(), high.tolist(), strict=True)
    return {"name": name, "dimensions": [dict(quantiles=q, low=x, high=y) for q, x, y in ends]}


def _shares(a: np.ndarray, start: int, size: int) -> dict[int, float]:
    counts = np.bincount(np.asarray(a, np.int64) - int(start), minlength=int(size))
    return {int(start) + i: float(count / len(a)) for i, count in enumerate(counts)}


def ranges(name: str, space: Any, x: np.ndarray) -> Iterator[dict[str, Any]]:
    """Range of every feature; with more than MOST_FEATURES, one range of all together."""
    if isinstance(space, Discrete):
        yield {"name": name, "distinct": len(np.unique(x)), "of": int(space.n)}
        return
    columns = x.reshape(len(x), -1)
    together = columns.shape[1] > MOST_FEATURES
    still = int((columns == columns[:1]).all(axis=0).sum())
    for i, column in enumerate([columns] if together else columns.T):
        shown = f"{name}[0..{columns.shape[1] - 1}]" if together else f"{name}[{i}]"
        yield {
            "name": shown if x.ndim > 1 else name,
            "min": float(column.min()),
            "mean": float(column.mean()),
            "max": float(column.max()),
            "std": float(column.std()),
            "constants": still if together else int(np.ptp(column) == 0),
        }


def coverage(traces: Sequence[Trace], o: list, a: list) -> dict[str, Any]:
    """Share of all pairs (o, a) that occur if both are discrete, else figures of `nearest`."""
    discrete = [isinstance(leaf[0][1], Discrete) and len(leaf) == 1 for leaf in (o, a)]
    if all(discrete):
        before = np.concatenate([np.asarray(trace.observations)[:-1] for trace in traces])
        pairs = len(set(zip(before.tolist(), a[0][2].tolist(), strict=True)))
        possible = int(o[0][1].n) * int(a[0][1].n)
        seen = len(np.unique(before)) * int(a[0][1].n)
        return {"pairs": pairs, "possible": possible, "of_seen_observations": pairs / seen}
    x = np.concatenate([leaf[2].reshape(len(leaf[2]), -1) for leaf in o], axis=1).astype(float)
    episode = np.repeat(np.arange(len(traces)), [len(trace) + 1 for trace in traces])
    chosen = np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(int)
    return nearest(x[chosen], episode[chosen])


def nearest(x: np.ndarray, episode: np.ndarray) -> dict[str, Any]:
    """Distance to the nearest observation of another episode, in standard deviations per feature.

    0 = the same observation occurs; random pairs of a normal distribution are sqrt(2) apart.
    """
    if len(np.unique(episode)) < 2:
        return {"nearest_median": None, "nearest_90": None}
    std = x.std(axis=0)
    x = (x - x.mean(axis=0))[:, std > 0] / std[std > 0]
    squares = (x**2).sum(axis=1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    distance[episode[:, None] == episode] = np.inf
    least = np.sqrt(np.maximum(distance.min(axis=1), 0) / max(x.shape[1], 1))
    return {
        "nearest_median": float(np.median(least)),
        "nearest_90": float(np.quantile(least, 0.9)),
    }
