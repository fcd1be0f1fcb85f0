"""The page of a lineage: which logs, which verdicts, which weights; from the files of its rounds.

lineage.html lies beside report.html of round 0 and links to the report of every round.
"""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreaming.checkpoint import atomic_write
from experiments.pages import page, plots
from experiments.pages.plots import number

PAGE, ROUNDS = "lineage.html", "rounds"
FIRST = 12  # digits of a hash that are shown


def write_lineage(root: Path) -> Path:
    """Write the page of the lineage in `root`; returns its path."""
    rounds = finished(root)
    path = root / PAGE
    atomic_write(path, page.page(f"{task_of(rounds)} – lineage", body(rounds)))
    return path


def finished(root: Path) -> list[tuple[str, dict[str, Any]]]:
    """(directory from `root`, result) of every finished round, in order."""
    folder = root / ROUNDS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    places = ["", *(f"{ROUNDS}/{k}/" for k in sorted(int(x) for x in names if x.isdigit()))]
    found = []
    for place in places:
        try:
            found.append((place, json.loads((root / place / "result.json").read_text("utf-8"))))
        except (OSError, ValueError):
            continue
    return found


def task_of(rounds: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The name of the task."""
    name = str(rounds[0][1].get("env", "none"))
    return "a task without a real environment" if name == "none" else name


def body(rounds: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """All sections of the page."""
    results = [result for _, result in rounds]
    last, task = results[-1], html.escape(task_of(rounds))
    accepted = [i for i, result in enumerate(results) if result.get("verdict") == "accept"]
    who = f"the policy of round {accepted[-1]}" if accepted else "nothing; the process goes on"
    facts: list[tuple[str, Any]] = [("rounds", len(results)), ("accepted", len(accepted))]
    facts += [("recorded episodes", last["real_episodes"])] if "real_episodes" in last else []
    trials = [result["trial"] for result in results if result.get("trial") is not None]
    facts += [("trials of the gate", 1 + max(trials))] if trials else []
    head = (
        '<header><p class="eyebrow"><span class="badge">lineage</span>'
        f"<span>seed {last.get('seed', '?')}</span></p>\n"
        f"<h1>{len(results)} rounds on a growing log of <span>{task}</span>.</h1>\n"
        f'<p class="lead">Deployed now: {html.escape(who)}. All rounds share one error '
        "probability; each trial of the gate spends a part of it.</p>\n"
        f"{page.facts(facts)}</header>"
    )
    parts = head, _earned(results), _table(rounds), _why(rounds)
    return "\n".join(part for part in parts if part)


def _earned(results: Sequence[Mapping[str, Any]]) -> str:
    """What was deployed after each round earns in the real task."""
    rows = []
    before = results[0].get("incumbent_return")
    if before:
        rows.append({**before, "name": "as it ran", "points": [], "is_new": False})
    for k, result in enumerate(results):
        if deployed := result.get("deployed_return"):
            is_new = result.get("verdict") == "accept"
            rows.append({**deployed, "name": f"after round {k}", "points": [], "is_new": is_new})
    if len(rows) < 2:
        return ""
    return page.section(
        "What is deployed",
        "The dot is the mean return of fresh episodes in the real task (of logged ones as long as "
        "nothing is deployed), the bar its 95% interval; coloured where the round changed it.",
        f'<div class="wide">{plots.before_after(rows)}</div>',
    )


def _table(rounds: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A row per round: log, verdict, weights."""
    head = ("round", "episodes", "steps", "verdict", "trial", "gate episodes", "incumbent")
    head += ("candidate", "deployed", "weights")
    rows, mean = [], lambda x: number(x["mean"]) if x else "–"
    for k, (_, result) in enumerate(rounds):
        cells = [str(k), *(number(result.get(x, 0)) for x in ("real_episodes", "real_steps"))]
        trial = result.get("trial")
        cells += [str(result.get("verdict")), "–" if trial is None else str(trial)]
        cells += [str(result.get("gate_episodes", 0))]
        names = ("incumbent_return", "candidate_return", "deployed_return")
        cells += [mean(result.get(name)) for name in names]
        cells += [str(result.get("deployed_sha256") or "none")[:FIRST]]
        rows.append((cells, result.get("verdict") == "accept"))
    return page.section(
        "Logs, verdicts, weights",
        "Incumbent of round 0 is the process as it ran. Weights: the first digits of the hash of "
        "what is deployed after the round; its episodes are recorded as student- and these digits.",
        f'<div class="wide">{page.table(head, rows)}</div>',
    )


def _why(rounds: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The reasons of every verdict, with a link to its report."""
    parts = []
    for k, (place, result) in enumerate(rounds):
        reasons = "".join(
            f"<li>{html.escape(text[:1].upper() + text[1:])}.</li>"
            for text in result.get("reasons") or []
        )
        link = f'<a href="{html.escape(place)}report.html">report</a>'
        title = f"Round {k}: {html.escape(str(result.get('verdict')))} ({link})"
        parts.append(f'<h3>{title}</h3><ul class="reasons">{reasons}</ul>')
    return page.section("Why", "", *parts)
