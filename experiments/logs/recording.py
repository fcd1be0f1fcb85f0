"""Recording a log of real episodes, by a built-in behaviour or a saved policy."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.errors import ConfigError
from dreaming.observe.behaviours import BEHAVIOURS
from dreaming.observe.collect import record
from dreaming.student.policy import CARD, Policy, load_policy
from envs.real import make_real
from experiments.config import EnvConfig


def recording(
    env: EnvConfig, seed: int, update: Callable[[int], Any], skip: int = 0
) -> tuple[Iterator[Any], dict[str, Any]]:
    """(an iterator that records episodes, their spaces); `update(n)` is called after n more steps.

    `skip` episodes are already recorded: other ones follow from the same seed. Raises `UserError`.
    """

    if env.id == "none":
        raise ConfigError("env=none has nothing to record; name a task with env= or env.id=")
    task = make_real(env.id, env.options)
    spaces = {"observation_space": task.observation_space, "action_space": task.action_space}
    task.close()
    source = np.random.SeedSequence(seed % 2**64, spawn_key=(skip,) if skip else ())
    policy = _policy(env.behaviour, spaces)
    traces = record(
        env.id,
        (policy and policy.name) or env.behaviour,
        env.real_steps,
        int(source.generate_state(1)[0]),
        switch=env.switch,
        epsilon=env.epsilon,
        policy=None if policy is None else policy.behaviour,
        update=update,
        env_options=env.options,
    )
    return traces, spaces


def _policy(behaviour: str, spaces: dict[str, Any]) -> Policy | None:
    """The saved policy at the path `behaviour`; None for a built-in behaviour."""
    if behaviour in BEHAVIOURS:
        return None
    if not Path(behaviour).is_dir():
        raise ConfigError(
            f"env.behaviour={behaviour} is neither {', '.join(BEHAVIOURS)} nor the directory of a "
            f"saved policy, which holds {CARD}"
        )
    policy = load_policy(behaviour)
    for name, space in spaces.items():
        if getattr(policy, name) != space:
            what = f"{behaviour}: its {name.replace('_', ' ')} is {getattr(policy, name)}"
            raise ConfigError(f"{what}, that of the task is {space}; use a policy of this task")
    return policy
