"""A recorder for any Gymnasium env: a wrapper that leaves a trace store behind.

env = envs.sources.record(gymnasium.make("CartPole-v1"), "logs/cartpole")
...                                                      # use it as ever
env.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.features import map_space
from envs.journal import Journal, fold, pack, recover
from envs.segments import check_trace
from envs.traces import TraceStore
from envs.types import Features, SpaceError, Trace, TraceError, action_features

JOURNAL_BYTES = 64 << 20  # of finished episodes, before they are moved into the store


def record(
    env: gymnasium.Env,
    path: str | Path,
    *,
    session: str | None = None,
    policy: str | None = None,
    consent: bool | None = None,
    keep_until: float | None = None,
    clock: Callable[[], float] | None = None,
) -> Recorder:
    """`env`, whose episodes are appended to the trace store at `path`.

    `session`, `policy`, `consent` and `keep_until` are kept with every episode (see `Trace`); with
    `clock=time.time` so is the time of every observation. Raises `TraceError` or `SpaceError` for a
    path or spaces that cannot be.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise TraceError(
            "a vector env cannot be recorded as a whole; record the envs that it is made of, "
            "into one store: SyncVectorEnv([lambda: record(make(), path), ...])"
        )
    fields = {"session": session, "policy": policy, "consent": consent, "keep_until": keep_until}
    return Recorder(env, path, fields, clock)


class Recorder(gymnasium.Wrapper):
    """See `record`. Many recorders, in many processes, can write into one store.

    A finished episode survives a kill of the process. `close`, or the next one to open the store,
    moves finished episodes into it. An episode that ends by `reset` or `close` is kept as open.
    `info["action_mask"]` is recorded. Who knows the probability of an action sets `propensity`
    before each `step`.
    """

    propensity: float | None = None  # of the action that `step` takes next

    def __init__(
        self,
        env: gymnasium.Env,
        path: str | Path,
        fields: dict[str, Any],
        clock: Callable[[], float] | None,
    ):
        super().__init__(env)
        self.path, self._clock = Path(path), clock
        self._fields = fields
        observation, action = env.observation_space, env.action_space
        Features(observation)  # raises SpaceError for spaces that cannot be stored
        action_features(action)
        self._spaces = {"observation": observation, "action": action}
        recover(self.path)
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        store = TraceStore(
            self.path,
            observation_space=observation,
            action_space=action,
            provenance={"recorder": name},
        )
        store.extend([])  # makes the directory a store, and shows that it can be written
        self._journal = self._new_journal()
        self._paths = _paths(observation)
        self._discard()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Begin an episode; one that was running is kept as open."""
        self._finish(False, False)
        o, info = self.env.reset(seed=seed, options=options)
        try:
            map_space(lambda *leaf: None, "observation", self._spaces["observation"], o)
        except SpaceError as error:
            raise TraceError(str(error)) from error
        self._is_running = True
        self._observe(o, info)
        return o, info

    def step(self, action: Any):
        """Take a step. Raises `TraceError` for what a store cannot hold, when the episode ends."""
        if not self._is_running:
            raise TraceError("the recorded episode is over; call reset() before step()")
        taken = action if type(action) is int else np.array(action)  # nobody can change it
        o, r, terminated, truncated, info = self.env.step(action)
        self._steps.append((taken, r, self.propensity))
        if self.propensity is not None:
            self.propensity = None
        self._observe(o, info)
        if terminated or truncated:
            self._finish(bool(terminated), not terminated)
        return o, r, terminated, truncated, info

    def close(self) -> None:
        """Keep the running episode as open, and move everything into the store."""
        try:
            self._finish(False, False)
        finally:
            try:
                self._fold()
            finally:
                super().close()

    def _observe(self, o: Any, info: dict[str, Any]) -> None:
        for rows, path in self._leaves:
            x = o
            for key in path:
                x = x[key]
            rows.append(x.copy() if type(x) is np.ndarray else np.array(x))
        if "action_mask" in info:
            self._masks.append(np.array(info["action_mask"]))
        if self._clock is not None:
            self._times.append(self._clock())

    def _finish(self, terminated: bool, truncated: bool) -> None:
        """Write down the running episode, if it has steps, and be ready for another one."""
        try:
            if self._steps:
                self._write(terminated, truncated)
        finally:
            self._discard()
        if self._journal.size >= JOURNAL_BYTES:
            self._fold()

    def _write(self, terminated: bool, truncated: bool) -> None:
        leaves = [_stack(rows, "observation") for rows, _ in self._leaves]
        taken, r, propensities = zip(*self._steps, strict=True)
        actions, rewards = _stack(taken, "action"), np.array(r, np.float64)
        rest: dict[str, Any] = {"terminated": terminated, "truncated": truncated}
        if None not in propensities:
            rest["propensities"] = np.array(propensities, np.float64)
        if self._masks:
            rest["masks"] = _stack(self._masks, "action mask").reshape(len(self._masks), -1)
        if self._times:
            rest["times"] = np.array(self._times, np.float64)
        if not self._is_plain(leaves, actions, rewards, rest):
            leaves, actions, rest = self._checked(leaves, actions, rewards, rest)
        self._journal.write(pack(leaves, actions, rewards, **rest))

    def _is_plain(self, leaves: list, actions: np.ndarray, rewards: np.ndarray, rest: dict) -> bool:
        """Whether the commonest kind of episode needs no other check: numbers and choices."""
        o: Any = self._spaces["observation"]
        a: Any = self._spaces["action"]
        is_plain = isinstance(o, Box) and isinstance(a, Discrete) and len(rest) == 2
        is_plain = is_plain and rewards.ndim == 1
        if not is_plain or actions.dtype != a.dtype or leaves[0].dtype != o.dtype:
            return False
        same = leaves[0].shape[1:] == o.shape and actions.ndim == 1
        legal = same and actions.min() >= a.start and actions.max() < a.start + a.n
        finite = o.dtype.kind != "f" or np.isfinite(leaves[0]).all()
        return bool(legal and finite and np.isfinite(rewards).all())

    def _checked(self, leaves: list, actions: np.ndarray, rewards: np.ndarray, rest: dict) -> tuple:
        """The arrays in the dtypes of their spaces. Raises `TraceError` for what does not fit."""
        if "masks" in rest and len(rest["masks"]) != len(actions) + 1:
            raise TraceError("some observations of the episode have an action mask, others none")
        each = iter(leaves)
        o = map_space(lambda *leaf: next(each), "observation", self._spaces["observation"])
        fields: Any = {{"masks": "action_masks"}.get(name, name): x for name, x in rest.items()}
        trace = check_trace(Trace(o, actions, rewards, **fields), self._spaces)
        leaves = []
        put = lambda name, space, x: leaves.append(x)
        map_space(put, "observation", self._spaces["observation"], trace.observations)
        if "masks" in rest:
            rest = rest | {"masks": trace.action_masks}
        return leaves, trace.actions, rest

    def _discard(self) -> None:
        """Forget the running episode."""
        self._is_running = False
        self._leaves = [([], path) for path in self._paths]  # (a list for the rows, keys) of each
        self._steps: list[tuple[Any, Any, float | None]] = []  # action, reward, propensity
        self._masks: list[Any] = []
        self._times: list[float] = []

    def _new_journal(self) -> Journal:
        return Journal(self.path, self._spaces, self._fields)

    def _fold(self) -> None:
        journal, self._journal = self._journal, self._new_journal()
        journal.close()
        fold(journal.path)  # if it fails, the next one to open the store folds what is left


def _paths(space: gymnasium.Space) -> list[tuple]:
    """The keys that lead to each leaf, in the order of `map_space`."""
    if isinstance(space, gymnasium.spaces.Dict):
        keys = sorted(space.spaces, key=str)
        return [(key, *path) for key in keys for path in _paths(space[key])]
    if isinstance(space, gymnasium.spaces.Tuple):
        return [(i, *path) for i, each in enumerate(space) for path in _paths(each)]
    return [()]


def _stack(rows: Sequence[Any], name: str) -> np.ndarray:
    """Rows of one shape as one array."""
    try:
        return np.array(rows)
    except ValueError as error:
        shapes = sorted({np.shape(x) for x in rows})
        raise TraceError(f"{name}: rows of the shapes {shapes} in one episode") from error
