"""Whether dreams keep their promises: whole runs on log seeds that no setting was chosen on.

python -m experiments.study.promises out=runs/promises jobs=2                 all of it
python -m experiments.study.promises out=runs/promises only=cartpole_500      one task
python -m experiments.study.promises out=runs/promises seeds=0-1              other log seeds

Every run is one of `dreaming dream` (or `online`) in `out`/TASK/seedN; what is finished there is
not done again, what was interrupted goes on. At the end the claims are held against the results.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.statistics import iqm
from experiments.config import EnvConfig
from experiments.logs.recording import recording
from experiments.study.options import names_in, options, seeds_in
from experiments.study.ranges import TABLE

OPTIONS = {"out": "runs/promises", "only": "", "seeds": "", "jobs": "1"}
FIRST = 100  # log seed; no setting was chosen on it or a later one
KEPT = 0.1  # most that a promise may differ from what is paid, in ranges of the task
STICKY = ("env.behaviour=sticky_random", "env.real_steps=10000")


@dataclass(frozen=True)
class Task:
    """What is run, and on how many logs."""

    options: tuple[str, ...]
    logs: int
    env: str  # whose range is the unit
    verb: str = "dream"
    succeeds_in: EnvConfig | None = None  # recorded so; only logs that hold a termination


def gym(env: str, *options: str) -> tuple[str, ...]:
    """Options of a Gymnasium task."""
    return ("env=gym", f"env.id={env}", *options)


MOUNTAIN_CAR = EnvConfig("MountainCar-v0", "sticky_random", 10_000)
HALF_SEEN = ("env.real_steps=5000", "context.window=4")
TASKS = {
    "cartpole_2000": Task((), 20, "CartPole-v1"),
    "cartpole_500": Task(("env.real_steps=500",), 20, "CartPole-v1"),
    "cartpole_200": Task(("env.real_steps=200",), 10, "CartPole-v1"),
    "mountaincar": Task(("env=mountaincar",), 10, "MountainCar-v0", succeeds_in=MOUNTAIN_CAR),
    "acrobot": Task(gym("Acrobot-v1", *STICKY), 5, "Acrobot-v1"),
    "pendulum": Task(gym("Pendulum-v1", *STICKY), 5, "Pendulum-v1"),
    "taxi": Task(gym("Taxi-v4", "env.real_steps=20000"), 5, "Taxi-v4"),
    "half_seen": Task(
        gym("dreaming/HalfSeenCartPole-v0", *HALF_SEEN), 5, "dreaming/HalfSeenCartPole-v0"
    ),
    "lunarlander": Task(
        gym("LunarLander-v3", "env.behaviour=half_random", "env.real_steps=20000"),
        5,
        "LunarLander-v3",
    ),
    "catch": Task(("env=catch",), 5, "dreaming/Catch-v0"),
    "catch_online": Task(("env=catch",), 5, "dreaming/Catch-v0", verb="online"),
}
Results = Mapping[str, Sequence[Any]]  # result.json of each task's runs; None: it failed


def play(task: Task, run_dir: Path, seed: int) -> dict[str, Any] | None:
    """The result of one run, with its seed and its log's own endings; None if it failed."""
    if not (run_dir / "result.json").exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"experiments.{task.verb}", *task.options]
        command += [f"seed={seed}", f"hydra.run.dir={run_dir}", "devices=1"]
        words = run_dir.with_name(f"{run_dir.name}.log")
        with open(words, "a", encoding="utf-8") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            print(f"{run_dir}: exit code {code}; see {words}", flush=True)
            return None
    result = json.loads((run_dir / "result.json").read_text("utf-8"))
    print(f"{run_dir}: {told(result)}", flush=True)
    return result


def told(result: dict[str, Any]) -> str:
    """A result in a few words."""
    mean = lambda name: (result.get(name) or {}).get("mean", float("nan"))
    names = ("deployed_return", "candidate_return", "dream_return")
    deployed, candidate, dream = (mean(name) for name in names)
    verdict = result.get("verdict", "")
    return f"{verdict} deployed {deployed:.1f}, candidate {candidate:.1f}, dreamed {dream:.1f}"


def seeds_of(task: Task, first: int) -> list[int]:
    """The first log seeds from `first` on; if asked for, only of logs that hold a success."""
    if task.succeeds_in is None:
        return list(range(first, first + task.logs))
    found, seed = [], first
    while len(found) < task.logs:
        if has_success(task.succeeds_in, seed):
            found.append(seed)
        seed += 1
    return found


def has_success(env: EnvConfig, seed: int) -> bool:
    """Whether the log of this seed holds a termination."""
    traces, _ = recording(env, seed, lambda steps: None)
    return any(bool(trace.terminated[-1]) for trace in traces)


def run_all(out: Path, tasks: dict[str, Task], seeds: dict[str, list[int]], jobs: int) -> Results:
    """The results of every task; None for a run that failed."""
    with ThreadPoolExecutor(jobs) as pool:
        started = {
            name: [pool.submit(play, task, out / name / f"seed{s}", s) for s in seeds[name]]
            for name, task in tasks.items()
        }
        return {name: [run.result() for run in runs] for name, runs in started.items()}


# The claims


def means(results: Sequence[Any], name: str = "deployed_return") -> np.ndarray:
    """Mean return of each run; where nothing is deployed, that of the candidate; -inf of one that
    failed."""
    of = lambda result: (result.get(name) or result.get("candidate_return") or {})["mean"]
    return np.array([-np.inf if result is None else of(result) for result in results])


def at_least(level: float, runs: int, worst: float) -> Callable[[Sequence[Any]], tuple[str, bool]]:
    """So many runs reach `level`, and none is below `worst`."""

    def claim(results):
        x = means(results)
        words = f"{(x >= level).sum()} of {x.size} at least {level:g} (asked {runs}), worst "
        return f"{words}{x.min():.1f} (asked {worst:g})", bool(
            (x >= level).sum() >= runs and x.min() >= worst
        )

    return claim


def in_the_middle(level: float, worst: float) -> Callable[[Sequence[Any]], tuple[str, bool]]:
    """The interquartile mean reaches `level`, and no run is below `worst`."""

    def claim(results):
        x = means(results)
        words = f"IQM {iqm(x):.1f} (asked {level:g}), worst {x.min():.1f} (asked {worst:g})"
        return words, bool(iqm(x) >= level and x.min() >= worst)

    return claim


def never_below_q(results: Sequence[Any]) -> tuple[str, bool]:
    """No run is below the conservative Q of its log by more than the interval of that."""
    below = []
    for result in filter(None, results):
        low, high = result["baselines"]["conservative_q"]["ci"]
        below.append(means([result])[0] < low - (high - low) / 2)
    return f"below the conservative Q of the log on {sum(below)} of {len(below)}", not any(below)


CLAIMS = {
    "cartpole_2000": [at_least(490, 19, 400), never_below_q],
    "cartpole_500": [at_least(475, 18, 300)],
    "cartpole_200": [at_least(400, 7, -np.inf)],
    "mountaincar": [in_the_middle(-107, -120)],
}


def ranges() -> dict[str, float]:
    """The range of every task of the table."""
    with open(TABLE, encoding="utf-8") as file:
        return {x["task"]: float(x["best"]) - float(x["random"]) for x in csv.DictReader(file)}


def kept(results: Results, tasks: Mapping[str, Task]) -> list[float]:
    """|dreamed - real| / range of the candidates, where the range of the task is known."""
    known, off = ranges(), []
    for name, every in results.items():
        runs = [run for run in every if run]
        if (unit := known.get(tasks[name].env)) and tasks[name].verb == "dream":
            gap = means(runs, "dream_return") - means(runs, "candidate_return")
            off += list(np.abs(gap) / unit)
    return off


def skills(runs: Sequence[Any]) -> list[str]:
    """Lines on the open-loop skill of held-out episodes."""
    lines = []
    for k in (15, 50):
        found = [run.get("fidelity", {}).get(f"skill_{k}") for run in runs if run]
        if found := [x for x in found if x is not None]:
            lines.append(
                f"skill after {k} steps: mean {np.mean(found):.4f}, least {min(found):.4f}"
            )
    return lines


def report(results: Results, tasks: dict[str, Task]) -> str:
    """What was claimed and what was reached."""
    lines = []
    for name, runs in results.items():
        lines.append(f"{name}: deployed {' '.join(f'{x:.1f}' for x in means(runs))}")
        found = [claim(runs) for claim in CLAIMS.get(name, [])]
        lines += [f"  {'met' if met else 'missed'}: {words}" for words, met in found]
        lines += [f"  {words}" for words in skills(runs)]
    if off := kept(results, tasks):
        share, of = np.mean(np.array(off) <= KEPT), f"{KEPT:g} of the range"
        lines.append(f"promises kept to {of}: {share:.0%} of {len(off)} (asked 90%)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and report; returns the exit code."""
    if (chosen := options(argv, OPTIONS)) is None:
        return 2
    if (names := names_in(chosen["only"], TASKS)) is None:
        return 2
    tasks = {name: TASKS[name] for name in names}
    some = seeds_in(chosen["seeds"]) if chosen["seeds"] else None
    if chosen["seeds"] and some is None:
        return 2
    seeds = {name: seeds_of(task, FIRST) if some is None else some for name, task in tasks.items()}
    results = run_all(Path(chosen["out"]), tasks, seeds, int(chosen["jobs"]))
    print(report(results, tasks))
    failed = sum(x is None for runs in results.values() for x in runs)
    if failed:
        print(f"{failed} runs failed, and count as missed", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
