"""One game of Atari-100k: learned by the agent for frames, scored with its last weights."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreaming import statistics
from dreaming.efficientzero.agent import make_agent
from dreaming.efficientzero.policy import agent_policy_files
from dreaming.errors import ConfigError
from envs.atari import GAMES, MISSING
from envs.real import make_real
from experiments.command.jobs import did_you_mean
from experiments.command.options import VerbOptions
from experiments.command.progress import Progress, Stage
from experiments.command.runtime import usable_cores
from experiments.runs.atari_options import ENV, AtariConfig, online, scoring, training
from experiments.runs.directory import RESULT, begin, finish, read_config
from experiments.runs.lineage import Lineage
from experiments.runs.memory import agent_knobs, out_of_memory_told
from experiments.runs.once import Once
from experiments.runs.online_frames import KNOBS, NAME, AgentRun, make_actors, stage_fields
from experiments.runs.queue import Held
from experiments.runs.results import VERSIONS

STICKY = "evaluate_sticky"  # the second evaluation
METHOD = ("agent.", "protocol.side", "protocol.grey", "collect.ticks")  # options that make a method


def play(
    config: AtariConfig, run_dir: Path, progress: Progress, stop: Callable, held: Held
) -> dict[str, Any]:
    """Everything `dreaming atari100k` does with one game; the content of result.json.

    Raises `UserError` for errors that a user can fix, and `Stopped` from `stop`, after saving.
    """
    settings, make_env = (
        online(config),
        lambda rules: make_real(ENV, {"game": config.game, **rules}),
    )
    once = Once(run_dir, stages_of(config), progress)
    begin(run_dir, config)
    actors = make_actors(settings, lambda: make_env(training(config)))
    shape = settings.agent, actors.frame, actors.num_actions
    try:
        with out_of_memory_told(lambda: agent_knobs(*shape, KNOBS)):
            agent = make_agent(*shape, jax.devices() if config.devices else None)
            run = GameRun(settings, agent, actors, once, run_dir)
            run.held = held
            run.resume()
            run.learn(stop)
            policy = run.policy(lambda: make_env(training(config)))
            returns = {}
            for stage, sticky in evaluations(config).items():
                rules = scoring(config, sticky)
                returns[stage] = run.evaluate(policy, lambda r=rules: make_env(r), stop, stage)
    finally:
        actors.close()
    held.check()
    result = run.result(returns["evaluate"]) | result_of(config, returns)
    files = agent_policy_files(policy)
    Lineage(run_dir).leave(files, files)
    figures = {"returns": {"deployed": returns["evaluate"]["deployed"].tolist()}}
    finish(run_dir, config, result, figures)
    return result


class GameRun(AgentRun):
    """The running job of a game; it saves nothing once another process has taken it over."""

    held: Held

    def save(self, shown: Stage) -> None:
        """Save a checkpoint. Raises `Lost`."""
        self.held.check()
        super().save(shown)


def check_game(game: str) -> None:
    """Raise `ConfigError` unless the benchmark has this game and the emulator is there."""
    if game not in GAMES:
        raise ConfigError(
            f"game={game} is none of the 26 games of Atari-100k{did_you_mean(game, GAMES)}; "
            f"they are {', '.join(GAMES)}"
        )
    if emulator_version() is None:
        raise ConfigError(MISSING)


def emulator_version() -> str | None:
    """The version of ale-py, None without it."""
    return version("ale-py") if importlib.util.find_spec("ale_py") else None


def evaluations(config: AtariConfig) -> dict[str, float]:
    """The evaluations of a game: stage -> probability of sticky actions."""
    found = {"evaluate": config.protocol.sticky}
    return found | ({STICKY: config.evaluation.sticky} if config.evaluation.sticky else {})


def stages_of(config: AtariConfig) -> dict[str, dict[str, Any]]:
    """The options that each stage depends on; with other values it is another run."""
    learned = stage_fields(online(config))[NAME]
    scored = {
        stage: learned | {"evaluation": {"episodes": config.episodes, **scoring(config, sticky)}}
        for stage, sticky in evaluations(config).items()
    }
    return {NAME: learned} | scored


def is_finished(config: AtariConfig, run_dir: Path) -> bool:
    """Whether `run_dir` holds the result of exactly these options."""
    if not (run_dir / RESULT).exists():
        return False
    return stages_of(read_config(run_dir, AtariConfig)) == stages_of(config)


def changed_options(config: AtariConfig) -> dict[str, Any]:
    """The options that are not those of the size: a score is named by them, too."""
    words = [f"size={config.size}", f"game={config.game}"]
    usual, _ = VerbOptions("atari100k", AtariConfig).compose(words)
    ours, theirs = dict(flat(asdict(config))), dict(flat(asdict(usual)))
    told = [name for name in ours if name.startswith(METHOD) and name != "agent.real_steps"]
    return {name: ours[name] for name in told if ours[name] != theirs[name]}


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all options."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def protocol_of(config: AtariConfig) -> dict[str, Any]:
    """All rules of a result, by name."""
    return training(config) | {
        "real_steps": config.real_steps,
        "evaluation.episodes": config.episodes,
        "evaluation.max_frames": config.most_frames,
        "evaluation.sticky": config.evaluation.sticky,
    }


def result_of(config: AtariConfig, returns: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """What result.json of a game says beside what that of every online run says."""
    sticky = returns.get(STICKY)
    versions = {name: version(name) for name in VERSIONS}
    return {
        "env": config.game,
        "size": config.size,
        "changed": changed_options(config),
        "updates_per_step": config.agent.updates_per_step,
        "protocol": protocol_of(config),
        "is_dry_run": config.is_dry_run,
        "evaluation_steps": sum(int(each["steps"]) for each in returns.values()),
        "sticky_return": statistics.summary(sticky["deployed"]) if sticky else None,
        "device": f"{jax.devices()[0].device_kind}, {usable_cores()} cores",
        "versions": versions | {"ale-py": emulator_version()},
    }
