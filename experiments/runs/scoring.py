"""Scores of students in the real task."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreaming.observe.log import Log
from dreaming.student.evaluate import evaluate
from dreaming.student.network import act
from envs.real import horizon as step_limit
from envs.real import make_real
from envs.types import Features
from experiments.config import DreamConfig, EnvConfig, WorldConfig
from worldmodels.actions import make_head


def dream_horizon(config: WorldConfig, log: Log) -> int:
    """The task's step limit, else the longest logged episode."""
    return task_limit(config.env) or max(len(trace) for trace in log.traces)


def task_limit(env: EnvConfig) -> int | None:
    """The step limit of the real task; None if it has none, or if there is no task."""
    if env.id == "none":
        return None
    task = make_real(env.id, env.options)
    limit = step_limit(task)
    task.close()
    return limit


def scorer(config: DreamConfig, log: Log) -> Callable | None:
    """`real(student, seeds, update) -> (returns, lengths)` in the real task, or None."""
    if config.env.id == "none":
        return None
    limit = dream_horizon(config, log)
    return real_scorer(config.env, log.observation, log.action, config.model.window, limit)


def real_scorer(
    env: EnvConfig, observation: Features, action: Features, window: int, limit: int
) -> Callable:
    """`real(student, seeds, update) -> (returns, lengths)`; episodes end after `limit` steps."""
    make = lambda: make_real(env.id, env.options)
    head = make_head(action.factors, action.size)
    compiled = jax.jit(
        lambda student, context, keys, legal: act(student, context, keys, head, legal)
    )

    def real(student: Any, seeds: list[int], update: Callable) -> tuple[np.ndarray, np.ndarray]:
        evaluation = evaluate(
            make,
            lambda context, keys, legal: compiled(student, context, keys, legal),
            seeds,
            observation=observation,
            action=action,
            window=window,
            max_steps=limit,
            update=update,
        )
        return evaluation.returns, evaluation.lengths

    return real
