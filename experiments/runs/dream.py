"""The main job step by step: log, one round, report episodes, files."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.config import RoundConfig
from dreaming.observe.collect import behaviour_return
from dreaming.observe.log import Log
from dreaming.round import Report, RoundState, one_round, stage_key
from dreaming.student.policy import Policy, save_policy
from dreaming.student.walks import dream_returns
from dreaming.world.fitting import check_name
from dreaming.world.physics import LearnedPhysics
from envs.dreamfile import write_dream
from experiments.command.progress import Progress
from experiments.command.unread import dream_rules, refuse
from experiments.config import DreamConfig, WorldConfig
from experiments.logs.reading import kind_of, read_log
from experiments.pages.strip import dream_strip
from experiments.runs.certificate import make_certificate, ranking_stage
from experiments.runs.directory import begin, finish, values_of
from experiments.runs.once import Once
from experiments.runs.results import REPORT_SEED, make_result, root_key
from experiments.runs.scoring import dream_horizon, scorer

CHANCE = 0.4  # share of unexplained change from which a deterministic model is doubted


def whole_loop(config: DreamConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Everything `dreaming dream` does; the content of result.json.

    Raises `UserError` for what the user can mend.
    """
    check_name(config.model.name)
    once = Once(run_dir, stage_fields(config), progress)
    refuse(dream_rules(config, kind_of(config, run_dir, once)))
    log = read_log(config, run_dir, once)
    begin(run_dir, config)
    report = play_round(config, log, once)
    if config.model.name in ("auto", "mlp") and (hint := chance_hint(report)):
        progress.log(hint)
    returns = report_episodes(config, log, report, once)
    certificate, steps = certify_run(config, log, report, once)
    progress.log(f"certified: {certificate['sentence']}")
    save_artifacts(run_dir, log, report)
    report = dataclasses.replace(report, fidelity=certificate["figures"])
    returns["steps"] = returns["steps"] + steps
    result = make_result(config, log, report, returns, once)
    shown = {name: x.tolist() for name, x in returns.items() if x.ndim and x.size}
    strip = dream_strip(report.world, log)
    figures = {"returns": shown, "open_loop": report.fitted.skill, "strip": strip}
    finish(run_dir, config, result, figures, certificate)
    return result


def play_round(config: DreamConfig, log: Log, once: Callable) -> Report:
    """The round of a run; `once` is that of `one_round`."""
    parts = ("search", "rehearse", "distill", "baselines", "gate")
    rules = RoundConfig(**{name: getattr(config, name) for name in parts})
    physics = LearnedPhysics(config.model, config.fit, config.judge, config.images)
    physics.check(log, config.search, config.rehearse.behaviour_penalty)
    _, report = one_round(
        RoundState(),
        root_key(config),
        log=log,
        physics=physics,
        config=rules,
        horizon=dream_horizon(config, log),
        real=scorer(config, log),
        once=once,
    )
    return report


def stage_fields(config: DreamConfig) -> dict[str, dict[str, Any]]:
    """The fields that each stage depends on; a run of other fields is another run."""
    fields = functools.partial(_fields, config)
    stages = world_fields(config)
    rehearse = stages["fit"] | fields("search", "rehearse", "distill")
    gated = rehearse | fields("gate", "baselines")
    return stages | {
        "clone": stages["record"] | fields("baselines") | {"discount": config.fit.discount},
        "rehearse": rehearse,
        "gate": gated,
        "evaluate": gated | fields("evaluation"),
        "certify": rehearse | fields("baselines", "certify"),
    }


def world_fields(config: WorldConfig) -> dict[str, dict[str, Any]]:
    """The fields that the stages of a world depend on; `fit` and `dream` share these stages."""
    log = _fields(config, "seed", "env", "traces", "source")
    fit = log | _fields(config, "model", "images", "fit", "judge")
    return {"record": log, "fit": fit, "judge": fit}


def _fields(config: Any, *names: str) -> dict[str, Any]:
    every = values_of(config)
    return {name: every[name] for name in names}


def report_episodes(
    config: DreamConfig, log: Log, report: Report, once: Once
) -> dict[str, np.ndarray]:
    """Returns of every policy in fresh real episodes, and of the candidate in its dream."""
    key = stage_key(root_key(config), "dream_return")
    real, episodes = scorer(config, log), config.evaluation.episodes
    policies = report.baselines | {"candidate": report.rehearsed.student}
    seeds = list(range(REPORT_SEED, REPORT_SEED + episodes))

    def work(update: Callable) -> dict[str, np.ndarray]:
        scores = {} if real is None else {
            name: real(student, seeds, update) for name, student in policies.items()
        }  # fmt: skip
        returns = {name: x for name, (x, _) in scores.items()}
        returns["steps"] = np.array(sum(int(lengths.sum()) for _, lengths in scores.values()))
        student = report.rehearsed.student
        dreams = dream_returns(report.world, student, key, config.evaluation.dreams)
        return returns | {"dream": np.asarray(dreams, np.float64)}

    names = [] if real is None else list(policies)
    like = {name: np.zeros(episodes) for name in names}
    like |= {"steps": np.array(0), "dream": np.zeros(config.evaluation.dreams)}
    returns = once("evaluate", episodes * len(names) or None, like, work)
    behaviour = behaviour_return(log.traces)
    return {"behaviour": behaviour, **returns}


def certify_run(
    config: DreamConfig, log: Log, report: Report, once: Callable
) -> tuple[dict[str, Any], int]:
    """(the certificate of a round's world, the real steps that ranking policies took)."""
    tried = ranking_stage(
        config.certify,
        report.world,
        report.fitted.judges,
        clone=report.baselines["behaviour_cloning"],
        candidate=report.rehearsed.student,
        real=scorer(config, log),
        key=stage_key(root_key(config), "rank"),
        once=once,
    )
    regions = report.fitted.skill.get("regions")
    certificate = make_certificate(report.fidelity, regions, report.world, log, tried)
    return certificate | {"env": config.env.id}, int(tried.get("steps", 0))


def chance_hint(report: Report) -> str | None:
    """A line when the log looks random to a deterministic model."""
    share = report.fidelity.get("chance", 0.0)
    if report.world.model.num_codes > 1 or share < CHANCE:
        return None
    return (
        f"hint: {share:.0%} of what changes in a step is random to the members of this model, "
        "who agree with each other; try model.chance_codes=4"
    )


def save_artifacts(run_dir: Path, log: Log, report: Report) -> None:
    """The dream file and the deployed policy."""
    write_dream(run_dir / "world.dream", report.world)
    spaces = log.observation.space, log.action.space
    card = {"verdict": report.verdict.word, "discount": report.world.card["discount"]}
    card["horizon"] = int(report.world.horizon)
    policy = Policy(report.deployed, *spaces, report.world.model.window, card)
    save_policy(run_dir / "policy", policy)
