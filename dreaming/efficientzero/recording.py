"""Episodes that an agent plays, kept as traces; each is stored once even if a run is resumed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.traces import TraceStore
from envs.types import Trace


class Recording:
    """The running episode of one environment, and finished ones until `take` is called."""

    def __init__(self, env: gymnasium.Env, row: int):
        self.env, self.row = env, row
        self.closed: list[Trace] = []
        self.steps: list[tuple[int, float]] = []  # of the running episode

    def begin(self, episode: int, o: Any) -> None:
        """Start episode number `episode` with its first observation `o`."""
        self.episode, self.o, self.steps = episode, [np.array(o)], []

    def step(self, action: int, o: Any, r: float, terminated: bool, truncated: bool) -> None:
        """Add one step: `action` (in the task's own numbering) led to `o`."""
        self.o.append(np.array(o))
        self.steps.append((action, float(r)))
        if terminated or truncated:
            self.closed.append(self._trace(terminated, truncated and not terminated))
            self.steps = []

    def take(self) -> list[Trace]:
        """Return and forget the episodes that ended since the last call."""
        closed, self.closed = self.closed, []
        return closed

    def running(self) -> list[Trace]:
        """The running episode as an open trace; empty list if it has no step yet."""
        return [self._trace(False, False)] if self.steps else []

    def _trace(self, terminated: bool, truncated: bool) -> Trace:
        actions, rewards = zip(*self.steps, strict=True)
        return Trace(
            np.stack(self.o),
            np.array(actions, self.env.action_space.dtype),
            np.array(rewards),
            terminated,
            truncated,
            session=f"environment {self.row}, episode {self.episode}",
            policy="online agent",
        )


def extend_once(directory: Path, traces: Iterable[Trace], env: gymnasium.Env) -> None:
    """Add the traces whose `session` is not yet in the store. Raises `TraceError`."""
    spaces: dict[str, Any] = {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
    }
    store = TraceStore(directory, **spaces)
    known = set(store.index()["session"].to_pylist())
    store.extend(trace for trace in traces if trace.session not in known)
