"""What there is of sessions: decisions, reviews, consent.

Examples:
  dreaming session-status
  dreaming session-status registry=registries/desks json=status.json
  dreaming session-status registry=registries/desks session=7-1
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import SessionStatusConfig


def run(config: SessionStatusConfig, run_dir: Path) -> int:
    """Print a line per session."""
    runtime.configure()
    from experiments.runs.sessions import status, write_json

    found = status(config)
    for each in found:
        review = (each["review"] or {}).get("verdict", "not reviewed")
        consent = "consent" if each["consent"] else "no consent"
        print(
            f"{each['id']}: {each['state']}, {each['decisions']} decisions in {each['days']} days, "
            f"{each['outcomes']} outcomes and {each['rewards']} rewards seen, {review}, {consent}"
        )
    if not found:
        print("no session yet")
    write_json(config.json, found)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="session_status", schema=SessionStatusConfig)


if __name__ == "__main__":
    sys.exit(main())
