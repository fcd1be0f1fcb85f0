"""Whether broken promises are foreseen: runs made to break them, and what the certificates said.

python -m experiments.study.alarm out=runs/alarm jobs=2 [only=cartpole] [seed=0]

On 10, 30 and 100 % of each log a world is fitted once; in it students rehearse for 25, 50 and 100 %
of the usual time, with the price of uncertainty and without. A promise is broken if the dreamed
return exceeds the real one by more than 0.1 of the task's range. What is finished in `out` is not
done again. The area under the ROC curve is the chance that a broken promise has the higher score.
"""

import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dreaming.world.words import is_unsupported
from experiments.study import promises
from experiments.study.options import names_in, options
from experiments.study.promises import KEPT, Task, gym, play

OPTIONS = {"out": "runs/alarm", "only": "", "seed": "0", "jobs": "1"}
SHARES, STAGES, PRICES = (0.1, 0.3, 1.0), (0.25, 0.5, 1.0), (1.0, 0.0)
FITTED = ("record", "fit", "judge")  # stages that all students of a world share
SCORES = ("unsupported", "unrepeated", "untrusted")


@dataclass(frozen=True)
class Case:
    """A task whose log has so many steps."""

    options: tuple[str, ...]
    steps: int
    env: str
    iterations: int = 1000


STICKY, HALF = "env.behaviour=sticky_random", "env.behaviour=half_random"
CASES = {
    "cartpole": Case((), 2000, "CartPole-v1"),
    "mountaincar": Case(("env=mountaincar",), 10_000, "MountainCar-v0"),
    "acrobot": Case(gym("Acrobot-v1", STICKY), 10_000, "Acrobot-v1"),
    "pendulum": Case(gym("Pendulum-v1", STICKY), 10_000, "Pendulum-v1"),
    "taxi": Case(gym("Taxi-v4"), 20_000, "Taxi-v4"),
    "lunarlander": Case(gym("LunarLander-v3", HALF), 20_000, "LunarLander-v3"),
    "catch": Case(("env=catch",), 12_000, "dreaming/Catch-v0", iterations=500),
}


def play_world(case: Case, folder: Path, share: float, seed: int) -> list[dict[str, Any]]:
    """Results of all students of one world, each with its certificate's figures."""
    log = (*case.options, f"env.real_steps={round(share * case.steps)}")
    fit = folder / "fit"
    if play(Task(log, 1, case.env, verb="fit"), fit, seed) is None:
        return []
    found = []
    for stage, price in itertools.product(STAGES, PRICES):
        run_dir = folder / f"stage{stage:g}_price{price:g}"
        if not run_dir.exists():
            begin(fit, run_dir)
        student = (
            f"search.penalty={price:g}",
            f"rehearse.iterations={round(stage * case.iterations)}",
        )
        if result := play(Task((*log, *student), 1, case.env), run_dir, seed):
            certificate = json.loads((run_dir / "certificate.json").read_text("utf-8"))
            found.append(outcome(result, certificate["figures"]) | {"run": str(run_dir)})
    return found


def begin(fit: Path, run_dir: Path) -> None:
    """A run that goes on where a fit ended."""
    unfinished = run_dir.with_suffix(".copy")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(fit / "traces", unfinished / "traces")
    for stage in FITTED:
        if (fit / "state" / stage).exists():
            shutil.copytree(fit / "state" / stage, unfinished / "state" / stage)
    unfinished.rename(run_dir)


def outcome(result: Mapping[str, Any], figures: Mapping[str, float]) -> dict[str, Any]:
    """What was promised and paid, and the scores that might have told."""
    mean = lambda name: float(result[name]["mean"])
    unsupported = figures.get("unsupported", 0.0)
    return {
        "dreamed": mean("dream_return"),
        "real": mean("candidate_return"),
        "behaviour": mean("behaviour_return"),
        "unsupported": unsupported,
        "unrepeated": figures.get("unrepeated", 0.0),
        "untrusted": 1 - figures.get("candidate_coverage", 1.0),
        "alarm": "unsupported" in figures and is_unsupported(figures),
    }


def broken(outcomes: Sequence[Mapping[str, Any]], width: float) -> np.ndarray:
    """Which promises were broken, bool [n]; `width` is the range of the task."""
    return np.array([x["dreamed"] - x["real"] > KEPT * width for x in outcomes])


def width_of(case: Case, outcomes: Sequence[Mapping[str, Any]]) -> float:
    """The range of a task; of one that is not in the table, from the log to the best that was
    reached here."""
    if known := promises.ranges().get(case.env):
        return known
    best = max(x["real"] for x in outcomes)
    return best - min(x["behaviour"] for x in outcomes)


def auroc(score: np.ndarray, is_broken: np.ndarray) -> float:
    """Probability that a broken promise has a higher score than a kept one; ties count half."""
    one, other = score[is_broken], score[~is_broken]
    if not one.size or not other.size:
        return float("nan")
    return float(stats.mannwhitneyu(one, other).statistic / (one.size * other.size))


def report(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Broken and kept promises, and how well each score tells them apart."""
    lines, every, parts = [], [], []
    for name, outcomes in found.items():
        if outcomes:
            parts.append(broken(outcomes, width_of(CASES[name], outcomes)))
            lines.append(f"{name}: {scores(outcomes, parts[-1])}")
            every += outcomes
    if not every:
        return "no run succeeded"
    is_broken = np.concatenate(parts)
    alarm = np.array([x["alarm"] for x in every])
    right, false = np.sum(alarm & is_broken), np.sum(alarm & ~is_broken)
    lines.append(f"all: {scores(every, is_broken)}")
    lines.append(
        f"the alarm as shipped: {right} of {is_broken.sum()} broken promises, {false} of "
        f"{(~is_broken).sum()} kept ones (asked: at most 10%)"
    )
    return "\n".join(lines)


def scores(outcomes: Sequence[Mapping[str, Any]], is_broken: np.ndarray) -> str:
    """Broken and kept promises, and the area under the ROC curve of each score."""
    of = lambda name: auroc(np.array([x[name] for x in outcomes]), is_broken)
    areas = ", ".join(f"{name} {of(name):.2f}" for name in SCORES)
    return f"{is_broken.sum()} broken, {(~is_broken).sum()} kept; area by {areas}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and report; returns the exit code."""
    if (chosen := options(argv, OPTIONS)) is None:
        return 2
    if (names := names_in(chosen["only"], CASES)) is None:
        return 2
    out, seed = Path(chosen["out"]), int(chosen["seed"])
    world = lambda name, share: play_world(CASES[name], out / name / f"share{share:g}", share, seed)
    with ThreadPoolExecutor(int(chosen["jobs"])) as pool:
        started = [(name, pool.submit(world, name, share)) for name in names for share in SHARES]
        found: dict[str, list] = {name: [] for name in names}
        for name, students in started:
            found[name] += students.result()
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
