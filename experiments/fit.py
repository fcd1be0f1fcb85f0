"""Fit a world model on a log; test it on unseen episodes.

The first part of `dream`, without a policy: record (or read) the log, fit,
judge. The run directory then holds world.dream, an ordinary Gymnasium
environment, and result.json with its fidelity. Examples:
  dreaming fit env=cartpole
  dreaming fit traces=logs/cartpole env=none fit.steps=5000
  dreaming fit env=none source.name=parquet source.uri='logs/*.parquet' \\
      source.mapping=mapping.yaml
`dreaming dream hydra.run.dir=<the same directory>`, with the same options,
continues from here.
"""

import sys
from pathlib import Path
from typing import Any

from experiments.command.alone import alone_in
from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.config import WorldConfig


def run(config: WorldConfig, run_dir: Path) -> int:
    """Fit a world and write all results to `run_dir`."""
    with alone_in(run_dir), Progress(run_dir) as progress:
        task = config.traces or config.source.uri or config.env.id
        progress.log(f"fitting a world to {task}, seed {config.seed}, in {run_dir}")
        from experiments.command import runtime
        from experiments.command.trackers import final_figures, open_tracker

        progress.track(open_tracker(config, run_dir))
        runtime.configure(devices=config.devices)
        from experiments.runs.fit import make_world

        result = make_world(config, run_dir, progress)
        progress.finish(result["real_steps"], final_figures(result))
    print(summary(result, run_dir))
    return 0


def summary(result: dict[str, Any], run_dir: Path) -> str:
    """The text printed at the end of a fit."""
    lines = ["", "fidelity, on episodes that the tested model never saw:"]
    lines += [f"  {name:<28}{value:.4g}" for name, value in sorted(result["fidelity"].items())]
    lines += [f"world: {run_dir / 'world.dream'}", f"report: {run_dir / 'report.html'}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="fit", schema=WorldConfig, apart=True)


if __name__ == "__main__":
    sys.exit(main())
