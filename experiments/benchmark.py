"""How fast this machine is: dreams, searches, learning.

`part=vectors` is the main job on CartPole, `part=images` EfficientZero online
on frames: search, acting, reanalysis (refresh), updates and their parts,
counted operations against the device's measured peak (MFU), and the predicted
minutes of a game of Atari-100k. Every figure is a median after warm-up;
programs are compiled anew, without the cache. Options that are null depend on
the device: in brackets below, first the value for a CPU, then for a GPU or TPU.
Examples:
  dreaming benchmark
  dreaming benchmark part=images size=nano path=benchmark.json
  dreaming benchmark part=images size=base batch=32 repetitions=3
  dreaming benchmark part=vectors devices=1 repetitions=9
"""

import platform
import sys
from pathlib import Path
from typing import Any

from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.command.unread import benchmark_rules, refuse
from experiments.config import BenchmarkConfig


def run(config: BenchmarkConfig, run_dir: Path) -> int:
    """Measure, print a table, and write the figures to `config.path` if it is given."""
    refuse(benchmark_rules(config))
    with Progress() as progress:
        progress.log(f"measuring on {platform.machine()}; this takes a few minutes")
        from experiments.command import runtime

        runtime.configure(devices=config.devices, cache_dir="")
        from dreaming.checkpoint import atomic_write
        from experiments.bench.table import table
        from experiments.pages.words import to_json

        result = measured(config, progress)
    print(table(result))
    if config.path is not None:
        atomic_write(config.path, to_json(result))
        print(f"written to {config.path}")
    return 0


def measured(config: BenchmarkConfig, progress: Progress) -> dict[str, Any]:
    """`figures` (flat; those of part=images as images/...), `machine`, and `images`: its shapes."""
    from experiments.bench import images, vectors
    from experiments.bench.case import make_workload
    from experiments.bench.peak import host_memory
    from experiments.runs.memory import out_of_memory_told

    figures: dict[str, float] = {}
    result: dict[str, Any] = {"figures": figures, "machine": machine()}
    if config.part in ("all", "vectors"):
        figures |= vectors.measure(config, progress)
    if config.part in ("all", "images"):
        case = make_workload(config)
        with out_of_memory_told(case.knobs):
            found = images.measure(case, progress)
        named = lambda name: name if name.startswith("device/") else f"images/{name}"
        figures |= {named(name): value for name, value in found.items()}
        result["images"] = case.shapes()
    figures["peak_memory_mb"] = host_memory()
    return result


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on."""
    import jax

    from experiments.command.runtime import usable_cores

    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "devices": [str(device) for device in jax.devices()],
        "cores": usable_cores(),
    }


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="benchmark", schema=BenchmarkConfig)


if __name__ == "__main__":
    sys.exit(main())
