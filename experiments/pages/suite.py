"""Many runs side by side: the results below a directory, grouped by task and options.

The scores of a group are the mean returns of its runs, one per seed. Across tasks they are scaled
so that the log's behaviour is 0 and the task's reward threshold is 1, if it has one.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dreaming.errors import UserError
from dreaming.statistics import iqm, stratified_interval
from experiments.pages import learning

SCHEMA_VERSION = 1  # of summary.json
READABLE = (1, 2, 3)  # versions of results
# Options that do not separate groups: names, places, and those that follow from others.
ASIDE = ("seed", "experiment", "env.id", "devices", "tracker", "search.teacher")
ASIDE += ("budget_minutes", "platform")
POLICIES = ("behaviour", "incumbent", "candidate", "deployed", "dream")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its directory, result.json, and config.yaml with dotted names."""

    path: Path
    result: dict[str, Any]
    config: dict[str, Any]

    @property
    def task(self) -> tuple[str, str]:
        """(experiment, environment)."""
        return str(self.result.get("experiment")), str(self.result.get("env"))


def summarise(root: Path) -> dict[str, Any]:
    """The content of summary.json. Raises `UserError` if there is no finished run."""
    runs, skipped = read_runs(root)
    if not runs:
        why = f" ({skipped[0]['path']}: {skipped[0]['why']})" if skipped else ""
        raise UserError(f"{root}: no finished run lies below it{why}; name a directory of runs")
    groups = [group_figures(*group) for group in grouped(runs)]
    return {
        "schema_version": SCHEMA_VERSION,
        "groups": groups,
        "across_tasks": across_tasks(groups),
        "skipped": skipped,
    }


def read_runs(root: Path) -> tuple[list[FinishedRun], list[dict[str, str]]]:
    """(usable runs, [{"path", "why"}] of all others). Raises `UserError`."""
    if not root.is_dir():
        raise UserError(f"{root}: no such directory; name one with runs below it, such as runs")
    if (root / "result.json").exists():
        raise UserError(f"{root}: is one run; name the directory above it, or use run={root}")
    runs, skipped = [], []
    for path in run_dirs(root):
        run = read_run(path)
        if isinstance(run, FinishedRun) and "protocol" in run.result:
            run = "a game of Atari-100k; these have a table of their own"
        if isinstance(run, FinishedRun):
            runs.append(run)
        else:
            skipped.append({"path": str(path), "why": run})
    kept: dict[Any, FinishedRun] = {}
    for run in sorted(runs, key=lambda run: (run.path / "result.json").stat().st_mtime):
        options = sorted((k, str(v)) for k, v in run.config.items() if k not in ASIDE)
        key = run.task, run.result.get("seed"), str(options)
        if key in kept:
            why = f"the same seed and options as {run.path}, which is newer"
            skipped.append({"path": str(kept[key].path), "why": why})
        kept[key] = run
    return sorted(kept.values(), key=lambda run: (run.task, run.path)), skipped


def run_dirs(root: Path) -> list[Path]:
    """All run directories below `root`, of finished and unfinished runs."""
    found = []
    for directory, folders, files in os.walk(root):
        if {"result.json", "config.yaml", "metrics.jsonl"} & set(files):
            found.append(Path(directory))
            folders.clear()
        folders.sort()
    return found


def read_run(path: Path) -> FinishedRun | str:
    """The run in a directory, or the reason why it cannot be used."""
    file = path / "result.json"
    if not file.exists():
        return "unfinished; start it again with the same command, and it goes on"
    try:
        result = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return "its result.json cannot be read"
    version = result.get("schema_version") if isinstance(result, dict) else None
    if version not in READABLE:
        return f"its result has schema {version}, not {' or '.join(map(str, READABLE))}"
    if "verdict" not in result and not learning.is_online(result):
        return "a world without a policy"
    try:
        config = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        config = {}
    return FinishedRun(path, result, dict(_flat(config or {}, "", f"seed{result.get('seed')}")))


def _flat(config: dict[str, Any], prefix: str, seed: str) -> Any:
    """(dotted name, value) of all options; `seed` in texts becomes seed*, equal for all seeds."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.", seed)
        else:
            yield (
                f"{prefix}{name}",
                value.replace(seed, "seed*") if isinstance(value, str) else value,
            )


def grouped(runs: Sequence[FinishedRun]) -> list[tuple[list[FinishedRun], dict[str, Any]]]:
    """(runs, options in which they differ from other runs of the same task) of each group."""
    groups: dict[tuple, tuple[list[FinishedRun], dict[str, Any]]] = {}
    for run in runs:
        siblings = [other for other in runs if other.task == run.task]
        variant = {name: run.config.get(name) for name in differing(siblings)}
        group = groups.setdefault((run.task, str(variant)), ([], variant))
        group[0].append(run)
    return list(groups.values())


def differing(runs: Sequence[FinishedRun]) -> list[str]:
    """Options that have more than one value in the runs that set them."""
    names = sorted({name for run in runs for name in run.config} - set(ASIDE))
    values = lambda name: {str(run.config[name]) for run in runs if name in run.config}
    return [name for name in names if len(values(name)) > 1]


def group_figures(runs: Sequence[FinishedRun], variant: dict[str, Any]) -> dict[str, Any]:
    """The figures of one group: runs of one task and variant with different seeds."""
    seeds = [run.result.get("seed") for run in runs]
    results = [run.result for run in runs]
    named = {name: [result.get(f"{name}_return") for result in results] for name in POLICIES}
    known = {name for result in results for name in result.get("baselines") or {}}
    for name in sorted(known):
        named[f"baselines/{name}"] = [(x.get("baselines") or {}).get(name) for x in results]
    scores = {name: over_seeds(seeds, each) for name, each in named.items()}
    seconds = [sum((result.get("seconds") or {}).values()) for result in results]
    experiment, env = runs[0].task
    return {
        "experiment": experiment,
        "env": env,
        "variant": variant,
        "seeds": seeds,
        "runs": [str(run.path) for run in runs],
        "returns": {name: x for name, x in scores.items() if x is not None},
        "real_steps": max(result.get("real_steps", 0) for result in results),
        "verdicts": dict(Counter(x["verdict"] for x in results if "verdict" in x)),
        "learning": [curve(run) for run in runs if learning.is_online(run.result)],
        "seconds": {"median": float(np.median(seconds)), "longest": float(max(seconds))},
    }


def curve(run: FinishedRun) -> dict[str, Any]:
    """The learning curve of an online run: returns by real steps."""
    x, y = learning.returns_by_step(learning.read_lines(run.path / "metrics.jsonl"))
    real_steps, returns = learning.binned(x, y, run.result["real_steps"])
    return {"seed": run.result.get("seed"), "real_steps": real_steps, "returns": returns}


def over_seeds(seeds: Sequence[Any], returns: Sequence[Any]) -> dict[str, Any] | None:
    """IQM of the runs' mean returns, with its interval over seeds; None without scores."""
    points = [(seed, x["mean"]) for seed, x in zip(seeds, returns, strict=True) if x]
    if not points:
        return None
    values = np.array([value for _, value in points], float)
    seed, worst = min(points, key=lambda point: point[1])
    return {
        "iqm": float(iqm(values)),
        "mean": float(values.mean()),
        "ci": list(stratified_interval([values])),
        "worst": {"seed": seed, "value": worst},
        "points": [{"seed": seed, "value": value} for seed, value in points],
    }


def across_tasks(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Normalised scores over tasks, for every variant that was run on several tasks."""
    alike: dict[tuple, list[dict[str, Any]]] = {}
    for group in groups:
        alike.setdefault((group["experiment"], str(group["variant"])), []).append(group)
    found = []
    for members in (members for members in alike.values() if len(members) > 1):
        scaled = {group["env"]: normalised(group) for group in members}
        strata = [x for x in scaled.values() if x is not None]
        figure = {
            "experiment": members[0]["experiment"],
            "variant": members[0]["variant"],
            "online": any(group["learning"] for group in members),
            "tasks": [env for env, x in scaled.items() if x is not None],
            "left_out": [env for env, x in scaled.items() if x is None],
        }
        if strata:
            figure["iqm"] = float(iqm(np.concatenate(strata)))
            figure["ci"] = list(stratified_interval(strata))
        found.append(figure)
    return found


def normalised(group: dict[str, Any]) -> np.ndarray | None:
    """Each seed's deployed return, 0 = behaviour in the log, 1 = the task's threshold."""
    deployed, behaviour = (group["returns"].get(name) for name in ("deployed", "behaviour"))
    top = threshold(group["env"])
    if deployed is None or behaviour is None or top is None or top <= behaviour["mean"]:
        return None
    values = np.array([point["value"] for point in deployed["points"]])
    return (values - behaviour["mean"]) / (top - behaviour["mean"])


def threshold(env: str) -> float | None:
    """The return at which Gymnasium regards a task as solved; None if not defined."""
    import gymnasium

    try:
        return gymnasium.spec(env).reward_threshold
    except gymnasium.error.Error:
        return None
