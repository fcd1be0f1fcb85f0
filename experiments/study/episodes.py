"""Real episodes of the studies: policies played from the same seeds."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Int

from envs.real import make_real
from experiments.study import cartpole
from experiments.study.cases import Task

Played = tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]  # returns, lengths


def play_table(task: Task, policy: Float[np.ndarray, "S A"], seeds: list[int]) -> Played:
    """An episode from each seed; two policies meet the same draws, whatever they do."""
    table, steps = task.table, task.horizon
    draws = np.stack([np.random.default_rng(seed).random((steps + 1, 3)) for seed in seeds])
    pick = lambda p, u: np.minimum((p.cumsum(-1) < u[:, None]).sum(-1), p.shape[-1] - 1)
    s = pick(np.broadcast_to(table.start, (len(seeds), table.num_states)), draws[:, steps, 0])
    total, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    alive = np.ones(len(seeds), bool)
    for t in range(steps):
        act, move, end = draws[:, t].T
        a = pick(policy[s], act)
        n = pick(table.p[s, a], move)
        total += alive * table.r[s, a, n]
        lengths += alive
        alive &= end >= table.terminated[s, a, n]
        s = n
    return total, lengths


def play_cartpole(mixed: cartpole.Mixed, seeds: list[int]) -> Played:
    """An episode from each seed."""
    kind = "vector_entry_point"
    env: Any = gymnasium.make_vec("CartPole-v1", num_envs=len(seeds), vectorization_mode=kind)
    o, _ = env.reset(seed=seeds[0])
    random, alive = np.random.default_rng(seeds), np.ones(len(seeds), bool)
    lengths = np.zeros(len(seeds), np.int64)
    while alive.any():
        o, _, terminated, truncated, _ = env.step(
            (random.random(len(seeds)) < cartpole.right(mixed, o)).astype(np.int64)
        )
        lengths += alive
        alive &= ~(terminated | truncated)
    env.close()
    return lengths.astype(np.float64), lengths


def play_task(
    task: str, policy: Callable[[Any, int], np.ndarray] | None, count: int, seed: int, steps: int
) -> Float[np.ndarray, " count"]:
    """Returns within `steps` steps of a policy of observations [count, O] and the time.

    Without a policy actions are uniformly random, in a box and among all choices, legal or not.
    """
    env = make_real(task, {"max_episode_steps": steps}, num_envs=count)
    space, random = env.single_action_space, np.random.default_rng(seed)
    if policy is None and isinstance(space, gymnasium.spaces.Discrete):
        policy = lambda o, t: random.integers(space.n, size=count)
    elif policy is None:
        low, high = space.low, space.high
        policy = lambda o, t: random.uniform(low, high, (count, *space.shape)).astype(space.dtype)
    (o, _), t = env.reset(seed=seed), 0
    total, alive = np.zeros(count), np.ones(count, bool)
    while alive.any():
        o, r, terminated, truncated, _ = env.step(policy(o, t))
        total += alive * r
        alive &= ~(terminated | truncated)
        t += 1
    env.close()
    return total
