"""Pack an online run on images into a few small files.

Packed is the newest checkpoint without its frames, which `unpack` rebuilds by
repeating the recorded actions from the recorded seeds: parts of at most 16 MiB,
at most 64 MiB in all, with a manifest of hashes. The run that goes on from it
ends with the same weights as the one that never left. optimiser=bfloat16 halves
the moments of the optimiser; then it does not.
Examples:
  dreaming pack run=runs/online/dreaming/Catch-v0/seed0 to=packs/catch
  dreaming pack run=path/to/run to=packs/pong optimiser=bfloat16
  dreaming pack run=path/to/run to=/media/stick/run
Then, on the other machine: dreaming unpack path=... to=...
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.cli import run_verb
from experiments.config import PackConfig

CARRIED = "metrics.jsonl"  # of the run directory; the state and config.yaml come anyway


def run(config: PackConfig, run_dir: Path) -> int:
    """Pack, and say what takes how much."""
    from experiments import runtime

    runtime.configure()
    target = Path(config.to)
    sizes = pack_run(Path(config.run), target, config.optimiser)
    print(f"{target}: {sum(sizes.values()) / 2**20:.1f} MiB in {len(list(target.iterdir()))} files")
    for name, size in sizes.items():
        print(f"  {name:<12}{size:>12,} bytes")
    if config.optimiser != "float32":
        print("moments of the optimiser lost digits: the run will not end as it would have")
    return 0


def pack_run(source: Path, target: Path, optimiser: str) -> dict[str, int]:
    """Pack the newest checkpoint of a run; bytes by group. Raises `UserError`."""
    from dreaming.packing import pack
    from dreaming.stages import Stages
    from experiments.loop import VERSIONS
    from experiments.online_images import NAME, stage_fields

    check_new(target)
    config = read_config(source)
    stages = Stages(source, stage_fields(config), say=print)
    if not stages.done(NAME):
        raise nothing_to_pack(source)
    saved, metrics = stages.unit(NAME), source / CARRIED
    about = {
        "config": (source / "config.yaml").read_text(),
        "info": saved.manifest["extra"]["info"],
        "versions": {name: version(name) for name in VERSIONS},
    }
    files = {CARRIED: metrics.read_bytes()} if metrics.exists() else {}
    return pack(saved, target, about=about, files=files, optimiser=optimiser)


def check_new(target: Path) -> None:
    """Raise `ConfigError` for a directory that something lies in."""
    from dreaming.errors import ConfigError

    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"to={target} exists already; choose another path, or remove it")


def read_config(source: Path) -> Any:
    """The configuration of a run directory."""
    try:
        return parse_config((source / "config.yaml").read_text())
    except OSError as error:
        raise nothing_to_pack(source) from error


def parse_config(text: str) -> Any:
    """The configuration of an online run from YAML. Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dreaming.errors import ConfigError
    from experiments.config import OnlineConfig

    try:
        given = OmegaConf.create(text)
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OnlineConfig), given))
    except (OmegaConfBaseException, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise ConfigError(f"not the configuration of an online run: {what}") from error


def nothing_to_pack(source: Path) -> Exception:
    """What is said of a directory that holds no state of an agent."""
    from dreaming.errors import ConfigError

    return ConfigError(
        f"run={source} holds no checkpoint of an agent; name the directory of a run of "
        "`dreaming online` on a task that shows frames"
    )


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb(run, argv, config_name="pack", schema=PackConfig)


if __name__ == "__main__":
    sys.exit(main())
