"""Batches of a table as arrays in the words of a trace, the same keys in every batch.

`o0`, `o1`, ... are the leaves of the observation, `n0`, `n1`, ... those of the next one; `a` the
action, `a_empty` where there is none; `r`, `ended`, `cut`, `p`, `m` are reward, terminated,
truncated, propensity and mask; `pays` says where a reward is given, `run`, `file` and `row` which
episode a row is of, and where it stands. `bad` holds the number of what is wrong with a row (see
`Decoder.problems`), 0 for nothing; `bad_step` what is wrong only if the row is a step, `bad_next`
only if it is the last step, and `bad_other` even if it is an event, or closes the episode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from envs.sources import columns
from envs.sources.columns import Cells
from envs.sources.expressions import Expression
from envs.sources.mapping import Mapping, flat
from envs.sources.names import Numbering
from envs.sources.plan import Leaf, Plan, grouped
from envs.types import TraceError

MARKS = ("bad", "bad_step", "bad_next", "bad_other")

Rows = dict[str, np.ndarray]


def size(rows: Rows) -> int:
    """How many rows there are."""
    return len(rows["row"])


def num_bytes(rows: Rows) -> int:
    """Bytes in memory."""
    return sum(x.nbytes for x in rows.values())


def joined(chunks: list[Rows]) -> Rows:
    """Batches end to end."""
    if len(chunks) == 1:
        return chunks[0]
    return {key: np.concatenate([rows[key] for rows in chunks]) for key in chunks[0]}


class Decoder:
    """Turns tables into `Rows` by a plan and a mapping."""

    def __init__(self, mapping: Mapping, plan: Plan, reward: Expression | None):
        self.mapping = mapping
        self.plan = plan
        self.reward = reward
        self.next = next_leaves(mapping, plan) if mapping.next_observation is not None else []
        self.problems = [""]  # "{t}" stands for the step
        self.names = {key: Numbering() for key in ("session", "policy")}
        self.width: int | None = None  # of the first action mask
        self.order_type: pa.DataType | None = None  # of the first batch
        self.unknown: dict[str, int] = {}  # cells of no known category, by column

    def __call__(self, table: pa.Table, rows: Rows) -> Rows:
        """The arrays of a table; `rows` holds those that say where its rows are."""
        marks = {key: np.zeros(len(table), np.int32) for key in MARKS}
        out = dict(rows)
        for i, leaf in enumerate(self.plan.leaves()):
            out[f"o{i}"] = self._leaf(leaf, table, marks["bad"])
        for i, leaf in enumerate(self.next):
            out[f"n{i}"] = self._leaf(leaf, table, marks["bad_next"])
        out["a"], out["a_empty"] = self._action(table, marks["bad_step"])
        out["r"], out["pays"] = self._reward(table, marks["bad_step"])
        for key, name in (("ended", "terminated"), ("cut", "truncated")):
            if getattr(self.mapping, name) is not None:
                out[key] = self._flags(table, name, marks)
        out |= self._optional(table, marks)
        return out | marks

    def _leaf(self, leaf: Leaf, table: pa.Table, marks: np.ndarray) -> np.ndarray:
        x, cells = leaf.read(table)
        for cell in cells:
            self._mark(marks, cell, leaf.name)
        x = self._shaped(x, leaf.space.shape, leaf.name, marks)
        self._mark_infinite(marks, x, leaf.name)
        if leaf.has_unknown and (count := int((x == leaf.space.n - 1).sum())):
            name = leaf.columns[0]
            self.unknown[name] = self.unknown.get(name, 0) + count
        return x

    def _action(self, table: pa.Table, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        leaf = self.plan.action
        x, cells = leaf.read(table)
        each = np.stack([_nothing(cell) for cell in cells])
        empty, incomplete = np.all(each, axis=0), np.any(each, axis=0)
        self._mark(marks, Cells(x, incomplete if incomplete.any() else None), "action")
        for cell in cells:
            self._mark(marks, cell, "action")
        x = self._shaped(x, leaf.space.shape, "action", marks)
        if empty.any():
            x = x.copy()
            x[empty] = 0
        self._mark_infinite(marks, x, "action")
        whole = x.dtype.kind in "fb" and np.issubdtype(leaf.space.dtype, np.integer)
        if (
            whole and (np.abs(x) < 2**53).all() and (x == np.rint(x)).all()
        ):  # see `Facts.is_category`
            x = x.astype(np.int64)
        return x, empty

    def _shaped(self, x: np.ndarray, shape: tuple, name: str, marks: np.ndarray) -> np.ndarray:
        """`x` [rows, *shape], or zeros and marks everywhere if cells have another shape."""
        if x.shape[1:] == shape:
            return x
        here = np.ones(len(x), bool)
        what = f"has shape {x.shape[1:]}, expected {shape}"
        self._mark(marks, Cells(x, None, here, what), name)
        return np.zeros((len(x), *shape), x.dtype)

    def _reward(self, table: pa.Table, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rewards [rows], bool [rows]: where one is given, by more than the observation)."""
        pays = np.zeros(len(table), bool)
        if self.reward is None:
            return np.zeros(len(table)), pays
        values, nowhere = {}, np.zeros(len(table), bool)
        observed = {*flat(self.mapping.observation)}
        for name in self.reward.columns:
            cells = self._numbers(table, name)
            self._mark(
                marks, cells, f"reward ({name})" if len(self.reward.columns) > 1 else "reward"
            )
            values[name] = cells.values
            nowhere |= False if cells.bad is None else cells.bad
            if name not in observed:
                pays |= (cells.values != 0) & (True if cells.empty is None else ~cells.empty)
        r, by_zero = self.reward(values)
        if by_zero.any():
            self._mark(marks, Cells(r, None, by_zero, "divides by zero"), "reward")
        r = np.where(nowhere | by_zero, np.nan, r)  # refused in rows that no mark is read of, too
        self._mark_infinite(marks, r, "reward")
        return r, pays & ((r < 0) | (r > 0))

    def _flags(self, table: pa.Table, name: str, marks: dict[str, np.ndarray]) -> np.ndarray:
        """bool [rows], false where empty. Empty is wrong in steps; what is no flag, in any row."""
        cells = self._flag_cells(table, name)
        self._mark(marks["bad_step"], cells, name)
        self._mark(marks["bad_other"], dataclasses.replace(cells, empty=None), name)
        return _true(cells)

    def _flag_cells(self, table: pa.Table, name: str) -> Cells:
        column = getattr(self.mapping, name)
        try:
            return columns.flags(table.column(column))
        except TraceError as error:
            raise TraceError(f"column {column} {error}") from error

    def _numbers(
        self, table: pa.Table, column: str, read: Callable[..., Cells] = columns.numbers
    ) -> Cells:
        try:
            cells = read(table.column(column))
        except TraceError as error:
            raise TraceError(f"column {column} {error}") from error
        if cells.values.ndim > 1:
            raise TraceError(f"column {column} holds lists, expected single numbers")
        return cells

    def _optional(self, table: pa.Table, marks: dict[str, np.ndarray]) -> Rows:
        mapping, out = self.mapping, {}
        if mapping.propensity is not None:
            cells = self._numbers(table, mapping.propensity)
            self._mark(marks["bad_step"], cells, "propensity")
            out["p"] = cells.values.astype(np.float64)
        if mapping.time is not None:
            cells = self._numbers(table, mapping.time)
            self._mark(marks["bad"], cells, "time")
            out["time"] = cells.values.astype(np.float64)
        if mapping.order is not None:
            out["order"] = self._order(table, mapping.order, marks["bad_other"])
        if mapping.review is not None:
            cells = self._numbers(table, mapping.review)
            x = cells.values.astype(np.float64)
            out["review"] = x if cells.empty is None else np.where(cells.empty, np.nan, x)
        if mapping.consent is not None:
            out["consent"] = _true(self._flag_cells(table, "consent"))  # all else is no consent
        if mapping.event is not None:
            cells = self._flag_cells(table, "event")
            self._mark(marks["bad"], dataclasses.replace(cells, empty=None), "event")
            out["event"] = _true(cells)
        for key, number in self.names.items():
            if (column := getattr(mapping, key)) is not None:
                try:
                    out[key] = number(table.column(column))
                except TraceError as error:
                    raise TraceError(f"column {column} {error}") from error
        if mapping.action_mask is not None:
            out["m"] = self._masks(table, mapping.action_mask, marks["bad_step"])
        return out

    def _order(self, table: pa.Table, column: str, marks: np.ndarray) -> np.ndarray:
        """What sorts the rows; whole numbers stay such, and times count in one unit."""
        stored = table.schema.field(column).type
        self.order_type = self.order_type or stored
        if stored != self.order_type and "time" in map(columns.sort_of, (stored, self.order_type)):
            what = f"column {column} holds {stored}, but {self.order_type} before"
            raise TraceError(f"{what}; give all files the same type")
        cells = self._numbers(table, column, columns.ordinals)
        self._mark(marks, cells, "order")
        self._mark_infinite(marks, cells.values, "order")
        return cells.values

    def _masks(self, table: pa.Table, names: list[str], marks: np.ndarray) -> np.ndarray:
        """bool [rows, A]; all true where the mask is empty."""
        parts = []
        for name in names:
            column = table.column(name)
            lists = columns.is_list(column.type)
            cells = columns.numbers(column) if lists else columns.flags(column)
            self._mark(marks, cells, "action_mask")
            x = cells.values.astype(bool)
            if cells.empty is not None:
                x[cells.empty] = True
            parts.append(x if lists else x[:, None])
        x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        self.width = x.shape[1] if self.width is None else self.width
        return self._shaped(x, (self.width,), "action_mask", marks)

    def _mark(self, marks: np.ndarray, cells: Cells, name: str) -> None:
        """Note where cells are empty or bad, unless something is noted there."""
        for where, what in ((cells.empty, "is empty"), (cells.bad, cells.what)):
            if where is not None:
                text = f"{name} at step {{t}} {what}"
                if text not in self.problems:
                    self.problems.append(text)
                marks[where & (marks == 0)] = self.problems.index(text)

    def _mark_infinite(self, marks: np.ndarray, x: np.ndarray, name: str) -> None:
        if x.dtype.kind != "f" or np.isfinite(x).all():
            return
        flat = x.reshape(len(x), -1)
        for word, where in (("nan", np.isnan(flat)), ("inf", np.isinf(flat))):
            what = f"is not finite ({word}); repair or drop the episode"
            self._mark(marks, Cells(x, None, np.asarray(where.any(axis=1)), what), name)


def _nothing(cells: Cells) -> np.ndarray:
    """bool [rows]: where a cell is empty. NaN stands for such in columns without any."""
    x = cells.values
    empty = np.zeros(len(x), bool) if cells.empty is None else cells.empty.copy()
    if x.dtype.kind == "f":
        empty |= np.isnan(x).all(axis=tuple(range(1, x.ndim)))
    return empty


def _true(cells: Cells) -> np.ndarray:
    """Where a flag is true, neither empty nor bad."""
    return cells.values if cells.empty is None else cells.values & ~cells.empty


def next_leaves(mapping: Mapping, plan: Plan) -> list[Leaf]:
    """The leaves of the next observation: those of the observation, from other columns."""
    paired: list[tuple[str, str]] = [*_pairs(mapping.observation, mapping.next_observation)]
    other = dict(paired)
    found = []
    for leaf in plan.leaves():
        names = tuple(other[name] for name in leaf.columns)
        found.append(dataclasses.replace(leaf, columns=names, name=f"next_{leaf.name}"))
    return found


def _pairs(o: Any, later: Any) -> Iterator[tuple[str, str]]:
    """(column, column of the next observation), place by place."""
    if isinstance(o, dict) and isinstance(later, dict) and o.keys() == later.keys():
        for key in o:
            yield from _pairs(o[key], later[key])
    elif isinstance(o, list) and isinstance(later, list) and len(o) == len(later):
        yield from zip(o, later, strict=True)
    else:
        raise TraceError("mapping: next_observation must name a column for each of observation")


def known_names(entry: Any, types: dict[str, str]) -> list[str]:
    """The columns of an entry that are read."""
    groups = grouped(entry, types)
    if isinstance(groups, dict):
        return [name for value in groups.values() for name in known_names(value, types)]
    return list(groups)
