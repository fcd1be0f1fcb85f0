"""Packing a run of the online agent for another machine, and unpacking it there."""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from dreaming.checkpoint import atomic_write, decode
from dreaming.efficientzero.agent import make_agent
from dreaming.efficientzero.packing import files_of, pack, read_pack, with_frames
from dreaming.errors import ConfigError, EnvError
from dreaming.stages import Stages
from envs.atomic import sync_directory
from envs.real import make_real
from experiments.config import OnlineConfig
from experiments.runs.atari_options import AtariConfig, online
from experiments.runs.directory import CONFIG, check_new, parse_config
from experiments.runs.online_frames import NAME, make_actors, stage_fields
from experiments.runs.results import VERSIONS, root_key

CARRIED = "metrics.jsonl"  # packed as a file, besides the state and config.yaml


def pack_run(source: Path, target: Path, optimiser: str) -> dict[str, int]:
    """Pack the newest checkpoint of a run; returns bytes by group. Raises `UserError`."""
    check_new(target)
    if not (source / CONFIG).is_file():
        raise nothing_to_pack(source)
    told = (source / CONFIG).read_text("utf-8")
    config = settings(told, str(source / CONFIG))
    stages = Stages(source, stage_fields(config), say=print)
    if not stages.done(NAME):
        raise nothing_to_pack(source)
    saved, metrics = stages.unit(NAME), source / CARRIED
    about = {
        "config": told,
        "info": saved.manifest["extra"]["info"],
        "versions": {name: version(name) for name in VERSIONS},
    }
    files = {CARRIED: metrics.read_bytes()} if metrics.exists() else {}
    return pack(saved, target, about=about, files=files, optimiser=optimiser)


def nothing_to_pack(source: Path) -> Exception:
    """The error for a directory without a checkpoint of an agent."""
    return ConfigError(
        f"run={source} holds no checkpoint of an agent; name the directory of a run of "
        "`dreaming online` on a task that shows frames"
    )


def settings(told: str, where: str) -> OnlineConfig:
    """The online run that a config.yaml is of: its own options, or those of a game of Atari-100k.
    Raises `ConfigError`."""
    if is_game(told):
        return online(parse_config(told, AtariConfig, where))
    return parse_config(told, OnlineConfig, where)


def is_game(told: str) -> bool:
    """Whether a config.yaml is of a game of Atari-100k."""
    return any(line.startswith("game:") for line in told.splitlines())


def unpack_run(source: Path, target: Path) -> tuple[int, dict[str, Any]]:
    """Unpack into `target`: (real steps so far, the manifest). Raises `UserError`."""
    packed = read_pack(source)
    config = settings(packed.manifest["config"], f"{source}: its config")
    frames, num_actions = rebuild(config, packed)
    agent = make_agent(config.agent, frames.shape[1:], num_actions)
    state = decode(with_frames(packed, frames), jax.eval_shape(agent.init, root_key(config)))
    draft = target.parent / f"{target.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted attempt
    try:
        for name, data in files_of(packed).items():
            atomic_write(draft / name, data)
        atomic_write(draft / CONFIG, packed.manifest["config"])
        Stages(draft, stage_fields(config)).commit(
            NAME, jax.device_get(state), packed.manifest["info"]
        )
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(target.parent)
    return int(state.real_steps), packed.manifest


def rebuild(config: Any, packed: Any) -> tuple[Any, int]:
    """(the frames of the ring, number of actions), by repeating episodes. Raises `EnvError`."""
    env, shape = config.env, tuple(packed.manifest["frames"]["shape"])
    pi_search, added = packed.arrays[".ring.pi_search"], int(packed.arrays[".ring.added"])
    actors = make_actors(config, lambda: make_real(env.id, env.options))
    try:
        found, expected = (actors.frame, actors.num_actions), (shape[1:], pi_search.shape[1])
        if found != expected:
            raise EnvError(
                f"{env.id} has frames {list(found[0])} and {found[1]} actions here, but frames "
                f"{list(expected[0])} and {expected[1]} actions where the run was packed; install "
                "the version of the task that it was learned in"
            )
        ticks = added // config.agent.envs
        return actors.replay(packed.manifest["info"]["actors"], ticks, shape[0]), actors.num_actions
    finally:
        actors.close()


def other_versions(packed: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, packed version, version here) of the packages whose versions differ."""
    here = {name: version(name) for name in packed}
    return [(name, packed[name], here[name]) for name in packed if packed[name] != here[name]]
