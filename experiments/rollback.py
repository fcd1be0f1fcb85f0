"""Deploy an earlier state again; history goes on.

Nothing is rewritten: a rollback is one more head. Examples:
  dreaming rollback registry=registries/desks
  dreaming rollback registry=registries/desks steps=2
  dreaming rollback registry=registries/desks to=5f3a9c
The last one names the first digits of the hash of weights, or of a state.
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import RollbackConfig


def run(config: RollbackConfig, run_dir: Path) -> int:
    """Write a head with an earlier state."""
    runtime.configure()
    from dreaming.sessions.registry import Registry

    head = Registry(config.registry).rollback(to=config.to, steps=config.steps)
    print(f"head {head.number}: the state of head {head.to} is deployed again")
    print(f"state {head.state}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="rollback", schema=RollbackConfig)


if __name__ == "__main__":
    sys.exit(main())
