"""Logs of an expert that knows more than its log shows: HalfSeenCartPole, which hides velocities.

python -m experiments.study.half_seen path=logs/expert seed=0 noise=0 episodes=20

A linear controller sees the whole state and takes a uniform action with probability `noise`; what
is recorded are the task's own observations. Its clone, which sees positions alone, falls.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

import dreaming  # noqa: F401  registers the task
from envs.real import make_real
from envs.traces import TraceStore
from envs.types import Trace

ENV, BEST = "dreaming/HalfSeenCartPole-v0", np.array([1.0, 3.0, 10.0, 10.0])
OPTIONS = {"path": "", "seed": 0, "noise": 0.0, "episodes": 20}


def record(seed: int, noise: float, episodes: int) -> Iterator[Trace]:
    """Whole episodes with propensities."""
    env, random = make_real(ENV), np.random.default_rng(seed)
    for _ in range(episodes):
        o, a, r, p = [env.reset(seed=int(random.integers(2**31)))[0]], [], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            best = int(np.asarray(env.unwrapped.state) @ BEST > 0)  # type: ignore
            a.append(int(random.integers(2)) if random.random() < noise else best)
            p.append(noise / 2 + (1 - noise) * (a[-1] == best))
            after, reward, terminated, truncated, _ = env.step(a[-1])
            o.append(after)
            r.append(float(reward))
        o, a, r, p = (np.array(x) for x in (o, a, r, p))
        yield Trace(o, a, r, terminated, truncated, propensities=p, policy="expert")
    env.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Record a log; returns the exit code."""
    given = dict(each.split("=", 1) for each in (sys.argv[1:] if argv is None else argv))
    chosen = {name: type(x)(given.get(name, x)) for name, x in OPTIONS.items()}
    if set(given) - set(OPTIONS) or not chosen["path"]:
        print(f"options are {', '.join(f'{name}=' for name in OPTIONS)}", file=sys.stderr)
        return 2
    env = make_real(ENV)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    env.close()
    store = TraceStore(str(chosen["path"]), **spaces)
    store.extend(record(int(chosen["seed"]), float(chosen["noise"]), int(chosen["episodes"])))
    print(f"{chosen['path']}: {len(store)} episodes, {store.num_steps} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
