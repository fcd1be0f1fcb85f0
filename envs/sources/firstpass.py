"""The first pass over tables: are all columns there, and what must be known of their values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from envs.sources import columns
from envs.sources.batches import Tables, after
from envs.sources.ids import EpisodeIds
from envs.sources.mapping import Mapping, closest
from envs.sources.names import first_word, is_decimal_comma, one_line
from envs.sources.survey import Facts
from envs.types import TraceError

SHOWN = 20  # columns that an error lists
WORDY = ("category", "flag", "identifier")  # types of columns that may hold text


@dataclass
class Found:
    """What the first pass finds: facts of columns, width of the masks, rows of each episode."""

    facts: dict[str, Facts]
    mask_width: int | None = None
    counts: np.ndarray | None = None  # int [episodes], if rows may lie anywhere
    wanted: dict[str, str] = field(default_factory=dict)  # column -> what must be known of it

    @property
    def is_complete(self) -> bool:
        """Whether the rows read so far tell all that is wanted."""
        shapes = [self.facts[name].shape for name, how in self.wanted.items() if how == "shape"]
        return self.counts is None and len(shapes) == len(self.wanted) and None not in shapes


def check_columns(tables: Tables, names: list[str], rewarded: tuple[str, ...]) -> None:
    """Raise `TraceError` for a column that a file lacks, or has twice."""
    for file, schema in zip(tables.files, tables.stored, strict=True):
        if missing := [name for name in names if name not in schema.names]:
            has = ", ".join(map(one_line, schema.names[:SHOWN]))
            has += ", ..." if len(schema.names) > SHOWN else ""
            hint = closest(one_line(missing[0]), map(one_line, schema.names))
            what = f"has no column {', '.join(missing)}{hint}; it has {has}"
            if set(missing) & set(rewarded):
                what += "; reward must be a column or arithmetic over columns"
            raise TraceError(f"{file.path}: {what}")
        if twice := [name for name in names if schema.names.count(name) > 1]:
            what = f"has {schema.names.count(twice[0])} columns called {twice[0]}"
            raise TraceError(f"{file.path}: {what}; give each a name of its own")


def check_texts(tables: Tables, mapping: Mapping, rewarded: tuple[str, ...]) -> None:
    """Raise `TraceError` with the first cell that is no number where numbers are needed."""
    names = [name for name in mapping.leaves() if mapping.types.get(name) not in WORDY]
    single = (mapping.propensity, mapping.review, mapping.order, mapping.time)
    names += [*rewarded, *(name for name in single if name is not None)]
    for number, schema in enumerate(tables.stored):
        for name in names:
            if columns.sort_of(schema.field(name).type) == "text":
                _refuse_text(tables, mapping, number, name)


def _refuse_text(tables: Tables, mapping: Mapping, number: int, name: str) -> None:
    advice = f"say types: {{{name}: category}}, or identifier to leave it out"
    if name not in mapping.leaves() or mapping.types.get(name):
        advice = "give it numbers from the first to the last row"
    where, text = "", "numbers as text"
    for first, table in tables.read(number, [name]):
        if (found := first_word(table.column(name))) is not None:
            where, text = f"row {first + found[0]}: ", repr(one_line(found[1]))
            if is_decimal_comma(found[1]) and tables.decimal_advice:
                advice = tables.decimal_advice
            break
    what = f"column {one_line(name)} holds text ({text}), expected numbers"
    raise TraceError(f"{tables.files[number].path}: {where}{what}; {advice}")


def first_pass(tables: Tables, mapping: Mapping, rewarded: tuple[str, ...]) -> Found:
    """Read what must be known before the first episode; nothing, if the mapping says all.

    `rewarded` are the columns of the reward.
    """
    found = Found({name: Facts(name) for name in mapping.leaves()})
    for file, schema in zip(tables.files, tables.stored, strict=True):
        for name, each in found.facts.items():
            if name in schema.names:
                each.stored(schema.field(name).type, file.path)
    check_texts(tables, mapping, rewarded)
    found.wanted = dict(_wanted(mapping, found.facts))
    names = dict.fromkeys(found.wanted)
    if mapping.order is not None:
        found.counts = np.zeros(0, np.int64)
        names[mapping.episode] = None
    if mapping.action_mask is not None:
        found.mask_width = _mask_width(tables, mapping.action_mask)
    ids = EpisodeIds(mapping, tables.files)
    for number, file in enumerate(tables.files if names else ()):
        ids.enter(number)
        for first, table in tables.read(number, list(names)):
            try:
                _look(found, table)
                if found.counts is not None:
                    row = np.arange(first, first + len(table))
                    runs = ids(table.column(mapping.episode), row)
                    found.counts = _added(found.counts, runs[runs >= 0])
            except TraceError as error:
                raise TraceError(f"{file.path}: {after(first)}{error}") from error
            if found.is_complete:
                return found
    return found


def _look(found: Found, table: pa.Table) -> None:
    """Add a batch to the facts."""
    for name, how in found.wanted.items():
        facts, column = found.facts[name], table.column(name)
        if how == "texts":
            facts.look_texts(column)
        elif how == "values" or facts.shape is None:
            facts.look(column)


def _added(counts: np.ndarray, runs: np.ndarray) -> np.ndarray:
    more = np.bincount(runs, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _mask_width(tables: Tables, names: list[str]) -> int | None:
    """Entries of the masks: the columns, or the length of the first list."""
    if not columns.is_list(tables.stored[0].field(names[0]).type):
        return len(names)
    for _, table in tables.read(0, names[:1]):
        shape = columns.numbers(table.column(names[0])).values.shape
        return shape[1] if len(shape) > 1 else None
    return None


def _wanted(mapping: Mapping, facts: dict[str, Facts]) -> Iterator[tuple[str, str]]:
    """(column, "values", "texts" or "shape"): what must be known of which; shape, of a row."""
    for is_action, group in _groups(mapping):
        given = mapping.action_space if is_action else mapping.observation_space
        for name in group:
            kind = mapping.types.get(name)
            if kind == "category":
                if name not in mapping.categories:
                    yield name, "texts"
            elif given is None and kind in (None, "number"):
                if facts[name].sort == "lists":
                    yield name, "values" if is_action else "shape"
                elif kind is None and (is_action or len(group) == 1):
                    yield name, "values"


def _groups(mapping: Mapping) -> Iterator[tuple[bool, list[str]]]:
    """(is it the action, columns) of every list of columns that makes a space."""

    def lists(entry: Any) -> Iterator[list[str]]:
        if isinstance(entry, dict):
            for value in entry.values():
                yield from lists(value)
        elif entry is not None:
            yield entry

    for entry in (mapping.observation, mapping.next_observation):
        yield from ((False, group) for group in lists(entry))
    yield True, mapping.action
