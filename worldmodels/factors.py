"""A dream of categorical observations from a few decisions: every factor by itself.

The next value of a factor follows from its own value and the action. A session holds few decisions
for each such pair, so its row of the table is a mean of what was counted and of a guess that all
rows of the action share: the value stays, or a fresh one is drawn,
    p(j | i, a) = (n(i, a, j) + k guess(j | i, a)) / (n(i, a) + k),
    guess(j | i, a) = c(a) [i = j] + (1 - c(a)) p(j | a),
where c(a), how often a value stays that would not by chance, is what makes up the log's share of
equal pairs: share = c + (1 - c) sum_i p(i) p(i | a). There is no network to train, and an item
that comes back after it was asked about is learned from one day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

PRIOR = 4.0  # decisions that the shared guess counts for, k
SMOOTH = 0.5  # decisions that a value nobody has seen counts for
BIT = 0  # among sizes: two values, of which one feature tells

Parts = Sequence[tuple[str, int]]  # (kind, size) of each part of an observation's features


class FactorError(ValueError):
    """Observations that are not categories alone."""


def factor_sizes(parts: Parts) -> tuple[int, ...]:
    """The sizes of the one-hot groups of observation features; a bit is a `BIT`, not a group of
    one feature (that is a category with one value).

    Raises `FactorError` for numbers and frames.
    """
    sizes: list[int] = []
    for kind, size in parts:
        if kind not in ("categorical", "binary"):
            raise FactorError(
                f"observations with {kind} features cannot be dreamed factor by factor; "
                "this model knows Discrete, MultiDiscrete and MultiBinary"
            )
        sizes += [size] if kind == "categorical" else [BIT] * size
    return tuple(sizes)


@dataclass(frozen=True)
class FactorModel:
    """Steps of dreams: `params` holds a table [values, actions, values] for each factor."""

    sizes: tuple[int, ...]

    def fit(
        self,
        o: Float[np.ndarray, "N O"],
        a: Float[np.ndarray, "N A"],
        after: Float[np.ndarray, "N O"],
    ) -> list[np.ndarray]:
        """The tables of N logged transitions within episodes."""
        before, later = self._split(np.asarray(o)), self._split(np.asarray(after))
        return [_table(x, np.asarray(a), y) for x, y in zip(before, later, strict=True)]

    def step(
        self, params: Any, o: Float[Array, "B O"], a: Float[Array, "B A"], key: UInt32[Array, "2"]
    ) -> Float[Array, "B O"]:
        """Observations one dreamed step later."""
        keys = jax.random.split(jax.random.wrap_key_data(key), len(self.sizes))
        drawn = []
        for x, table, each, size in zip(self._split(o), params, keys, self.sizes, strict=True):
            p = jnp.einsum("bi,ba,iaj->bj", x, a, jnp.asarray(table))
            j = jax.random.categorical(each, jnp.log(p))
            drawn.append(jax.nn.one_hot(j, size or 2)[:, -max(size, 1) :])
        return jnp.concatenate(drawn, -1)

    def _split(self, o: Any) -> list[Any]:
        """One-hot values [N, values] of each factor; a bit has two."""
        widths = [max(size, 1) for size in self.sizes]
        blocks = [o[:, end - n : end] for n, end in zip(widths, np.cumsum(widths), strict=True)]
        xp = np if isinstance(o, np.ndarray) else jnp
        whole = lambda x: xp.concatenate([1 - x, x], -1)
        return [whole(x) if size == BIT else x for x, size in zip(blocks, self.sizes, strict=True)]


def _table(x: np.ndarray, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """p(j | i, a) of one factor, from one-hot values before [N, I], actions and values after."""
    values = x.shape[1]
    counts = np.einsum("ni,na,nj->iaj", x, a, y)
    overall = (y.sum(0) + SMOOTH) / (len(y) + SMOOTH * values)
    by_action = counts.sum(0) + PRIOR * overall  # [A, J]
    by_action /= by_action.sum(-1, keepdims=True)
    before = (counts.sum(-1).T + SMOOTH) / (counts.sum((0, 2)) + SMOOTH * values)[:, None]  # [A, I]
    by_chance = (before * by_action).sum(-1)
    same = np.einsum("iai->a", counts) + PRIOR * by_chance
    share = same / (counts.sum((0, 2)) + PRIOR)
    stays = np.clip((share - by_chance) / np.maximum(1 - by_chance, 1e-6), 0, 1)[:, None]
    guess = stays * np.eye(values)[:, None, :] + (1 - stays) * by_action
    table = counts + PRIOR * guess
    return (table / table.sum(-1, keepdims=True)).astype(np.float32)
