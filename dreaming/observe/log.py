"""A recorded log and the spaces it lives in."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dreaming.observe.replay import ReplayState, bootstrapped, make_replay
from envs.frames import frame_shape
from envs.types import Features, Trace
from worldmodels.actions import ActionHead, make_head

MULTIPLE = 2048  # of rows in a replay


@dataclass(frozen=True)
class Log:
    """Episodes of one task. `len` counts real steps."""

    traces: Sequence[Trace]
    observation: Features
    action: Features
    multiple: int = MULTIPLE  # rows of its replay are padded to a multiple of this
    drawn_from: int = 0  # steps of the longer log that its episodes are drawn from; 0 = none

    def __len__(self) -> int:
        return sum(len(trace) for trace in self.traces)

    @property
    def head(self) -> ActionHead:
        """The `ActionHead` of its action space."""
        return make_head(self.action.factors, self.action.size)

    @functools.cached_property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """(kind, size) of its observation features in order, as in `Features.parts`; but numbers
        that take exactly the values 0 and 1 in the log are "binary"."""
        is_box, is_bit = self.observation.is_box, np.zeros(self.observation.size, bool)
        if is_box.any():
            columns = self.observation.packed_columns(is_box)
            o = np.concatenate([o[:, columns] for o in self.packed()])
            is_bit[is_box] = ((o == 0) | (o == 1)).all(0) & (o.min(0) != o.max(0))
        parts, at = [], 0
        for kind, size in self.observation.parts:
            runs = itertools.groupby(is_bit[at : at + size])
            parts += [("binary" if bits else kind, len(list(run))) for bits, run in runs]
            at += size
        return tuple(parts)

    @property
    def is_number(self) -> np.ndarray:
        """bool [O]: which observation features are numbers."""
        return np.repeat([kind == "box" for kind, _ in self.parts], [n for _, n in self.parts])

    def packed(self) -> list[np.ndarray]:
        """Every episode's observations [T + 1, C], each category as one number."""
        return [self.observation.pack(trace.observations) for trace in self.traces]

    def numbers(self) -> list[np.ndarray]:
        """Every episode's numbers [T + 1, n]."""
        columns = self.observation.packed_columns(self.is_number)
        return [np.compress(columns, o, axis=1) for o in self.packed()]

    def frame_scale(self) -> tuple[np.ndarray, float]:
        """(mean frame [H, V, F], standard deviation of all pixels about it) of a log of frames."""
        rows, total, square = 0, np.zeros(self.observation.size), 0.0
        for trace in self.traces:  # one at a time: all frames as floats may not fit in memory
            o = self.observation.flatten(trace.observations).astype(np.float64)
            rows, total, square = rows + len(o), total + o.sum(0), square + np.square(o).sum()
        mean = total / rows
        std = np.sqrt(max(square / rows - np.square(mean).sum(), 0.0) / self.observation.size)
        return mean.reshape(frame_shape(self.observation.space)), max(float(std), 1.0)

    def only(self, indices: np.ndarray) -> "Log":
        """The log of the episodes with these indices."""
        return dataclasses.replace(self, traces=[self.traces[i] for i in indices])

    @functools.cached_property
    def _replay(self) -> ReplayState:
        return make_replay(
            self.traces, self.observation, self.action, self.head, multiple=self.multiple
        )

    def replay(self, members: int = 1, key: jax.Array | None = None) -> ReplayState:
        """The whole log as arrays on the device (`make_replay`), made once; `members` weigh its
        episodes by `key` (`bootstrapped`)."""
        if members == 1 and key is None:
            return self._replay
        return bootstrapped(self._replay, len(self.traces), members, key)
