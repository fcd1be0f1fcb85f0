"""The report of one run: report.html, from the files in its directory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.checkpoint import atomic_write
from envs.types import UserError
from experiments.pages import certificate, learning, page, plots
from experiments.pages.plots import number
from experiments.pages.words import duration, name_of

SHOWN_CURVES = 9  # the others open on demand
LOOP_KEYS = {"still": "no change", "model": "model"}  # line style -> word
STRIP_KEYS = {"real": "real", "dream": "dream"}


def render(run_dir: str | Path) -> Path:
    """Write report.html of a run directory; returns its path. `UserError` without a result."""
    run_dir = Path(run_dir)
    result = _read_json(run_dir / "result.json")
    if not result:
        raise UserError(
            f"{run_dir}: there is no readable result.json; finish the run with `dreaming dream`, "
            "or name another run with hydra.run.dir="
        )
    drawn = _read_json(run_dir / "figures.json")
    metrics = learning.read_lines(run_dir / "metrics.jsonl")
    config = run_dir / "config.yaml"
    body = "\n".join(
        part
        for part in (
            _head(result),
            _returns(result, drawn.get("returns") or {}),
            learning.section(result, metrics),
            _intake(_read_json(run_dir / "intake.json")),
            _model(result, drawn),
            certificate.section(_read_json(run_dir / "certificate.json")),
            _training(metrics, {learning.RETURN} if learning.is_online(result) else set()),
            _costs(result),
            _configuration(config.read_text("utf-8") if config.exists() else ""),
            _foot(result),
        )
        if part
    )
    path = run_dir / "report.html"
    atomic_write(path, page.page(f"{_task(result)} – dreaming", body))
    return path


def headline(result: Mapping[str, Any]) -> tuple[str, str]:
    """(the verdict in one sentence, its evidence in another)."""
    task, reasons = _task(result), " ".join(result.get("reasons") or [])
    mean = lambda name: number((result.get(name) or {}).get("mean", float("nan")))
    deployed, behaviour = result.get("deployed_return"), result.get("behaviour_return")
    online, steps = learning.is_online(result), number(result.get("real_steps", 0))
    what = "real steps of its own" if online else "recorded real steps alone"
    rest = f"Learned from {steps} {what}."
    if deployed:
        low, high = map(number, deployed["ci"])
        rest += f" What is deployed now was scored in {number(deployed['episodes'])} fresh episodes"
        rest += f" of the real task; the 95% interval of the mean is {low} to {high}."
    if which := learning.round_of(result):
        rest += f" Deployed is {which}."
    if online:
        learned = f"A policy for {task} was learned while it collected"
        return f"{learned}; it earns {mean('deployed_return')}.", rest
    if "verdict" not in result:
        return f"A world was fitted to a log of {task}; no policy has rehearsed in it.", rest
    if result.get("verdict") == "accept" and not deployed:
        return f"The log of {task} speaks for the new policy; it was never tried in reality.", rest
    if result.get("verdict") == "accept":
        before = f", where the log earned {mean('behaviour_return')}" if behaviour else ""
        return f"The new policy earns {mean('deployed_return')} in {task}{before}.", rest
    if "not improvable" in reasons:
        return f"There is nothing to learn from in this log of {task}.", rest
    if "no real environment" in reasons:
        return f"The log of {task} does not speak for the new policy; it is not deployed.", rest
    if "no evidence" in reasons:
        return "No evidence: the new policy was never tried in reality.", rest
    return f"The new policy is not measurably better in {task}, so it is not deployed.", rest


def _head(result: Mapping[str, Any]) -> str:
    verdict = str(result.get("verdict", ""))
    word = {"accept": "accepted", "reject": "rejected"}.get(
        verdict, "online" if learning.is_online(result) else "no verdict"
    )
    title, rest = headline(result)
    run = f"{result.get('experiment', 'run')} · {_task(result)} · seed {result.get('seed', '?')}"
    reasons = "".join(
        f"<li>{page.html.escape(text[:1].upper() + text[1:])}.</li>"
        for text in result.get("reasons") or []
    )
    task = page.html.escape(_task(result))
    heading = page.html.escape(title).replace(task, f"<span>{task}</span>")
    seconds = [x for x in (result.get("seconds") or {}).values() if _is_number(x)]
    counts = [("real steps" if learning.is_online(result) else "recorded steps", "real_steps")]
    if result.get("logged_steps", 0) > result.get("real_steps", 0):
        counts = [("steps in the log", "logged_steps"), ("learned from", "real_steps")]
    counts += [("dreamed steps", "dream_steps"), ("search simulations", "search_steps")]
    facts = [(name, result[key]) for name, key in counts if _is_number(result.get(key))]
    if seconds:
        facts.append(("wall clock", duration(sum(seconds))))
    return (
        f'<header><p class="eyebrow"><span class="badge {verdict}">{word}</span>'
        f"<span>{page.html.escape(run)}</span></p>\n<h1>{heading}</h1>\n"
        f'<p class="lead">{page.html.escape(rest)}</p>\n{page.facts(facts)}</header>'
        + (page.section("Why", "", f'<ul class="reasons">{reasons}</ul>') if reasons else "")
    )


def _returns(result: Mapping[str, Any], points: Mapping[str, Any]) -> str:
    """Returns before and after in the real task: the figure and its numbers."""
    online = learning.is_online(result)
    summaries = {"behaviour": result.get("behaviour_return"), **(result.get("baselines") or {})}
    incumbent, deployed = result.get("incumbent_return"), result.get("deployed_return")
    if incumbent and incumbent not in summaries.values():
        summaries["incumbent"] = incumbent
    summaries["candidate"] = result.get("candidate_return")
    same = [name for name, summary in summaries.items() if summary and summary == deployed]
    is_accepted = result.get("verdict") == "accept"
    is_deployed = [name for name in same if (name == "candidate") == is_accepted][:1]
    if not is_deployed:
        summaries["deployed"] = deployed
    rows = [
        {
            **summary,
            "name": name_of(name, online) + (", deployed" if name in is_deployed else ""),
            "points": [x for x in points.get(name) or [] if _is_number(x)],
            "is_new": name == ("deployed" if online else "candidate"),
        }
        for name, summary in summaries.items()
        if summary
    ]
    if not rows:
        return ""
    cells = [(_summary_cells(row["name"], row), row["is_new"]) for row in rows]
    if dreamed := result.get("dream_return"):
        cells.append((_summary_cells("candidate, in its dream", dreamed), False))
    head = ("policy", "mean", "interquartile mean", "95% interval", "episodes")
    learned = (
        "What is deployed is scored in fresh episodes"
        if online
        else "Only the log was learned from; the other episodes are fresh"
    )
    return page.section(
        "In the real task" if online else "Before and after in the real task",
        "Each point is one episode; the large dot is their mean, the bar its 95% bootstrap "
        f"interval. Rewards are raw. {learned}.",
        f'<div class="wide">{plots.before_after(rows)}</div>',
        f'<div class="wide">{page.table(head, cells)}</div>',
    )


def _summary_cells(name: str, summary: Mapping[str, Any]) -> tuple[Any, ...]:
    low, high = map(number, summary["ci"])
    return name, summary["mean"], summary["iqm"], f"{low} to {high}", summary["episodes"]


def _intake(rows: Mapping[str, Any]) -> str:
    """What became of the rows of a table that the log was read from."""
    if not rows:
        return ""
    lead = f"{rows['read']:,} rows read, {rows['used']:,} used, in {rows['episodes']:,} episodes."
    found = [
        f"<li>{each['rows']:,} rows left out: {page.html.escape(each['reason'])} "
        f"(first: {page.html.escape(each['first'])})</li>"
        for each in rows["skipped"]
    ]
    found += [
        f"<li>{count:,} cells of column {page.html.escape(name)} are of no known category</li>"
        for name, count in rows["unknown_categories"].items()
    ]
    body = f'<ul class="reasons">{"".join(found)}</ul>' if found else ""
    return page.section("What was read", "", f"<p>{lead}</p>", body)


def _model(result: Mapping[str, Any], drawn: Mapping[str, Any]) -> str:
    """Fidelity of the dream: open-loop error, and one episode, real and dreamed."""
    panels, loop = [], drawn.get("open_loop") or {}
    if loop.get("k"):
        svg = plots.open_loop(loop["k"], loop["model"], loop["persistence"])
        panels.append(page.figure(svg, "Open-loop error", keys=LOOP_KEYS))
    strip = drawn.get("strip") or {}
    pictures = page.pictures(strip["k"], _rows(strip)) if "k" in strip else ""
    names = strip.get("names") or []
    real, dream = (_by_dimension(strip.get(key), len(names)) for key in ("real", "dream"))
    for name, real_row, dream_row in zip(names, real, dream, strict=False):
        panels.append(page.figure(plots.strip(name, real_row, dream_row), name, keys=STRIP_KEYS))
    fidelity = {k: v for k, v in (result.get("fidelity") or {}).items() if _is_number(v)}
    return page.section(
        "How true the dream is",
        "Prediction error by the number of steps dreamed without looking, against predicting no "
        "change; then one real episode and a dream from the same start under the same actions.",
        page.grid(panels),
        pictures,
        page.details(
            f"All {len(fidelity)} measures of fidelity",
            page.grid([page.pairs_table("Fidelity", fidelity)], "two") if fidelity else "",
        ),
    )


def _rows(strip: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    return {name: strip[name] for name in ("real", "dream")}


def _training(metrics: Sequence[Mapping[str, Any]], shown: set[str]) -> str:
    """A small figure for each metric that is not in `shown`, in the order of `_interest`."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in metrics:
        for name, value in row.items():
            if row.get("stage") == "judge":  # the fits of the judges
                name = name.replace("fit/", "judge/", 1)
            if "/" in name and name not in shown and _is_number(value) and np.isfinite(value):
                x, y = curves.setdefault(name, ([], []))
                step = row.get("step", len(x))
                x.append(step if not x or step > x[-1] else x[-1] + 1)
                y.append(value)
    curves = {name: xy for name, xy in curves.items() if len(xy[0]) > 1 and "second" not in name}
    order = sorted(curves, key=_interest)  # stable: ties stay in the order of the run
    panels = [
        page.figure(plots.curve(name, x, y, is_loss="loss" in name), name, number(y[-1]))
        for name in order
        for x, y in [curves[name]]
    ]
    more = panels[SHOWN_CURVES:]
    return page.section(
        "Training",
        "Each curve over the steps of its stage; the number is where it ended.",
        page.grid(panels[:SHOWN_CURVES]),
        page.details(f"{len(more)} more curves", page.grid(more)),
    )


def _interest(name: str) -> int:
    """Rank of a metric: total losses; gains, gaps and returns; other losses; all others."""
    leaf = name.rpartition("/")[2]
    if leaf in ("loss", "total_loss"):
        return 0
    if any(word in leaf for word in ("start", "gap", "gain", "return")):
        return 1
    return 2 if "loss" in leaf else 3


def _costs(result: Mapping[str, Any]) -> str:
    number_of = lambda keys: {k: result[k] for k in keys if _is_number(result.get(k))}
    steps = number_of(
        ("real_steps", "gate_steps", "evaluation_steps", "dream_steps", "search_steps")
    )
    seconds = {k: v for k, v in (result.get("seconds") or {}).items() if _is_number(v)}
    shares = (result.get("left_out") or {}).items()
    told = ", ".join(f"{share:.0%} of the steps of {stage}" for stage, share in shares)
    return page.section(
        "What it took",
        f"To keep within its budget this run left out {told}." if told else "",
        page.grid(
            [
                page.bars_table("Seconds by stage", seconds, "s"),
                page.pairs_table("Steps", steps),
            ],
            "two",
        ),
    )


def _configuration(config: str) -> str:
    return page.section("Configuration", "", page.details("config.yaml", page.code(config)))


def _foot(result: Mapping[str, Any]) -> str:
    versions = [f"{name} {version}" for name, version in (result.get("versions") or {}).items()]
    lines = [" · ".join(versions)]
    if result.get("state_sha256"):
        lines.append(f"state {result['state_sha256']}")
    return f"<footer>{'<br>'.join(page.html.escape(x) for x in lines if x)}</footer>"


def _task(result: Mapping[str, Any]) -> str:
    name = str(result.get("env") or "none")
    return "a task without a real environment" if name == "none" else name


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _by_dimension(rows: Any, dimensions: int) -> list[list[float]]:
    """One list per dimension, from rows per time step (or per dimension already)."""
    if not rows or not dimensions:
        return []
    x = np.array(rows, float)
    return (x.T if x.shape[1] == dimensions else x).tolist()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
