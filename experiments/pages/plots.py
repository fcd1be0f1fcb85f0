"""The figures of a report, as SVG with the colours and the font of the page around it.

Matplotlib draws in colours that stand for roles; `to_svg` replaces each by a CSS variable, so that
the same file is readable in light and dark mode.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INK, MUTED, RULE, ACCENT, PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
ROLES = {INK: "ink", MUTED: "muted", RULE: "rule", ACCENT: "accent", PAPER: "paper"}
PANEL = (3.6, 1.85)  # inches, of small figures side by side
MAX_POINTS = 400  # most points per line or row of points; more could not be distinguished
FEW_POINTS = 20  # most points, such as those of seeds, that are drawn larger


def before_after(rows: Sequence[Mapping[str, Any]], unit: str = "return per episode") -> str:
    """One row per policy: a point per episode, the mean and its interval.

    A row has `name`, `mean`, `ci` (lo, hi), `points` (may be empty) and `is_new`.
    """
    figure, axes = _figure(9, 0.55 + 0.46 * len(rows))
    for at, row in enumerate(rows):
        colour = ACCENT if row["is_new"] else INK
        points = thin(np.asarray(row["points"], float))
        # Golden-ratio steps spread the points evenly over the row, without randomness.
        spread = (np.arange(len(points)) * 0.618034 % 1 - 0.5) * 0.52
        few = len(points) <= FEW_POINTS
        style = {"ms": 3.6, "alpha": 0.7} if few else {"ms": 3, "alpha": 0.32}
        axes.plot(points, at + spread, "o", mew=0, color=colour, **style)
        axes.plot(row["ci"], [at, at], color=colour, lw=2.2, solid_capstyle="butt")
        axes.plot([row["mean"]], [at], "o", ms=6.5, color=colour, mec=PAPER, mew=1.4)
        weight = "bold" if row["is_new"] else "normal"
        label = {"xy": (1.015, at), "xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(number(row["mean"]), **label, color=colour, fontsize=9, fontweight=weight)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9, color=INK)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel(unit)
    axes.grid(axis="x", color=RULE, lw=0.7)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return to_svg(figure, "Return per episode of each policy in the real task")


def open_loop(k: Sequence[float], model: Sequence[float], persistence: Sequence[float]) -> str:
    """Errors after k steps: of the model, and of predicting no change."""
    figure, axes = _figure(*PANEL)
    for y, colour, style in ((persistence, MUTED, "--"), (model, ACCENT, "-")):
        axes.plot(k, y, style, marker="o", ms=3.2, lw=1.5, color=colour)
    values = np.array([*model, *persistence], float)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.max() > 30 * values.min():
        axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set_xticks(k, [number(x) for x in k])
    axes.minorticks_off()
    axes.set_xlabel("steps ahead")
    return to_svg(figure, "Prediction error by number of steps ahead, model against no change")


def ranking(rows: Sequence[Mapping[str, Any]]) -> str:
    """One point per policy: mean real return with interval, against mean dream return.

    A row has `name`, `real`, `interval` (lo, hi) and `dream`.
    """
    figure, axes = _figure(9, 3.3)
    for at, row in enumerate(rows):
        colour = ACCENT if row["name"] == "candidate" else INK
        axes.plot(row["interval"], [row["dream"]] * 2, color=colour, lw=1.6, alpha=0.5)
        axes.plot([row["real"]], [row["dream"]], "o", ms=6, color=colour, mec=PAPER, mew=1.2)
        where = {"xy": (1.03, 0.97 - 0.105 * at), "xycoords": "axes fraction", "va": "top"}
        axes.annotate(f"{at + 1}  {row['name']}", **where, fontsize=8.5, color=colour)
    spot = {"xytext": (7, 4), "textcoords": "offset points", "fontsize": 8, "color": INK}
    for x, y, words in _together([(row["real"], row["dream"]) for row in rows]):
        axes.annotate(words, (x, y), **spot)
    ends = [row[name] for row in rows for name in ("real", "dream")]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], "--", color=MUTED, lw=0.9, zorder=0)
    axes.margins(0.06)
    axes.set_xlabel("mean return in the real task")
    axes.set_ylabel("mean return in dreams", color=MUTED, fontsize=9)
    return to_svg(figure, "Mean return of each policy in dreams against the real task")


def _together(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """(x, y, label) of points; points too near each other share a label of their numbers from 1."""
    span = np.maximum(np.ptp(np.array(points), axis=0), 1e-9)
    groups: list[tuple[Any, list[int]]] = []
    for at, point in enumerate(np.array(points)):
        near = [group for group in groups if (np.abs(group[0] - point) < 0.04 * span).all()]
        near[0][1].append(at + 1) if near else groups.append((point, [at + 1]))
    return [(x, y, " ".join(map(str, numbers))) for (x, y), numbers in groups]


def strip(name: str, real: Sequence[float], dream: Sequence[float]) -> str:
    """One dimension of the observation over time: real solid, dream dashed."""
    figure, axes = _figure(*PANEL)
    axes.plot(real, color=INK, lw=1.3)
    axes.plot(dream, "--", color=ACCENT, lw=1.5, dashes=(3.2, 1.8))
    axes.set_xlabel("step")
    return to_svg(figure, f"{name} over time, real and dreamed")


def curve(name: str, x: Sequence[float], y: Sequence[float], *, is_loss: bool) -> str:
    """One metric over the steps of its stage; a loss that falls a lot has a log scale."""
    figure, axes = _figure(*PANEL)
    values = np.asarray(y, float)
    axes.plot(thin(np.asarray(x)), thin(values), color=ACCENT, lw=1.3)
    if is_loss and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
        axes.minorticks_off()
    axes.set_xlabel("step")
    return to_svg(figure, f"{name} over training")


def learning(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    ends: Sequence[tuple[float, float, float, float]],
    points: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """Returns by real steps: a line per run, points of episodes, and `ends` (x, mean, lo, hi)."""
    figure, axes = _figure(9, 2.9)
    if points is not None:
        x, y = map(np.asarray, points)
        axes.plot(thin(x), thin(y), "o", ms=3, mew=0, color=MUTED, alpha=0.45)
    for x, y in curves:
        axes.plot(x, y, color=ACCENT, lw=1.6, alpha=1 if len(curves) == 1 else 0.6)
    for x, mean, low, high in ends:
        axes.plot([x, x], [low, high], color=INK, lw=2.2, solid_capstyle="butt")
        axes.plot([x], [mean], "o", ms=6.5, color=INK, mec=PAPER, mew=1.4)
        label = {"xy": (1.015, mean), "xycoords": ("axes fraction", "data"), "va": "center"}
        axes.annotate(number(mean), **label, color=INK, fontsize=9)
    axes.set_xlim(left=0)
    axes.set_xlabel("real steps")
    axes.set_ylabel("return per episode", color=MUTED, fontsize=9)
    axes.grid(axis="y", color=RULE, lw=0.7)
    return to_svg(figure, "Return per episode by real steps")


def profiles(
    levels: Sequence[float],
    ours: Mapping[str, Sequence[float]],
    theirs: Mapping[str, Sequence[float]],
) -> str:
    """Shares of runs above each score: `ours` as solid lines, `theirs` dashed, named at the end."""
    figure, axes = _figure(9, 2.9)
    for lines, colour, style in ((theirs, MUTED, "--"), (ours, ACCENT, "-")):
        for at, (name, share) in enumerate(lines.items()):
            axes.plot(levels, share, style, color=colour, lw=1.6, alpha=1 / (1 + 0.35 * at))
            where = {"xy": (levels[12 + 9 * at], share[12 + 9 * at]), "xytext": (3, 4)}
            axes.annotate(name, **where, textcoords="offset points", color=colour, fontsize=8)
    axes.axvline(1, color=RULE, lw=0.9, zorder=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("human-normalised score")
    axes.set_ylabel("share of runs above it", color=MUTED, fontsize=9)
    return to_svg(figure, "Share of runs above each human-normalised score")


def thin(x: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS of the values, evenly spaced, the last one included."""
    stride = math.ceil(len(x) / MAX_POINTS) or 1
    return x[::-1][::stride][::-1]


def number(x: Any) -> str:
    """A number as text, such as 1,234 or 487.3 or 0.0123."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.number):
        return str(x)
    if not math.isfinite(x):
        return "–"
    if float(x).is_integer() and abs(x) < 1e15:
        return f"{int(x):,}".replace("-", "−")
    digits = 0 if abs(x) >= 10_000 else 1 if abs(x) >= 10 else 2 if abs(x) >= 1 else None
    text = f"{x:,.{digits}f}" if digits is not None else f"{x:.3g}"
    return text.replace("-", "−")


def to_svg(figure: Any, title: str) -> str:
    """Inline SVG of a figure: no fixed size, CSS variables for colours, no unused ids."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)[\")]", svg))
    drop = lambda found: found[0] if found[1] in used else ""
    svg = re.sub(r' id="([^"]*)"', drop, svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for colour, role in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return re.sub(r"\n\s*", "\n", svg).strip()


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=RULE, lw=0.8)
    axes.tick_params(colors=MUTED, labelsize=9, length=2.5, width=0.7)
    axes.xaxis.label.set(color=MUTED, fontsize=9)
    axes.yaxis.get_offset_text().set(color=MUTED, fontsize=8)
    axes.margins(x=0.02, y=0.1)
    return figure, axes
