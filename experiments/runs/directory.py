"""A run directory: beginning it, finishing it, and reading its configuration.

config.yaml       the options; from the start
metrics.jsonl     a line per progress update
traces/           the log
state/            finished stages, each a commit unit
world.dream, policy/, figures.json, certificate.json, result.json, report.html: at the end
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreaming.checkpoint import atomic_write
from dreaming.errors import ConfigError
from experiments.command.options import config_yaml
from experiments.pages.run_report import render
from experiments.pages.words import to_json

ADDED = ("model.name", "model.options", "model.features", "search.readout")  # in later versions
ADDED += ("search.batched_passes", "agent.search.batched_passes")
ADDED += ("log.most_steps", "log.most_mib", "images.compute")
# Options of vector models of earlier versions, which configs of all runs hold.
RETIRED = ("model.projection", "model.grounded", "fit.weights.consistency", "fit.weights.decode")
CONFIG, RESULT = "config.yaml", "result.json"
RESULT_VERSION = 3  # 1: before the incumbent of round 0 was the process as it ran; 2: before
# frames had an uncertainty, and dreams a margin of their own on either side of each number


def values_of(config: Any) -> dict[str, Any]:
    """What the state of a run depends on, by name. Options that came later count only where they
    are used, so that a run of an earlier version goes on."""
    values, default = dataclasses.asdict(config), dataclasses.asdict(type(config)())
    for name in ADDED:
        *groups, option = name.split(".")
        held, usual = values, default
        for group in groups:
            held, usual = held.get(group, {}), usual.get(group, {})
        if option in held and held[option] == usual[option]:
            del held[option]
    return {name: value for name, value in values.items() if value != {}}


def begin(run_dir: Path, config: Any) -> None:
    """Write config.yaml of a starting run; an existing file belongs to it until it finishes."""
    if not (run_dir / CONFIG).exists():
        atomic_write(run_dir / CONFIG, config_yaml(config))


def finish(
    run_dir: Path,
    config: Any,
    result: dict[str, Any],
    figures: dict[str, Any],
    certificate: dict[str, Any] | None = None,
) -> None:
    """Write the results of a run, result.json last, and the report."""
    atomic_write(run_dir / CONFIG, config_yaml(config))
    atomic_write(run_dir / "figures.json", to_json(figures))
    if certificate is not None:
        atomic_write(run_dir / "certificate.json", to_json(certificate))
    atomic_write(run_dir / RESULT, to_json(result))
    render(run_dir)


def read_config(run_dir: Path, schema: type) -> Any:
    """The configuration of a run, as an instance of `schema`. Raises `ConfigError`."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_dir} holds no {CONFIG}; name the directory of a run")
    return parse_config(path.read_text("utf-8"), schema, str(path))


def parse_config(text: str, schema: type, where: str) -> Any:
    """A configuration as an instance of `schema`, from YAML. Raises `ConfigError` with `where`."""
    try:
        stored = without(RETIRED, OmegaConf.create(text))
        merged = OmegaConf.merge(OmegaConf.structured(schema), stored)
        return OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{where} is of another kind of run, or of another version ({reason}); make the run "
            "anew"
        ) from error


def without(names: Iterable[str], config: Any) -> Any:
    """`config` without these options, where it holds them."""
    for name in names:
        group, _, option = name.rpartition(".")
        held = OmegaConf.select(config, group)
        if held is not None and option in held:
            del held[option]
    return config


def check_new(target: Path) -> None:
    """Raise `ConfigError` unless `target` is missing or an empty directory."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"to={target} exists already; choose another path, or remove it")
