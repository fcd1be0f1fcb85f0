"""The context of a policy in a running episode: W last observations and the actions between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from envs.types import Context

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num


class ContextBuffer:
    """Contexts of B running episodes, oldest observation first, in NumPy.

    Positions before the start of an episode repeat its first observation and are not `valid`.
    """

    def __init__(
        self,
        rows: int,
        window: int,
        observation_size: int,
        num_actions: int,
        dtype: Any = np.float32,
    ):
        self._o = np.zeros((rows, window, observation_size), dtype)
        self._a = np.zeros((rows, window - 1, num_actions), np.float32)
        self._elapsed = np.zeros((rows, window), np.int32)
        self._valid = np.zeros((rows, window), bool)
        self._valid[:, -1] = True

    def reset(self, rows: Int[np.ndarray, " R"], o: Num[np.ndarray, "R O"]) -> None:
        """Begin an episode in each of `rows`, with observation features `o`."""
        self._o[rows] = np.asarray(o)[:, None]
        self._a[rows] = 0
        self._elapsed[rows] = 0
        self._valid[rows] = False
        self._valid[rows, -1] = True

    def push(
        self,
        rows: Int[np.ndarray, " R"],
        a: Float[np.ndarray, "R A"],
        o: Num[np.ndarray, "R O"],
    ) -> None:
        """Add one step in `rows`: action features `a`, then observation features `o`."""
        for past, new in ((self._o, o), (self._a, a)):
            if past.shape[1]:
                past[rows] = np.concatenate([past[rows, 1:], np.asarray(new)[:, None]], axis=1)
        newest = self._elapsed[rows, -1:] + 1
        self._elapsed[rows] = np.concatenate([self._elapsed[rows, 1:], newest], axis=1)
        self._valid[rows, :-1] = self._valid[rows, 1:]

    def context(self) -> Context:
        """A copy of the contexts of all rows, [B, W, ...]."""
        fields: list[Any] = [self._o, self._a, self._elapsed, self._valid]
        return Context(*[field.copy() for field in fields])
