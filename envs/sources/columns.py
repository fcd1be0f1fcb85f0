"""Columns of Arrow tables as NumPy arrays, a whole batch of rows at a time.

A cell that cannot be used is marked rather than raised: whoever knows the row's episode says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from envs.types import TraceError

DEEPEST = 5  # lists within lists
LONGEST = 80  # characters of a value in an error
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
    if pt.is_boolean(dtype) or pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_decimal(dtype):
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
    array = _plain(column)
    sort = sort_of(array.type)
    if sort == "lists":
        return _lists(array)
    if sort == "nothing":
        return Cells(np.zeros(len(array)), np.ones(len(array), bool))
    if sort == "text":
        return _parsed(array)
    if sort not in ("number", "time"):
        raise TraceError(f"holds {array.type}, expected numbers")
    empty = _empty(array)
    if sort == "time":
        return Cells(_seconds(array), empty)
    if pt.is_decimal(array.type):
        array = array.cast(pa.float64())
    if empty is not None:
        array = array.fill_null(False if pt.is_boolean(array.type) else 0)
    return Cells(array.to_numpy(zero_copy_only=False), empty)


def flags(column: pa.ChunkedArray) -> Cells:
    """Booleans: true and false, 1 and 0, or yes and no in words."""
    array = _plain(column)
    if sort_of(array.type) == "text":
        array = array.dictionary_decode() if pt.is_dictionary(array.type) else array
        low = pc.utf8_lower(pc.utf8_trim_whitespace(array))
        true, false = (pc.is_in(low, pa.array(words, low.type)) for words in (TRUE, FALSE))
        values = true.to_numpy(zero_copy_only=False)
        known = values | false.to_numpy(zero_copy_only=False)
        empty = pc.or_kleene(array.is_null(), pc.equal(low, "")).to_numpy(zero_copy_only=False)
        bad = ~known & ~empty
        return Cells(values & ~empty, empty, bad if bad.any() else None, "is no flag (true or false)")
    cells = numbers(column)
    if cells.values.dtype == bool:
        return cells
    if cells.values.ndim > 1:
        raise TraceError("holds lists, expected true or false")
    bad = (cells.values != 0) & (cells.values != 1)
    what = "is no flag (true or false)"
    return Cells(cells.values == 1, cells.empty, bad if bad.any() else None, what)


def categories(column: pa.ChunkedArray, known: dict[str, int]) -> Cells:
    """int64 numbers of the values in `known`, by their text; bad where a value is not in it."""
    texts, codes, empty = _coded(column)
    values = np.array([*(known.get(text, -1) for text in texts), 0], np.int64)[codes]
    if empty is not None:
        values[empty] = 0
    bad = values < 0
    return Cells(np.maximum(values, 0), empty, bad if bad.any() else None, "is no known category")


def distinct(column: pa.ChunkedArray) -> set[str]:
    """The different values of a column as texts (see `as_text`)."""
    texts, codes, empty = _coded(column)
    return {texts[code] for code in np.unique(codes if empty is None else codes[~empty])}


class Numbering:
    """Gives every different value of a column, over all batches, a number: 0, 1, 2, ..."""

    def __init__(self):
        self.names: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def __call__(self, column: pa.ChunkedArray) -> np.ndarray:
        """int64 [rows]; -1 where a cell is empty or NaN."""
        array = _plain(column)
        if sort_of(array.type) in ("lists", "other"):
            raise TraceError(f"holds {array.type}, expected text or numbers")
        values, codes, _ = _dictionary(array)
        numbers = np.full(len(values) + 1, -1, np.int64)
        for i, value in enumerate(values):
            if not is_nothing(value):
                numbers[i] = self._numbers.setdefault(value, len(self.names))
                if numbers[i] == len(self.names):
                    self.names.append(value)
        return numbers[codes]

    def forget(self) -> None:
        """The same values get new numbers from here on."""
        self._numbers = {}

    def __len__(self) -> int:
        return len(self.names)


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array, its text checked to be UTF-8 (JSON is not checked by Arrow)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pt.is_dictionary(array.type) and sort_of(array.type.value_type) != "text":
        array = array.dictionary_decode()
    return array


def _empty(array: pa.Array) -> np.ndarray | None:
    if not array.null_count:
        return None
    return array.is_null().to_numpy(zero_copy_only=False)


def _parsed(array: pa.Array) -> Cells:
    """Text that may be numbers, as floats; bad where it is not."""
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    empty = pc.or_kleene(array.is_null(), pc.equal(pc.utf8_trim_whitespace(array), ""))
    empty = empty.to_numpy(zero_copy_only=False)
    return Cells(np.zeros(len(array)), empty, ~empty, "is text, expected numbers")


def _seconds(array: pa.Array) -> np.ndarray:
    unit = array.type.unit if pt.is_timestamp(array.type) else "ms" if pt.is_date64(array.type) else "D"
    whole = array.cast(pa.int32() if pt.is_date32(array.type) else pa.int64()).fill_null(0)
    scale = {"D": 86400.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]
    return whole.to_numpy(zero_copy_only=False).astype(np.float64) * scale


def _lists(array: pa.Array) -> Cells:
    """[rows, ...] of lists of one length at each level; bad where a row has another one."""
    what = "holds lists of different lengths, or an empty cell"
    if (empty := _empty(array)) is None:
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
    empty = _empty(array)
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


def _dictionary(array: pa.Array) -> tuple[list[Any], np.ndarray, np.ndarray | None]:
    """(distinct values, their place for each row with empty = the last + 1, empty)."""
    if not pt.is_dictionary(array.type):
        array = array.dictionary_encode()
    empty = _empty(array)
    try:
        values = array.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise TraceError(f"holds text that is not UTF-8 ({error.reason})") from error
    codes = array.indices.fill_null(len(values)) if empty is not None else array.indices
    return values, codes.to_numpy(zero_copy_only=False), empty


def _coded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """As `_dictionary`, with the values as texts; NaN is empty, too."""
    array = _plain(column)
    if sort_of(array.type) not in ("text", "number", "time", "nothing"):
        raise TraceError(f"holds {array.type}, expected text or numbers")
    values, codes, empty = _dictionary(array)
    nothing = np.array([*map(is_nothing, values), True])
    if empty is not None or nothing[:-1].any():
        empty = nothing[codes]
    return [as_text(value) for value in values], codes, empty


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN or a text of no letters."""
    return value is None or value != value or value == ""


def one_line(value: Any) -> str:
    """A value of a file as it stands in an error: short, without line breaks."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def as_text(value: Any) -> str:
    """A category as text: whole numbers without a point, true and false in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
