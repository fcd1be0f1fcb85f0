"""What recording costs: steps of a task alone and with `envs.sources.record` around it.

    python -m experiments.bench.recorder [CartPole-v1 dreaming/Catch-v0 CarRacing-v3 ...]

Both take the same actions in turns. Shown is the fastest of all repetitions, in microseconds of
processor time (which other programs do not disturb) per step, resets included; `close` is what it
takes to move what was recorded into the store, per step.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

import dreaming  # noqa: F401  registers the small tasks
from envs.sources import record

TASKS = ("CartPole-v1", "dreaming/Catch-v0", "CarRacing-v3")
STEPS = {"CarRacing-v3": 20}  # it is slow
REPETITIONS = 25  # short ones, so that some are not disturbed


def measure(task: str, steps: int, repetitions: int = REPETITIONS) -> dict[str, float]:
    """Microseconds per step: `alone`, `recorded`, `close`."""
    options = {"continuous": False} if task.startswith("CarRacing") else {}
    make = lambda: gymnasium.make(task, **options)
    probe: Any = make()
    actions = np.random.default_rng(0).integers(probe.action_space.n, size=steps).tolist()
    probe.close()
    found = {"alone": np.inf, "recorded": np.inf, "close": np.inf}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            plain, recorded = make(), record(make(), folder)
            seconds = {"alone": walk(plain, actions), "recorded": walk(recorded, actions)}
            begun = time.thread_time()
            recorded.close()
            seconds["close"] = time.thread_time() - begun
            plain.close()
        found = {name: min(x, seconds[name] * 1e6 / steps) for name, x in found.items()}
    return found


def walk(env: gymnasium.Env, actions: Sequence[int]) -> float:
    """Seconds for these steps, after an episode or two that begin everything that begins once."""
    for seed in range(2):
        env.reset(seed=seed)
        for action in actions[:20]:
            if any(env.step(action)[2:4]):
                break
    env.reset(seed=0)
    begun = time.thread_time()
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return time.thread_time() - begun


def main(argv: Sequence[str]) -> None:
    """Print a line per task."""
    names = ("alone", "recorded", "overhead", "share", "close")
    print(f"{'microseconds a step':<20}" + "".join(f"{name:>10}" for name in names))
    for task in argv or TASKS:
        us = measure(task, STEPS.get(task, 1000))
        extra = us["recorded"] - us["alone"]
        row = f"{us['alone']:10.2f}{us['recorded']:10.2f}{extra:10.2f}{extra / us['alone']:10.1%}"
        print(f"{task:<20}{row}{us['close']:10.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
