"""Columns of Arrow tables as NumPy arrays, a whole batch of rows at a time.

A cell that cannot be used is marked rather than raised: whoever knows the row's episode says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.types as pt

from envs.types import TraceError

pc: Any = pyarrow.compute  # its functions are made at run time

DEEPEST = 5  # lists within lists
TRUE, FALSE = ("true", "yes", "y", "t", "1", "1.0"), ("false", "no", "n", "f", "0", "0.0")


@dataclass(frozen=True)
class Cells:
    """Values [rows, ...] of one column; zero where a cell is empty or bad."""

    values: np.ndarray
    empty: np.ndarray | None = None  # bool [rows]; None if there is none
    bad: np.ndarray | None = None
    what: str = ""  # is wrong with the bad ones


def sort_of(dtype: pa.DataType, depth: int = 0) -> str:
    """What a column holds: number, text, time, nothing, or lists; `other` cannot be read."""
    if depth > DEEPEST:
        return "other"
    if pt.is_dictionary(dtype):
        return sort_of(dtype.value_type, depth)
    if is_list(dtype):
        inner = sort_of(dtype.value_type, depth + 1)
        return "lists" if inner in ("number", "lists", "nothing") else "other"
    if (
        pt.is_boolean(dtype)
        or pt.is_integer(dtype)
        or pt.is_floating(dtype)
        or pt.is_decimal(dtype)
    ):
        return "number"
    if pt.is_string(dtype) or pt.is_large_string(dtype):
        return "text"
    if pt.is_timestamp(dtype) or pt.is_date(dtype):
        return "time"
    return "nothing" if pt.is_null(dtype) else "other"


def is_list(dtype: pa.DataType) -> bool:
    """Whether cells are lists, of whatever kind."""
    return pt.is_list(dtype) or pt.is_large_list(dtype) or pt.is_fixed_size_list(dtype)


def is_whole(dtype: pa.DataType) -> bool:
    """Whether a column was stored as integers or booleans."""
    return pt.is_integer(dtype) or pt.is_boolean(dtype)


def item_dtype(dtype: pa.DataType) -> np.dtype:
    """The NumPy dtype of the numbers in a column, or in its lists."""
    while is_list(dtype):
        dtype = dtype.value_type
    if pt.is_decimal(dtype) or pt.is_null(dtype) or pt.is_temporal(dtype):
        return np.dtype(np.float64)
    return np.dtype(dtype.to_pandas_dtype())


def numbers(column: pa.ChunkedArray) -> Cells:
    """Numbers, or lists of numbers; dates and times as seconds. NaN stays NaN."""
    array = plain(column)
    sort = sort_of(array.type)
    if sort == "lists":
        return _lists(array)
    if sort == "nothing":
        return Cells(np.zeros(len(array)), np.ones(len(array), bool))
    if sort == "text":  # only where it was not known before
        raise TraceError("holds text, expected numbers")
    if sort not in ("number", "time"):
        raise TraceError(f"holds {array.type}, expected numbers")
    empty = is_empty(array)
    if sort == "time":
        return Cells(_seconds(array), empty)
    if pt.is_decimal(array.type):
        array = array.cast(pa.float64())
    if empty is not None:
        array = array.fill_null(False if pt.is_boolean(array.type) else 0)
    return Cells(array.to_numpy(zero_copy_only=False), empty)


def ordinals(column: pa.ChunkedArray) -> Cells:
    """Numbers that sort rows: as they were stored, dates and times in their own unit."""
    array = plain(column)
    if sort_of(array.type) != "time":
        return numbers(column)
    return Cells(_units(array)[0], is_empty(array))


def num_rounded(column: pa.ChunkedArray) -> int:
    """How many floats, those in lists too, are so great that whole numbers between were lost.

    From 2^63 on they are no whole numbers of 64 bits.
    """
    array = plain(column)
    while is_list(array.type):
        array = array.flatten()
    if not pt.is_floating(array.type):
        return 0
    size = np.abs(array.fill_null(0).to_numpy(zero_copy_only=False))
    return int(((size >= 2.0**53) & (size < 2.0**63)).sum())


def flags(column: pa.ChunkedArray) -> Cells:
    """Booleans: true and false, 1 and 0, or yes and no in words."""
    array = plain(column)
    if sort_of(array.type) == "text":
        array = array.dictionary_decode() if pt.is_dictionary(array.type) else array
        low = pc.utf8_lower(pc.utf8_trim_whitespace(array))
        true, false = (pc.is_in(low, pa.array(words, low.type)) for words in (TRUE, FALSE))
        values = true.to_numpy(zero_copy_only=False)
        known = values | false.to_numpy(zero_copy_only=False)
        empty = pc.or_kleene(array.is_null(), pc.equal(low, "")).to_numpy(zero_copy_only=False)
        bad = ~known & ~empty
        return Cells(
            values & ~empty, empty, bad if bad.any() else None, "is no flag (true or false)"
        )
    cells = numbers(column)
    if cells.values.dtype == bool:
        return cells
    if cells.values.ndim > 1:
        raise TraceError("holds lists, expected true or false")
    bad = (cells.values != 0) & (cells.values != 1)
    what = "is no flag (true or false)"
    return Cells(cells.values == 1, cells.empty, bad if bad.any() else None, what)


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array, its text checked to be UTF-8 (JSON is not checked by Arrow)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pt.is_dictionary(array.type) and sort_of(array.type.value_type) != "text":
        array = array.dictionary_decode()
    return array


def is_empty(array: pa.Array) -> np.ndarray | None:
    """bool [rows]: where a cell is null; None if none is."""
    if not array.null_count:
        return None
    return array.is_null().to_numpy(zero_copy_only=False)


def _seconds(array: pa.Array) -> np.ndarray:
    whole, unit = _units(array)
    scale = {"D": 86400.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    return whole.astype(np.float64) * scale


def _units(array: pa.Array) -> tuple[np.ndarray, str]:
    """(whole numbers [rows] of a unit, the unit) of dates and times; 0 where a cell is empty."""
    unit = (
        array.type.unit
        if pt.is_timestamp(array.type)
        else "ms"
        if pt.is_date64(array.type)
        else "D"
    )
    whole = array.cast(pa.int32() if pt.is_date32(array.type) else pa.int64()).fill_null(0)
    return whole.to_numpy(zero_copy_only=False), unit


def _lists(array: pa.Array) -> Cells:
    """[rows, ...] of lists of one length at each level; bad where a row has another one."""
    what = "holds lists of different lengths, or an empty cell"
    if (empty := is_empty(array)) is None:
        values, bad = _stacked(array)
        return Cells(values, None, bad, what)
    values, bad = _stacked(array.drop_null())
    bad = None if bad is None else _spread(bad, ~empty)
    return Cells(_spread(values, ~empty), empty, bad, what)


def _spread(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`x` at the true `rows`, zeros elsewhere."""
    out = np.zeros((len(rows), *x.shape[1:]), x.dtype)
    out[rows] = x
    return out


def _stacked(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """(values [rows, ...], bool [rows] of rows unlike the others, if any) of numbers or lists."""
    empty = is_empty(array)
    if not is_list(array.type):
        if pt.is_decimal(array.type) or pt.is_null(array.type):
            array = array.cast(pa.float64())
        if empty is not None:
            array = array.fill_null(False if pt.is_boolean(array.type) else 0)
        return array.to_numpy(zero_copy_only=False), empty
    if not len(array):
        return np.zeros((0, 0)), None
    lengths = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
    good = lengths == lengths[0]
    if not good.all():
        sizes, counts = np.unique(lengths, return_counts=True)
        good = lengths == sizes[counts.argmax()]
    if empty is not None:
        good &= ~empty
    all_good = bool(good.all())
    size = int(lengths[good][0]) if good.any() else 0
    inner, bad_inner = _stacked((array if all_good else array.filter(pa.array(good))).flatten())
    values = inner.reshape(int(good.sum()), size, *inner.shape[1:])
    bad = ~good
    if bad_inner is not None:
        bad[good] = bad_inner.reshape(-1, size).any(axis=1)
    return values if all_good else _spread(values, good), bad if bad.any() else None
