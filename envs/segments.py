"""Traces as Parquet bytes and back: one row per observation, many episodes per segment.

Columns of a segment: `episode`, `t`, `observation`, `action`, `reward`, `terminated`, `truncated`,
`propensity`, `action_mask`, `time`. The last row of an episode holds o[T] alone: its action, reward
and flags are null. An array is one FixedSizeList in C order; its shape stands in the space. Dict
and Tuple observations have a column for each leaf: `observation.key`, `observation.0`.
Columns of the index: see `INDEX`, and `RIGHTS` where any episode has such.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium.spaces import Discrete

from envs.features import map_space
from envs.spaces import check_masks, conform
from envs.types import Trace, TraceError

WORDS = ("session", "policy", "review")  # of an episode
RIGHTS = pa.schema([("consent", pa.bool_()), ("keep_until", pa.float64())])
ROW_GROUP_BYTES = 8 << 20  # bytes that a reader decodes at once, and loses to one damaged page

INDEX = pa.schema(
    [
        ("episode", pa.int64()),
        ("segment", pa.string()),
        ("first_row", pa.int64()),  # in the segment
        ("rows", pa.int64()),  # steps + 1
        ("return", pa.float64()),
        ("terminated", pa.bool_()),
        ("truncated", pa.bool_()),
        ("session", pa.string()),
        ("policy", pa.string()),
        ("review", pa.float64()),
    ]
)


def row_bytes(trace: Trace) -> int:
    """About how many bytes one row of the trace takes in memory."""
    arrays = [*jax.tree.leaves(trace.observations), trace.actions]
    arrays += [trace.action_masks, trace.times, trace.propensities]
    return sum(x.nbytes for x in arrays if x is not None) // len(trace) + 64


def to_parquet(table: pa.Table, row_group_rows: int) -> bytes:
    """The table as a Parquet file with a checksum in every page."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=row_group_rows, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes) -> pa.Table:
    """The table in Parquet bytes, every page verified. Raises pyarrow's errors."""
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    # No threads: Arrow's abort (134) a short program that ends after JAX ran.
    return file.read(use_threads=False)


def check_trace(trace: Trace, spaces: dict[str, gymnasium.Space]) -> Trace:
    """The trace with observations and actions in their spaces' dtypes, or `TraceError`."""
    trace = dataclasses.replace(trace)  # checks again: arrays can change after a trace was made
    for name in ("session", "policy"):
        if not isinstance(getattr(trace, name), str | None):
            raise TraceError(f"{name} is {getattr(trace, name)!r}, expected text or None")
    for name in ("review", "keep_until"):
        if not isinstance(getattr(trace, name), int | float | None):
            raise TraceError(f"{name} is {getattr(trace, name)!r}, expected a number or None")
    if not isinstance(trace.consent, bool | None):
        raise TraceError(f"consent is {trace.consent!r}, expected True, False or None")
    o = conform(trace.observations, spaces["observation"], "observation", bounded=False)
    a = conform(trace.actions, spaces["action"], "action", bounded=True)
    check_masks(trace, spaces["action"])
    if o is trace.observations and a is trace.actions:
        return trace
    checked = copy.copy(trace)  # not `replace`: other dtypes for the same values need no new check
    object.__setattr__(checked, "observations", o)
    object.__setattr__(checked, "actions", a)
    return checked


def encode(
    traces: list[Trace], spaces: dict[str, gymnasium.Space], first_episode: int, segment: str
) -> tuple[pa.Table, pa.Table]:
    """The rows and the index of checked traces."""
    rows = np.array([len(trace) + 1 for trace in traces])
    last = np.zeros(rows.sum(), bool)
    last[np.cumsum(rows) - 1] = True
    numbers = first_episode + np.arange(len(traces))
    join = lambda name: _padded([getattr(trace, name) for trace in traces], last)
    columns = {
        "episode": pa.array(np.repeat(numbers, rows)),
        "t": pa.array(np.concatenate([np.arange(size) for size in rows])),
        **_observations([trace.observations for trace in traces], spaces["observation"]),
        "action": _values(join("actions"), spaces["action"], last),
        "reward": pa.array(join("rewards"), mask=last),
        "terminated": pa.array(join("terminated"), mask=last),
        "truncated": pa.array(join("truncated"), mask=last),
        "propensity": _optional(traces, "propensities", pa.float64()),
        "action_mask": _optional(traces, "action_masks", pa.list_(pa.bool_())),
        "time": _optional(traces, "times", pa.float64()),
    }
    index = {
        "episode": numbers,
        "segment": [segment] * len(traces),
        "first_row": np.cumsum(rows) - rows,
        "rows": rows,
        "return": [float(trace.rewards.sum()) for trace in traces],
        "terminated": [bool(trace.terminated[-1]) for trace in traces],
        "truncated": [bool(trace.truncated[-1]) for trace in traces],
        **{name: [getattr(trace, name) for trace in traces] for name in WORDS},
    }
    rights = {name: [getattr(trace, name) for trace in traces] for name in RIGHTS.names}
    if all(value is None for values in rights.values() for value in values):
        return pa.table(columns), pa.table(index, schema=INDEX)
    return pa.table(columns), pa.table(index | rights, schema=pa.schema([*INDEX, *RIGHTS]))


def decode(
    table: pa.Table, index: pa.Table, spaces: dict[str, gymnasium.Space]
) -> Iterator[tuple[int, Trace]]:
    """(episode, trace) for every row of the index; `TraceError` where the two disagree."""
    column = lambda name: table.column(name).combine_chunks()
    plain = lambda name: column(name).fill_null(0).to_numpy(zero_copy_only=False)
    flag = lambda name: column(name).fill_null(False).to_numpy(zero_copy_only=False)
    values = lambda name, leaf: _array(column(name), leaf)
    o, a = (map_space(values, name, spaces[name]) for name in ("observation", "action"))
    r, terminated, truncated = plain("reward"), flag("terminated"), flag("truncated")
    ended = column("reward").is_null().to_numpy(zero_copy_only=False)
    episode, t = plain("episode"), plain("t")
    expected = 0
    for row in index.to_pylist():
        first, rows = row["first_row"], row["rows"]
        here, steps = slice(first, first + rows), slice(first, first + rows - 1)
        fits = first == expected and rows >= 2 and first + rows <= len(t)
        if not (fits and (episode[here] == row["episode"]).all()):
            raise TraceError(f"episode {row['episode']} is not at rows {first} to {first + rows}")
        if not (
            (t[here] == np.arange(rows)).all() and (ended[here] == (t[here] == rows - 1)).all()
        ):
            raise TraceError(f"rows {first} to {first + rows} are not the steps of one episode")
        optional: dict[str, Any] = {
            "propensities": _read_optional(column("propensity"), first, rows - 1),
            "action_masks": _read_optional(column("action_mask"), first, rows),
            "times": _read_optional(column("time"), first, rows),
            **{name: row[name] for name in WORDS},
            **{name: row.get(name) for name in RIGHTS.names},
        }
        arrays = (x[steps].copy() for x in (a, r, terminated, truncated))
        yield row["episode"], Trace(jax.tree.map(partial(_cut, here), o), *arrays, **optional)
        expected = first + rows
    if expected != len(t):
        raise TraceError(f"{len(t) - expected} rows belong to no episode of the index")


def _padded(parts: list[np.ndarray], last: np.ndarray) -> np.ndarray:
    """Parts [T, ...] end to end, zeros in the `last` row of each, which the caller masks."""
    joined = np.concatenate(parts)
    out = np.zeros((len(last), *joined.shape[1:]), joined.dtype)
    out[~last] = joined
    return out


def _cut(rows: slice, x: np.ndarray) -> np.ndarray:
    return x[rows].copy()


def _observations(observations: list[Any], space: gymnasium.Space) -> dict[str, pa.Array]:
    """A column for each leaf of the space, by its name."""
    joined = jax.tree.map(lambda *x: np.concatenate(x), *observations)
    columns: dict[str, pa.Array] = {}
    put = lambda name, leaf, x: columns.update({name: _values(x, leaf)})
    map_space(put, "observation", space, joined)
    return columns


def _values(x: np.ndarray, space: gymnasium.Space, null: np.ndarray | None = None) -> pa.Array:
    """A column of values [rows, *shape]; FixedSizeList when they are arrays."""
    if not space.shape:
        return pa.array(x.astype(np.int64) if isinstance(space, Discrete) else x, mask=null)
    flat = pa.array(x.ravel())
    mask = None if null is None else pa.array(null)
    return pa.FixedSizeListArray.from_arrays(flat, math.prod(space.shape), mask=mask)


def _array(column: pa.Array, space: gymnasium.Space) -> np.ndarray:
    """Values [rows, *shape] of a column; zeros where it is null."""
    if space.shape:
        flat = column.values.slice(column.offset * math.prod(space.shape)).fill_null(0)
        x = flat.to_numpy(zero_copy_only=False)[: len(column) * math.prod(space.shape)]
    else:
        x = column.fill_null(0).to_numpy(zero_copy_only=False)
    return x.reshape(len(column), *(space.shape or ())).astype(space.dtype, copy=False)


def _optional(traces: list[Trace], name: str, dtype: pa.DataType) -> pa.Array:
    """A column that is null for traces without the field; padded to T + 1 rows."""
    rows = np.array([len(trace) + 1 for trace in traces])
    total, starts = int(rows.sum()), np.cumsum(rows) - rows
    if all(getattr(trace, name) is None for trace in traces):
        return pa.nulls(total, dtype)
    null, parts = np.ones(total, bool), []
    for trace, start in zip(traces, starts, strict=True):
        if (value := getattr(trace, name)) is not None:
            null[start : start + len(value)] = False
            parts.append(value)
    known = np.concatenate(parts)
    if not pa.types.is_list(dtype):
        values = np.zeros(total, known.dtype)
        values[~null] = known
        return pa.array(values, dtype, mask=null)
    offsets = np.concatenate([[0], np.cumsum(~null)]) * known.shape[1]
    flat = pa.array(known.ravel(), dtype.value_type)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), flat, type=dtype, mask=pa.array(null)
    )


def _read_optional(column: pa.Array, first: int, rows: int) -> np.ndarray | None:
    part = column.slice(first, rows)
    return None if part.null_count == rows else np.array(part.to_pylist())
