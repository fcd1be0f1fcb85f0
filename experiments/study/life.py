"""How long a machine lives: dreamed, logged and true, where endings are rare.

python -m experiments.study.life rate=0.002 seeds=100-119 out=life.json

What `out` holds already is not done again.

A machine wears with use, is watched for at most LIMIT steps, and breaks by chance: at a constant
rate, or the sooner the more it is worn (rate=wear). Its log of 20,000 steps is fitted as any other.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from dreaming.checkpoint import atomic_write
from dreaming.config import BaselineConfig, SearchConfig
from dreaming.observe.log import Log
from dreaming.student.baselines import fit_baselines
from dreaming.world.life import dreamed_lengths, dreamed_life, lengths_of, logged_life
from dreaming.world.physics import LearnedPhysics, world_of
from dreaming.world.words import WRONG
from envs.types import Features, Trace, action_features
from experiments.study.options import options, seeds_in

LIMIT = 500  # most steps of an episode
STEPS = 20_000  # of a log
TRUE = 200_000  # episodes that the true mean is that of
OPTIONS = {"rate": "0.002", "seeds": "0-4", "out": "life.json"}
SPACES = gymnasium.spaces.Box(-10, 10, (2,), np.float32), gymnasium.spaces.Discrete(2)


def hazard(rate: str, wear: np.ndarray) -> np.ndarray:
    """Probability of breaking in a step, by wear."""
    return 0.0005 + 0.02 * wear**4 if rate == "wear" else np.full(np.shape(wear), float(rate))


def ages(rate: str, random: np.random.Generator, episodes: int) -> tuple[Any, ...]:
    """(wear [n, LIMIT + 1], load [n, LIMIT], steps [n], whether they broke [n]) of machines."""
    load = random.integers(2, size=(episodes, LIMIT))
    fresh = random.uniform(0, 0.3, (episodes, 1))
    wear = np.concatenate([fresh, fresh + 0.002 * np.cumsum(0.5 + load, axis=1)], axis=1)
    breaks = random.random((episodes, LIMIT)) < hazard(rate, wear[:, 1:])
    broke = breaks.any(1)
    return wear, load, np.where(broke, breaks.argmax(1) + 1, LIMIT), broke


def true_mean(rate: str) -> float:
    """Mean steps of an episode."""
    random = np.random.default_rng(10**6)
    return float(np.mean([ages(rate, random, 1000)[2].mean() for _ in range(TRUE // 1000)]))


def record(rate: str, seed: int) -> Iterator[Trace]:
    """Episodes of at least STEPS steps in all."""
    random, steps = np.random.default_rng(seed), 0
    while steps < STEPS:
        wear, load, length, broke = (x[0] for x in ages(rate, random, 1))
        swing = np.sin(20 * wear)  # seen beside it: a vibration
        o = np.stack([wear, swing], axis=1)[: length + 1].astype(np.float32)
        steps += length
        yield Trace(o, load[:length], np.ones(length), bool(broke), not broke)


def study(rate: str, seed: int) -> dict[str, Any]:
    """Logged and dreamed life of one log."""
    log = Log(list(record(rate, seed)), Features(SPACES[0]), action_features(SPACES[1]))
    keys, quiet = jax.random.split(jax.random.key(seed), 3), lambda *_, **__: None
    fit = LearnedPhysics().planner(log)
    world = world_of(fit, fit.learn(keys[0], quiet), LIMIT, SearchConfig(), {})
    config = BaselineConfig().sized(log.observation.kind)
    clone = fit_baselines(log, world, config, keys[1], quiet)["behaviour_cloning"]
    lengths, ended = lengths_of(log.traces)
    logged = logged_life(lengths, ended, LIMIT)
    dreamed = dreamed_life(dreamed_lengths(world, clone, keys[2], LIMIT), logged)
    both = {"logged": logged, "dreamed": dreamed}
    found: dict[str, Any] = {"rate": rate, "seed": seed, "endings": int(ended.sum())}
    return found | {name: (life.mean, *life.interval) for name, life in both.items()}


def in_words(found: Sequence[dict[str, Any]]) -> str:
    """What many logs of one machine say."""
    off = [abs(x["dreamed"][0] / x["logged"][0] - 1) for x in found]
    held = sum(x["dreamed"][1] <= x["true"] <= x["dreamed"][2] for x in found)
    near = sum(x <= WRONG for x in off)
    return (
        f"true mean {found[0]['true']:.1f} steps; dreamed within {WRONG:.0%} of the log's on "
        f"{near} of {len(off)} logs (at most {max(off):.1%} off); truth held on {held}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Study each seed; returns the exit code."""
    if (chosen := options(argv, OPTIONS)) is None:
        return 2
    if (seeds := seeds_in(chosen["seeds"])) is None:
        return 2
    rate, out = chosen["rate"], Path(chosen["out"])
    found = json.loads(out.read_text("utf-8")) if out.exists() else []
    done, true = {(x["rate"], x["seed"]) for x in found}, true_mean(rate)
    for seed in [seed for seed in seeds if (rate, seed) not in done]:
        found.append(study(rate, seed) | {"true": true})
        print(json.dumps(found[-1]), flush=True)
        atomic_write(out, json.dumps(found, indent=1))
    print(in_words([x for x in found if x["rate"] == rate and x["seed"] in seeds]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
