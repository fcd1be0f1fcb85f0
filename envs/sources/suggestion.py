"""A first draft of a mapping, guessed from names and values of a table; guesses are marked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from envs.sources.columns import is_list, numbers, sort_of
from envs.sources.names import as_text, distinct
from envs.sources.tables import TableSource

WORDS = {
    "episode": ("episode", "case", "trajectory", "traj", "session", "run", "id"),
    "reward": ("reward", "profit", "payoff", "gain", "revenue", "score", "return"),
    "action": ("action", "act", "decision", "choice", "ordered", "order"),
    "terminated": ("terminated", "terminal", "done", "ended", "end", "closed"),
    "truncated": ("truncated", "timeout", "cut"),
    "propensity": ("propensity", "probability", "prob"),
    "session": ("session",),
    "policy": ("policy", "behaviour", "behavior"),
    "review": ("review", "rating", "grade"),
    "consent": ("consent",),
    "order": ("step", "t", "index", "time", "timestamp", "date", "day", "seq"),
    "time": ("timestamp", "time", "datetime", "date"),
}
LATE = ("outcome", "result", "final", "label", "total")  # words for what is known at the end alone
HEAD = """\
# A first draft, guessed from {rows} rows of {file}.
# Read every line that says "guess", and correct it: a wrong column teaches a wrong world.
# What is known only after the action, or at the end, is no observation: say identifier for it.
"""
MISSING = "???"  # no column: refused until somebody names one
FEW_CATEGORIES = 50


@dataclass(frozen=True)
class Seen:
    """One column of a sample."""

    name: str
    words: frozenset[str]
    sort: str
    values: int  # different ones; 0 for lists
    runs: int  # of equal values in a row
    is_whole: bool
    is_flag: bool
    low: float


def suggest(source: TableSource) -> str:
    """The text of a mapping file for the table of a source (whose own mapping is not used)."""
    table = source.sample()
    seen = [_look(table, name) for name in table.column_names]
    lines: dict[str, tuple[Any, str]] = {}
    free = {each.name: each for each in seen}

    def take(key: str, allowed: Any, needed: bool = False) -> Seen | None:
        found = _best(key, [each for each in free.values() if allowed(each)])
        if found is not None:
            free.pop(found.name)
            lines[key] = (
                found.name,
                f"guess: its name holds {sorted(found.words & {*WORDS[key]})[0]!r}",
            )
        elif needed:
            lines[key] = MISSING, "no column looks like it; name one"
        return found

    number = lambda each: each.sort == "number"
    flag = lambda each: each.is_flag
    rows = len(table)
    parts = lambda each: each.sort in ("text", "number") and 1 < each.values <= max(rows // 2, 1)
    episode = take("episode", parts, needed=True)
    for key in ("propensity", "reward"):
        take(key, number, needed=key == "reward")
    for key in ("terminated", "truncated", "consent"):
        take(key, flag)
    action = take("action", lambda each: each.sort in ("number", "text"), needed=True)
    for key in ("policy", "review", "session"):
        take(key, lambda each, key=key: each.sort == ("number" if key == "review" else "text"))
    if episode is not None and episode.runs > episode.values:
        take("order", lambda each: each.sort in ("number", "time"), needed=True)
    take("time", lambda each: each.sort == "time")
    later = {name[5:]: name for name in free if name.startswith("next_") and name[5:] in free}
    types = {
        each.name: _kind(each, rows) for each in free.values() if each.name not in later.values()
    }
    if action is not None and action.sort == "text":
        types[action.name] = ("category", "guess: text")
    o = [name for name in types if action is None or name != action.name]
    lines["observation"] = o or MISSING, "guess: all that is left"
    if later and {*later} == {*o}:
        lines["next_observation"] = [later[name] for name in o], "guess: called next_..."
    elif action is None or not table.column(action.name).null_count:
        lines["final"] = (
            "repeat",
            "guess: no row without an action; the last observation is missing",
        )
    return HEAD.format(rows=rows, file=source.files[0].path) + _yaml(lines, types)


def _look(table: pa.Table, name: str) -> Seen:
    column = table.column(name).combine_chunks()
    sort = sort_of(column.type)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    words = frozenset(re.split(r"[^a-z]+", spaced)) - {""}
    if is_list(column.type) or sort in ("other", "nothing"):
        return Seen(name, words, "lists" if sort == "lists" else sort, 0, 0, False, False, 0.0)
    texts = distinct(column)
    codes = column.drop_null().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    changes = int((np.diff(codes) != 0).sum())
    is_whole, low = False, 0.0
    if sort == "number":
        cells = numbers(column)
        x = cells.values.astype(float)
        x = x[np.isfinite(x) & (True if cells.empty is None else ~cells.empty)]
        is_whole, low = bool((x == np.rint(x)).all()), float(x.min()) if len(x) else 0.0
    is_flag = {text.lower() for text in texts} <= {"true", "false", "0", "1", "yes", "no"}
    return Seen(name, words, sort, len(texts), 1 + changes, is_whole, is_flag, low)


def _best(key: str, columns: list[Seen]) -> Seen | None:
    """The column whose name holds the first of the words for `key`; of those, one in few runs."""
    rank = lambda each: [word in each.words for word in WORDS[key]]
    named = [each for each in columns if any(rank(each))]
    return min(named, key=lambda each: (rank(each).index(True), each.runs), default=None)


def _kind(each: Seen, rows: int) -> tuple[str, str]:
    """(type, why) of a column of the observation."""
    late = f"; known before the action? its name holds {w!r}" if (w := _late(each)) else ""
    if each.sort == "lists":
        return "number", f"guess: lists of numbers{late}"
    if each.sort in ("other", "nothing"):
        return "identifier", "guess: cannot be read, or is empty"
    if each.values <= 1:
        return "identifier", "guess: it never changes"
    if each.sort == "time":
        return "time", f"guess: a time{late}"
    if each.sort == "text":
        few = each.values <= FEW_CATEGORIES and each.values <= rows // 4
        what = f"text with {each.values} different values{late}"
        return ("flag" if each.is_flag else "category" if few else "identifier"), f"guess: {what}"
    if each.is_flag:
        return "flag", f"guess: two values{late}"
    if each.is_whole and each.values == rows and "id" in each.words:
        return "identifier", "guess: a number for each row"
    if each.is_whole and each.low >= 0:
        return "count", f"guess: whole and never negative; or a category?{late}"
    return "number", f"guess: numbers{late}"


def _late(each: Seen) -> str | None:
    return next((word for word in LATE if word in each.words), None)


def _yaml(lines: dict[str, tuple[Any, str]], types: dict[str, tuple[str, str]]) -> str:
    order = [key for key in ("episode", "order", "observation", "action", "reward") if key in lines]
    text = ""
    for key in [*order, *(key for key in lines if key not in order)]:
        value, why = lines[key]
        shown = f"[{', '.join(map(_quoted, value))}]" if isinstance(value, list) else _quoted(value)
        text += f"{key}: {shown}  # {why}\n"
    if types:
        text += "types:\n"
    for name, (kind, why) in types.items():
        text += f"  {_quoted(name)}: {kind}  # {why}\n"
    return text


def _quoted(name: Any) -> str:
    """A name as YAML, in quotes unless it is a plain word that YAML takes for nothing else."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) and name.lower() not in (
        *("y", "n", "yes", "no", "on", "off", "true", "false", "null"),
    )
    return name if plain else json.dumps(as_text(name), ensure_ascii=False)
