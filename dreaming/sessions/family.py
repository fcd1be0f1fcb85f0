"""A family of deployments: any function that makes a Gymnasium task of a number.

Of the tasks it makes, `unwrapped` may say more:

    outcomes        names of what can be seen of a decision; info["outcome"] is an index, or -1
    skills          names of kinds of work, for `reset(options={"skill": name})`; the first is what
                    sessions do, the rest are the same in every deployment
    right_action(o) an oracle over batches of observations, for pretraining and for scores
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from dreaming.errors import ConfigError
from envs.types import Features, UserError, action_features

MakeDeployment = Callable[[int], Any]


@dataclass(frozen=True)
class Family:
    """How to make deployments, and what all of them have in common."""

    make: MakeDeployment
    observation: Features
    action: Any  # ActionFeatures of a Discrete space
    outcomes: tuple[str, ...]
    skills: tuple[str, ...]
    name: str = ""

    def deployment(self, number: int) -> Any:
        """Deployment `number`, unwrapped. Raises `ConfigError` if it has other spaces."""
        task = made(self.make, number, self.name)
        ours = self.observation.space, self.action.space, self.outcomes
        theirs = task.observation_space, task.action_space, outcomes_of(task)
        for what, mine, other in zip(
            ("observations", "actions", "outcomes"), ours, theirs, strict=True
        ):
            if mine != other:
                raise ConfigError(
                    f"family {self.name}: deployment {number} has the {what} {other}, deployment 0 "
                    f"has {mine}; all deployments of a family have the same spaces"
                )
        return task


def made(make: MakeDeployment, number: int, name: str) -> Any:
    """The task of a deployment, unwrapped. Raises `ConfigError` where its maker fails."""
    try:
        return make(number).unwrapped
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"family {name}: making deployment {number} failed ({what})") from error


def outcomes_of(task: Any) -> tuple[str, ...]:
    """Names of the outcomes that a task shows; () if it shows none."""
    return tuple(getattr(task, "outcomes", ()))


def family_of(make: MakeDeployment, name: str = "") -> Family:
    """The family that a function makes, by its deployment 0. Raises `ConfigError`."""
    task = made(make, 0, name)
    try:
        observation, action = Features(task.observation_space), action_features(task.action_space)
    except UserError as error:
        raise ConfigError(f"family {name}: {error}") from error
    if action.kind != "discrete" or observation.dtype != np.float32:
        raise ConfigError(
            f"family {name}: sessions know Discrete actions and vectors, not {task.action_space} "
            f"and {task.observation_space}"
        )
    skills = tuple(getattr(task, "skills", ()))
    return Family(make, observation, action, outcomes_of(task), skills, name)


def load_family(name: str) -> Family:
    """The family of `package.module:make_deployment`. Raises `ConfigError`.

    This imports code: it is for names on a command line, not for names read from data.
    """
    module, _, attribute = name.partition(":")
    try:
        make = getattr(import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"family={name} cannot be loaded ({error}); write package.module:function"
        ) from error
    if not callable(make):
        raise ConfigError(f"family={name} is no function; it must make a task of a number")
    return family_of(make, name)
