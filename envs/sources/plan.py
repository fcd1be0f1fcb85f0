"""From columns to spaces: which leaf of an observation or action is made of which columns, and how.

A list of columns is a vector of numbers; if some are categories it is a Dict with one key for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from envs.sources import columns
from envs.sources.columns import Cells
from envs.sources.layouts import check_layout, turned_shape, unflattened
from envs.sources.mapping import Mapping
from envs.sources.names import as_text, categories
from envs.sources.survey import Facts
from envs.types import TraceError, space_from_json


@dataclass(frozen=True)
class Leaf:
    """One simple space, and the columns that its values come from."""

    name: str  # such as observation.joints
    columns: tuple[str, ...]
    kinds: tuple[str | None, ...]
    space: Any
    layout: str | None = None
    categories: dict[str, int] | None = None  # the number of each value
    has_unknown: bool = False

    def read(self, table: pa.Table) -> tuple[np.ndarray, list[Cells]]:
        """(values [rows, *shape] as the space stores them, cells that tell what is bad)."""
        cells = [self._cells(table.column(name), kind) for name, kind in self._each()]
        parts = [cell.values for cell in cells]
        if len(parts) > 1 and any(part.ndim > 1 for part in parts):
            raise TraceError(f"{self.name}: columns {', '.join(self.columns)} hold lists; name one")
        x = parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
        x = unflattened(x, self.space.shape, self.layout)
        with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused with its row
            if np.issubdtype(self.space.dtype, np.floating) or x.dtype == bool:
                x = x.astype(self.space.dtype)  # rounded to the nearest
        return x, cells

    def _each(self) -> Iterator[tuple[str, str | None]]:
        return iter(zip(self.columns, self.kinds, strict=True))

    def _cells(self, column: pa.ChunkedArray, kind: str | None) -> Cells:
        try:
            if self.categories is not None:
                return self._symbols(categories(column, self.categories))
            if kind == "flag":
                return columns.flags(column)
            cells = columns.numbers(column)
        except TraceError as error:
            raise TraceError(f"column {', '.join(self.columns)} {error}") from error
        if kind == "count" and cells.bad is None:
            with np.errstate(invalid="ignore"):
                bad = (cells.values < 0) | (cells.values != np.rint(cells.values))
            if bad.any():
                return Cells(cells.values, cells.empty, bad, "is no count (0, 1, 2, ...)")
        return cells

    def _symbols(self, cells: Cells) -> Cells:
        """Categories; empty and unknown ones become the last symbol if there is one for them."""
        if not self.has_unknown or (cells.bad is None and cells.empty is None):
            return cells
        values = cells.values.copy()
        for rows in (cells.bad, cells.empty):
            if rows is not None:
                values[rows] = self.space.n - 1
        return Cells(values)

    @property
    def times(self) -> list[int]:
        """Places of times, which count from the first row of their episode."""
        return [i for i, kind in enumerate(self.kinds) if kind == "time"]


@dataclass(frozen=True)
class Plan:
    """How observations (a Leaf, or a dict of such, nested) and actions are made."""

    observation: Any
    action: Leaf
    spaces: dict[str, gymnasium.Space]

    def leaves(self) -> list[Leaf]:
        """Every leaf of the observation, the keys of dicts in sorted order."""
        return list(_leaves(self.observation))


def grouped(entry: Any, types: dict[str, str]) -> Any:
    """An entry of the mapping as lists of columns in the structure of its space."""
    if isinstance(entry, dict):
        inner = {key: grouped(value, types) for key, value in entry.items()}
        return {key: value for key, value in inner.items() if value}
    kept = [name for name in entry if types.get(name) != "identifier"]
    if len(kept) > 1 and any(types.get(name) == "category" for name in kept):
        return {name: [name] for name in kept}
    return kept


def make_plan(mapping: Mapping, facts: dict[str, Facts], mask_width: int | None) -> Plan:
    """The plan for a mapping and what is known of its columns. Raises `TraceError`."""
    given = {
        name: None if value is None else space_from_json(value)
        for name, value in (
            ("observation", mapping.observation_space),
            ("action", mapping.action_space),
        )
    }
    make = _Maker(mapping, facts)
    groups = grouped(mapping.observation, mapping.types)
    o = make.tree("observation", groups, given["observation"])
    action = [name for name in mapping.action if mapping.types.get(name) != "identifier"]
    a = make.action(action, given["action"], mask_width)
    if given["observation"] is None:
        given["observation"] = _space(o)
    return Plan(o, a, {"observation_space": given["observation"], "action_space": a.space})


@dataclass(frozen=True)
class _Maker:
    mapping: Mapping
    facts: dict[str, Facts]

    def tree(self, name: str, groups: Any, given: Any) -> Any:
        """Leaves in the structure of `groups`, with the spaces that are given or inferred."""
        if not isinstance(groups, dict):
            return self.leaf(name, groups, given)
        if given is not None and (not isinstance(given, Dict) or {*given.spaces} != {*groups}):
            line = " ".join(str(given).split())
            what = f"{name} has the keys {', '.join(groups)}, but its space is {line}"
            raise TraceError(f"mapping: {what}; give them the same keys")
        inner = lambda key: None if given is None else given[key]
        return {key: self.tree(f"{name}.{key}", groups[key], inner(key)) for key in sorted(groups)}

    def leaf(self, name: str, names: list[str], given: Any) -> Leaf:
        kinds = tuple(self.mapping.types.get(each) for each in names)
        if kinds == ("category",):
            return self.symbols(name, names, given, has_unknown=True)
        if isinstance(given, Dict | gymnasium.spaces.Tuple):
            line = " ".join(str(given).split())
            raise TraceError(f"mapping: {name} is made of columns, but its space is {line}")
        self.check_times(names, kinds)
        space = self.inferred(name, names, kinds) if given is None else given
        layout = self.mapping.layout if len(space.shape) > 2 else None
        if given is not None and given.dtype == np.uint8:
            check_layout(name, given.shape, layout)
        return Leaf(name, tuple(names), kinds, space, layout)

    def inferred(self, name: str, names: list[str], kinds: tuple) -> Any:
        """The space of columns of numbers, or of one of lists."""
        facts = [self.facts[each] for each in names]
        wide = np.result_type(*(each.dtype for each in facts)).type
        if len(names) > 1:
            low = np.array([0 if kind in ("count", "flag") else -np.inf for kind in kinds])
            high = np.array([1 if kind == "flag" else np.inf for kind in kinds])
            return Box(low.astype(wide), high.astype(wide), (len(names),), wide)
        if facts[0].sort == "lists":
            return self.lists(name, facts[0])
        if kinds[0] == "flag" or (kinds[0] is None and facts[0].is_category):
            return Discrete(2) if kinds[0] == "flag" else _discrete(facts[0])
        return Box(0 if kinds[0] == "count" else -np.inf, np.inf, (), wide)

    def lists(self, name: str, facts: Facts) -> Box:
        stored, shape = {*facts.dtypes}, facts.shape or ()
        if stored == {np.dtype(np.uint8)}:
            check_layout(name, shape, self.mapping.layout)
            return Box(0, 255, turned_shape(shape, self.mapping.layout), np.uint8)
        if stored == {np.dtype(bool)}:
            return Box(0, 1, shape, np.uint8)
        return Box(-np.inf, np.inf, shape, facts.dtype.type)

    def action(self, names: list[str], given: Any, mask_width: int | None) -> Leaf:
        kinds = tuple(self.mapping.types.get(each) for each in names)
        if kinds == ("category",):
            return self.symbols("action", names, given, has_unknown=False)
        if "category" in kinds:
            what = "several action columns, one of type category, are not supported"
            raise TraceError(f"mapping: {what}; number its values, or join the columns to one")
        self.check_times(names, kinds)
        space = self.inferred_action(names, kinds, mask_width) if given is None else given
        return Leaf("action", tuple(names), kinds, space)

    def inferred_action(self, names: list[str], kinds: tuple, mask_width: int | None) -> Any:
        facts = [self.facts[each] for each in names]
        wide = np.result_type(*(each.dtype for each in facts)).type
        pairs = [*zip(facts, kinds, strict=True)]
        discrete = [kind == "flag" or (kind is None and each.is_category) for each, kind in pairs]
        if facts[0].sort == "lists":
            each = facts[0]
            if each.whole and {d.kind for d in each.dtypes} <= set("biu") and each.high is not None:
                assert each.low is not None
                start = np.minimum(0, each.low).astype(np.int64)
                return MultiDiscrete(each.high.astype(np.int64) + 1 - start, start=start)
            return Box(-np.inf, np.inf, each.shape or (), wide)
        if all(discrete):
            each = [Discrete(2) if kind == "flag" else _discrete(x) for x, kind in pairs]
            if len(each) > 1:
                start = np.array([space.start for space in each])
                return MultiDiscrete(np.array([space.n for space in each]), start=start)
            if mask_width is not None and mask_width > each[0].n and each[0].start == 0:
                return Discrete(mask_width)  # the width of the mask says so
            return each[0]
        return Box(-np.inf, np.inf, (len(names),) if len(names) > 1 else (), wide)

    def symbols(self, name: str, names: list[str], given: Any, has_unknown: bool) -> Leaf:
        """A category, numbered in the order of the mapping, else sorted."""
        facts = self.facts[names[0]]
        values = [as_text(value) for value in self.mapping.categories.get(names[0], ())]
        values = values or sorted(facts.texts, key=_natural)
        known = {value: i for i, value in enumerate(values)}
        space = Discrete(max(len(known) + has_unknown, 1))
        if given is not None and given != space:
            line = " ".join(str(given).split())
            what = f"column {names[0]} has {space.n} categories, but the {name} space is {line}"
            raise TraceError(f"mapping: {what}; leave the space out")
        return Leaf(name, tuple(names), ("category",), space, None, known, has_unknown)

    def check_times(self, names: list[str], kinds: tuple) -> None:
        for name, kind in zip(names, kinds, strict=True):
            facts = self.facts[name]
            if facts.sort == "time" and kind not in ("time", "number"):
                raise TraceError(
                    f"{facts.where}: column {name} holds times; say types: {{{name}: time}}"
                )


def _discrete(facts: Facts) -> Discrete:
    assert facts.low is not None and facts.high is not None
    start = int(min(0, facts.low))
    return Discrete(int(facts.high) + 1 - start, start=start)


def _natural(text: str) -> tuple:
    """Numbers in their order, then words."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _space(tree: Any) -> gymnasium.Space:
    if isinstance(tree, dict):
        return Dict({key: _space(value) for key, value in tree.items()})
    return tree.space


def _leaves(tree: Any) -> Iterator[Leaf]:
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from _leaves(tree[key])
    else:
        yield tree
