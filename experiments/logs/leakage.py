"""Columns that tell what nobody could know yet, and frames that are read askew."""

from collections.abc import Iterator, Sequence

import numpy as np
from gymnasium.spaces import Box

from envs.frames import is_frame
from envs.sources.layouts import looks_channels_first
from envs.types import Trace

MOST_FEATURES = 256  # looked at one by one
ALIKE = 0.9999  # correlation of what is the same but for rounding
TELLING = 0.98
FEWEST = 10  # episodes, or endings, that a correlation is trusted with


def leakage(traces: Sequence[Trace], o: list) -> Iterator[str]:
    """Warnings for observations that foretell; `o` is that of `inspection.inspect`."""
    lengths = np.array([len(trace) for trace in traces])
    starts = np.cumsum(lengths + 1) - lengths - 1
    steps = np.ones(int((lengths + 1).sum()), bool)
    steps[np.cumsum(lengths + 1) - 1] = False  # nothing is decided at the last observation
    r = np.concatenate([trace.rewards for trace in traces])
    ended = np.concatenate([trace.terminated for trace in traces])
    closed = np.array([not trace.is_open for trace in traces])
    returns = np.array([trace.rewards.sum() for trace in traces])
    for name, x in _features(o):
        if alike(x[steps], r) >= ALIKE:
            yield (
                f"{name} follows the reward of its own step exactly: if it is known only after the "
                "action, the policy would see the future; leave it out of the observation"
            )
        elif ended.sum() >= FEWEST and alike(x[steps], ended) >= ALIKE:
            yield (
                f"{name} says at which step an episode ends: if it is known only afterwards, leave "
                "it out of the observation"
            )
        elif closed.sum() >= FEWEST and _is_still(x, starts):
            if alike(x[starts[closed]], returns[closed]) >= TELLING:
                yield (
                    f"{name} never changes within an episode and tells its return: if it is known "
                    "only at the end, leave it out of the observation"
                )


def askew(o: list) -> Iterator[str]:
    """Warnings for frames whose channels seem to be their first axis."""
    for name, space, _ in o:
        if isinstance(space, Box) and is_frame(space) and looks_channels_first(space.shape):
            shown = " x ".join(map(str, space.shape))
            yield (
                f"{name} of {shown} bytes is read as height, width and channels, but looks like "
                "channels first; turn the axes when logging (in a mapping: layout)"
            )


def alike(x: np.ndarray, y: np.ndarray) -> float:
    """The absolute correlation of two series; 0 if one of them never varies."""
    x, y = x.astype(float), y.astype(float)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float(abs((x * y).sum()) / size) if size > 0 else 0.0


def _features(o: list) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values of all rows) of the numbers in an observation, unless there are too many."""
    for name, space, x in o:
        columns = np.asarray(x).reshape(len(x), -1)
        if columns.shape[1] > MOST_FEATURES or not isinstance(space, Box):
            continue
        for i, column in enumerate(columns.T):
            yield (f"{name}[{i}]" if space.shape else name), column


def _is_still(x: np.ndarray, starts: np.ndarray) -> bool:
    lengths = np.diff([*starts, len(x)])
    return bool((x == np.repeat(x[starts], lengths)).all())
