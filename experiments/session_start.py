"""Start a session of real work in a deployment; prints its name.

A program of yours goes on with it (`Registry.go_on`); with steps= and family=
the policy works a deployment of a family at once. Without consent=true it is
recorded, and nothing is learned from it. Examples:
  dreaming session-start registry=registries/desks deployment=acme
  dreaming session-start deployment=acme consent=true
  dreaming session-start registry=registries/desks deployment=7 consent=true \\
      family=envs.processes.desk:make_deployment steps=100
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import SessionStartConfig


def run(config: SessionStartConfig, run_dir: Path) -> int:
    """Start a session, and print its name."""
    runtime.configure()
    from experiments.runs.sessions import start

    registry, session = start(config)
    record = registry.record(session)
    print(f"session {session}, {record.decisions} decisions so far")
    print(f"end it with: dreaming session-end registry={registry.path} session={session}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="session_start", schema=SessionStartConfig)


if __name__ == "__main__":
    sys.exit(main())
