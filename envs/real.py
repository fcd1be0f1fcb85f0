"""Real tasks by Gymnasium id, with errors in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv

from envs.types import EnvError, Features, UserError, action_features

OLD = "(the old API of Gym has other values; wrap such a task, for example with shimmy)"
# `info` of a reset that goes on with the game of the episode before it, whatever its seed.
CONTINUES = "continues"


def make_real(id: str, options: Mapping[str, Any] | None = None, *, num_envs: int = 0) -> Any:
    """The task `id`, or a vector env of `num_envs` copies; seeded s, copy i has seed s + i.

    Always `SyncVectorEnv`: a task's own vector form may draw other episodes from the same seed.
    `options` are the keyword arguments of `gymnasium.make`: `max_episode_steps`, `render_mode`,
    and those of the task. Raises `EnvError` (no such id, a dependency is missing) or `SpaceError`
    (spaces that `envs.features` does not support).
    """
    options = dict(options or {})
    if num_envs < 0:
        raise EnvError(f"num_envs is {num_envs}, expected 0 (a single env) or more")
    steps = options.get("max_episode_steps")
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise EnvError(f"max_episode_steps is {steps}, expected at least 1")
    if "id" in options:
        raise EnvError(
            f"{id}: its option id={options['id']} cannot be passed on, Gymnasium calls the task "
            "itself so; register the task with it under a name of its own"
        )
    if options.get("render_mode", "") is None:  # not every task accepts render_mode
        del options["render_mode"]
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


def reset_task(env: gymnasium.Env, seed: int) -> tuple[Any, dict]:
    """`env.reset(seed=seed)`: (observation, info). Raises `EnvError`."""
    found = _call(env, "reset", seed=seed)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping | None)):
        raise _returned(env, "reset", found, "(observation, info)")
    return found[0], dict(found[1] or {})


def step_task(env: gymnasium.Env, action: Any) -> tuple[Any, float, bool, bool, dict]:
    """`env.step(action)`: (observation, reward, terminated, truncated, info).

    Tasks give rewards and flags in many types of one number: 1, True, Decimal("0.1"), arrays of
    shape () and (1,). Raises `EnvError` for what is none.
    """
    found = _call(env, "step", action)
    if not (isinstance(found, tuple) and len(found) == 5 and isinstance(found[4], Mapping | None)):
        wanted = "(observation, reward, terminated, truncated, info)"
        raise _returned(env, "step", found, wanted)
    o, reward, *ends, info = found
    r = _number(reward)
    if r is None:
        raise EnvError(f"{task_name(env)}: the reward is {_shown(reward)}, expected a number")
    flags = [_number(flag) for flag in ends]
    for name, flag, given in zip(("terminated", "truncated"), flags, ends, strict=True):
        if flag not in (0, 1):
            what = f"{name} is {_shown(given)}, expected true or false"
            raise EnvError(f"{task_name(env)}: {what}")
    return o, r, flags[0] == 1, flags[1] == 1, dict(info or {})


def _number(x: Any) -> float | None:
    """The one number in `x`, of whatever type; None if it is something else."""
    try:
        array = np.asarray(x)
        return None if array.size != 1 or array.dtype.kind in "SUMmc" else float(array.item())
    except (TypeError, ValueError, OverflowError):
        return None


def _returned(env: gymnasium.Env, method: str, found: Any, wanted: str) -> EnvError:
    values = len(found) if isinstance(found, tuple) else 1
    what = f"{values} values" if values > 1 else _shown(found)
    return EnvError(f"{task_name(env)}: {method} returned {what}, expected {wanted} {OLD}")


def _shown(x: Any) -> str:
    """A value in a few words."""
    shape = np.shape(x) if isinstance(x, np.ndarray) else ()
    return f"an array of shape {shape}" if shape else f"{_line(repr(x))[:60]}"


def _call(env: gymnasium.Env, method: str, *args: Any, **kwargs: Any) -> Any:
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


def _line(error: Any) -> str:
    return " ".join(str(error).split())
