"""Forget a session: the store as if it had never been recorded.

What is built from the store afterwards is, bit for bit, what would have been
built without the session. Runs that learned from it are named; with
remove=true they are removed, with all that they made. Examples:
  dreaming forget path=logs/desk session=2026-03-01
  dreaming forget path=logs/desk session=2026-03-01 runs=runs
  dreaming forget path=logs/desk session=2026-03-01 runs=runs remove=true
Other copies, and data sets that were exported, are not found.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.command.unread import forget_rules, refuse
from experiments.config import ForgetConfig


def run(config: ForgetConfig, run_dir: Path) -> int:
    """Rewrite the store, then look for runs that learned from the session."""
    from envs.forget import forget

    refuse(forget_rules(config))
    count = forget(config.path, config.session)
    found = "no episode of it" if not count else f"{count} episodes"
    print(f"session {config.session}: {found} in {config.path}{', now gone' if count else ''}")
    for run in learned_from(config):
        if config.remove:
            shutil.rmtree(run)
            print(f"removed {run}, which had learned from it")
        else:
            print(f"{run} learned from it: remove it (remove=true), and run its command again")
    return 0


def learned_from(config: ForgetConfig) -> Iterator[Path]:
    """The run directories below `config.runs` whose logs hold the session."""
    from envs.forget import holds
    from experiments.runs.directory import CONFIG

    if config.runs is None:
        return
    for traces in sorted(Path(config.runs).glob("**/traces")):
        is_run = (traces.parent / CONFIG).is_file()  # or a store that happens to have this name
        if is_run and holds(traces, config.session):
            yield traces.parent


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="forget", schema=ForgetConfig)


if __name__ == "__main__":
    sys.exit(main())
