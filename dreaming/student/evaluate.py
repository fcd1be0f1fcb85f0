"""Returns of a policy in the real task, episode by episode, from fixed seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from dreaming.errors import EnvError
from dreaming.observe.behaviours import legal_entries
from dreaming.student.context import ContextBuffer
from envs.real import reset_task, step_task, task_name
from envs.types import Features

# Rows of every call of a policy, whatever the number of episodes: it compiles once, and the actions
# in an episode do not depend on the episodes beside it.
ROWS = 32

Act = Callable[..., Any]  # (context [B, ...], key uint32 [B, 2], legal bool [B, A]) -> a [B, A]


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of n episodes; episode i was reset with seeds[i]."""

    returns: Float[np.ndarray, " n"]  # float64, undiscounted sums of the rewards
    lengths: Int[np.ndarray, " n"]
    steps: int  # real steps in all


def evaluate(
    make_env: Callable[[], gymnasium.Env] | str,
    act: Act,
    seeds: Sequence[int],
    *,
    observation: Features,
    action: Features,
    window: int = 1,
    max_steps: int | None = None,
    update: Callable[[int], None] = lambda finished: None,
) -> Evaluation:
    """Run one whole episode from each seed; `act` gives action features for ROWS contexts at once.

    The key of a row is (seed, step) of its episode; its legal action features come from
    `info["action_mask"]`. `max_steps` ends episodes of tasks without a step limit. `update(n)` is
    called after n more finished episodes. Raises `EnvError` when the task fails.
    """
    if isinstance(make_env, str):
        id = make_env
        make_env = lambda: gymnasium.make(id)
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    envs = [make_env() for _ in range(min(ROWS, len(seeds)))]
    buffer = ContextBuffer(ROWS, window, observation.size, action.size, observation.dtype)
    legal = np.ones((ROWS, action.size), bool)
    waiting = iter(range(len(seeds)))
    running = dict[int, int]()  # row -> the episode that runs in it

    def begin(rows: Sequence[int]) -> None:
        for row, episode in zip(rows, waiting, strict=False):
            o, info = reset_task(envs[row], int(seeds[episode]))
            buffer.reset(np.array([row]), _features([o], observation, envs[row]))
            legal[row] = _legal(info, action, 0, False)
            running[row] = episode

    try:
        begin(range(len(envs)))
        while running:
            rows, episodes = list(running), list(running.values())
            keys = np.zeros((ROWS, 2), np.uint32)
            keys[rows, 0] = np.array([seeds[episode] for episode in episodes]) % 2**32
            context = buffer.context()
            keys[:, 1] = context.elapsed[:, -1]
            a = np.asarray(act(context, keys, legal))[rows]
            values = action.unflatten(a)
            steps = [_step(envs[row], action.row(values, i)) for i, row in enumerate(rows)]
            o, r, ended, infos = zip(*steps, strict=True)
            legal[rows] = [
                _legal(info, action, int(step), over)
                for info, step, over in zip(infos, lengths[episodes] + 1, ended, strict=True)
            ]
            buffer.push(np.array(rows), a, _features(o, observation, envs[0]))
            returns[episodes] += r
            lengths[episodes] += 1
            over = np.array(ended) | (lengths[episodes] == max_steps)
            free = [row for row, is_over in zip(rows, over, strict=True) if is_over]
            for row in free:
                del running[row]
            begin(free)
            if free:
                update(len(free))
    finally:
        for env in envs:
            env.close()
    return Evaluation(returns, lengths, int(lengths.sum()))


def _legal(info: dict, action: Any, step: int, ended: bool) -> Bool[np.ndarray, " A"]:
    """The legal action features in `info["action_mask"]`; all without a mask."""
    legal = legal_entries(info.get("action_mask"), action, step, ended)
    return np.ones(action.size, bool) if legal is None else legal


def _step(env: gymnasium.Env, action: Any) -> tuple[Any, float, bool, dict]:
    """(observation, reward, whether the episode ended, info)."""
    o, r, terminated, truncated, info = step_task(env, action)
    if not math.isfinite(r):
        raise EnvError(f"{task_name(env)}: the reward is {r}, expected a finite number")
    return o, r, terminated or truncated, info


def _features(
    o: Sequence[Any], observation: Features, env: gymnasium.Env
) -> Num[np.ndarray, "R O"]:
    features = observation.flatten(observation.stack(o))
    if not np.isfinite(features).all():
        raise EnvError(f"{task_name(env)}: an observation is not finite: {features.tolist()}")
    return features
