"""Found a registry: pretrain a base that learns in context.

A family is any function that makes a Gymnasium task of a number; its tasks need
an oracle, `right_action(o)`. The base learns over many of them how to learn a
new one from its own rows. Examples:
  dreaming pretrain registry=registries/desks
  dreaming pretrain registry=registries/large \\
      family=envs.processes.desk:make_large
  dreaming pretrain registry=registries/mine family=my.package:make_deployment
Then start sessions with `dreaming session-start`.
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.command.progress import Progress
from experiments.runs.session_config import PretrainVerbConfig


def run(config: PretrainVerbConfig, run_dir: Path) -> int:
    """Pretrain, and print what was founded."""
    with Progress() as progress:
        runtime.configure()
        from experiments.runs.sessions import make_registry

        sizes = config.pretrain
        total = sizes.updates + sizes.own_rounds * sizes.own_updates
        progress.log(f"pretraining on {config.family}, seed {config.seed}")
        with progress.stage("pretrain", total=total) as stage:
            registry = make_registry(config, stage.update)
    head = registry.head()
    print(f"base {head.base[:12]}, pretrained in {head.report['seconds']} s")
    print(f"registry: {registry.path}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="pretrain", schema=PretrainVerbConfig)


if __name__ == "__main__":
    sys.exit(main())
