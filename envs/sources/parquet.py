"""Flat Parquet files as a source: one row per step, named columns."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.spaces import conform, infer_space
from envs.types import Trace, TraceError, space_from_json

REQUIRED = ("episode", "observation", "action", "reward")
COLUMNS = (*REQUIRED, "terminated", "truncated", "propensity", "action_mask", "next_observation")
KEYS = (*COLUMNS, "final", "observation_space", "action_space")


class ParquetSource:
    """Episodes in the files that match `uri`, in order of file name and row.

    `mapping` (a dict, or the path of a YAML file) gives columns of: `episode`, `observation` (one
    column of numbers or lists, several columns, or a dict of names to such, nested at will),
    `action`, `reward`; optionally `terminated`, `truncated`, `propensity`, `action_mask`. The rows
    of an episode are consecutive, in order of time.
    The observation after the last action is in a last row with an empty action, or in
    `next_observation` (columns like `observation`), or with `final: repeat` repeats the last one.
    `observation_space` and `action_space` (as `space_to_json`) replace the inferred ones.
    """

    def __init__(self, uri: str, mapping: dict | str | None = None):
        self.files = sorted(glob.glob(uri, recursive=True))
        if not self.files:
            raise TraceError(f"{uri}: no such file; expected Parquet files by path or pattern")
        self.mapping = _read_mapping(mapping)
        self._columns = {n: _listed(self.mapping[n]) for n in COLUMNS if n in self.mapping}
        self._schema: dict[str, gymnasium.Space] | None = None

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces given by the mapping, or inferred by reading everything once."""
        if self._schema is None:
            names = ("observation_space", "action_space")
            given = {n: space_from_json(self.mapping[n]) for n in names if n in self.mapping}
            spaces: dict[str, gymnasium.Space] = dict(given)
            for trace in self if len(given) < 2 else ():
                for name, x in zip(names, (trace.observations, trace.actions), strict=True):
                    if name not in given:
                        is_action = name == "action_space"
                        spaces[name] = infer_space(x, spaces.get(name), is_action=is_action)
            self._schema = spaces
        return self._schema

    def __iter__(self) -> Iterator[Trace]:
        seen, current, parts = set(), None, []
        for where, id, rows in self._pieces():
            if parts and id != current:
                yield self._trace(parts)
                parts = []
            if not parts:
                if id is None or id in seen:
                    what = "has no id" if id is None else "is not in one piece"
                    advice = "sort the rows by episode and time"
                    raise TraceError(f"{where}: episode {id} {what}; {advice}")
                seen.add(id)
                current = id
            parts.append((where, rows))
        if not parts:
            raise TraceError(f"{self.files[-1]}: holds no rows")
        yield self._trace(parts)

    def _pieces(self) -> Iterator[tuple[str, Any, pa.Table]]:
        """(file and row, episode id, rows of this episode), in pieces of bounded size."""
        for file in self.files:
            for first, table in self._tables(file):
                ids = table.column(self._columns["episode"][0]).to_pylist()
                cuts = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1]]
                for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
                    yield (
                        f"{file}: row {first + start}",
                        ids[start],
                        table.slice(start, stop - start),
                    )

    def _tables(self, file: str) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, rows) of one file."""
        columns = jax.tree.leaves(self._columns)
        try:
            with pq.ParquetFile(file, page_checksum_verification=True) as reader:
                present, row = reader.schema_arrow.names, 0
                if missing := [name for name in columns if name not in present]:
                    what = f"has no column {', '.join(missing)}; it has {', '.join(present)}"
                    raise TraceError(f"{file}: {what}")
                # No threads: see `envs.segments.from_parquet`.
                for batch in reader.iter_batches(1 << 14, columns=columns, use_threads=False):
                    if batch.num_rows:
                        yield row, pa.Table.from_batches([batch])
                    row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            line = " ".join(str(error).split())
            raise TraceError(f"{file}: is not readable as Parquet: {line}") from error

    def _trace(self, parts: list[tuple[str, pa.Table]]) -> Trace:
        """One episode, from its pieces."""
        table = pa.concat_tables([rows for _, rows in parts]).combine_chunks()
        try:
            return self._build(table)
        except TraceError as error:
            raise TraceError(f"{parts[0][0]}: the episode that starts here: {error}") from error

    def _build(self, table: pa.Table) -> Trace:
        last = table.column(self._columns["action"][0])[-1].as_py()
        is_complete = last is None or last != last  # an empty cell, or NaN in its place
        steps = len(table) - is_complete
        get = lambda name: self._numbers(table.slice(0, steps), name)
        o = self._numbers(table, "observation")
        join = lambda *x: jax.tree.map(lambda *leaf: np.concatenate(leaf), *x)
        if not is_complete and "next_observation" in self._columns:
            o = join(o, self._numbers(table.slice(steps - 1), "next_observation"))
        elif not is_complete and self.mapping.get("final") == "repeat":
            o = join(o, jax.tree.map(lambda x: x[-1:], o))
        elif not is_complete:
            raise TraceError(
                "the observation after the last action is missing; add a last row with an "
                "empty action, or map next_observation, or set final: repeat"
            )
        a = get("action")
        if a.ndim == 1 and a.dtype.kind in "buf" and (a == np.rint(a)).all():
            a = a.astype(np.int64)  # whole numbers are floats in a column with empty cells
        flag = lambda name: get(name) if name in self._columns else np.array(False)
        terminated, truncated = flag("terminated"), flag("truncated")
        truncated = np.where(terminated, False, truncated)  # logs that set both mean terminated
        propensities = get("propensity") if "propensity" in self._columns else None
        masks = self._masks(table, steps) if "action_mask" in self._columns else None
        for name, x in (("observation", o), ("action", a)):
            if self._schema is not None:  # the store would refuse it, too, without the file's name
                conform(x, self._schema[f"{name}_space"], name, bounded=name == "action")
        optional = {"propensities": propensities, "action_masks": masks}
        return Trace(o, a, get("reward"), terminated, truncated, **optional)

    def _masks(self, table: pa.Table, steps: int) -> np.ndarray:
        """bool [T + 1, A]; the row after the last step may be absent, as no action follows."""
        last = table.column(jax.tree.leaves(self._columns["action_mask"])[0])[-1].as_py()
        masks = self._numbers(table.slice(0, len(table) - (last is None)), "action_mask")
        missing = np.ones((steps + 1 - len(masks), *masks.shape[1:]), bool)
        return np.concatenate([masks.astype(bool), missing])

    def _numbers(self, table: pa.Table, name: str) -> Any:
        """The values of entry `name` of the mapping, in the entry's structure."""
        numbers = lambda columns: _numbers([table.column(column) for column in columns], name)
        return _each(numbers, self._columns[name])


def _each(function: Callable[[list], Any], columns: Any) -> Any:
    """Apply `function` to every list of columns in an entry of the mapping."""
    if isinstance(columns, dict):
        return {name: _each(function, value) for name, value in columns.items()}
    return function(columns)


def _listed(columns: Any) -> Any:
    """An entry of the mapping, with single columns as lists of one."""
    if isinstance(columns, dict):
        return {str(name): _listed(value) for name, value in columns.items()}
    return [columns] if isinstance(columns, str) else list(columns)


def _numbers(columns: list[pa.ChunkedArray], name: str) -> np.ndarray:
    """[rows] of a column of numbers, [rows, O] of a column of lists or of several columns."""
    arrays = []
    for column in (column.combine_chunks() for column in columns):
        if column.null_count:
            empty = column.is_null().to_numpy(zero_copy_only=False)
            raise TraceError(f"{name} at step {int(np.argmax(empty))} is empty")
        x = column.to_numpy(zero_copy_only=False)
        try:
            arrays.append(np.array(list(x)) if x.dtype == object else x)
        except ValueError as error:
            raise TraceError(f"{name} holds lists of different lengths") from error
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)


def _read_mapping(mapping: Any) -> dict[str, Any]:
    """The mapping, read from YAML if it is a path. `TraceError` for unknown or missing keys."""
    if isinstance(mapping, str):
        import yaml

        try:
            with open(mapping) as file:
                mapping = yaml.safe_load(file)
        except (OSError, yaml.YAMLError) as error:
            line = " ".join(str(error).split())
            raise TraceError(f"{mapping}: is not readable as YAML: {line}") from error
    keys = mapping if isinstance(mapping, dict) else {}
    unknown, missing = (
        [str(n) for n in keys if n not in KEYS],
        [n for n in REQUIRED if n not in keys],
    )
    if unknown or missing:
        what = f"does not know {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise TraceError(f"mapping {what}; its keys are {', '.join(KEYS)}")
    return dict(keys)
