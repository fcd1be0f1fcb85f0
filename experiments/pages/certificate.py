"""Certificates for readers: each figure beside its target, for the terminal and the report.

A certificate is the dictionary of certificate.json: `figures` (name -> number), `missing` (name ->
why the number is missing), `policies` (a row each), `sentence`, `notes`. No JAX here.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dreaming.world.words import is_life_wrong, is_unsupported
from experiments.pages import page, plots
from experiments.pages.plots import number
from experiments.pages.words import name_of

SHORT = "the held-out episodes are too few or too short, or nothing changes in them"
NO_RANK = "policies were not ranked"
Check = Callable[[float, Mapping[str, float]], bool]


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, its label, its target and the check of the target."""

    label: str
    figure: str
    target: str = ""
    met: Check | None = None
    why: str = SHORT  # reason for a missing figure if the certificate gives none


def at_least(least: float) -> dict[str, Any]:
    """Target and check of a figure that should be at least `least`."""
    return {"target": f"at least {least:g}", "met": lambda x, _: x >= least}


def at_most(most: float) -> dict[str, Any]:
    """Target and check of a figure that should be at most `most`."""
    return {"target": f"at most {most:g}", "met": lambda x, _: x <= most}


BAND = {"target": "0.85 to 0.95", "met": lambda x, _: 0.85 <= x <= 0.95}
ODDS = {
    "target": "as expected, within 0.05",
    "met": lambda x, figures: abs(x - figures["chance_expected"]) <= 0.05,
}
LIFE = {"target": "the log's, within 15%", "met": lambda x, figures: not is_life_wrong(figures)}
SEEN = {"target": "at most 0.5", "met": lambda x, figures: not is_unsupported(figures)}
ROWS = (
    Row("skill after 1 step", "skill_1", **at_least(0.95)),
    Row("skill after 5 steps", "skill_5"),
    Row("skill after 15 steps", "skill_15", **at_least(0.6)),
    Row("skill after 50 steps", "skill_50"),
    Row("probability of what happened", "chance_probability", **ODDS),
    Row("reward, mean error", "reward_mae"),
    Row("reward, error / spread", "reward_error", why="all held-out rewards are alike"),
    Row("termination, ECE", "termination_ece", **at_most(0.05)),
    Row("termination, Brier", "termination_brier"),
    Row("termination, AUROC", "termination_auroc", why="the task ended no held-out step, or all"),
    Row("steps of an episode, log's policy", "life_dreamed", **LIFE, why=NO_RANK),
    Row("90% coverage, observation", "coverage_o", **BAND, why="one member has no interval"),
    Row("90% coverage, outcomes", "coverage_set", **at_least(0.85)),
    Row(
        "90% coverage, reward",
        "coverage_r",
        **at_least(0.85),
        why="rewards are alike, or one member",
    ),
    Row(
        "uncertainty against error, Spearman",
        "uncertainty_spearman",
        **at_least(0.5),
        why="the uncertainty never varies",
    ),
    Row(
        "the same after 15 steps",
        "uncertainty_spearman_15",
        **at_least(0.5),
        why="it never varies, or too few episodes last so long",
    ),
    Row("value equivalence, error / range", "value_equivalence", **at_most(0.1)),
    Row("policy rank correlation", "rank_correlation", **at_least(0.8), why=NO_RANK),
    Row("the same in the planner's dream", "rank_correlation_planner", why=NO_RANK),
    Row("promise of the candidate", "promise", why=NO_RANK),
    Row("share of its gain that judges do not see", "unsupported", **SEEN, why=NO_RANK),
    Row("that other draws of the model do not see", "unrepeated", why=NO_RANK),
    Row("exploitation gap / range", "exploitation_gap", **at_most(0.1), why=NO_RANK),
    Row("candidate's steps that are trusted", "candidate_coverage", **at_least(0.95), why=NO_RANK),
)
EITHER = {"coverage_o": "coverage_set", "coverage_set": "coverage_o"}  # box, discrete
SINGLE = ("skill", "value_equivalence", "uncertainty_spearman")  # errors of single futures
CERTAIN = 0.95  # below this expected probability, chance decides single futures
ALARM = 0.25  # exploitation gap above which the dream return means nothing


def lines_of(certificate: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(mark, label, value, target) of every row; the mark is met, missed, unknown or ''."""
    figures, missing = certificate.get("figures") or {}, certificate.get("missing") or {}
    known = {name: x for name, x in figures.items() if isinstance(x, int | float)}
    out = []
    for row in ROWS:
        x = known.get(row.figure)
        if x is not None:
            met, target = row.met, row.target
            if row.figure.startswith(SINGLE) and known.get("chance_expected", 1.0) < CERTAIN:
                met, target = None, "none: chance decides"
            mark = "" if met is None else "met" if met(x, known) else "missed"
            out.append((mark, row.label, _value(row.figure, x, known), target))
        elif EITHER.get(row.figure) in known or row.figure == "chance_probability":
            continue  # a figure for other kinds of tasks
        else:
            why = missing.get(row.figure, row.why)
            out.append(("unknown", row.label, f"none: {why}", row.target))
    return out


def _value(figure: str, x: float, known: Mapping[str, float]) -> str:
    if figure == "rank_correlation" and "rank_low" in known:
        pairs, low, high = (known[f"rank_{name}"] for name in ("pairs", "low", "high"))
        return f"{x:.2f} [{low:.2f}, {high:.2f}] over {pairs:.0f} pairs"
    if figure == "chance_probability":
        return f"{x:.3f}, expected {known['chance_expected']:.3f}"
    if figure == "unsupported":
        return f"{number(x)}: judges dream of {number(known['promise_judged'])}"
    if figure == "unrepeated":
        return f"{number(x)}: they dream of {number(known['promise_redrawn'])}"
    if figure == "promise":
        low, high = (number(known[f"promise_{name}"]) for name in ("low", "high"))
        return f"{number(x)}, episodes {low} to {high}"
    if figure == "life_dreamed":
        names = [f"life_{name}" for name in ("dreamed_low", "dreamed_high", "logged")]
        low, high, logged = (number(known[name]) for name in names)
        return f"{number(x)} [{low}, {high}], logged {logged}"
    if figure == "exploitation_gap" and x > ALARM:
        return f"{number(x)}, alarm: the dream return means nothing"
    return number(x)


def text(certificate: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    rows = lines_of(certificate)
    wide = max(len(label) for _, label, _, _ in rows)
    out = [str(certificate.get("sentence", "")), ""]
    for mark, label, value, target in rows:
        wanted = f"({target})" if target else ""
        out.append(f"  {mark:<8}{label:<{wide}}  {value}  {wanted}".rstrip())
    policies = certificate.get("policies") or []
    if policies:
        out += ["", f"  {'mean return':<38}{'real':>10}{'judges':>10}{'planner':>10}"]
    for row in policies:
        cells = [row.get(name) for name in ("real", "judges", "planner")]
        shown = (f"{'–' if x is None else number(x):>10}" for x in cells)
        out.append(f"  {name_of(row['name']):<38}{''.join(shown)}")
    out += [f"  note: {note}" for note in certificate.get("notes") or []]
    return "\n".join(out)


def section(certificate: Mapping[str, Any]) -> str:
    """The section of a report; '' without a certificate."""
    if not certificate:
        return ""
    body = "".join(
        f'<tr><td>{html.escape(label)}</td><td class="text">{html.escape(value)}</td>'
        f'<td class="text">{html.escape(target)}</td>'
        f'<td><span class="mark {mark or "none"}">{mark}</span></td></tr>'
        for mark, label, value, target in lines_of(certificate)
    )
    head = "".join(f"<th>{word}</th>" for word in ("figure", "measured", "target", ""))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    notes = "".join(f"<p class=note>{html.escape(x)}</p>" for x in certificate.get("notes") or [])
    return page.section(
        "How far the dream can be trusted",
        "Measured on episodes the model was not fitted on. Policies are ranked in dreams of models "
        "that did not plan; pairs that reality cannot tell apart are left out.",
        f'<p class="verdict">{html.escape(str(certificate.get("sentence", "")))}</p>',
        f'<div class="wide">{table}</div>',
        _rank_figure(certificate),
        f'<div class="wide">{_policies(certificate)}</div>',
        notes,
    )


def _policies(certificate: Mapping[str, Any]) -> str:
    """The policies as a table."""
    head = ("policy", "real return", "95% interval", "in dreams of judges", "in the planner's")
    shown = lambda x: "–" if x is None else x
    between = lambda ends: " to ".join(map(number, ends)) if ends else "–"
    rows = [
        (
            name_of(row["name"]),
            shown(row.get("real")),
            between(row.get("interval")),
            *(shown(row.get(name)) for name in ("judges", "planner")),
        )
        for row in certificate.get("policies") or []
    ]
    return page.table(head, [(row, row[0] == "candidate") for row in rows])


def _rank_figure(certificate: Mapping[str, Any]) -> str:
    """The figure of dream against real returns, of policies for which both are known."""
    points = []
    for row in certificate.get("policies") or []:
        dream = row.get("judges") if row.get("judges") is not None else row.get("planner")
        if row.get("real") is not None and row.get("interval") and dream is not None:
            name = name_of(row["name"])
            points.append({**row, "name": name, "dream": dream})
    if not points:
        return ""
    caption = "Mean return of each policy in dreams, against reality"
    return f'<div class="wide">{page.figure(plots.ranking(points), caption)}</div>'
