"""Behaviours that record a log: they respect masks, and know how likely their actions were."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import numpy as np
from gymnasium.spaces import MultiBinary

from dreaming.errors import ConfigError, TraceError
from envs.real import task_name
from envs.types import ActionFeatures

# (observation, legal action features: bool [A] or None, generator)
# -> (action, the probability with which it was taken; None for actions with densities)
Behaviour = Callable[[Any, np.ndarray | None, np.random.Generator], tuple[Any, float | None]]
BEHAVIOURS = ("random", "sticky_random", "half_random")
HEURISTICS = {  # of Gymnasium, as functions of (task, observation)
    "LunarLander-v3": "gymnasium.envs.box2d.lunar_lander:heuristic",
    "LunarLanderContinuous-v3": "gymnasium.envs.box2d.lunar_lander:heuristic",
}


def random(action: ActionFeatures) -> Behaviour:
    """Uniform over the legal actions; Box actions are drawn as by Gymnasium's `sample`."""
    if not action.factors:
        return lambda o, legal, generator: (_uniform(action.space, generator), None)
    start = getattr(action.space, "start", 0)

    def behaviour(o: Any, legal: Any, generator: np.random.Generator) -> tuple[Any, float]:
        options = _options(action, legal)
        index = [each[generator.integers(len(each))] for each in options]
        a = start + np.array(index).reshape(action.space.shape)
        return a.astype(action.space.dtype)[()], _chance(options)

    return behaviour


def sticky_random(action: ActionFeatures, switch: float) -> Behaviour:
    """Repeats its last action; draws a uniform one at the start, where the last one is illegal, and
    with probability `switch`.

    It remembers its last action: make a new one for each episode.
    """
    fresh = random(action)
    previous: Any = None

    def behaviour(o: Any, legal: Any, generator: np.random.Generator) -> tuple[Any, float | None]:
        nonlocal previous
        may_stay = previous is not None and _allows(legal, action, previous)
        stay = 1 - switch if may_stay else 0.0
        keeps = generator.random() < stay
        a = previous if keeps else fresh(o, legal, generator)[0]
        is_same = may_stay and bool(np.all(a == previous))
        propensity = _mixed(action, legal, 1 - stay, is_same)
        previous = a
        return a, propensity

    return behaviour


def half_random(action: ActionFeatures, epsilon: float, env: Any) -> Behaviour:
    """The task's own heuristic (see HEURISTICS), or with probability `epsilon` a random action.

    Raises `ConfigError` for a task without a heuristic.
    """
    name = task_name(env)
    if name not in HEURISTICS:
        raise ConfigError(
            f"{name} comes without a heuristic, so there is no half_random; tasks with one are "
            f"{', '.join(HEURISTICS)}, for others use random, sticky_random or a saved policy"
        )
    module, _, function = HEURISTICS[name].partition(":")
    heuristic, fresh = getattr(import_module(module), function), random(action)

    def behaviour(o: Any, legal: Any, generator: np.random.Generator) -> tuple[Any, float | None]:
        best = np.asarray(heuristic(env, o)).astype(action.space.dtype)[()]
        share = epsilon if _allows(legal, action, best) else 1.0
        draws = generator.random() < share
        a = fresh(o, legal, generator)[0] if draws else best
        return a, _mixed(action, legal, share, share < 1 and np.array_equal(a, best))

    return behaviour


def legal_entries(mask: Any, action: ActionFeatures, step: int, ended: bool) -> np.ndarray | None:
    """bool [A] from `info["action_mask"]`, given as one array or as one array per factor. None
    without a mask, and for Box actions.

    After an episode `ended` no action is chosen: a mask without a legal action is then read as all
    legal. Otherwise it raises `TraceError`, as does a mask of the wrong size.
    """
    if mask is None or not action.factors:
        return None
    entries = np.concatenate([np.ravel(each) for each in jax.tree.leaves(mask)])
    if isinstance(action.space, MultiBinary) and entries.size == len(action.factors):
        entries = np.stack([entries != 1, entries != 0], axis=-1).ravel()  # 2: both are legal
    if entries.size != action.size:
        raise TraceError(
            f"the action mask at step {step} has {entries.size} entries, expected {action.size} "
            f"for {action.space}"
        )
    legal = entries.astype(bool)
    if all(len(options) for options in _options(action, legal)):
        return legal
    if not ended:
        raise TraceError(f"the action mask at step {step} forbids every action")
    return np.ones_like(legal)


def _options(action: ActionFeatures, legal: np.ndarray | None) -> list[np.ndarray]:
    """The legal indices of each factor."""
    if legal is None:
        return _all(action.factors)
    return [np.flatnonzero(x) for x in np.split(legal, np.cumsum(action.factors)[:-1])]


@functools.cache
def _all(factors: tuple[int, ...]) -> list[np.ndarray]:
    return [np.arange(size) for size in factors]


def _chance(options: list[np.ndarray]) -> float:
    return 1 / math.prod(len(each) for each in options)


def _allows(legal: np.ndarray | None, action: ActionFeatures, a: Any) -> bool:
    return legal is None or not (action.flatten(a[None])[0].astype(bool) & ~legal).any()


def _mixed(action: ActionFeatures, legal: Any, share: float, is_other: bool) -> float | None:
    """Probability of an action under `share` * uniform + (1 - `share`) * one given action, where
    `is_other` says whether the action is the given one; None for Box actions."""
    if not action.factors:
        return None
    return share * _chance(_options(action, legal)) + (1 - share) * is_other


def _uniform(space: Any, generator: np.random.Generator) -> np.ndarray:
    """A uniform draw between two bounds; exponential from a single bound, normal without any."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    u, tail = generator.random(space.shape), generator.exponential(size=space.shape)
    x = np.where(
        has_low, low + tail, np.where(has_high, high - tail, generator.normal(size=space.shape))
    )
    both = has_low & has_high
    x = np.where(both, np.where(both, low, 0) * (1 - u) + np.where(both, high, 0) * u, x)
    return np.clip(x, space.low, space.high).astype(space.dtype)
