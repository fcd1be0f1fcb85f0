"""Many runs side by side, or the page of one run drawn again.

runs=directory (by default runs) reads every result below it, groups them by
task and by the options that differ, prints a table, and writes report.html and
summary.json there; runs that are not finished are named and left out. Games of
Atari-100k get a table of their own, beside the published scores:
atari100k.html, .md, .csv and .json. run=directory draws report.html of one run
again. Examples:
  dreaming report
  dreaming report runs=runs/atari100k
  dreaming report runs=runs/dream
  dreaming report run=runs/dream/CartPole-v1/seed0
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.cli import run_verb
from experiments.command.jobs import UsageError
from experiments.config import ReportConfig


def run(config: ReportConfig, run_dir: Path) -> int:
    """Write the report, and print where it is."""
    one = config.run if config.run is not None else str(run_dir) if run_dir != Path(".") else None
    if one is not None and config.runs is not None:
        raise UsageError("run= is one run and runs= all below a directory; give one of them")
    if one is not None:
        from experiments.pages.run_report import render

        print(render(one))
        return 0
    from experiments.atari.report import write_table
    from experiments.atari.suite import games_below
    from experiments.pages.suite import run_dirs
    from experiments.pages.suite_report import text, write_report

    root = Path(config.runs or "runs")
    if games := games_below(root):
        print(write_table(root))
    if len(run_dirs(root)) > len(games) or not games:
        print(text(write_report(root)))
        print(f"\nreport: {root / 'report.html'}\nfigures: {root / 'summary.json'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="report", schema=ReportConfig)


if __name__ == "__main__":
    sys.exit(main())
