"""Whether a dream doubts where it errs, on real steps of its own candidates.

python -m experiments.study.doubt runs=runs/promises [steps=4000] [seed=200] [out=doubt.json]

For every finished run of `dreaming dream` below `runs`: Spearman's rank correlation of uncertainty
and error, over steps that the candidate takes in the real task: of one step (observation and reward
together, in deviations of these steps), and of 5 and 15 (`worldmodels.fidelity.doubts`). What `out`
holds already is not done again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreaming.checkpoint import atomic_write
from dreaming.observe.log import Log
from dreaming.world.certify import held_out
from envs.dreamfile import load_world
from envs.types import Features, action_features
from experiments.config import DreamConfig, EnvConfig
from experiments.logs.recording import recording
from experiments.runs.directory import read_config
from experiments.study.options import options

OPTIONS = {"runs": "runs/promises", "steps": "4000", "seed": "200", "out": "doubt.json"}
NAMES = ("uncertainty_spearman", "uncertainty_spearman_5", "uncertainty_spearman_15")
ASKED = 0.5  # correlation


def correlations(run_dir: Path, steps: int, seed: int) -> dict[str, float]:
    """Of uncertainty and error over so many real steps of a run's candidate, by name."""
    config: DreamConfig = read_config(run_dir, DreamConfig)
    world = load_world(run_dir / "world.dream")
    env = EnvConfig(config.env.id, str(run_dir / "candidate"), steps, options=config.env.options)
    traces, _ = recording(env, seed, lambda n: None)
    log = Log(list(traces), Features(world.observation_space), action_features(world.action_space))
    span, discount = (float(world.card[name]) for name in ("value_span", "discount"))
    tested = held_out(
        world.model,
        world.params,
        log,
        jax.random.key(seed),
        discount=discount,
        span=span,
        window=world.model.window,
    )
    return {name: tested.figures[name] for name in NAMES if name in tested.figures}


def task_of(run_dir: Path, runs: Path) -> str:
    """The folder of the run below `runs`."""
    return [*run_dir.relative_to(runs).parts, runs.name][0]


def finished_runs(runs: Path) -> list[Path]:
    """Directories of finished runs of `dream` that had a real task."""
    found = [path.parent for path in sorted(runs.glob("**/result.json"))]
    found = [
        run for run in found if (run / "world.dream").exists() and (run / "candidate").is_dir()
    ]
    return [run for run in found if read_config(run, DreamConfig).env.id != "none"]


def report(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The correlations of each task, and on how many the middle one is as asked."""
    lines, tasks = [], sorted({each["task"] for each in found.values()})
    for name in NAMES:
        good = 0
        for task in tasks:
            every = [each.get(name, np.nan) for each in found.values() if each["task"] == task]
            middle = np.median(every)
            good += middle >= ASKED
            lines.append(f"{name}, {task}: middle {middle:.2f} of {np.round(every, 2).tolist()}")
        lines.append(f"{name}: at least {ASKED:g} on {good} of {len(tasks)} tasks")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and report; returns the exit code."""
    if (chosen := options(argv, OPTIONS)) is None:
        return 2
    if not chosen["steps"].isdecimal() or not chosen["seed"].isdecimal():
        print("steps= and seed= are whole numbers", file=sys.stderr)
        return 2
    steps, seed = int(chosen["steps"]), int(chosen["seed"])
    runs, out = Path(chosen["runs"]).resolve(), Path(chosen["out"])
    kept = json.loads(out.read_text("utf-8")) if out.exists() else {}
    if not (finished := finished_runs(runs)):
        print(f"{runs}: no finished run of dreaming dream below it", file=sys.stderr)
        return 1
    found = {}
    for run_dir in finished:
        name = f"{run_dir} steps={steps} seed={seed}"
        if name not in kept:
            kept[name] = {"task": task_of(run_dir, runs)} | correlations(run_dir, steps, seed)
            print(f"{name}: {kept[name]}", flush=True)
            atomic_write(out, json.dumps(kept, indent=1))
        found[name] = kept[name]
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
