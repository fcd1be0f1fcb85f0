"""Recording real episodes with a behaviour that knows the probabilities of its actions."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from dreaming.errors import ConfigError, TraceError
from envs.real import call_task, make_real, task_name
from envs.types import Trace

# (observation, generator) -> (action, the probability with which it was taken)
Behaviour = Callable[[Any, np.random.Generator], tuple[Any, float]]
BEHAVIOURS = ("random", "sticky_random")


def record(
    env_id: str,
    behaviour: str,
    real_steps: int,
    seed: int,
    *,
    switch: float = 0.1,
    policy: Behaviour | None = None,
    progress: Callable[[int], None] | None = None,
    env_options: dict | None = None,
) -> Iterator[Trace]:
    """Episodes of exactly `real_steps` steps in all; the last stays open if the budget cuts it.

    `behaviour` is `random`, `sticky_random` (a new uniform action with probability `switch`, and
    at reset) or the name under which `policy` is recorded. `progress` is told the steps so far
    after each episode. Raises `ConfigError` before, and `TraceError` while recording.
    """
    _check(behaviour, real_steps, seed, switch, policy)
    env = make_real(env_id, **(env_options or {}))
    return _record(env, behaviour, real_steps, seed, switch, policy, progress)


def behaviour_return(traces: Iterable[Trace]) -> np.ndarray:
    """float64 [E]: the returns of the closed episodes, in order."""
    return np.array([trace.rewards.sum() for trace in traces if not trace.is_open], np.float64)


def random(num_actions: int, start: int = 0) -> Behaviour:
    """Uniform over `num_actions` actions numbered from `start`."""
    return lambda o, generator: (start + int(generator.integers(num_actions)), 1 / num_actions)


def sticky_random(num_actions: int, switch: float, start: int = 0) -> Behaviour:
    """Repeats its action; draws a uniform one at first and then with probability `switch`.

    One episode long: make a new one at each reset.
    """
    previous: int | None = None

    def behaviour(o: Any, generator: np.random.Generator) -> tuple[int, float]:
        nonlocal previous
        stay = 0.0 if previous is None else 1 - switch
        a = previous if generator.random() < stay else start + int(generator.integers(num_actions))
        assert a is not None
        propensity = (1 - stay) / num_actions + stay * (a == previous)
        previous = a
        return a, propensity

    return behaviour


def _record(env, behaviour, real_steps, seed, switch, policy, progress) -> Iterator[Trace]:
    num_actions, start = int(env.action_space.n), int(env.action_space.start)
    done = episode = 0
    try:
        while done < real_steps:
            act = policy
            if act is None and behaviour == "random":
                act = random(num_actions, start)
            elif act is None:
                act = sticky_random(num_actions, switch, start)
            source = np.random.SeedSequence(seed, spawn_key=(episode,))
            try:
                trace = _episode(env, act, real_steps - done, source, behaviour)
            except TraceError as error:
                raise TraceError(f"{task_name(env)}: episode {episode}: {error}") from error
            done, episode = done + len(trace), episode + 1
            if progress is not None:
                progress(done)
            yield trace
    finally:
        env.close()


def _episode(env, act: Behaviour, limit: int, source: np.random.SeedSequence, name: str) -> Trace:
    """One episode, left open after `limit` steps; reset seed and draws come from `source`."""
    reset_source, act_source = source.spawn(2)
    generator = np.random.default_rng(act_source)
    o, info = call_task(env, "reset", seed=int(reset_source.generate_state(1)[0]))
    observations, masks = [_copy(o, env, 0)], [info.get("action_mask")]
    steps = []
    terminated = truncated = False
    while len(steps) < limit and not (terminated or truncated):
        a, propensity = act(o, generator)
        o, r, terminated, truncated, info = call_task(env, "step", a)
        observations.append(_copy(o, env, len(observations)))
        masks.append(info.get("action_mask"))
        steps.append((a, float(r), propensity))
    actions, rewards, propensities = zip(*steps, strict=True)
    return Trace(
        observations,
        np.array(actions, env.action_space.dtype),
        np.array(rewards),
        bool(terminated),
        bool(truncated and not terminated),
        propensities=np.array(propensities),
        action_masks=None if any(mask is None for mask in masks) else np.array(masks, bool),
        policy=name,
    )


def _copy(o: Any, env: Any, step: int) -> np.ndarray:
    """An observation as an array of its own. `TraceError` when it has another shape."""
    space = env.observation_space
    if np.shape(o) != space.shape:
        raise TraceError(
            f"observation at step {step} has shape {np.shape(o)}, expected {space.shape}"
        )
    return np.array(o, dtype=space.dtype)


def _check(behaviour: str, real_steps: int, seed: int, switch: float, policy: Any) -> None:
    if real_steps < 1:
        raise ConfigError(f"real_steps is {real_steps}, expected at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
    if not 0 < switch <= 1:
        raise ConfigError(f"switch is {switch}, expected a probability in (0, 1]")
    if policy is None and behaviour not in BEHAVIOURS:
        known = " and ".join(BEHAVIOURS)
        raise ConfigError(
            f"behaviour {behaviour!r} is unknown; known are {known}, or give a policy"
        )
