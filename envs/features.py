"""Spaces as feature vectors: the form in which networks get observations and actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.errors import SpaceError
from envs.frames import is_frame

SUPPORTED = "Box, Discrete, MultiBinary, MultiDiscrete, and Dict and Tuple of these"
SUPPORTED_ACTIONS = "Discrete, MultiDiscrete, MultiBinary and Box of floats"


def map_space(function: Callable[..., Any], name: str, space: gymnasium.Space, *values: Any) -> Any:
    """`function(name, leaf, *values)` at every leaf of a space, in the structure of the space.

    The keys of a Dict come in sorted order; a leaf of "observation" is called "observation.key".
    Raises `SpaceError` for values of another structure.
    """
    if isinstance(space, Dict):
        for value in values:
            _check_keys(name, value, space)
        each = lambda key: (f"{name}.{_escaped(name, key)}", space[key], *(v[key] for v in values))
        return {key: map_space(function, *each(key)) for key in sorted(space.spaces, key=str)}
    if isinstance(space, Tuple):
        for value in values:
            if not isinstance(value, tuple | list) or len(value) != len(space):
                raise SpaceError(f"{name} is {_shown(value)}, expected a tuple of {len(space)}")
        each = lambda i: (f"{name}.{i}", space[i], *(v[i] for v in values))
        return tuple(map_space(function, *each(i)) for i in range(len(space)))
    for value in values:
        if isinstance(value, dict):
            raise SpaceError(f"{name} is {_shown(value)}, expected a value of {_line(space)}")
    return function(name, space, *values)


def _check_keys(name: str, value: Any, space: Dict) -> None:
    if not isinstance(value, dict) or value.keys() != space.spaces.keys():
        keys = ", ".join(map(str, sorted(space.spaces, key=str)))
        raise SpaceError(f"{name} is {_shown(value)}, expected the keys {keys}")


def _escaped(name: str, key: Any) -> str:
    if not isinstance(key, str):
        raise SpaceError(f"{name} space has the key {key!r}; keys must be text")
    return key.replace(".", r"\.")


def _shown(value: Any) -> str:
    """A short description of a value of the wrong structure."""
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(str, sorted(value, key=str)))}"
    if isinstance(value, tuple | list):
        return f"a tuple of {len(value)}"
    return f"a value of shape {np.shape(value)}"


def _line(x: Any) -> str:
    return " ".join(str(x).split())


class Features:
    """Values of a space as float32 vectors: numbers unchanged, categories one-hot, bits 0 or 1.

    `size` is its length and `parts` its contents in order, as (kind, size): "box" (numbers),
    "categorical" (a one-hot group) or "binary" (bits). `is_box`, bool [size], marks the numbers;
    `factors` are the sizes of the one-hot groups. Dict (keys sorted) and Tuple lie end to end.
    `kind` is "discrete" (exactly one one-hot group), "box" (numbers alone), "frames" or "mixed".
    Spaces with the same `layout` have the same features for the same values (bounds of
    observations aside).

    Frames are one part of kind "frames", flat, and stay bytes: then `dtype` is uint8.
    """

    def __init__(self, space: gymnasium.Space, name: str = "observation"):
        self.space: Any = space
        self.name = name
        leaves: list[tuple] = []
        map_space(lambda *leaf: leaves.append(_layout(*leaf)), name, space)
        self.layout = tuple(leaves)
        parts: list[tuple[str, int]] = [part for leaf in leaves for part in leaf[1]]
        self.dtype: Any = np.float32
        if is_frame(space):
            self.dtype, parts = np.uint8, [("frames", parts[0][1])]
        self.parts = tuple(parts)
        sizes = [size for _, size in parts]
        self.size = sum(sizes)
        if self.size == 0:
            raise SpaceError(f"{name} space {_line(space)} is empty")
        self.is_box = np.repeat([kind == "box" for kind, _ in parts], sizes)
        self.factors = tuple(size for kind, size in parts if kind == "categorical")
        kinds = [kind for kind, _ in parts]
        self.kind = "mixed"
        if {*kinds} in ({"box"}, {"frames"}):
            self.kind = kinds[0]
        if kinds == ["categorical"]:
            self.kind = "discrete"

    def flatten(self, values: Any) -> np.ndarray:
        """`dtype` [*B, size] of a batch of values: arrays [*B, *shape] in the space's structure."""
        out: list[np.ndarray] = []
        flat = lambda name, leaf, x: out.append(_flatten(name, leaf, x, self.dtype))
        map_space(flat, self.name, self.space, values)
        return out[0] if len(out) == 1 else np.concatenate(out, axis=-1)

    def pack(self, values: Any) -> np.ndarray:
        """`dtype` [*B, C] of a batch of values, the form in which a log is kept.

        As `flatten`, but a category is its number in one column; see `unpacked`.
        """
        out: list[np.ndarray] = []
        to = {"dtype": self.dtype, "is_packed": True}
        packed = lambda name, leaf, x: out.append(_flatten(name, leaf, x, **to))
        map_space(packed, self.name, self.space, values)
        return out[0] if len(out) == 1 else np.concatenate(out, axis=-1)

    @property
    def row_bytes(self) -> int:
        """Bytes of one packed observation."""
        columns = sum(1 if kind == "categorical" else size for kind, size in self.parts)
        return columns * np.dtype(self.dtype).itemsize

    def packed_columns(self, chosen: np.ndarray) -> np.ndarray:
        """Which packed columns, bool [C], hold the `chosen` features, bool [size]; categories are
        not among them."""
        parts = [(kind, size) for kind, size in self.parts if size]
        kinds = np.repeat([kind for kind, _ in parts], [size for _, size in parts])
        first = np.cumsum([0, *(size for _, size in parts)])[:-1]
        kept = kinds != "categorical"
        kept[first] = True  # a category is where its group begins
        return (chosen & (kinds != "categorical"))[kept]

    def unflatten(self, features: np.ndarray) -> Any:
        """The values [*B, *shape] inside the space that are nearest to features [*B, size]."""
        features, start = np.asarray(features), 0

        def take(name: str, leaf: Any) -> np.ndarray:
            nonlocal start
            first, start = start, start + sum(size for _, size in _parts(name, leaf))
            return _unflatten(leaf, features[..., first:start])

        return map_space(take, self.name, self.space)

    def row(self, values: Any, i: int) -> Any:
        """A copy of value `i` of a batch [B, *shape], in Gymnasium's types."""
        pick = lambda name, leaf, x: x[i] if isinstance(leaf, Discrete) else np.array(x[i])
        return map_space(pick, self.name, self.space, values)

    def copy(self, value: Any) -> Any:
        """A copy of one value of the space, as arrays of the space's dtypes.

        Raises `SpaceError` for another structure or shape.
        """

        def leaf(name: str, space: Any, x: Any) -> np.ndarray:
            if np.shape(x) != space.shape:
                raise SpaceError(f"{name} has shape {np.shape(x)}, expected {space.shape}")
            return np.array(x, dtype=space.dtype)

        return map_space(leaf, self.name, self.space, value)

    def stack(self, values: Any) -> Any:
        """A sequence of values of the space as one batch: arrays with one more axis in front."""
        return jax.tree.map(lambda *x: np.stack(x), *[self.copy(value) for value in values])


class ActionFeatures(Features):
    """Actions as a float32 vector: one-hot groups, or numbers scaled to [-1, 1] by their bounds.

    Numbers without two finite bounds stay as they are. `factors` are the sizes of the one-hot
    groups, which are also the entries of a mask; () for Box. A bit of MultiBinary is a group of
    two. `kind` is "discrete", "multidiscrete" or "box".
    """

    def __init__(self, space: gymnasium.Space):
        is_float = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
        if not is_float and not isinstance(space, Discrete | MultiDiscrete | MultiBinary):
            raise SpaceError(
                f"action space {_line(space)} is not supported; supported are {SUPPORTED_ACTIONS} "
                "(wrap the task so that its actions are one of these)"
            )
        bits = np.full(space.shape, 2) if isinstance(space, MultiBinary) else None
        self._coded: Any = space if bits is None else MultiDiscrete(bits)
        super().__init__(self._coded, "action")
        self.space = space
        if self.kind != "box":
            self.kind = "discrete" if isinstance(space, Discrete) else "multidiscrete"
        else:
            low, high = (x.astype(np.float64).ravel() for x in (self._coded.low, self._coded.high))
            scaled = np.isfinite(low) & np.isfinite(high)
            low, high = np.where(scaled, low, -1.0), np.where(scaled, high, 1.0)
            self._middle, self._half = low / 2 + high / 2, high / 2 - low / 2

    def flatten(self, values: Any) -> np.ndarray:
        """float32 [*B, size] of a batch of actions [*B, *shape]; numbers are clipped to bounds."""
        if self.kind != "box":
            return _flatten("action", self._coded, values)
        x = _flatten("action", self._coded, values, np.float64)
        x = np.clip(x, self._coded.low.ravel(), self._coded.high.ravel())
        half = np.where(self._half > 0, self._half, 1.0)  # where low = high
        return ((x - self._middle) / half).astype(np.float32)

    def unflatten(self, features: np.ndarray) -> np.ndarray:
        """The actions [*B, *shape] inside the space that are nearest to features [*B, size]."""
        features = np.asarray(features)
        if self.kind == "box":
            features = features * self._half + self._middle
        return _unflatten(self._coded, features).astype(self.space.dtype, copy=False)


def unpacked(x: Any, parts: tuple[tuple[str, int], ...]) -> Any:
    """Features [*B, size] of packed values [*B, C], a JAX array; `parts` are `Features.parts`."""
    if all(kind != "categorical" for kind, _ in parts):
        return x
    found, at = [], 0
    for kind, size in parts:
        columns = 1 if kind == "categorical" else size
        part = x[..., at : at + columns]
        at += columns
        is_index = kind == "categorical"
        found.append(jax.nn.one_hot(part[..., 0].astype(int), size) if is_index else part)
    return found[0] if len(found) == 1 else jax.numpy.concatenate(found, axis=-1)


def action_features(space: gymnasium.Space) -> ActionFeatures:
    """Features of an action space. Raises `SpaceError` that names the supported spaces."""
    return ActionFeatures(space)


def _parts(name: str, leaf: gymnasium.Space) -> list[tuple[str, int]]:
    if isinstance(leaf, Discrete):
        return [("categorical", int(leaf.n))]
    if isinstance(leaf, MultiDiscrete):
        return [("categorical", int(n)) for n in leaf.nvec.ravel()]
    if isinstance(leaf, MultiBinary):
        return [("binary", math.prod(leaf.shape))]
    if isinstance(leaf, Box) and np.issubdtype(leaf.dtype, np.number):
        return [("box", math.prod(leaf.shape))]
    raise SpaceError(
        f"{name} space {_line(leaf)} is not supported; supported are {SUPPORTED} "
        "(wrap the task, for example with gymnasium.wrappers.TransformObservation)"
    )


def _layout(name: str, leaf: Any) -> tuple:
    """Name, parts, shape and first values of a leaf, to be compared."""
    start = np.ravel(getattr(leaf, "start", 0)).tolist()
    return name, tuple(_parts(name, leaf)), leaf.shape, tuple(start)


def _groups(leaf: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size, first value and place in the vector of each one-hot group."""
    sizes = np.ravel(leaf.n if isinstance(leaf, Discrete) else leaf.nvec).astype(np.int64)
    return sizes, np.ravel(leaf.start).astype(np.int64), np.cumsum(sizes) - sizes


def _flatten(
    name: str, leaf: Any, x: Any, dtype: Any = np.float32, *, is_packed: bool = False
) -> np.ndarray:
    """Features [*B, size] of values [*B, *shape] of one leaf; packed: numbers of categories."""
    x = np.asarray(x)
    num = len(leaf.shape)
    batch = x.shape[: x.ndim - num]
    if x.ndim < num or x.shape[x.ndim - num :] != leaf.shape:
        raise SpaceError(f"{name} has shape {x.shape}, expected rows of shape {leaf.shape}")
    if isinstance(leaf, Box | MultiBinary):
        return x.astype(dtype, copy=not is_packed).reshape(*batch, math.prod(leaf.shape))
    sizes, starts, places = _groups(leaf)
    index = x.astype(np.int64).reshape(*batch, sizes.size) - starts
    outside = ((index < 0) | (index >= sizes)).any(-1)
    if outside.any():
        raise SpaceError(f"{name} {_line(x[outside][0])} lies outside {_line(leaf)}")
    if is_packed:
        return index.astype(dtype)
    out = np.zeros((*batch, sizes.sum()), dtype)
    np.put_along_axis(out, index + places, 1, axis=-1)
    return out


def _unflatten(leaf: Any, features: np.ndarray) -> np.ndarray:
    """Values [*B, *shape] of one leaf, the nearest to features [*B, size]."""
    shape, dtype = (*features.shape[:-1], *leaf.shape), leaf.dtype
    if isinstance(leaf, MultiBinary):
        return (features > 0.5).astype(dtype).reshape(shape)
    if isinstance(leaf, Box):
        x = features.reshape(shape)
        if not np.issubdtype(dtype, np.integer):
            return np.clip(x, leaf.low, leaf.high).astype(dtype)
        with np.errstate(invalid="ignore"):  # int64 bounds are not exact as floats
            whole = np.rint(x).astype(dtype)
        return np.where(x >= leaf.high, leaf.high, np.where(x <= leaf.low, leaf.low, whole))
    sizes, starts, places = _groups(leaf)
    pick = lambda size, place: features[..., place : place + size].argmax(-1)
    index = [pick(size, place) for size, place in zip(sizes, places, strict=True)]
    return (np.stack(index, axis=-1) + starts).astype(dtype).reshape(shape)
