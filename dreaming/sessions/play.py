"""Many deployments worked in step, for pretraining: by a script, or by the policy itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dreaming.errors import ConfigError
from dreaming.sessions.family import Family
from dreaming.sessions.network import ReaderShape, answer, nothing, read, remembered
from dreaming.sessions.types import Memory, Rows, rows_of

# (observations as they are, their features [N, O]) -> actions [N]
Chooses = Callable[[list, Float[np.ndarray, "N O"]], Int[np.ndarray, " N"]]
Seen = Callable[[Rows], None]  # is told the rows [N, 1] of every step


def play(
    family: Family,
    tasks: Sequence[Any],
    chooses: Chooses,
    *,
    steps: int,
    random: np.random.Generator,
    skill: str | None = None,
    seen: Seen | None = None,
) -> Rows:
    """The rows [N, steps] of `steps` decisions in each task; a day that ends is followed by one."""
    options = {"skill": skill} if skill else None
    reset = lambda task: task.reset(seed=int(random.integers(2**31)), options=options)[0]
    os, day, told = [reset(task) for task in tasks], np.zeros(len(tasks), np.int32), []
    for _ in range(steps):
        features = family.observation.flatten(family.observation.stack(os))
        actions = chooses(os, features)
        r, outcome, now = np.zeros(len(tasks), np.float32), np.full(len(tasks), -1), day.copy()
        for i, (task, action) in enumerate(zip(tasks, actions, strict=True)):
            os[i], r[i], terminated, truncated, info = task.step(family.action.space.start + action)
            outcome[i] = info.get("outcome", -1)
            if terminated or truncated:
                os[i], day[i] = reset(task), day[i] + 1
        a, yes = np.eye(family.action.size, dtype=np.float32)[actions], np.ones(len(tasks), bool)
        row: dict[str, Any] = {"o": features, "a": a, "r": r, "known": yes, "valid": yes}
        row |= {"outcome": outcome.astype(np.int32), "day": now}
        told.append(rows_of({name: x[:, None] for name, x in row.items()}))
        if seen:
            seen(told[-1])
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *told)


def oracle(family: Family, tasks: Sequence[Any], observations: Any) -> Int[np.ndarray, "N ..."]:
    """The right actions of each task at its own observations [N, ...], counted from 0.

    Raises `ConfigError` for a family without an oracle.
    """
    if not all(hasattr(task, "right_action") for task in tasks):
        raise ConfigError(
            f"family {family.name}: its tasks have no right_action(o), and a base that learns in "
            "context is pretrained against an oracle; give the task one"
        )
    pairs = zip(tasks, observations, strict=True)
    answers = [np.asarray(task.right_action(np.asarray(o))) for task, o in pairs]
    return (np.stack(answers) - family.action.space.start).astype(np.int32)


def scripted(family: Family, tasks: Sequence[Any], random: np.random.Generator) -> Chooses:
    """Right with a probability that each task draws once, else any action."""
    skilled = random.random(len(tasks))

    def chooses(os: list, features: np.ndarray) -> np.ndarray:
        anything = random.integers(family.action.size, size=len(tasks))
        is_right = random.random(len(tasks)) < skilled
        return np.where(is_right, oracle(family, tasks, os), anything)

    return chooses


class Learner:
    """A reader at work in N tasks at once: draws its actions, and remembers every row."""

    def __init__(self, params: Any, shape: ReaderShape, num_tasks: int, steps: int, seed: int):
        self.memory: Memory = nothing(shape, (num_tasks,), steps)
        self.key, self.at, self.params = jax.random.key(seed), 0, params
        self.propensities: list[np.ndarray] = []  # of its decisions, [N] each
        self._choose, self._add = _programs(shape)

    def chooses(self, os: list, features: np.ndarray) -> np.ndarray:
        """Actions drawn from the policy, given all rows so far."""
        self.key, key = jax.random.split(self.key)
        a, p = self._choose(self.params, self.memory, jnp.asarray(features), key)
        self.propensities.append(np.asarray(p))
        return np.asarray(a)

    def seen(self, rows: Rows) -> None:
        """Remember a row of each task."""
        rows = jax.tree.map(jnp.asarray, rows)
        self.memory = self._add(self.params, self.memory, rows, self.at)
        self.at += 1


_PROGRAMS: dict[ReaderShape, Any] = {}


def _programs(shape: ReaderShape) -> tuple[Any, Any]:
    """Compiled (choose, add) of a shape."""

    def choose(params, memory, o, key):
        known = remembered(params, shape, memory)
        pi, _ = answer(params, shape, known, o[:, None])
        a = jax.random.categorical(key, pi[:, 0])
        p = jnp.take_along_axis(jax.nn.softmax(pi[:, 0]), a[:, None], 1)[:, 0]
        return a, p

    def add(params, memory, rows, at):
        new = read(params, shape, rows)
        put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, at, axis=1)
        return jax.tree.map(put, memory, new)

    if shape not in _PROGRAMS:
        _PROGRAMS[shape] = jax.jit(choose), jax.jit(add)
    return _PROGRAMS[shape]
