"""Logged values and the spaces they live in: checked against one, or used to infer one."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.types import TraceError

MAX_CATEGORIES = 1024  # more different whole numbers than this are a quantity, not categories


def conform(x: np.ndarray, space: gymnasium.Space, name: str, *, bounded: bool) -> np.ndarray:
    """`x` [T, *space.shape] as the space's dtype; `TraceError` names the first row that is outside.

    No value is changed: what the dtype cannot hold is an error. The bounds of a Box are checked
    if `bounded`; real observations may lie beyond what their space promises.
    """
    assert isinstance(space, Box | Discrete), space
    if x.shape[1:] != space.shape:
        raise TraceError(f"{name} at row 0 has shape {x.shape[1:]}, expected {space.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        kept = x.astype(space.dtype)
    bad = kept != x
    if isinstance(space, Discrete):
        bad |= (x < space.start) | (x >= space.start + space.n)
    elif bounded:
        bad |= (x < space.low) | (x > space.high)
    if bad.any():
        row = int(np.argmax(bad.reshape(len(x), -1).any(-1)))
        value = " ".join(str(x[row]).split())
        raise TraceError(f"{name} at row {row} is {value} ({x.dtype}), expected a value of {space}")
    return kept


def infer_space(x: np.ndarray, known: gymnasium.Space | None = None) -> Box | Discrete:
    """The space of logged values [T, *shape]; `known`, inferred before, is widened, not narrowed.

    Whole scalars are Discrete unless there are many of them; bytes are Box(0, 255); the bounds of
    other numbers cannot be known from a log: they are those of the dtype, or infinite.
    """
    if isinstance(known, Box):
        return known
    whole = x.dtype.kind in "biu"
    if whole and x.ndim == 1:
        start, stop = min(0, int(x.min())), int(x.max()) + 1
        if isinstance(known, Discrete):
            start, stop = min(start, int(known.start)), max(stop, int(known.start + known.n))
        if stop - start <= MAX_CATEGORIES:
            return Discrete(stop - start, start=start)
        x = x.astype(np.int64)
    elif isinstance(known, Discrete):
        return known
    if x.dtype == bool:
        return Box(0, 1, x.shape[1:], np.uint8)
    info = np.iinfo(x.dtype) if whole else None
    low, high = (info.min, info.max) if info else (-np.inf, np.inf)
    return Box(low, high, x.shape[1:], x.dtype.type)
