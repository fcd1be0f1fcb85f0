"""Checking logged values against a space, and inferring a space from logged values."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.features import map_space
from envs.types import SpaceError, Trace, TraceError, action_features

MAX_CATEGORIES = 1024  # with more different whole numbers a column is numeric, not categorical


def conform(values: Any, space: gymnasium.Space, name: str, *, bounded: bool) -> Any:
    """`values` [T, *space.shape] in the space's dtypes; `TraceError` names the first bad row.

    Values never change: one that the dtype cannot hold is an error. The bounds of a Box are checked
    if `bounded` only, since real observations may lie outside their declared space.
    """
    leaf = lambda name, space, x: _conform(x, space, name, bounded)
    try:
        return map_space(leaf, name, space, values)
    except SpaceError as error:
        raise TraceError(str(error)) from error


def _conform(x: np.ndarray, space: Any, name: str, bounded: bool) -> np.ndarray:
    if isinstance(x, tuple):
        raise TraceError(f"{name} is a tuple of {len(x)}, expected a value of {space}")
    if x.shape[1:] != space.shape:
        raise TraceError(f"{name} at row 0 has shape {x.shape[1:]}, expected {space.shape}")
    kept, bad = x, None
    if x.dtype != space.dtype:
        with np.errstate(invalid="ignore", over="ignore"):
            kept = x.astype(space.dtype)
        bad = kept != x
    if (bad is not None and bad.any()) or _is_outside(x, space, bounded):
        bad = np.zeros(x.shape, bool) if bad is None else bad
        bad |= _outside(x, space, bounded)
        row = int(np.argmax(bad.reshape(len(x), -1).any(-1)))
        value = " ".join(str(x[row]).split())
        wanted = " ".join(str(space).split())
        raise TraceError(
            f"{name} at row {row} is {value} ({x.dtype}), expected a value of {wanted}"
        )
    return kept


def _is_outside(x: np.ndarray, space: Any, bounded: bool) -> bool:
    """Whether any value lies outside; quick where extremes tell."""
    if isinstance(space, Discrete) and len(x):
        return bool(x.min() < space.start or x.max() >= space.start + space.n)
    if isinstance(space, Box) and not bounded:
        return False
    return bool(np.any(_outside(x, space, bounded)))


def _outside(x: np.ndarray, space: Any, bounded: bool) -> np.ndarray:
    """bool, as `x`: where a value is none of the space's; bounds of a Box count if `bounded`."""
    if isinstance(space, Discrete):
        return (x < space.start) | (x >= space.start + space.n)
    if isinstance(space, MultiDiscrete):
        return (x < space.start) | (x >= space.start + space.nvec)
    if isinstance(space, MultiBinary):
        return (x != 0) & (x != 1)
    return (x < space.low) | (x > space.high) if bounded else np.zeros(x.shape, bool)


def check_masks(trace: Trace, space: gymnasium.Space) -> None:
    """Raise `TraceError` unless masks fit the action space and every factor has a legal value."""
    masks = trace.needed_masks
    if masks is None:
        return
    factors = action_features(space).factors
    if not factors:
        raise TraceError(
            f"there are action masks, but actions of {space} have none; leave them out"
        )
    if masks.shape[1] != sum(factors):
        raise TraceError(f"action masks have {masks.shape[1]} entries, expected {sum(factors)}")
    for number, each in enumerate(np.split(masks, np.cumsum(factors)[:-1], axis=1)):
        if not each.any(1).all():
            row = int(np.argmin(each.any(1)))
            raise TraceError(
                f"the action mask at row {row} forbids every value of factor {number}; "
                "true means legal"
            )


def infer_space(values: Any, known: Any = None, *, is_action: bool = False) -> Any:
    """The space of logged values [T, *shape]; `known`, inferred before, is widened, not narrowed.

    Dicts and tuples become Dict and Tuple. Whole scalars are Discrete up to MAX_CATEGORIES
    categories, whole vectors of actions MultiDiscrete; bytes are Box(0, 255). The bounds of other
    numbers cannot be inferred: they are those of the dtype, or infinite.
    """
    if isinstance(values, dict):
        before: Any = known.spaces if isinstance(known, Dict) else {}
        if known is not None and before.keys() != values.keys():
            return known  # `conform` will raise
        return Dict({key: infer_space(values[key], before.get(key)) for key in values})
    if isinstance(values, tuple):
        if known is not None and not (isinstance(known, Tuple) and len(known) == len(values)):
            return known
        before = known or [None] * len(values)
        return Tuple([infer_space(x, space) for x, space in zip(values, before, strict=True)])
    if isinstance(known, Box | Dict | Tuple) or (known and known.shape != values.shape[1:]):
        return known
    return _infer(values, known, is_action)


def _infer(x: np.ndarray, known: Any, is_action: bool) -> Box | Discrete | MultiDiscrete:
    whole = x.dtype.kind in "biu"
    if whole and (x.ndim == 1 or (x.ndim == 2 and is_action)):
        start, stop = np.minimum(0, x.min(0).astype(int)), x.max(0).astype(int) + 1
        if known is not None:
            n = known.n if isinstance(known, Discrete) else known.nvec
            start, stop = np.minimum(start, known.start), np.maximum(stop, known.start + n)
        if (stop - start <= MAX_CATEGORIES).all():
            if x.ndim == 2:
                return MultiDiscrete(stop - start, start=start)
            return Discrete(int(stop - start), start=int(start))
        x = x.astype(np.int64)
    elif known is not None:
        return known
    if x.dtype == bool:
        return Box(0, 1, x.shape[1:], np.uint8)
    info = np.iinfo(x.dtype) if whole else None
    low, high = (info.min, info.max) if info else (-np.inf, np.inf)
    return Box(low, high, x.shape[1:], x.dtype.type)
