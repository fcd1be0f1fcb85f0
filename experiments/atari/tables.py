"""The tables of a suite, as rows of text: for Markdown, HTML and the terminal alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.atari import GAMES
from experiments.atari.published import human_normalised, table

NONE = "–"  # not known
FIGURES = {  # aggregate -> heading
    "mean": "mean",
    "median": "median",
    "iqm": "IQM of runs",
    "iqm_by_game": "IQM of games",
    "optimality_gap": "gap of runs",
    "optimality_gap_by_game": "gap of games",
    "above_human": "games above human",
}
ABOUT = (
    "Human-normalised: 0 = uniformly random, 1 = human. Mean and median are over games, of the "
    "mean of their runs; IQM and optimality gap are over all runs of all games or, apart, over the "
    "means of games, the only ones known of published tables. In brackets the 95 % stratified "
    "bootstrap interval over runs."
)


@dataclass(frozen=True)
class Table:
    """A titled table; `marked` are the rows of our methods."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int = 0  # the first so many rows


def tables(summary: Mapping[str, Any]) -> list[Table]:
    """All tables of a suite that have rows."""
    found = [whole(summary), alike(summary), by_game(summary), every_run(summary), rest(summary)]
    return [each for each in found if each.rows]


def whole(summary: Mapping[str, Any]) -> Table:
    """Aggregates over all games of the benchmark."""
    known = lambda each: each["aggregates"] if each["is_complete"] else None
    ours = [row(each, known(each)) for each in ours_of(summary)]
    theirs = [row(each, each["aggregates"]) for each in summary["published"]]
    note = ABOUT
    if any(not each["is_complete"] for each in ours_of(summary)):
        note += " A method without all 26 games has no figure here."
    return Table(f"All {len(GAMES)} games", note, HEAD, [*ours, *theirs], len(ours))


def alike(summary: Mapping[str, Any]) -> Table:
    """Aggregates over the games that were played, of published methods on the same games."""
    played = len(GAMES) - len(summary["missing"])
    title = f"The {played} games that were played" if played != 1 else "The game that was played"
    if not summary["missing"]:
        return Table(title, "", HEAD, [])
    mine = ours_of(summary)
    ours = [row(each, each["aggregates"]) for each in mine if len(each["games"]) == played]
    theirs = [row(each, each["on_our_games"]) for each in summary["published"]]
    note = f"No figure of the benchmark; missing are {', '.join(summary['missing'])}."
    return Table(title, note, HEAD, [*ours, *theirs] if ours else [], len(ours))


HEAD = ("method", *FIGURES.values(), "differs in")


def row(method: Mapping[str, Any], aggregates: Mapping[str, Any] | None) -> list[str]:
    """One method: its aggregates with their intervals, and how its protocol differs from ours."""
    spread = method.get("intervals") or {}
    cells = []
    for name in FIGURES:
        value = aggregates and aggregates[name]
        show = (lambda x: f"{x:.0f}") if name == "above_human" else (lambda x: f"{x:.3f}")
        low_high = spread.get(name)
        ends = f" [{show(low_high[0])}, {show(low_high[1])}]" if low_high else ""
        cells.append(NONE if value is None else show(value) + ends)
    return [title_of(method), *cells, method.get("differs", "")]


def by_game(summary: Mapping[str, Any]) -> Table:
    """Raw scores of every game, ours with their human-normalised mean."""
    ends, mine = table(), ours_of(summary)
    titles = [title_of(each) for each in mine]
    theirs = summary["published"]
    rows = []
    for game in GAMES:
        ours = [_ours(game, each["games"].get(game)) for each in mine]
        published = [_score(each["scores"].get(game)) for each in theirs]
        scale = [_score(ends[name][game]) for name in ("random", "human")]
        rows.append([game, *ours, *scale, *published])
    note = "Raw mean scores; of ours in brackets the human-normalised mean and the number of seeds."
    head = ("game", *titles, "random", "human", *(each["name"] for each in theirs))
    return Table("Scores by game", note, head, rows if mine else [])


def _ours(game: str, runs: Sequence[Mapping[str, Any]] | None) -> str:
    if not runs:
        return "missing"
    score = sum(run["score"] for run in runs) / len(runs)
    return f"{_score(score)} ({human_normalised(game, score):.3f}, {len(runs)})"


def every_run(summary: Mapping[str, Any]) -> Table:
    """Every finished run."""
    show: Mapping[str, Callable[[Any], str]] = {
        "seed": str,
        "score": _score,
        "ci": lambda ci: f"{_score(ci[0])} to {_score(ci[1])}",
        "normalised": lambda x: f"{x:.3f}",
        "sticky_score": _score,
        "episodes": str,
        "real_steps": str,
        "updates": str,
        "training_minutes": lambda x: f"{x:.1f}",
        "evaluation_minutes": lambda x: f"{x:.1f}",
        "device": str,
    }
    rows = [
        [game, title_of(method), *(show[name](run[name]) for name in show)]
        for method in ours_of(summary)
        for game, runs in method["games"].items()
        for run in runs
    ]
    head = ("game", "method", *(name.replace("_", " ") for name in show))
    head = tuple({"ci": "95 % interval", "real steps": "decisions"}.get(x, x) for x in head)
    note = "Score: raw, of the last weights, in new games; the interval is over these games."
    return Table("Every run", note, head, rows)


def rest(summary: Mapping[str, Any]) -> Table:
    """Runs without a result: they enter no figure."""
    head = ("game", "seed", "size", "status", "directory")
    names = ("game", "seed", "size", "status", "path")
    rows = [[str(each[name]) for name in names] for each in summary["others"]]
    return Table("Without a result", "In none of the figures.", head, rows)


def ours_of(summary: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Our methods."""
    return summary["ours"]


def title_of(method: Mapping[str, Any]) -> str:
    """The name of a method, ours with what it sees and how much it learns."""
    if "updates_per_step" not in method:
        return method["name"]
    seen, updates = method["observations"], method["updates_per_step"]
    return f"{method['name']} ({seen}, {updates:g} updates per decision)"


def _score(x: float | None) -> str:
    return NONE if x is None else f"{x:,.1f}"


def markdown(table: Table) -> str:
    """A table in Markdown."""
    line = lambda cells: f"| {' | '.join(str(x).replace('|', '/') for x in cells)} |"
    rule = line(["---"] * len(table.head))
    about = f"\n{table.note}\n" if table.note else ""
    rows = "\n".join(map(line, table.rows))
    return f"## {table.title}\n{about}\n{line(table.head)}\n{rule}\n{rows}\n"
