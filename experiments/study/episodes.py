"""Real episodes of the gate study: two policies played from the same seeds."""

from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float, Int

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
