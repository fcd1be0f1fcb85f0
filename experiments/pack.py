"""Pack an online run on frames into a few small files.

Packs the newest checkpoint without its frames, which `unpack` rebuilds by
repeating the recorded actions from the recorded seeds: parts of at most 16 MiB,
at most 64 MiB in all, with a manifest of hashes. The unpacked run ends with the
same weights as a run that was never packed; not so with optimiser=bfloat16,
which halves the bytes of the optimiser's moments.
Examples:
  dreaming pack run=runs/online/dreaming/Catch-v0/seed0 to=packs/catch
  dreaming pack run=path/to/run to=packs/pong optimiser=bfloat16
  dreaming pack run=path/to/run to=/media/stick/run
Then, on the other machine: dreaming unpack path=... to=...
"""

import sys
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.config import PackConfig


def run(config: PackConfig, run_dir: Path) -> int:
    """Pack a run, and print the bytes of each group."""
    from experiments.command import runtime

    runtime.configure()
    from experiments.runs.pack import pack_run

    target = Path(config.to)
    sizes = pack_run(Path(config.run), target, config.optimiser)
    print(f"{target}: {sum(sizes.values()) / 2**20:.1f} MiB in {len(list(target.iterdir()))} files")
    for name, size in sizes.items():
        print(f"  {name:<12}{size:>12,} bytes")
    if config.optimiser != "float32":
        print("moments of the optimiser lost digits: the run will not end as it would have")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="pack", schema=PackConfig)


if __name__ == "__main__":
    sys.exit(main())
