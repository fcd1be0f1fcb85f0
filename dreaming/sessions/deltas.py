"""What a session changed in the weights: stored exactly, applied exactly, and taken back.

Values are stored, not differences: a + (b - a) is not b in floating point. A delta of low rank is
added one outer product after the other, elementwise, so that every machine comes to the same bits.
Either kind names the weights it belongs on and the weights it makes, by hash.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dreaming.checkpoint import state_sha256
from dreaming.errors import CheckpointError

FIXED = ("r_scale",)  # of a reader's parameters: a unit, not a weight

Named = dict[str, np.ndarray]


@dataclass(frozen=True)
class Delta:
    """A change of weights: arrays by name, and from which weights to which it leads."""

    kind: str  # values, or low_rank
    base: str  # SHA-256 of the weights it changes
    result: str  # and of those that it makes
    arrays: Named
    share: float  # of the weights that are not the base's any more


def named(params: Any) -> Named:
    """The arrays of a tree of parameters by path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def like(params: Any, arrays: Named) -> Any:
    """The inverse of `named`, in the structure of `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: arrays[jax.tree_util.keystr(path)], params
    )


def sha_of(params: Any) -> str:
    """The hash of weights: names, shapes and every bit."""
    return state_sha256(named(params))


def difference(base: Any, new: Any) -> Delta:
    """The delta that leads from one tree of weights to another, whatever changed in it."""
    old, now, arrays, changed, count = named(base), named(new), {}, 0, 0
    for name, x in old.items():
        y = now[name]
        is_other = np.atleast_1d(x).view(np.uint32) != np.atleast_1d(y).view(np.uint32)
        index = np.flatnonzero(is_other).astype(np.uint32)
        changed, count = changed + index.size, count + x.size
        if index.size:
            arrays |= {f"{name}.index": index, f"{name}.value": y.ravel()[index]}
    return Delta("values", sha_of(base), sha_of(new), arrays, changed / count)


def apply(base: Any, delta: Delta) -> Any:
    """The weights that a delta makes of its base. Raises `CheckpointError` for another base, and
    where what comes out is not what was stored."""
    here = sha_of(base)
    if here != delta.base:
        raise CheckpointError(
            f"the delta to {delta.result[:12]} belongs on the weights {delta.base[:12]}, these are "
            f"{here[:12]}; apply it to its own base"
        )
    arrays = named(base)
    for name in arrays:
        x = arrays[name] = arrays[name].copy()
        if f"{name}.index" in delta.arrays:
            x.reshape(-1)[delta.arrays[f"{name}.index"]] = delta.arrays[f"{name}.value"]
        if f"{name}.u" in delta.arrays:
            arrays[name] = add_products(x, delta.arrays[f"{name}.u"], delta.arrays[f"{name}.v"])
    new = like(base, arrays)
    if sha_of(new) != delta.result:
        raise CheckpointError(
            f"the delta on {delta.base[:12]} does not make the weights {delta.result[:12]}; it is "
            "damaged, restore it from a copy"
        )
    return new


def add_products(w: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """w + u v, one column of u after the other: the same bits on every machine."""
    for column, row in zip(u.T, v, strict=True):
        w = w + column[:, None] * row[None, :]
    return w


@dataclass(frozen=True)
class AllWeights:
    """Every weight may change."""

    def start(self, base: Any, importance: Any = None) -> tuple[Any, Any]:
        """(what is trained, what stays with it)."""
        return base, jax.tree_util.tree_map_with_path(_may_change, base)

    def weights(self, state: Any, frozen: Any, base: Any) -> Any:
        """The weights that what is trained stands for."""
        return state

    def allowed(self, gradient: Any, frozen: Any) -> Any:
        """The gradient of what may change."""
        return jax.tree.map(lambda g, m: g * m, gradient, frozen)

    def delta(self, state: Any, frozen: Any, base: Any) -> Delta:
        """What is stored."""
        return difference(base, state)


@dataclass(frozen=True)
class Masked(AllWeights):
    """Only a share of all weights may change: those with the largest `importance`."""

    share: float = 0.1

    def start(self, base: Any, importance: Any = None) -> tuple[Any, Any]:
        """(all weights, 1 where they may change)."""
        assert importance is not None, "a mask is chosen by importance"
        _, free = super().start(base)
        score = jax.tree.map(lambda x, m: np.where(m > 0, x, -1.0), importance, free)
        every = np.concatenate([np.ravel(x) for x in jax.tree.leaves(score)])
        count = max(1, int(self.share * every.size))
        least = np.partition(every, every.size - count)[every.size - count]
        least = max(float(least), 0.0)
        return base, jax.tree.map(lambda x: ((x >= least) & (x > 0)).astype(np.float32), score)


@dataclass(frozen=True)
class LowRank(AllWeights):
    """A product of rank `rank` is added to every matrix; nothing else changes."""

    rank: int = 8

    def start(self, base: Any, importance: Any = None) -> tuple[Any, Any]:
        """({name: {"u", "v"}}, nothing): at first u v = 0."""
        random, state = np.random.default_rng(self.rank), {}
        for name, w in named(base).items():
            if w.ndim == 2:
                u = random.normal(size=(w.shape[0], self.rank)) / np.sqrt(w.shape[0])
                v = np.zeros((self.rank, w.shape[1]), np.float32)
                state[name] = {"u": u.astype(np.float32), "v": v}
        return state, None

    def weights(self, state: Any, frozen: Any, base: Any) -> Any:
        """The base with the products added."""

        def added(path, w):
            part = state.get(jax.tree_util.keystr(path))
            return w if part is None else w + part["u"] @ part["v"]

        return jax.tree_util.tree_map_with_path(added, base)

    def allowed(self, gradient: Any, frozen: Any) -> Any:
        """All of it."""
        return gradient

    def delta(self, state: Any, frozen: Any, base: Any) -> Delta:
        """The factors; the weights they make are those of `apply`."""
        arrays = {f"{n}.{k}": np.asarray(x) for n, part in state.items() for k, x in part.items()}
        old = named(base)
        new = {n: add_products(w, arrays[f"{n}.u"], arrays[f"{n}.v"]) if f"{n}.u" in arrays else w
               for n, w in old.items()}  # fmt: skip
        changed = sum(int((new[n] != old[n]).sum()) for n in old)
        count = sum(w.size for w in old.values())
        return Delta("low_rank", sha_of(base), state_sha256(new), arrays, changed / count)


def _may_change(path: Any, x: Any) -> Any:
    """1 for weights, 0 for what is fixed."""
    is_fixed = any(getattr(key, "key", None) in FIXED for key in path)
    return np.full(np.shape(x), 0 if is_fixed else 1, np.float32)
