"""Make a run directory of a packed run, to go on with it.

The real task is needed: episodes are repeated from their seeds, and their
frames are verified by hash. Nothing is overwritten. Then the command that began
the run goes on with it: dreaming online env=catch hydra.run.dir=runs/moved
Examples:
  dreaming unpack path=packs/catch to=runs/moved
  dreaming unpack path=packs/catch to=runs/online/dreaming/Catch-v0/seed0
  dreaming unpack path=/media/stick/pong to=runs/pong
"""

import sys
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.config import UnpackConfig


def run(config: UnpackConfig, run_dir: Path) -> int:
    """Unpack, and print where the run goes on."""
    from experiments.command import runtime

    runtime.configure()
    from experiments.runs.directory import check_new
    from experiments.runs.pack import is_game, other_versions, unpack_run

    target = Path(config.to)
    check_new(target)
    real_steps, packed = unpack_run(Path(config.path), target)
    print(f"{target}: verified; the run goes on after {real_steps} real steps, with")
    verb = "atari100k" if is_game(packed["config"]) else "online"
    print(f"  dreaming {verb} <the same options> hydra.run.dir={target}")
    if packed["optimiser"] != "float32":
        print(f"packed with optimiser={packed['optimiser']}: it will not end as it would have")
    for name, theirs, ours in other_versions(packed["versions"]):
        print(f"packed with {name} {theirs}, here is {ours}: it may not end as it would have")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="unpack", schema=UnpackConfig)


if __name__ == "__main__":
    sys.exit(main())
