"""A recorded log, the spaces it lives in, and how its episodes are shared out."""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dreaming.config import JudgeConfig
from dreaming.observe.replay import ReplayState, make_replay
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
    multiple: int = MULTIPLE  # its replay is padded to a multiple of so many rows

    def __len__(self) -> int:
        return sum(len(trace) for trace in self.traces)

    @property
    def head(self) -> ActionHead:
        """How policies over its actions speak."""
        return make_head(self.action.factors, self.action.size)

    @functools.cached_property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """(kind, size) of its observation features in order, as the space says; but numbers that
        are only ever 0 or 1, and are both, are bits."""
        o = np.concatenate([self.observation.flatten(trace.observations) for trace in self.traces])
        is_bit = self.observation.is_box & ((o == 0) | (o == 1)).all(0) & (o.min(0) != o.max(0))
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

    def frame_scale(self) -> tuple[np.ndarray, float]:
        """(the mean frame [H, V, F], the deviation of all pixels from it) of a log of frames."""
        rows, total, square = 0, np.zeros(self.observation.size), 0.0
        for trace in self.traces:  # one at a time: as numbers all frames may not fit
            o = self.observation.flatten(trace.observations).astype(np.float64)
            rows, total, square = rows + len(o), total + o.sum(0), square + np.square(o).sum()
        mean = total / rows
        std = np.sqrt(max(square / rows - np.square(mean).sum(), 0.0) / self.observation.size)
        return mean.reshape(frame_shape(self.observation.space)), max(float(std), 1.0)

    def only(self, indices: np.ndarray) -> "Log":
        """The log of some of its episodes."""
        return dataclasses.replace(self, traces=[self.traces[i] for i in indices])

    def branches(self) -> int:
        """The most different observations that followed one discrete observation and action;
        1 for vectors, where no observation comes twice."""
        if self.observation.kind != "discrete":
            return 1
        seen = defaultdict(set)
        for trace in self.traces:
            o = self.observation.flatten(trace.observations).argmax(-1).tolist()
            a = map(bytes, self.action.flatten(trace.actions))
            for before, taken, after in zip(o[:-1], a, o[1:], strict=True):
                seen[before, taken].add(after)
        return max(len(after) for after in seen.values())

    def replay(self, members: int = 1, key: jax.Array | None = None) -> ReplayState:
        """All of it as arrays on the device."""
        spaces = self.observation, self.action, self.head
        return make_replay(self.traces, *spaces, members=members, key=key, multiple=self.multiple)


def split_log(log: Log, config: JudgeConfig, key: jax.Array) -> tuple[Log, list[tuple[Log, Log]]]:
    """(what the planner sees, [(a judge is fitted on, and tested on), ...]), by episode.

    A share of the episodes is held out: the planner sees the rest, the judge is fitted on the
    share, and the planner is tested on it. Where that share would hold too few episodes that
    differ from the commonest return (a log with three successes has none to give away), the
    planner sees everything, and two judges, fitted on one half each, are tested on the other.
    """
    order = np.asarray(jax.random.permutation(key, len(log.traces)))
    held, rest = np.split(order, [round(config.share * order.size)])
    returns = np.array([trace.rewards.sum() for trace in log.traces])
    values, counts = np.unique(returns, return_counts=True)
    if np.sum(returns[held] != values[counts.argmax()]) >= config.least:
        unseen = log.only(np.sort(held))
        return log.only(np.sort(rest)), [(unseen, unseen)]
    if order.size < 2:
        return log, [(log, log)]
    one, other = (log.only(np.sort(half)) for half in np.array_split(order, 2))
    return log, [(one, other), (other, one)]
