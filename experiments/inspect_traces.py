"""What a log holds, and what is wrong with it.

Shows spaces, returns, lengths, balance of the actions, ranges, coverage, and
warnings that say what to do; nothing is learned. Examples:
  dreaming inspect-traces path=logs/cartpole
  dreaming inspect-traces path=runs/dream/CartPole-v1/seed0/traces json=log.json
  dreaming inspect-traces source.name=parquet source.uri='logs/*.parquet' \\
      source.mapping=mapping.yaml
  dreaming inspect-traces source.name=csv source.uri=sales.csv suggest=true \\
      source.mapping=mapping.yaml
`suggest=true` writes a first draft of the mapping to the file in
source.mapping, which must not exist yet, and marks every guess.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.command.cli import run_verb
from experiments.command.unread import inspect_rules, refuse
from experiments.config import InspectConfig
from experiments.pages.plots import number

MOST_ROWS = 12  # most rows of a table; the others are in the JSON
Section = tuple[str, Sequence[str], Sequence[Sequence[Any]]]  # title, head, rows


def run(config: InspectConfig, run_dir: Path) -> int:
    """Inspect the log, print the figures, and write them to `config.json` if it is given."""
    from dreaming.checkpoint import atomic_write
    from dreaming.errors import ConfigError, TraceError
    from experiments.logs.inspection import inspect
    from experiments.logs.source import checked, drafted_mapping, named_log
    from experiments.pages.words import to_json

    refuse(inspect_rules(config))
    if config.suggest:
        print(drafted_mapping(config.source), end="")
        return 0
    source = named_log(config.path, config.source, option="path")
    if source is None:
        raise ConfigError(
            "no log is named; add path=path/to/store, or source.name= and source.uri="
        )
    traces = list(checked(source, source.schema()))
    if not traces:
        raise TraceError(f"{config.path or config.source.uri}: holds no episode; record one first")
    figures = inspect(traces, source.schema())
    if (accounts := getattr(source, "accounts", None)) is not None:
        figures["rows"] = accounts.to_json()
        figures["warnings"] = [*accounts.in_words(), *figures["warnings"]]
    show(sections(figures), figures["warnings"], Console(highlight=False, markup=False))
    if config.json is not None:
        atomic_write(config.json, to_json(figures))
        print(f"written to {config.json}")
    return 0


def sections(figures: dict[str, Any]) -> list[Section]:
    """All figures except the warnings, as titled tables."""
    episodes, recorded = figures["episodes"], figures["recorded"]
    spread = lambda x: [x["mean"], x["iqm"], x["min"], x["max"]] if x else ["none"] + [""] * 3
    log = [
        ("observations", short(figures["spaces"]["observation"])),
        ("actions", short(figures["spaces"]["action"])),
        ("episodes", f"{episodes['count']:,} ({episodes['steps']:,} steps)"),
        ("ended", f"{episodes['terminated']} by the task, {episodes['truncated']} by a clock"),
        ("still open", episodes["open"]),
        ("policies", ", ".join(episodes["policies"]) or "not recorded"),
    ]
    names = {"propensities": "propensities", "action_masks": "action masks", "times": "times"}
    log += [
        (names[name], f"in {n} of {episodes['count']} episodes") for name, n in recorded.items()
    ]
    if rows := figures.get("rows"):
        left_out = rows["read"] - rows["used"]
        log.append(("rows", f"{rows['read']:,} read, {rows['used']:,} used, {left_out:,} left out"))
    log += [("coverage", covered(figures["coverage"]))]
    rewards = figures["rewards"]
    per_step = [rewards["mean"], "", rewards["min"], rewards["max"]]
    amounts = [
        ("return, closed episodes", *spread(figures["returns"])),
        ("length", *spread(figures["lengths"])),
        ("reward per step", *per_step),
    ]
    found: list[Section] = [("log", (), log)]
    found.append(("amounts", ("", "mean", "IQM", "least", "most"), amounts))
    if figures["returns"]:
        found.append(("returns of closed episodes", (), histogram(figures["returns"]["histogram"])))
    found += [section for leaf in figures["actions"] for section in actions(leaf)]
    return [*found, *observations(figures["observations"])]


def short(space: str) -> str:
    """A short name of a space, without the bounds of a Box: `Box(4,) float32`."""
    space = " ".join(space.split())
    return re.sub(
        r"Box\((?:\[.*?\]|[^,(]+), (?:\[.*?\]|[^,(]+), (\(.*?\)), (\w+)\)", r"Box\1 \2", space
    )


def covered(coverage: dict[str, Any]) -> str:
    """The coverage of the log in words."""
    if "pairs" in coverage:
        share = coverage["pairs"] / coverage["possible"]
        return (
            f"{coverage['pairs']} of {coverage['possible']} pairs (o, a), {share:.0%}; "
            f"{coverage['of_seen_observations']:.0%} where o was seen"
        )
    if coverage["nearest_median"] is None:
        return "unknown: one episode has no other to compare it with"
    half, most = (number(round(coverage[x], 3)) for x in ("nearest_median", "nearest_90"))
    return f"{half} spreads from o to that of another episode (90%: {most})"


def histogram(bins: dict[str, Any]) -> list[Sequence[Any]]:
    """A row per bin, with a bar of # signs."""
    edges, counts = bins["edges"], bins["counts"]
    most, width = max(counts), 30
    ends = zip(edges, edges[1:], counts, strict=False)
    bar = lambda count: "#" * max(round(width * count / most), int(count > 0))
    return [(f"{number(low)} to {number(high)}", n, bar(n)) for low, high, n in ends]


def actions(leaf: dict[str, Any]) -> list[Section]:
    """The balance of one part of the action space."""
    found: list[Section] = []
    many = len(leaf.get("factors", ())) > 1
    for i, shares in enumerate(leaf.get("factors", ())):
        order = sorted(shares, key=lambda value: -shares[value])
        order = order[:MOST_ROWS] if len(order) > MOST_ROWS else list(shares)
        rows = [(value, f"{shares[value]:.1%}", "#" * round(30 * shares[value])) for value in order]
        rows += _more(len(shares) - len(order))
        title = f"action {leaf['name']}[{i}]" if many else "actions"
        found.append((title, (), rows))
    if "dimensions" in leaf:
        dimensions = leaf["dimensions"]
        rows = [(f"{leaf['name']}[{i}]", *x["quantiles"]) for i, x in enumerate(dimensions)]
        head = ("", "least", "5%", "25%", "median", "75%", "95%", "most")
        found.append(("actions", head, rows[:MOST_ROWS] + _more(len(rows) - MOST_ROWS)))
    return found


def observations(features: Sequence[dict[str, Any]]) -> list[Section]:
    """Ranges of the features."""
    row = lambda x: (
        (x["name"], f"{x['distinct']} of {x['of']} values", "", "", "")
        if "distinct" in x
        else (x["name"], x["min"], x["mean"], x["max"], _constant(x))
    )
    rows = [row(x) for x in features]
    head = ("", "least", "mean", "most", "")
    return [("observations", head, rows[:MOST_ROWS] + _more(len(rows) - MOST_ROWS))]


def _constant(x: dict[str, Any]) -> str:
    if "[0.." in x["name"]:
        return f"{x['constants']} constant" if x["constants"] else ""
    return "constant" if x["constants"] else ""


def _more(count: int) -> list[tuple[str]]:
    return [(f"and {count} more",)] if count > 0 else []


def show(tables: Sequence[Section], warnings: Sequence[str], console: Console) -> None:
    """Print the tables, in colour on a terminal, and the warnings."""
    for title, head, rows in tables:
        text = [[number(x) for x in row] for row in rows]
        if console.is_terminal:
            console.print("", _table(title, head, text), sep="\n")
        else:
            console.print("\n".join(_plain(title, head, text)), soft_wrap=True)
    count = f"{len(warnings)} warning{'' if len(warnings) == 1 else 's'}"
    console.print(f"\n{count if warnings else 'no warnings'}", style="bold")
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    for text in warnings:
        wrapped = textwrap.fill(text, width, initial_indent="! ", subsequent_indent="  ")
        console.print(wrapped, style="yellow", soft_wrap=True)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=bool(head), box=None
    )
    width = max(len(row) for row in [head, *rows])
    for i in range(width):
        right = bool(head) and i > 0
        table.add_column(
            head[i] if head else "", justify="right" if right else "left", style="" if i else "dim"
        )
    for row in rows:
        table.add_row(*row)
    return table


def _plain(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns aligned."""
    whole = [row for row in [head, *rows] if len(row) > 1]
    widths = [max(len(row[i]) for row in whole) for i in range(len(whole[0]))] if whole else [0]
    side = lambda i, cell: cell.rjust(widths[i]) if head and i else cell.ljust(widths[i])
    lines = ["", title]
    for row in [head, *rows] if head else rows:
        cells = [side(i, cell) for i, cell in enumerate(row)] if len(row) > 1 else row
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def main(argv: list[str] | None = None) -> int:
    """The command line of this verb; returns the exit code."""
    return run_verb(run, argv, config_name="inspect_traces", schema=InspectConfig)


if __name__ == "__main__":
    sys.exit(main())
