"""Say once what a closed session was worth: thumbs up or down.

Actions of a session with thumbs down are never copied; what was seen of them
still teaches. Examples:
  dreaming session-review registry=registries/desks session=7-1 review=up
  dreaming session-review session=7-2 review=down score=2
  dreaming session-review session=7-3 review=down note='too strict'
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import SessionReviewConfig


def run(config: SessionReviewConfig, run_dir: Path) -> int:
    """Write a review."""
    runtime.configure()
    from dreaming.sessions.registry import Registry

    registry = Registry(config.registry)
    record = registry.review(config.session, config.review, score=config.score, note=config.note)
    print(f"session {record.id}: thumbs {config.review}")
    print(f"learn from it with: dreaming dream registry={registry.path} session={record.id}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="session_review", schema=SessionReviewConfig)


if __name__ == "__main__":
    sys.exit(main())
