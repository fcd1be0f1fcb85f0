"""Say how far a world can be trusted: figures with targets.

A finished run is certified on the episodes it held out, and its policies are
ranked by models that did not plan; certificate.json in its directory is
written, and its report drawn, anew. A dream file is certified on any log of
the same spaces; that log should be new to it. Examples:
  dreaming certify run=runs/dream/CartPole-v1/seed0
  dreaming certify world=my.dream traces=my/log
  dreaming certify world=my.dream traces=my/log policy=my/policy env=cartpole
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.certificate import text
from experiments.cli import run_verb
from experiments.config import CertifyVerbConfig, DreamConfig
from experiments.progress import Progress

ONE = "name either run= (a finished run) or world= (a dream file) with traces="
FEW = 100  # held-out steps: with fewer the figures say little


def run(config: CertifyVerbConfig, run_dir: Path) -> int:
    """Certify, write and show."""
    with Progress() as progress:
        from dreaming.checkpoint import atomic_write
        from experiments import runtime
        from experiments.report import render, to_json

        _check(config)
        runtime.configure(devices=config.devices)
        certificate = (certify_finished if config.run else certify_file)(config, progress)
    path = Path(config.path) if config.path else None
    if config.run:
        path = path or Path(config.run) / "certificate.json"
    if path:
        atomic_write(path, to_json(certificate))
    if config.run and not config.path:
        render(config.run)
    print(text(certificate))
    return 0


def _check(config: CertifyVerbConfig) -> None:
    """Raise `ConfigError` for options that do not go together."""
    from dreaming.errors import ConfigError

    has_log = config.traces is not None or config.source.name is not None
    if (config.run is None) == (config.world is None):
        raise ConfigError(ONE)
    others = {"traces": has_log, "policy": config.policy, "env": config.env.id != "none"}
    given = [name for name, value in others.items() if value]
    if config.run and given:
        raise ConfigError(f"{given[0]}= belongs to world=; a run knows its own")
    if config.world and not has_log:
        raise ConfigError("world= needs a log that it has not seen; name it with traces=")


def certify_finished(config: CertifyVerbConfig, progress: Progress) -> dict[str, Any]:
    """The certificate of a run of `dream`, whose stages are loaded and not worked out again."""
    import dataclasses

    from experiments import loop

    assert config.run is not None
    run_dir = Path(config.run)
    wanted = read_config(run_dir)
    wanted.certify = dataclasses.replace(
        wanted.certify, episodes=config.episodes, dreams=config.dreams
    )
    desk = finished(run_dir, loop.stage_fields(wanted), progress)
    log = loop.read_log(wanted, run_dir, desk)
    report = loop.play_round(wanted, log, desk)
    return loop.certify_run(wanted, log, report, shown(progress))[0]


def read_config(run_dir: Path) -> DreamConfig:
    """The configuration that a run was made with. Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dreaming.errors import ConfigError

    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{run_dir} holds no config.yaml; name a finished run of `dreaming dream`"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DreamConfig), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{path} is of another version ({reason}); make the run anew") from error
    assert isinstance(config, DreamConfig)
    return config


def finished(run_dir: Path, fields: dict[str, dict], progress: Progress) -> Callable:
    """A desk that only loads: `ConfigError` for a stage that was never finished."""
    from dreaming.errors import ConfigError
    from dreaming.stages import Stages

    stages = Stages(run_dir, fields, say=progress.log)

    def load(stage: str, total: Any, like: Any, work: Callable) -> Any:
        if not stages.done(stage):
            raise ConfigError(
                f"{run_dir}: stage {stage} is not finished; finish the run with `dreaming dream "
                f"hydra.run.dir={run_dir}`"
            )
        return stages.load(stage, like)

    return load


def shown(progress: Progress) -> Callable:
    """A desk that works and keeps nothing."""

    def work_out(stage: str, total: int | None, like: Any, work: Callable) -> Any:
        with progress.stage(stage, total=total) as at_work:
            return work(at_work.update)

    return work_out


def certify_file(config: CertifyVerbConfig, progress: Progress) -> dict[str, Any]:
    """The certificate of a dream file on a log."""
    import jax

    from dreaming import certify
    from dreaming.round import stage_key
    from envs.dreamfile import load_world
    from experiments.trial import make_certificate

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
    tried, why = try_policy(config, world, log, key, progress)
    certificate = make_certificate(figures, found.get("regions"), world, log, tried, why)
    notes = seen_before(world, log)
    if len(log) < FEW:
        notes.append(f"the log holds {len(log)} steps; figures of so few say little")
    return certificate | {"env": config.env.id, "notes": notes}


def held_out_log(config: CertifyVerbConfig, world: Any) -> Any:
    """The log to test on. Raises `UserError` where it is not one of the world's spaces."""
    from dreaming.errors import ConfigError, TraceError
    from dreaming.log import Log
    from envs.types import Features, action_features
    from experiments.loop import check_task, log_source

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
    return log


def try_policy(
    config: CertifyVerbConfig, world: Any, log: Any, key: Any, progress: Progress
) -> tuple[dict[str, Any], str]:
    """(what trying the named policy and its fixed set gave, why there is nothing)."""
    from dreaming.baselines import fit_baselines
    from dreaming.config import BaselineConfig, CertifyConfig
    from dreaming.errors import ConfigError
    from dreaming.policy import load_policy
    from dreaming.round import stage_key
    from experiments.loop import scorer
    from experiments.trial import OFF, ranking_stage

    if config.policy is None:
        return {}, "no policy was named with policy="
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
        return {}, OFF
    baselines = BaselineConfig().sized(log.observation.kind)
    with progress.stage("clone", total=2) as stage:
        fitted = fit_baselines(log, world, baselines, stage_key(key, "clone"), stage.update)
    as_run = DreamConfig(env=config.env)
    as_run.model.window = window
    settings = CertifyConfig(config.episodes, config.dreams)
    students = fitted["behaviour_cloning"], policy.params
    rest = scorer(as_run, log), stage_key(key, "rank"), shown(progress)
    return ranking_stage(settings, world, [], *students, *rest), ""


def seen_before(world: Any, log: Any) -> list[str]:
    """A note where the world seems to know the log: exact starts of vectors do not come twice."""
    import numpy as np

    if log.observation.kind in ("discrete", "pixels"):
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


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="certify", schema=CertifyVerbConfig)


if __name__ == "__main__":
    sys.exit(main())
