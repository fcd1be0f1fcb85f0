"""Recording real episodes with a behaviour that knows the probabilities of its actions."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from dreaming.errors import ConfigError, SpaceError, TraceError
from dreaming.observe.behaviours import (
    BEHAVIOURS,
    Behaviour,
    half_random,
    legal_entries,
    random,
    sticky_random,
)
from envs.real import make_real, reset_task, step_task, task_name
from envs.types import ActionFeatures, Features, Trace, action_features


def record(
    env_id: str,
    behaviour: str,
    real_steps: int,
    seed: int,
    *,
    switch: float = 0.1,
    epsilon: float = 0.5,
    policy: Callable[[], Behaviour] | None = None,
    update: Callable[[int], None] = lambda steps: None,
    env_options: dict | None = None,
) -> Iterator[Trace]:
    """Episodes with `real_steps` steps in all; the last one is open if the budget cuts it off.

    `behaviour` is `random`, `sticky_random` (a new uniform action with probability `switch`, and
    at reset), `half_random` (the task's own heuristic; a uniform action with probability
    `epsilon`), or a name for the behaviours that `policy()` makes, one for every episode. Actions
    that the task's `info["action_mask"]` forbids are never taken; masks are recorded. `update(n)`
    is called after each episode of n steps. Raises `ConfigError` before, and `TraceError` while
    recording.
    """
    _check(behaviour, real_steps, seed, switch, epsilon, policy)
    env = make_real(env_id, env_options)
    action = action_features(env.action_space)

    def fresh() -> Behaviour:
        if policy is not None:
            return policy()
        if behaviour == "random":
            return random(action)
        if behaviour == "sticky_random":
            return sticky_random(action, switch)
        return half_random(action, epsilon, env)

    try:
        fresh()
    except ConfigError:
        env.close()
        raise
    return _record(env, action, fresh, behaviour, real_steps, seed=seed, update=update)


def behaviour_return(traces: Iterable[Trace]) -> np.ndarray:
    """float64 [E]: the returns of the closed episodes, in order."""
    return np.array([trace.rewards.sum() for trace in traces if not trace.is_open], np.float64)


def _record(
    env, action: ActionFeatures, fresh: Callable, name: str, real_steps: int, *, seed, update
) -> Iterator[Trace]:
    done = episode = 0
    try:
        while done < real_steps:
            source = np.random.SeedSequence(seed, spawn_key=(episode,))
            try:
                trace = _episode(env, action, fresh(), real_steps - done, source, name)
            except (TraceError, SpaceError) as error:
                raise TraceError(f"{task_name(env)}: episode {episode}: {error}") from error
            done, episode = done + len(trace), episode + 1
            update(len(trace))
            yield trace
    finally:
        env.close()


def _episode(
    env,
    action: ActionFeatures,
    act: Behaviour,
    limit: int,
    source: np.random.SeedSequence,
    name: str,
) -> Trace:
    """One episode, cut off (open) after `limit` steps; `source` gives its reset seed and draws."""
    reset_source, act_source = source.spawn(2)
    generator = np.random.default_rng(act_source)
    observation = Features(env.observation_space)
    o, info = reset_task(env, int(reset_source.generate_state(1)[0]))
    observations = [_copy(o, observation, 0)]
    masks: list[Any] = [legal_entries(info.get("action_mask"), action, 0, ended=False)]
    steps = []
    terminated = truncated = False
    while len(steps) < limit and not (terminated or truncated):
        a, propensity = act(o, masks[-1], generator)
        taken = np.array(a, action.space.dtype)
        o, r, terminated, truncated, info = step_task(env, a)
        steps.append((taken, r, propensity))
        observations.append(_copy(o, observation, len(steps)))
        mask = legal_entries(info.get("action_mask"), action, len(steps), ended=terminated)
        if (mask is None) != (masks[0] is None):
            raise TraceError(f"step {len(steps)} and step 0: only one of them has an action mask")
        masks.append(mask)
    actions, rewards, propensities = zip(*steps, strict=True)
    return Trace(
        jax.tree.map(lambda *x: np.stack(x), *observations),
        np.stack(actions),
        np.array(rewards),
        terminated,
        truncated and not terminated,
        propensities=None if propensities[0] is None else np.array(propensities),
        action_masks=None if masks[0] is None else np.stack(masks),
        policy=name,
    )


def _copy(o: Any, observation: Features, step: int) -> Any:
    """A copy of an observation. Raises `TraceError` for another structure or shape."""
    try:
        return observation.copy(o)
    except SpaceError as error:
        raise TraceError(f"observation at step {step}: {error}") from error


def _check(
    behaviour: str, real_steps: int, seed: int, switch: float, epsilon: float, policy: Any
) -> None:
    if real_steps < 1:
        raise ConfigError(f"real_steps is {real_steps}, expected at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or more")
    if not 0 < switch <= 1:
        raise ConfigError(f"switch is {switch}, expected a probability in (0, 1]")
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon is {epsilon}, expected a probability in [0, 1]")
    if policy is None and behaviour not in BEHAVIOURS:
        known = ", ".join(BEHAVIOURS)
        raise ConfigError(
            f"behaviour {behaviour!r} is unknown; known are {known}, or give a policy"
        )
