"""The common report of many runs: a table for the terminal, and a self-contained page."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreaming.checkpoint import atomic_write
from experiments.pages import learning, page, plots
from experiments.pages.plots import number
from experiments.pages.suite import summarise
from experiments.pages.words import duration, name_of, to_json


def write_report(root: Path) -> dict[str, Any]:
    """Write summary.json and report.html of all runs below `root`; returns the summary."""
    summary = summarise(root)
    atomic_write(root / "summary.json", to_json(summary))
    atomic_write(root / "report.html", page.page(f"Runs below {root} – dreaming", body(summary)))
    return summary


def text(summary: dict[str, Any]) -> str:
    """The text that the verb prints."""
    lines = []
    for group in summary["groups"]:
        lines += ["", title(group), *(f"  {line}" for line in _group_lines(group))]
    for figure in summary["across_tasks"]:
        lines += ["", textwrap.fill(across(figure), 80)]
    if summary["skipped"]:
        lines += ["", f"left out: {len(summary['skipped'])}"]
        lines += [f"  {each['path']}\n    {each['why']}" for each in summary["skipped"]]
    return "\n".join(lines)


def title(group: dict[str, Any]) -> str:
    """The title of a group: task, experiment, and the options in which it differs."""
    variant = [f"{name}={value}" for name, value in group["variant"].items()]
    return " ".join([group["env"], f"({group['experiment']})", *variant])


def across(figure: dict[str, Any]) -> str:
    """One sentence on the scores across tasks."""
    variant = " ".join(f"{name}={value}" for name, value in figure["variant"].items())
    what = f"{figure['experiment']} {variant}".strip()
    out = f"; without {', '.join(figure['left_out'])}" if figure["left_out"] else ""
    if "iqm" not in figure:
        return f"{what}: none of these tasks has a scale of its own{out}"
    low, high = map(number, figure["ci"])
    count, behaviour = len(figure["tasks"]), name_of("behaviour", figure["online"])
    return (
        f"{what}, {count} task{'s'[: count > 1]}: normalised IQM {number(figure['iqm'])} "
        f"[{low}, {high}] (0 = {behaviour}, 1 = the task's threshold{out})"
    )


def _group_lines(group: dict[str, Any]) -> list[str]:
    rows = [("", "IQM", "95% interval", "worst (seed)")]
    rows += _rows(group)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return [*lines, _counts(group)]


def _rows(group: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (
            _name(group, name),
            number(x["iqm"]),
            f"{number(x['ci'][0])} to {number(x['ci'][1])}",
            f"{number(x['worst']['value'])} ({x['worst']['seed']})",
        )
        for name, x in _real(group)
    ]


def _real(group: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, returns) in the real task, behaviour first and the deployed policy last."""
    order = ["behaviour", "baselines", "candidate", "deployed"]
    place = lambda item: order.index(item[0].partition("/")[0])
    known = [item for item in group["returns"].items() if item[0].partition("/")[0] in order]
    return sorted(known, key=place)


def _name(group: dict[str, Any], name: str) -> str:
    return name_of(name.rpartition("/")[2], online=bool(group["learning"]))


def _counts(group: dict[str, Any]) -> str:
    n, took = len(group["seeds"]), duration(group["seconds"]["median"])
    seeds = f"{n} seed{'s' if n > 1 else ''} ({', '.join(map(str, group['seeds']))})"
    if group["learning"]:
        return f"{seeds}, {number(group['real_steps'])} real steps and {took} each"
    return f"{seeds}, {group['verdicts'].get('accept', 0)} accepted, {took} each"


def body(summary: dict[str, Any]) -> str:
    """The body of the page."""
    groups = summary["groups"]
    runs = sum(len(group["seeds"]) for group in groups)
    verdicts = sum(group["verdicts"].get("accept", 0) for group in groups)
    tasks = {group["env"] for group in groups}
    facts = [("tasks", len(tasks)), ("runs", runs)]
    facts += [("accepted", verdicts)] if any(group["verdicts"] for group in groups) else []
    facts += [("left out", len(summary["skipped"]))] if summary["skipped"] else []
    heading = f"{runs} run{'s' if runs != 1 else ''} of {len(tasks)} task{'s'[: len(tasks) > 1]}"
    lead = " ".join(across(figure) + "." for figure in summary["across_tasks"])
    head = f'<header><h1>{heading}</h1>\n<p class="lead">{page.html.escape(lead)}</p>\n'
    parts = [head + page.facts(facts) + "</header>"]
    parts += [_section(group) for group in groups]
    parts.append(_left_out(summary["skipped"]))
    return "\n".join(part for part in parts if part)


def _section(group: dict[str, Any]) -> str:
    rows = [
        {
            "name": _name(group, name),
            "mean": x["iqm"],
            "ci": x["ci"],
            "points": [point["value"] for point in x["points"]],
            "is_new": name == "deployed",
        }
        for name, x in _real(group)
    ]
    head = ("policy", "interquartile mean", "95% interval", "worst (seed)")
    cells = [(row, row[0] == name_of("deployed")) for row in _rows(group)]
    return page.section(
        title(group),
        "Each point is the mean return of one seed; the large dot is their interquartile mean, the "
        f"bar its 95% bootstrap interval over seeds. {_counts(group)}.",
        f'<div class="wide">{plots.before_after(rows)}</div>' if rows else "",
        f'<div class="wide">{page.table(head, cells)}</div>',
        learning.group_section(group["learning"]),
        page.details("Every seed", _seeds(group)),
    )


def _seeds(group: dict[str, Any]) -> str:
    named = _real(group)
    value = lambda x, seed: next((p["value"] for p in x["points"] if p["seed"] == seed), "–")
    rows: Sequence[Any] = [
        ((f"seed {seed}", *(value(x, seed) for _, x in named), path), False)
        for seed, path in zip(group["seeds"], group["runs"], strict=True)
    ]
    head = ("", *(_name(group, name) for name, _ in named), "run")
    return f'<div class="wide">{page.table(head, rows)}</div>'


def _left_out(skipped: Sequence[dict[str, str]]) -> str:
    rows = [((each["path"], each["why"]), False) for each in skipped]
    return page.section("Left out", "", page.table(("directory", "why"), rows))
