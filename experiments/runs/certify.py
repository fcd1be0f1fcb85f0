"""Certificates of finished runs and of dream files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreaming.config import BaselineConfig, CertifyConfig, LogConfig
from dreaming.errors import ConfigError, TraceError
from dreaming.observe.log import Log
from dreaming.observe.sample import chosen_episodes, most_rows
from dreaming.stages import stage_key
from dreaming.student.baselines import fit_baselines
from dreaming.student.policy import load_policy
from dreaming.world import certify
from envs.dreamfile import load_world
from envs.types import Features, action_features
from experiments.command.progress import Progress
from experiments.config import CertifyVerbConfig, DreamConfig
from experiments.logs.reading import check_task, log_source, read_log
from experiments.runs.certificate import OFF, life_stage, make_certificate, ranking_stage
from experiments.runs.directory import read_config
from experiments.runs.dream import certify_run, play_round, stage_fields
from experiments.runs.lineage import Lineage
from experiments.runs.once import Finished, kept_nowhere
from experiments.runs.scoring import scorer

FEW = 100  # with fewer held-out steps the figures say little


def certify_finished(config: CertifyVerbConfig, progress: Progress) -> dict[str, Any]:
    """The certificate of a finished run of `dream`; its stages are loaded, not repeated."""
    assert config.run is not None
    run_dir = Path(config.run)
    wanted: DreamConfig = read_config(run_dir, DreamConfig)
    wanted.certify = CertifyConfig(config.episodes, config.dreams)
    lineage = Lineage.at(run_dir)
    once = Finished(run_dir, stage_fields(wanted, lineage), progress)
    log = read_log(wanted, run_dir, once)
    report = play_round(wanted, log, once, lineage)
    return certify_run(wanted, log, report, kept_nowhere(progress), lineage)[0]


def certify_file(config: CertifyVerbConfig, progress: Progress) -> dict[str, Any]:
    """The certificate of a dream file on a log."""
    assert config.world is not None
    world = load_world(config.world, trust=config.trust)
    window = world.starts.o.shape[1]
    log = held_out_log(config, world)
    key = jax.random.key(config.seed % 2**32)
    span, discount = (float(world.card[name]) for name in ("value_span", "discount"))
    with progress.stage("hold out"):
        common = {"discount": discount, "span": span, "window": window}
        test = certify.held_out(world.model, world.params, log, stage_key(key, "certify"), **common)
        figures, found = certify.summarise([test], None, log.observation.kind)
    tried, life, why = try_policy(config, world, log, key, progress)
    figures |= life
    certificate = make_certificate(figures, found.get("regions"), world, log, tried, why)
    notes = seen_before(world, log)
    if len(log) < FEW:
        notes.append(f"the log holds {len(log)} steps; figures of so few say little")
    return certificate | {"env": config.env.id, "notes": notes}


def held_out_log(config: CertifyVerbConfig, world: Any) -> Any:
    """The log to test on. Raises `UserError` if its spaces differ from the world's."""
    as_run = DreamConfig(env=config.env, traces=config.traces, source=config.source)
    source, spaces = log_source(as_run, lambda n: None)
    name = config.traces or config.source.uri
    log = Log([], Features(spaces["observation_space"]), action_features(spaces["action_space"]))
    theirs = Features(world.observation_space), action_features(world.action_space)
    for what, ours, other in zip(
        ("observation", "action"), (log.observation, log.action), theirs, strict=True
    ):
        if ours.layout != other.layout:
            raise ConfigError(
                f"{config.world} has the {what} space {other.space}, {name} has {ours.space}; "
                "name a log of the same task"
            )
    log = Log(list(source), log.observation, log.action)
    if not log.traces:
        raise TraceError(f"{name}: the log is empty; name one with at least one episode")
    check_task(as_run, log)
    rows = np.array([len(trace) + 1 for trace in log.traces])
    return log.only(chosen_episodes(rows, most_rows(LogConfig(), log.observation.row_bytes)))


def try_policy(
    config: CertifyVerbConfig, world: Any, log: Any, key: Any, progress: Progress
) -> tuple[dict[str, Any], dict[str, float], str]:
    """(returns of the named policy and its fixed set, how long dreamed episodes of the log's clone
    last, reason if there are none)."""

    if config.policy is None:
        return {}, {}, "no policy was named with policy="
    policy = load_policy(config.policy)
    for name in ("observation_space", "action_space"):
        if getattr(policy, name) != getattr(world, name):
            raise ConfigError(
                f"{config.policy} has the {name.replace('_', ' ')} {getattr(policy, name)}, "
                f"{config.world} has {getattr(world, name)}; name a policy of the same task"
            )
    window = world.starts.o.shape[1]
    if policy.window != window:
        raise ConfigError(
            f"{config.policy} looks at {policy.window} observations, {config.world} at {window}; "
            "name a policy that was distilled in this world"
        )
    if not config.episodes:
        return {}, {}, OFF
    baselines = BaselineConfig().sized(log.observation.kind)
    with progress.stage("clone", total=2) as stage:
        fitted = fit_baselines(log, world, baselines, stage_key(key, "clone"), stage.update)
    as_run = DreamConfig(env=config.env)
    as_run.model.window = window
    settings = CertifyConfig(config.episodes, config.dreams)
    clone, once = fitted["behaviour_cloning"], kept_nowhere(progress)
    tried = ranking_stage(
        settings,
        world,
        [],
        clone=clone,
        candidate=policy.params,
        real=scorer(as_run, log),
        key=stage_key(key, "rank"),
        once=once,
    )
    given = {"clone": clone, "key": stage_key(key, "life"), "once": once}
    return tried, life_stage(settings, world, log, **given), ""


def seen_before(world: Any, log: Any) -> list[str]:
    """A note if the world seems to be fitted on the log: exact vectors do not occur twice."""
    if log.observation.kind in ("discrete", "frames"):
        return []
    first = [log.observation.flatten(trace.observations[:1])[0] for trace in log.traces]
    known = {row.tobytes() for row in np.asarray(world.starts.o[world.initial, -1], np.float32)}
    seen = sum(np.asarray(o, np.float32).tobytes() in known for o in first)
    if not seen or len(set(map(bytes, first))) < 2:
        return []
    return [
        f"{seen} of {len(first)} episodes begin exactly as episodes of the world's own log; "
        "it has seen them, and its figures are too good"
    ]
