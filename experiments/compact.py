"""Keep some rows of a session as context; its weights stay.

The baseline of `dream session=`: those rows with which the policy comes nearest
to what it does with all of them, if they surely help on other days. Examples:
  dreaming compact session=7-1
  dreaming compact registry=registries/desks session=7-1 rows=8
  dreaming compact registry=registries/desks session=7-1 reviews=0
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import CompactConfig


def run(config: CompactConfig, run_dir: Path) -> int:
    """Write a head with rows as context."""
    runtime.configure()
    from experiments.runs.sessions import compact

    learned = compact(config)
    print(learned.reason)
    if learned.head is not None:
        kept = learned.report["rows"]
        print(f"head {learned.head.number}: {kept} rows are context from now on")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="compact", schema=CompactConfig)


if __name__ == "__main__":
    sys.exit(main())
