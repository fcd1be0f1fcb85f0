"""End a session that was left open.

Nothing is learned from a session that is open, and nobody reviews one. Sessions
of the Python API (`with registry.session(...)`) end by themselves. Examples:
  dreaming session-end session=acme-1
  dreaming session-end registry=registries/desks session=7-1
  dreaming session-end registry=registries/desks session=7-2
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import SessionConfig


def run(config: SessionConfig, run_dir: Path) -> int:
    """Close a session."""
    runtime.configure()
    from dreaming.sessions.registry import Registry

    record = Registry(config.registry).close(config.session)
    print(f"session {record.id} is closed, with {record.decisions} decisions")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="session_end", schema=SessionConfig)


if __name__ == "__main__":
    sys.exit(main())
