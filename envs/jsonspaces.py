"""Spaces as plain JSON values (no infinity, no pickle), and back without loss."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.errors import SpaceError
from envs.features import Features


def space_to_json(space: gymnasium.Space) -> dict:
    """The space as JSON values, for `space_from_json`. Raises `SpaceError` if not supported."""
    Features(space, "the")
    return _to_json(space)


def space_from_json(data: Any) -> Any:
    """The space that `space_to_json` described, or `SpaceError`."""
    try:
        return FROM_JSON[data["type"]](data)
    except SpaceError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise SpaceError(f"{data!r} does not describe a space: {error}") from error


def _to_json(space: Any) -> dict:
    out: dict[str, Any] = {"type": next(t.__name__ for t in KINDS if isinstance(space, t))}
    if isinstance(space, Dict):
        return out | {"spaces": {key: _to_json(space[key]) for key in sorted(space.spaces)}}
    if isinstance(space, Tuple):
        return out | {"spaces": [_to_json(each) for each in space]}
    if isinstance(space, MultiBinary):
        return out | {"n": space.n if isinstance(space.n, int) else list(space.n)}
    dtype = {"dtype": np.dtype(space.dtype).name}
    if isinstance(space, Discrete):
        return out | {"n": int(space.n), "start": int(space.start)} | dtype
    if isinstance(space, MultiDiscrete):
        return out | {"nvec": space.nvec.tolist(), "start": space.start.tolist()} | dtype
    bounds = {"low": _bounds(space.low), "high": _bounds(space.high)}
    return out | {"shape": list(space.shape)} | dtype | bounds


def _bounds(x: np.ndarray) -> Any:
    """Bounds as a list with infinite ones as text; a single value if all are equal."""
    values = [value if np.isfinite(value) else str(value) for value in x.ravel().tolist()]
    return values[0] if len({*map(repr, values)}) == 1 else values


def _discrete(data: dict) -> Discrete:
    dtype = np.dtype(data["dtype"]).type  # Gymnasium 1.2 knows int64 alone
    options: Any = {} if dtype is np.int64 else {"dtype": dtype}
    return Discrete(data["n"], start=data["start"], **options)


def _multi_discrete(data: dict) -> MultiDiscrete:
    return MultiDiscrete(data["nvec"], np.dtype(data["dtype"]).type, start=data["start"])


def _box(data: dict) -> Box:
    shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])

    def bounds(x: Any) -> np.ndarray:
        values = x if isinstance(x, list) else [x] * math.prod(shape)
        values = [float(value) if isinstance(value, str) else value for value in values]
        return np.array(values).astype(dtype).reshape(shape)

    return Box(bounds(data["low"]), bounds(data["high"]), shape, dtype.type)


def _dict(data: dict) -> Dict:
    return Dict({str(key): space_from_json(each) for key, each in data["spaces"].items()})


KINDS = (Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple)
FROM_JSON: dict[str, Any] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiBinary": lambda data: MultiBinary(data["n"]),
    "MultiDiscrete": _multi_discrete,
    "Dict": _dict,
    "Tuple": lambda data: Tuple([space_from_json(each) for each in data["spaces"]]),
}
