"""Real environments that step together in threads, and can be put back where they were.

An environment is determined by the seeds of its episodes and the actions taken in them. So a saved
state holds no emulator, only seeds and actions: `restore` repeats the running episodes, `replay`
also the earlier episodes whose frames are still in the ring. Where a reset goes on with the game of
the episode before it (Atari, after the loss of a life), games are repeated as a whole.
"""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from jaxtyping import Float, Int, UInt8

from dreaming.efficientzero.recording import Recording
from dreaming.efficientzero.types import Tick
from dreaming.errors import EnvError, SpaceError
from envs.frames import frame_shape, is_frame
from envs.real import CONTINUES, reset_task, step_task, task_name

MOST_THREADS = 16
OTHER = "the task is not the one that the run learned in, or not repeatable"


def episode_seed(seed: int, row: int, episode: int) -> int:
    """The reset seed of episode number `episode` in environment `row`."""
    source = np.random.SeedSequence(seed % 2**64, spawn_key=(row, episode))
    return int(source.generate_state(1)[0])


def rows_of(episodes: Iterable[list[int]]) -> int:
    """Number of ring rows that `episodes` fill: one more than its actions for each."""
    return sum(len(actions) + 1 for actions in episodes)


def written(actions: list[int]) -> str:
    """Actions as one string; as a JSON list every action would take a line."""
    return " ".join(map(str, actions))


def read(actions: str) -> list[int]:
    """The actions in a string made by `written`."""
    return [int(action) for action in actions.split()]


def rows_told(saved: dict[str, Any]) -> int:
    """Number of ring rows that `Actor.replay` rebuilds from a saved actor."""
    return rows_of(map(read, saved["past"])) + len(read(saved["actions"]))


@dataclass(frozen=True)
class Episode:
    """A finished episode: its actions, and whether it went on with the game of the one before."""

    actions: list[int]
    continues: bool = False


def episodes_told(saved: dict[str, Any]) -> list[Episode]:
    """The finished episodes in a saved actor."""
    past = [read(actions) for actions in saved["past"]]
    continues = saved.get("continues", [False] * len(past))  # states of before had no lives
    return [Episode(*each) for each in zip(past, continues, strict=True)]


class Actor:
    """One environment: its newest frames, oldest first, and the actions taken in its episodes.

    Finished episodes are remembered as long as their game has rows among the newest `keep` rows of
    the environment, or still runs; an episode has one row more than actions.
    """

    def __init__(self, env: gymnasium.Env, row: int, seed: int, window: int, keep: int = 0):
        self.env, self.row, self.seed, self.keep = env, row, seed, keep
        self.frame = frame_shape(env.observation_space)
        self.stack = np.zeros((window, *self.frame), np.uint8)
        self.first = int(getattr(env.action_space, "start", 0))
        self.episode, self.actions, self.past = -1, list[int](), deque[Episode]()
        self.continues = False  # the running episode, the game of the one before it
        self.ended = True  # an episode begins at the next step
        self.earned = 0.0
        self.recording: Recording | None = None

    def begin(self) -> None:
        """Start the next episode."""
        if self.episode >= 0:
            self.past.append(Episode(self.actions, self.continues))
        self.episode += 1
        self._reset()
        while first := self._needless():
            for _ in range(first):
                self.past.popleft()

    def _needless(self) -> int:
        """The number of episodes of the oldest game if nothing needs it any more, else 0."""
        games = [at for at, each in enumerate(self.past) if not each.continues]
        games += [] if self.continues else [len(self.past)]
        later = [each.actions for each in self.past][games[1] :] if len(games) > 1 else None
        return games[1] if later is not None and rows_of(later) >= self.keep else 0

    def _reset(self) -> None:
        self.actions, self.ended, self.earned = [], False, 0.0
        seed = episode_seed(self.seed, self.row, self.episode)
        o, info = reset_task(self.env, seed)
        self.continues = bool(info.get(CONTINUES, False))
        self.stack[:] = self._seen(o)
        if self.recording is not None:
            self.recording.begin(self.episode, o)

    def step(self, action: int) -> tuple[float, bool, bool, float | None]:
        """(reward, terminated, truncated, return of an episode that ended at this step, else None).

        The step after an end starts the next episode and ignores `action`.
        """
        if self.ended:
            self.begin()
            return 0.0, False, False, None
        self.actions.append(action)
        o, r, terminated, truncated, _ = step_task(self.env, self.first + action)
        if not np.isfinite(r):
            raise EnvError(f"{self._where()}: the reward is {r}, expected a finite number")
        self.stack = np.concatenate([self.stack[1:], self._seen(o)[None]])
        self.earned += r
        self.ended = terminated or truncated
        if self.recording is not None:
            self.recording.step(self.first + action, o, r, terminated, truncated)
        closed = self.earned if self.ended else None
        return r, terminated, truncated and not terminated, closed

    def saved(self) -> dict[str, Any]:
        """What `restore` and `replay` need, as JSON."""
        return {
            "episode": self.episode,
            "actions": written(self.actions),
            "past": [written(each.actions) for each in self.past],
            "continues": [each.continues for each in self.past],
            "running_continues": self.continues,
            "sha256": self._sha256(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Repeat the actions of the running game. Raises `EnvError` if its newest frames differ."""
        past = episodes_told(saved)
        lives = len(past)  # where the running game begins
        if saved.get("running_continues", False):
            lives = max(at for at, each in enumerate(past) if not each.continues)
        self._recall(saved, lives, lambda frame: None)

    def replay(self, saved: dict[str, Any], show: Callable[[Any], None]) -> None:
        """Repeat all remembered episodes, then the running one; `show(frame [H, V, F])` gets
        each row.

        Raises `EnvError` when an episode ends at another step than it did, or if the newest frames
        differ.
        """
        self._recall(saved, 0, show)

    def _recall(self, saved: dict[str, Any], first: int, show: Callable[[Any], None]) -> None:
        """Repeat the remembered episodes from number `first` of them on."""
        past = episodes_told(saved)
        self.past = deque(past)
        for number, each in enumerate(past[first:], saved["episode"] - len(past) + first):
            self.episode = number
            self._repeat(each.actions, show)
            if not self.ended:
                raise EnvError(f"{self._where()}: goes on, but ended when it was recorded; {OTHER}")
            show(self.stack[-1])
        self.episode = saved["episode"]
        self._repeat(read(saved["actions"]), show)
        if self._sha256() != saved["sha256"]:
            raise EnvError(
                f"{self._where()}: the same seed and actions show another frame than before the "
                "run was stopped, so it cannot go on exactly; start again in another hydra.run.dir"
            )

    def _repeat(self, actions: list[int], show: Callable[[Any], None]) -> None:
        """Reset episode number `self.episode` by its seed and repeat `actions` in it."""
        self._reset()
        for action in actions:
            if self.ended:
                raise EnvError(f"{self._where()}: ended, but went on when it was recorded; {OTHER}")
            show(self.stack[-1])
            self.step(action)

    def _sha256(self) -> str:
        return hashlib.sha256(self.stack.tobytes()).hexdigest()

    def _seen(self, o: Any) -> UInt8[np.ndarray, "H V F"]:
        frame, expected = np.asarray(o), self.env.observation_space.shape
        if frame.shape != expected or frame.dtype != np.uint8:
            raise EnvError(
                f"{self._where()}: the frame is {frame.dtype.name}{list(frame.shape)}, expected "
                f"uint8{list(expected or ())}; the task must keep to its observation space"
            )
        return frame.reshape(self.frame)

    def _where(self) -> str:
        where = f"episode {self.episode} of environment {self.row}, step {len(self.actions)}"
        return f"{task_name(self.env)}: {where}"


class Actors:
    """E environments that step together; `stacks` [E, W, H, V, F] are their newest frames.

    `keep` as for `Actor`; with `record`, finished episodes are kept as traces for `Recording.take`.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        num: int,
        seed: int,
        window: int,
        keep: int = 0,
        record: bool = False,
    ):
        envs = [make_env() for _ in range(num)]
        space = envs[0].action_space
        if not (is_frame(envs[0].observation_space) and isinstance(space, Discrete)):
            raise SpaceError(
                f"{task_name(envs[0])}: shows {envs[0].observation_space} and takes {space}, "
                "expected frames of bytes and Discrete actions"
            )
        self.num_actions = int(space.n)
        self.frame = frame_shape(envs[0].observation_space)
        self.each = [Actor(env, row, seed, window, keep) for row, env in enumerate(envs)]
        self.recordings = [Recording(env, row) for row, env in enumerate(envs) if record]
        for actor, recording in zip(self.each, self.recordings, strict=False):
            actor.recording = recording
        self.pool = ThreadPoolExecutor(min(num, MOST_THREADS))

    def begin(self) -> None:
        """Start the first episode of every environment."""
        list(self.pool.map(Actor.begin, self.each))

    @property
    def stacks(self) -> UInt8[np.ndarray, "E W H V F"]:
        """The newest frames, oldest first; an episode's first frame repeats before it."""
        return np.stack([actor.stack for actor in self.each])

    def tick(
        self,
        a: Int[np.ndarray, " E"],
        pi_search: Float[np.ndarray, "E A"],
        v_search: Float[np.ndarray, " E"],
        v: Float[np.ndarray, " E"],
    ) -> tuple[Tick, int, list[float]]:
        """Step all environments: (tick, number of real steps, returns of episodes that ended)."""
        o = np.stack([actor.stack[-1] for actor in self.each])
        real_steps = sum(not actor.ended for actor in self.each)
        stepped = self.pool.map(Actor.step, self.each, np.asarray(a).tolist())
        r, terminated, truncated, closed = zip(*stepped, strict=True)
        arrays: dict[str, Any] = dict(
            o=o,
            a=np.asarray(a, np.int32),
            r=np.array(r, np.float32),
            terminated=np.array(terminated),
            truncated=np.array(truncated),
            pi_search=pi_search,
            v_search=v_search,
            v=v,
        )
        returns = [earned for earned in closed if earned is not None]
        return Tick(**arrays), real_steps, returns

    def saved(self) -> list[dict[str, Any]]:
        """What `restore` and `replay` need, as JSON."""
        return [actor.saved() for actor in self.each]

    def restore(self, saved: Sequence[dict[str, Any]]) -> None:
        """Put every environment back where it was saved. Raises `EnvError` if one differs."""
        list(self.pool.map(Actor.restore, self.each, saved))

    def replay(
        self, saved: Sequence[dict[str, Any]], ticks: int, capacity: int
    ) -> UInt8[np.ndarray, "N H V F"]:
        """The frames of a ring of `capacity` after `ticks` ticks; also restores all environments.

        Old frames are overwritten as they were in the ring. Raises `EnvError` as `Actor.replay`.
        """
        rows = capacity // len(self.each)
        o = np.zeros((rows, len(self.each), *self.frame), np.uint8)

        def replay(actor: Actor, told: dict[str, Any]) -> None:
            ticked = itertools.count(ticks - rows_told(told))

            def show(frame: Any) -> None:
                o[next(ticked) % rows, actor.row] = frame

            actor.replay(told, show)

        list(self.pool.map(replay, self.each, saved))
        return o.reshape(capacity, *self.frame)

    def close(self) -> None:
        """Close all environments."""
        self.pool.shutdown()
        for actor in self.each:
            actor.env.close()
