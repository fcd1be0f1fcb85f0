"""Which sessions and reviews produced which weights.

Examples:
  dreaming history
  dreaming history registry=registries/desks json=history.json
  dreaming history registry=registries/desks picture=history.svg
"""

import sys
from pathlib import Path

from experiments.command import runtime
from experiments.command.cli import run_verb
from experiments.runs.session_config import HistoryConfig


def run(config: HistoryConfig, run_dir: Path) -> int:
    """Print every head."""
    runtime.configure()
    from dreaming.sessions.registry import Registry
    from experiments.runs.sessions import draw_history, history, history_lines, write_json

    heads = history(Registry(config.registry))
    print("\n".join(history_lines(heads)))
    write_json(config.json, heads)
    if config.picture is not None:
        draw_history(Path(config.picture), heads)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="history", schema=HistoryConfig)


if __name__ == "__main__":
    sys.exit(main())
