"""Many games of Atari-100k below a directory: finished, running, failed or missing, and their sum.

Runs of one size and the same options are a method; a game has a run per seed. Nothing is filled in:
a game without a finished run is missing, and where one is missing there is no figure of the whole
benchmark, only one of the games that are there, beside that of the published methods on the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dreaming.errors import UserError
from envs.atari import GAMES
from experiments.atari.published import human_normalised, methods
from experiments.atari.scores import aggregates, intervals, profile
from experiments.pages.suite import FinishedRun, read_run, run_dirs
from experiments.runs.queue import status

SCHEMA_VERSION = 1  # of atari100k.json
OBSERVATIONS = ("side", "grey")  # of the protocol, but part of a size: named, not compared
# Options that do not separate methods.
ASIDE = ("seed", "game", "experiment", "budget_minutes", "platform", "devices", "tracker")
LEVELS = np.round(np.arange(0, 8.01, 0.1), 1).tolist()  # of performance profiles


@dataclass
class Suite:
    """Finished games, and [{"game", "seed", "path", "status"}] of all others."""

    finished: list[FinishedRun] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)


def games_below(root: Path) -> list[Path]:
    """The run directories of games of Atari-100k below a directory."""
    return [path for path in run_dirs(root) if "game" in config_of(path)]


def config_of(path: Path) -> dict[str, Any]:
    """config.yaml of a run directory; {} where there is none."""
    try:
        found = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def read_suite(root: Path) -> Suite:
    """All games below `root`. Raises `UserError` for results of different protocols."""
    if (root / "config.yaml").exists():
        raise UserError(f"{root}: is one run; name the directory above it, or use run={root}")
    suite, runs = Suite(), list[FinishedRun]()
    for path in games_below(root):
        state = status(path)
        run = read_run(path) if state == "done" else state
        if isinstance(run, FinishedRun):
            runs.append(run)
        else:
            suite.others.append(other(config_of(path), path, run))
    kept: dict[Any, FinishedRun] = {}
    for run in sorted(runs, key=written):
        key = options_of(run), run.result["env"], run.result["seed"]
        if key in kept:
            why = f"passed by: the same game, seed and options as {run.path}, which is newer"
            suite.others.append(other(kept[key].config, kept[key].path, why))
        kept[key] = run
    suite.finished = sorted(kept.values(), key=lambda run: (run.result["env"], run.path))
    check_protocols(suite.finished)
    return suite


def other(config: Mapping[str, Any], path: Path, state: str) -> dict[str, Any]:
    """A game that has no result to report."""
    named = {name: config.get(name) for name in ("game", "seed", "size")}
    return named | {"path": str(path), "status": state}


def written(run: FinishedRun) -> float:
    """When the result of a run was written."""
    return (run.path / "result.json").stat().st_mtime


def check_protocols(runs: Sequence[FinishedRun]) -> None:
    """Raise `UserError` unless all results are of the same rules, observations aside."""
    for run in runs[1:]:
        ours, theirs = (each.result["protocol"] for each in (runs[0], run))
        apart = [
            f"{name}={theirs.get(name)} and {ours.get(name)}"
            for name in sorted({*ours, *theirs} - set(OBSERVATIONS))
            if ours.get(name) != theirs.get(name)
        ]
        if apart:
            raise UserError(
                f"{run.path} and {runs[0].path} are of different protocols: {', '.join(apart)}; "
                "report on a directory that holds one of them"
            )


def options_of(run: FinishedRun) -> str:
    """What makes runs the same method."""
    return str(sorted((name, str(x)) for name, x in run.config.items() if name not in ASIDE))


def summarise(root: Path) -> dict[str, Any]:
    """The content of atari100k.json. Raises `UserError` where there is nothing to compare."""
    suite = read_suite(root)
    ours = [method_figures(name, runs) for name, runs in methods_of(suite.finished).items()]
    games = sorted({game for method in ours for game in method["games"]})
    return {
        "schema_version": SCHEMA_VERSION,
        "protocol": suite.finished[0].result["protocol"] if suite.finished else {},
        "is_dry_run": any(run.result["is_dry_run"] for run in suite.finished),
        "missing": [game for game in GAMES if game not in games],
        "ours": ours,
        "published": [published_figures(method, games) for method in methods()],
        "levels": LEVELS,
        "others": suite.others,
    }


def methods_of(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs by the name of their method: the size, and the options that are not those of it."""
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        words = [f"{name}={x}" for name, x in run.result["changed"].items()]
        found.setdefault(" ".join([run.result["size"], *words]), []).append(run)
    return found


def method_figures(name: str, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Scores of one of our methods, by game and together."""
    games: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        games.setdefault(run.result["env"], []).append(game_figures(run.result, run.path))
    normal = {game: [each["normalised"] for each in found] for game, found in games.items()}
    first = runs[0].result
    return {
        "name": name,
        "observations": observations(first["protocol"]),
        "updates_per_step": first["updates_per_step"],
        "games": games,
        "is_complete": set(games) == set(GAMES),
        "aggregates": aggregates(normal),
        "intervals": intervals(normal),
        "profile": profile(normal, LEVELS),
    }


def game_figures(result: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """One run of a game."""
    score, sticky, game = result["deployed_return"], result.get("sticky_return"), result["env"]
    seconds = result["seconds"]
    return {
        "seed": result["seed"],
        "score": score["mean"],
        "ci": score["ci"],
        "episodes": score["episodes"],
        "normalised": human_normalised(game, score["mean"]),
        "sticky_score": sticky["mean"] if sticky else None,
        "real_steps": result["real_steps"],
        "updates": result["fit_steps"],
        "training_minutes": seconds["learn"] / 60,
        "evaluation_minutes": sum(x for name, x in seconds.items() if name != "learn") / 60,
        "device": result["device"],
        "path": str(path),
    }


def observations(protocol: Mapping[str, Any]) -> str:
    """What is seen, as the published tables write it."""
    return f"{protocol['side']} {'grey' if protocol['grey'] else 'RGB'}"


def published_figures(method: Any, games: Sequence[str]) -> dict[str, Any]:
    """A published method on all its games, and on `games` alone."""
    normal = {game: [human_normalised(game, x)] for game, x in method.scores.items()}
    alike = {game: normal[game] for game in games if game in normal}
    is_known = len(alike) == len(games) > 0
    return {
        "name": method.title,
        "differs": method.differs,
        "source": method.source,
        "runs": method.runs,
        "observations": method.observations,
        "scores": method.scores,
        "aggregates": aggregates(normal, means_only=True),
        "on_our_games": aggregates(alike, means_only=True) if is_known else None,
        "profile": profile(normal, LEVELS),
    }
