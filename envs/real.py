"""Real tasks by Gymnasium id, with errors in one line."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
from gymnasium.vector import SyncVectorEnv

from envs.types import EnvError, Features, UserError, action_features


def make_real(
    id: str,
    *,
    num_envs: int = 0,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    **kwargs: Any,
) -> Any:
    """The task `id`, or a vector env of `num_envs` copies; seeded s, copy i has seed s + i.

    Always `SyncVectorEnv`: a task's own vector form may draw other episodes from the same seed.
    `kwargs` go to the task. Raises `EnvError` (no such id, a dependency is missing) or
    `SpaceError` (spaces that `envs.features` does not support).
    """
    if num_envs < 0:
        raise EnvError(f"num_envs is {num_envs}, expected 0 (a single env) or more")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise EnvError(f"max_episode_steps is {max_episode_steps}, expected at least 1")
    options = {"max_episode_steps": max_episode_steps, **kwargs}
    if render_mode is not None:  # not every task accepts render_mode
        options["render_mode"] = render_mode
    env = _make(id, options)
    try:
        Features(env.observation_space)
        action_features(env.action_space)
    except UserError as error:
        env.close()
        raise type(error)(f"{id}: {error}") from error
    if num_envs == 0:
        return env
    # The vector env calls each of these once; the env made above is the first.
    return SyncVectorEnv([lambda: env, *[lambda: _make(id, options)] * (num_envs - 1)])


def call_task(env: gymnasium.Env, method: str, *args: Any, **kwargs: Any) -> Any:
    """`env.<method>(...)`; any error of the task's own code is raised as `EnvError`."""
    try:
        return getattr(env, method)(*args, **kwargs)
    except Exception as error:
        what = f"{type(error).__name__}: {_line(error)}"
        raise EnvError(f"{task_name(env)}: {method} failed: {what}; look into the task") from error


def task_name(env: gymnasium.Env) -> str:
    """The id of a task, or the name of its class."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def horizon(env: Any) -> int | None:
    """The task's step limit (of a single or a vector env), None when it has none."""
    spec = getattr(env.unwrapped, "envs", [env])[0].spec
    return None if spec is None else spec.max_episode_steps


def _make(id: str, options: dict) -> gymnasium.Env:
    try:
        return gymnasium.make(id, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"{id}: a dependency is missing: {_line(error)}") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise EnvError(f"{id}: is not registered with Gymnasium; {_closest(id)}") from error
    except ImportError as error:
        raise EnvError(f"{id}: cannot be imported: {_line(error)}") from error
    except Exception as error:  # of the task's own code, or unknown options
        raise EnvError(f"{id}: cannot be made: {type(error).__name__}: {_line(error)}") from error


def _closest(id: str) -> str:
    """Advice for an unknown id: the registered ids most similar to it."""
    namespace = id.rpartition("/")[0]
    if namespace and not any(known.startswith(f"{namespace}/") for known in gymnasium.registry):
        return f"install and import the package that registers {namespace}/"
    lower = {known.lower(): known for known in gymnasium.registry}
    close = difflib.get_close_matches(id.lower(), lower, n=3)
    if not close:
        return "install the package that registers it, or see gymnasium.pprint_registry()"
    return f"the closest are {', '.join(lower[name] for name in close)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
