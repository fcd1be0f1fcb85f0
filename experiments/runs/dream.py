"""The main job step by step: log, one round, report episodes, files."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreaming.config import RoundConfig
from dreaming.errors import ConfigError
from dreaming.observe.collect import behaviour_return
from dreaming.observe.log import Log
from dreaming.round import Report, RoundState, one_round, stage_key
from dreaming.student.policy import Policy, policy_files
from dreaming.student.walks import dream_returns
from dreaming.world.discount import discount_line
from dreaming.world.fitting import check_name
from dreaming.world.physics import LearnedPhysics
from envs.dreamfile import check_key, write_dream
from experiments.command.progress import Progress
from experiments.command.unread import GIVEN, dream_rules, refuse
from experiments.config import DreamConfig, WorldConfig
from experiments.logs.reading import kind_of, log_source, read_log
from experiments.pages.lineage import write_lineage
from experiments.pages.run_report import render
from experiments.pages.strip import dream_strip
from experiments.runs.certificate import life_stage, make_certificate, ranking_stage
from experiments.runs.costs import cost_line
from experiments.runs.directory import (
    RESULT_VERSION,
    begin,
    finish,
    read_config,
    values_of,
)
from experiments.runs.lineage import Lineage, digest_of, next_of, read_result, rounds_of
from experiments.runs.once import Once
from experiments.runs.pace import Pace
from experiments.runs.results import REPORT_SEED, make_result, root_key
from experiments.runs.scoring import dream_horizon, scorer

CHANCE = 0.4  # share of unexplained change from which a deterministic model is doubted


def whole_loop(config: DreamConfig, run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Everything `dreaming dream` does; the content of result.json.

    Raises `UserError` for what the user can mend.
    """
    if len(rounds_of(run_dir)) > 1:
        raise ConfigError(
            f"{run_dir} has rounds on top of it; go on with run={run_dir} traces=..., or draw its "
            f"report again with `dreaming report run={run_dir}`"
        )
    if (old := earlier(run_dir)) is not None:
        progress.log(f"{run_dir} was finished by an earlier version; its report is drawn again")
        return old
    return play(config, Lineage(run_dir), progress)


def earlier(run_dir: Path) -> dict[str, Any] | None:
    """The result of a run that an earlier version finished, whose stages cannot go on."""
    result = read_result(Lineage(run_dir))
    if result is None or "verdict" not in result or result["schema_version"] == RESULT_VERSION:
        return None
    render(run_dir)
    return result


def play(config: DreamConfig, lineage: Lineage, progress: Progress) -> dict[str, Any]:
    """One round of a lineage, from its log to its report."""
    run_dir = lineage.run_dir
    check_name(config.model.name)
    check_key()
    pace = Pace(config.budget_minutes)
    once = Once(run_dir, stage_fields(config, lineage), progress, pace)
    refuse(dream_rules(config, kind_of(config, run_dir, once)))
    log = read_log(config, run_dir, once)
    begin(run_dir, config)
    progress.log(discount_line(config.fit, log.traces))
    if not once.stages.done("fit") and (line := cost_line(log, physics_of(config))):
        progress.log(line)
    report = play_round(config, log, once, lineage)
    if config.model.name in ("auto", "mlp") and (hint := chance_hint(report)):
        progress.log(hint)
    returns = report_episodes(config, log, report, once, lineage)
    certificate, steps = certify_run(config, log, report, once, lineage)
    progress.log(f"certified: {certificate['sentence']}")
    save_artifacts(lineage, log, report)
    report = dataclasses.replace(report, fidelity=certificate["figures"])
    returns["steps"] = returns["steps"] + steps
    result = make_result(config, log, report, returns, lineage, once)
    shown = {name: x.tolist() for name, x in returns.items() if x.ndim and x.size}
    strip = dream_strip(report.world, log)
    figures = {"returns": shown, "open_loop": report.fitted.skill, "strip": strip}
    finish(run_dir, config, result, figures, certificate)
    return result


def physics_of(config: DreamConfig) -> LearnedPhysics:
    """Where the physics of a run comes from."""
    return LearnedPhysics(config.model, config.fit, config.judge, config.images)


def play_round(config: DreamConfig, log: Log, once: Callable, lineage: Lineage) -> Report:
    """The round of a run; `once` is that of `one_round`."""
    parts = ("search", "rehearse", "distill", "baselines", "gate")
    rules = RoundConfig(**{name: getattr(config, name) for name in parts})
    physics = physics_of(config)
    physics.check(log, config.search, config.rehearse.behaviour_penalty)
    before = lineage.incumbent()
    state = RoundState() if before is None else RoundState(before.params, name=before.name)
    _, report = one_round(
        state,
        round_key(config, lineage),
        log=log,
        physics=physics,
        config=rules,
        horizon=dream_horizon(config, log),
        real=scorer(config, log),
        once=once,
        trials=lineage.trial,
    )
    return report


def round_key(config: DreamConfig, lineage: Lineage) -> jax.Array:
    """The key that the keys of all stages of a round come from."""
    key = root_key(config)
    return jax.random.fold_in(key, lineage.number) if lineage.number else key


def stage_fields(config: DreamConfig, lineage: Lineage) -> dict[str, dict[str, Any]]:
    """The fields that each stage depends on; a run of other fields is another run."""
    fields = functools.partial(_fields, config)
    stages, later = world_fields(config), {}
    if lineage.number:
        before = lineage.incumbent()
        later = {"round": lineage.number, "incumbent": before and before.name}
    rehearse = stages["fit"] | fields("search", "rehearse", "distill") | later
    gated = rehearse | fields("gate", "baselines") | {"gate_rules": 2}
    return stages | {
        "clone": stages["fit"] | fields("baselines"),
        "rehearse": rehearse,
        "gate": gated,
        "evaluate": gated | fields("evaluation"),
        "certify": rehearse | fields("baselines", "certify"),
        "life": stages["fit"] | fields("baselines", "certify"),
    }


def world_fields(config: WorldConfig) -> dict[str, dict[str, Any]]:
    """The fields that the stages of a world depend on; `fit` and `dream` share these stages."""
    log = _fields(config, "seed", "env", "traces", "source")
    fit = log | _fields(config, "log", "model", "images", "fit", "judge") | {"split": 2}
    return {"record": log, "fit": fit, "judge": fit}


def _fields(config: Any, *names: str) -> dict[str, Any]:
    every = values_of(config)
    return {name: every[name] for name in names if name in every}


def report_episodes(
    config: DreamConfig, log: Log, report: Report, once: Once, lineage: Lineage
) -> dict[str, np.ndarray]:
    """Returns of every policy in fresh real episodes, and of the candidate in its dream; those of
    the log beside them."""
    key = stage_key(round_key(config, lineage), "dream_return")
    real, episodes = scorer(config, log), config.evaluation.episodes
    policies = report.baselines | {"candidate": report.rehearsed.student}
    if not report.incumbent.is_clone:
        policies |= {"incumbent": report.incumbent.params}
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
    logged = {"behaviour": behaviour_return(log.traces), "as_it_ran": report.incumbent.returns}
    return logged | returns


def certify_run(
    config: DreamConfig, log: Log, report: Report, once: Callable, lineage: Lineage
) -> tuple[dict[str, Any], int]:
    """(the certificate of a round's world, the real steps that ranking policies took)."""
    key, clone = round_key(config, lineage), report.baselines["behaviour_cloning"]
    tried = ranking_stage(
        config.certify,
        report.world,
        report.fitted.judges,
        clone=clone,
        candidate=report.rehearsed.student,
        real=scorer(config, log),
        key=stage_key(key, "rank"),
        once=once,
    )
    given = {"clone": clone, "key": stage_key(key, "life"), "once": once}
    figures = report.fidelity | life_stage(config.certify, report.world, log, **given)
    regions = report.fitted.skill.get("regions")
    certificate = make_certificate(figures, regions, report.world, log, tried)
    return certificate | {"env": config.env.id}, int(tried.get("steps", 0))


def chance_hint(report: Report) -> str | None:
    """A line when the log looks random to a deterministic model, or when it learned nothing."""
    share = report.fidelity.get("chance", 0.0)
    if report.world.model.num_codes > 1 or share < CHANCE:
        return None
    if share > 1:
        return (
            "hint: this model knows the next observation less well than if nothing ever changed; "
            "give it more steps (fit.steps) or more of the log"
        )
    return (
        f"hint: {share:.0%} of what changes in a step is random to the members of this model, "
        "who agree with each other; try model.chance_codes=4"
    )


def save_artifacts(lineage: Lineage, log: Log, report: Report) -> None:
    """The dream file, the candidate, and what is deployed now, if that is new."""
    write_dream(lineage.run_dir / "world.dream", report.world)
    verdict = report.verdict
    card = {"verdict": verdict.word, "reasons": list(verdict.reasons)}
    card |= {"discount": report.world.card["discount"], "horizon": int(report.world.horizon)}
    of = lambda params: policy_files(
        Policy(
            params, log.observation.space, log.action.space, report.world.model.window, dict(card)
        )
    )
    lineage.leave(of(report.rehearsed.student), of(report.deployed) if verdict.accept else None)


def next_round(config: DreamConfig, progress_in: Callable) -> tuple[dict[str, Any], Lineage]:
    """(result.json of the next round of the run `config.run` on a log that grew, and the round).

    `progress_in(run_dir, config)` is the progress of a round. Everything is checked before
    anything is made. Raises `UserError`.
    """
    root = Path(config.run or "")
    if config.traces is None and config.source.name is None:
        raise ConfigError("run= needs the log that grew; name it with traces= or source.name=")
    config = continued(config, read_config(root, DreamConfig))
    source, spaces = log_source(config, lambda n: None)
    episodes = [digest_of(trace, spaces) for trace in source]
    lineage = next_of(root, episodes)
    if not (lineage.run_dir / "state" / "record").exists():  # it has its log
        lineage.check_log(episodes, spaces)
        lineage.check_incumbent(spaces, config.model.window)
        lineage.begin()
    with progress_in(lineage.run_dir, config) as progress:
        result = play(config, lineage, progress)
    write_lineage(root)
    return result, lineage


FIXED = ("env", "seed", "experiment", "context", "model.window")  # in a lineage
ANEW = ("traces", "source", "run", "devices", "budget_minutes")  # given with each round


def continued(config: DreamConfig, first: DreamConfig) -> DreamConfig:
    """The options of a next round: those of round 0, with what the command line gives anew.

    Raises `ConfigError` for what a lineage does not change.
    """
    values, given = (dataclasses.asdict(each) for each in (first, config))
    for name in GIVEN.get():
        group, *_ = names = name.split(".")
        if any(f"{name}.".startswith(f"{each}.") for each in FIXED):
            raise ConfigError(
                f"{name} cannot change in a next round: its incumbent, its task and its error "
                "probability are those of run=; start another run"
            )
        if group == "hydra":
            raise ConfigError(f"{name} has no effect with run=; a round is kept in run=/rounds")
        if group not in ANEW:
            inner, new = values, given
            for each in names[:-1]:
                inner, new = inner[each], new[each]
            inner[names[-1]] = new[names[-1]]
    if "teacher" in GIVEN.get():
        values["search"]["teacher"] = given["teacher"]
    values |= {name: given[name] for name in ANEW} | {"run": None}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DreamConfig), OmegaConf.create(values))
        return OmegaConf.to_object(merged)  # type: ignore
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"these options do not fit those of {config.run}: {reason}") from error
