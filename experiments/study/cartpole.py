"""The CartPole cases of the gate's study, fixed before the gate was tuned.

Real episodes are cheap here: a true effect is measured by EPISODES of them, with a standard error
of about 1 % of the return range. Policies are mixtures of linear controllers.
"""

import functools

import gymnasium
import numpy as np

from envs.types import Trace
from experiments.study.cases import EXPLORING, Case

LIMIT, LOG_STEPS, EPISODES = 500, 5000, 2000
CONTROLLERS = {
    "best": np.array([1.0, 3.0, 10.0, 10.0]),
    "flipped": -np.array([1.0, 3.0, 10.0, 10.0]),
    "random": np.zeros(4),
    "stale": np.array([-6.0, -5.0, 15.0, 10.0]),  # balances, but runs off the track
}
HARMS = ("random", "flipped", "stale")
Mixed = tuple[tuple[float, str], ...]  # (share, controller), shares add up to 1


def right(mixed: Mixed, o: np.ndarray) -> np.ndarray:
    """Probability of pushing right for observations [B, 4]."""
    p = lambda w: 1 / (1 + np.exp(-np.clip(o @ w, -30, 30)))
    return np.sum([share * p(CONTROLLERS[name]) for share, name in mixed], axis=0)


def mix(start: Mixed, end: Mixed, share: float) -> Mixed:
    """The mixture (1 - `share`) * `start` + `share` * `end`."""
    parts = {name: (1 - share) * p for p, name in start}
    for p, name in end:
        parts[name] = parts.get(name, 0.0) + share * p
    return tuple((p, name) for name, p in parts.items())


@functools.cache
def value(mixed: Mixed, seed: int = 0) -> float:
    """Mean return of EPISODES real episodes."""
    kind = "vector_entry_point"
    env = gymnasium.make_vec("CartPole-v1", num_envs=EPISODES, vectorization_mode=kind)
    o, _ = env.reset(seed=seed)
    random, alive, total = np.random.default_rng(seed), np.ones(EPISODES, bool), 0
    while alive.any():
        action = random.random(EPISODES) < right(mixed, o)
        o, _, terminated, truncated, _ = env.step(action.astype(np.int64))
        total += alive.sum()
        alive &= ~(terminated | truncated)
    env.close()
    return float(total / EPISODES)


def blend(start: Mixed, end: Mixed, target: float) -> Mixed:
    """The mixture of `start` and `end` whose value is `target`, by bisection on common seeds."""
    low, high = 0.0, 1.0
    rising = value(end) > value(start)
    for _ in range(14):
        share = (low + high) / 2
        above = value(mix(start, end, share)) > target
        low, high = (low, share) if above == rising else (share, high)
    return mix(start, end, low)


@functools.cache
def value_range() -> tuple[float, float]:
    """Returns of the worst and of the best controller."""
    return value(((1.0, "flipped"),)), value(((1.0, "best"),))


@functools.cache
def incumbent_of(effect: float) -> Mixed:
    """The best controller with noise: its value is at 60 % of the range (40 % for gains)."""
    low, high = value_range()
    target = low + (0.4 if effect > 0 else 0.6) * (high - low)
    return blend(((1.0, "best"),), ((1.0, "random"),), target)


@functools.cache
def policies_of(kind: str, effect: float) -> tuple[Mixed, Mixed, float]:
    """(candidate, incumbent, true effect), measured on other seeds than those of `blend`."""
    incumbent, (low, high) = incumbent_of(effect), value_range()
    target = value(incumbent) + effect * (high - low)
    best, end = ((1.0, "best"),), ((1.0, "best" if kind == "good" else kind),)
    start = incumbent
    if effect == 0:  # worse in some states, as much better in others
        start, end = mix(incumbent, end, 0.5), best
    candidate = blend(start, end, target)
    return candidate, incumbent, value(candidate, 1) - value(incumbent, 1)


def behaviour_of(case: Case) -> Mixed:
    """The behaviour that records the log."""
    uniform: Mixed = ((1.0, "random"),)
    return (
        uniform
        if case.behaviour == "uniform"
        else mix(incumbent_of(case.effect), uniform, EXPLORING)
    )


@functools.cache
def record(mixed: Mixed, seed: int) -> list[Trace]:
    """A log of LOG_STEPS steps of a policy in the real task, with propensities."""
    env, random = gymnasium.make("CartPole-v1"), np.random.default_rng(seed)
    traces, steps = [], 0
    while steps < LOG_STEPS:
        o, a, r, p = [env.reset(seed=int(random.integers(2**31)))[0]], [], [], []
        terminated = truncated = False
        while not (terminated or truncated) and steps + len(a) < LOG_STEPS:
            to_right = float(right(mixed, o[-1][None])[0])
            a.append(int(random.random() < to_right))
            p.append(to_right if a[-1] else 1 - to_right)
            after, reward, terminated, truncated, _ = env.step(a[-1])
            o.append(after)
            r.append(float(reward))
        steps += len(a)
        o, a, r, p = (np.array(x) for x in (o, a, r, p))
        traces.append(Trace(o, a, r, terminated, truncated, propensities=p))
    env.close()
    return traces


def suite(effects: tuple[float, ...], count: int, first_seed: int, logs: int) -> list[Case]:
    """`count` CartPole cases; only `logs` seeds, since a judge is fitted per log."""
    cases = []
    for i in range(count):
        effect, turn = effects[i % len(effects)], i // len(effects)
        kind = "good" if effect > 0 else HARMS[turn % len(HARMS)]
        log = turn % logs
        behaviour = ("uniform", "exploring")[log % 2]
        cases.append(Case("cartpole", first_seed + log, behaviour, kind, effect))
    return cases
