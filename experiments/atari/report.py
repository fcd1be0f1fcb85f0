"""The report of a suite: atari100k.html, .md, .csv and .json, and the text for the terminal."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreaming.checkpoint import atomic_write
from envs.atari import GAMES
from experiments.atari.published import methods, table
from experiments.atari.suite import OBSERVATIONS, summarise
from experiments.atari.tables import Table, markdown, ours_of, tables, title_of
from experiments.pages import page, plots
from experiments.pages.words import to_json

NAME = "atari100k"
SHOWN = ("EfficientZero", "BBF (paper)", "SR-SPR")  # in profiles
COLUMNS = ("method", "game", "seed", "status", "score", "low", "high", "episodes", "normalised")
COLUMNS += ("sticky_score", "real_steps", "updates", "training_minutes", "evaluation_minutes")
COLUMNS += ("device", "path")


def write_table(root: Path) -> str:
    """Write the report of all games below `root`; returns the text that the verb prints."""
    summary = summarise(root)
    named = {
        "json": to_json(summary),
        "csv": as_csv(summary),
        "md": as_markdown(summary),
        "html": page.page(f"{heading(summary)} – dreaming", body(summary)),
    }
    for kind, content in named.items():
        atomic_write(root / f"{NAME}.{kind}", content)
    return text(summary) + f"\nreport: {root / NAME}.html, .md, .csv, .json"


def heading(summary: Mapping[str, Any]) -> str:
    """What the suite holds, in one line."""
    runs = sum(len(runs) for each in ours_of(summary) for runs in each["games"].values())
    played = len(GAMES) - len(summary["missing"])
    what = "Dry run of Atari-100k" if summary["is_dry_run"] else "Atari-100k"
    failed = sum(each["status"].startswith("failed") for each in summary["others"])
    told = f"{what}: {runs} run{'s' if runs != 1 else ''} of {played} of {len(GAMES)} games"
    return f"{told}, {failed} failed" if failed else told


def protocol(summary: Mapping[str, Any]) -> str:
    """The rules of all results, in one line."""
    rules = {name: x for name, x in summary["protocol"].items() if name not in OBSERVATIONS}
    return ", ".join(f"{name}={x}" for name, x in rules.items())


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The report as one Markdown file."""
    told = lambda each: f"- {each.title}: {each.source}; runs per game: {each.runs}"
    rules = f"Protocol: {protocol(summary)}.\n" if summary["protocol"] else ""
    parts = [f"# {heading(summary)}\n", rules, *map(markdown, tables(summary))]
    parts += ["## Published scores\n\n" + "\n".join(map(told, methods())) + "\n"]
    return "\n".join(part for part in parts if part)


def as_csv(summary: Mapping[str, Any]) -> str:
    """One line per run and per published score; what is missing or failed has its own lines."""
    file = io.StringIO()
    out: Any = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    out.writeheader()
    for method in ours_of(summary):
        for game, runs in method["games"].items():
            for run in runs:
                cells = {name: run[name] for name in COLUMNS if name in run}
                ends = {"low": run["ci"][0], "high": run["ci"][1]}
                named = {"method": title_of(method), "game": game, "status": "done"}
                out.writerow(named | cells | ends)
        for game in GAMES:
            if game not in method["games"]:
                out.writerow({"method": title_of(method), "game": game, "status": "missing"})
    for each in summary["others"]:
        cells = {name: each[name] for name in ("game", "seed", "status", "path")}
        out.writerow({"method": each["size"]} | cells)
    for name, scores in {**table()}.items():
        for game, score in scores.items():
            out.writerow({"method": name, "game": game, "status": "published", "score": score})
    return file.getvalue()


def text(summary: Mapping[str, Any]) -> str:
    """The text for a terminal: our methods, and what has no result."""
    lines = ["", heading(summary)]
    for method in ours_of(summary):
        lines += ["", title_of(method)]
        for game, runs in method["games"].items():
            scores = ", ".join(f"{run['score']:.1f}" for run in runs)
            normal = sum(run["normalised"] for run in runs) / len(runs)
            lines.append(f"  {game:<16}{normal:8.3f}   {scores} (seeds {seeds(runs)})")
        figures = {k: x for k, x in method["aggregates"].items() if x is not None}
        what = "all games" if method["is_complete"] else f"these {len(method['games'])} games"
        lines.append(f"  of {what}: " + ", ".join(f"{k} {x:.3f}" for k, x in figures.items()))
    if summary["missing"] and ours_of(summary):
        lines += ["", f"missing: {', '.join(summary['missing'])}"]
    for each in summary["others"]:
        lines += ["", f"{each['path']}", f"  {each['status']}"]
    return "\n".join(lines)


def seeds(runs: Any) -> str:
    """The seeds of runs."""
    return ", ".join(str(run["seed"]) for run in runs)


def body(summary: Mapping[str, Any]) -> str:
    """The body of the page."""
    title = page.html.escape(heading(summary))
    lead = page.html.escape(f"Protocol: {protocol(summary)}." if protocol(summary) else "")
    parts = [f'<header><h1>{title}</h1>\n<p class="lead">{lead}</p></header>']
    found = tables(summary)
    parts += [section(each) for each in found[:1]]
    if ours_of(summary):
        parts.append(profiles(summary))
    parts += [section(each) for each in found[1:]]
    sources = [((each.title, each.source, each.runs, each.differs), False) for each in methods()]
    head = ("method", "source", "runs per game", "differs in")
    parts.append(page.section("Published scores", "", page.table(head, sources)))
    return "\n".join(parts)


def section(table: Table) -> str:
    """A table as a section of the page."""
    rows = [(cells, at < table.marked) for at, cells in enumerate(table.rows)]
    return page.section(
        table.title, table.note, f'<div class="wide">{page.table(table.head, rows)}</div>'
    )


def profiles(summary: Mapping[str, Any]) -> str:
    """The section of performance profiles."""
    ours = {title_of(each): each["profile"] for each in ours_of(summary)}
    theirs = {each["name"]: each["profile"] for each in summary["published"]}
    known = {name: theirs[name] for name in SHOWN}
    return page.section(
        "Performance profiles",
        "The share of runs above each human-normalised score, games weighed alike; ours over the "
        "games that were played. Published ones are of the means of all 26 games, so steeper.",
        f'<div class="wide">{plots.profiles(summary["levels"], ours, known)}</div>',
    )
