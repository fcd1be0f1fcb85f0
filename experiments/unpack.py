"""Make a run directory of a packed run, to go on with it.

The real task is needed: episodes are repeated from their seeds, and what they
show is verified by hash. Nothing is overwritten. Then the command that began
the run goes on with it: dreaming online env=catch hydra.run.dir=runs/moved
Examples:
  dreaming unpack path=packs/catch to=runs/moved
  dreaming unpack path=packs/catch to=runs/online/dreaming/Catch-v0/seed0
  dreaming unpack path=/media/stick/pong to=runs/pong
"""

import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.cli import run_verb
from experiments.config import UnpackConfig
from experiments.pack import check_new, parse_config


def run(config: UnpackConfig, run_dir: Path) -> int:
    """Unpack, and say from where the run goes on."""
    from experiments import runtime

    runtime.configure()
    target = Path(config.to)
    check_new(target)
    real_steps, packed = unpack_run(Path(config.path), target)
    print(f"{target}: verified; the run goes on after {real_steps} real steps, with")
    print(f"  dreaming online <the same options> hydra.run.dir={target}")
    if packed["optimiser"] != "float32":
        print(f"packed with optimiser={packed['optimiser']}: it will not end as it would have")
    for name, theirs, ours in other_versions(packed["versions"]):
        print(f"packed with {name} {theirs}, here is {ours}: it may not end as it would have")
    return 0


def unpack_run(source: Path, target: Path) -> tuple[int, dict[str, Any]]:
    """(real steps so far, the manifest) of what `target` goes on with. Raises `UserError`."""
    import jax

    from dreaming.agent import make_agent
    from dreaming.checkpoint import atomic_write, decode
    from dreaming.packing import files_of, read_pack, with_frames
    from dreaming.stages import Stages
    from envs.atomic import sync_directory
    from experiments.loop import root_key
    from experiments.online_images import NAME, stage_fields

    packed = read_pack(source)
    config, info = parse_config(packed.manifest["config"]), packed.manifest["info"]
    frames, num_actions = rebuild(config, packed)
    agent = make_agent(config.agent, frames.shape[1:], num_actions)
    state = decode(with_frames(packed, frames), jax.eval_shape(agent.init, root_key(config)))
    draft = target.parent / f"{target.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)  # of an attempt that was cut
    try:
        for name, data in files_of(packed).items():
            atomic_write(draft / name, data)
        atomic_write(draft / "config.yaml", packed.manifest["config"])
        Stages(draft, stage_fields(config)).commit(NAME, jax.device_get(state), info)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(target.parent)
    return int(state.real_steps), packed.manifest


def rebuild(config: Any, packed: Any) -> tuple[Any, int]:
    """(the frames of the ring, how many actions the task has). Raises `EnvError`."""
    from dreaming.errors import EnvError
    from envs.real import make_real
    from experiments.online_images import make_actors

    env, shape = config.env, tuple(packed.manifest["frames"]["shape"])
    pi_search, added = packed.arrays[".ring.pi_search"], int(packed.arrays[".ring.added"])
    actors = make_actors(config, lambda: make_real(env.id, **env.options))
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
    """(name, version there, version here) of the packages that differ."""
    here = {name: version(name) for name in packed}
    return [(name, packed[name], here[name]) for name in packed if packed[name] != here[name]]


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="unpack", schema=UnpackConfig)


if __name__ == "__main__":
    sys.exit(main())
