"""Columns whose values are names: categories, ids, sessions; and names as they stand in errors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from envs.sources.columns import Cells, is_empty, plain, sort_of
from envs.types import TraceError

LONGEST = 80  # characters of a value in an error


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
        """int64 [rows], rising where a value is first seen; -1 where a cell is empty or NaN."""
        array = plain(column)
        if sort_of(array.type) in ("lists", "other"):
            raise TraceError(f"holds {array.type}, expected text or numbers")
        values, codes, _ = _dictionary(array)
        numbers = np.full(len(values) + 1, -1, np.int64)
        used, first = np.unique(codes, return_index=True)
        for i in used[np.argsort(first)]:  # a dictionary may hold values that no row has
            if i < len(values) and not is_nothing(value := values[i]):
                numbers[i] = self._numbers.setdefault(value, len(self.names))
                if numbers[i] == len(self.names):
                    self.names.append(value)
        return numbers[codes]

    def forget(self) -> None:
        """The same values get new numbers from here on."""
        self._numbers = {}

    def __len__(self) -> int:
        return len(self.names)


def first_word(column: pa.ChunkedArray) -> tuple[int, str] | None:
    """(row, text) of the first text that is no number, or None."""
    texts, codes, empty = _coded(column)
    words = np.array([not _is_number(text) for text in texts] + [False])[codes]
    if empty is not None:
        words &= ~empty
    if not words.any():
        return None
    row = int(np.argmax(words))
    return row, texts[codes[row]]


def _is_number(text: str) -> bool:
    try:
        return float(text) is not None
    except ValueError:
        return False


def is_decimal_comma(text: str) -> bool:
    """Whether a text looks like 3,14."""
    return re.fullmatch(r"\s*[-+]?\d+,\d+\s*", text) is not None


def _dictionary(array: pa.Array) -> tuple[list[Any], np.ndarray, np.ndarray | None]:
    """(distinct values, their place for each row with empty = the last + 1, empty)."""
    if not pt.is_dictionary(array.type):
        array = array.dictionary_encode()
    empty = is_empty(array)
    try:
        values = array.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise TraceError(f"holds text that is not UTF-8 ({error.reason})") from error
    codes = array.indices.fill_null(len(values)) if empty is not None else array.indices
    return values, codes.to_numpy(zero_copy_only=False), empty


def _coded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """As `_dictionary`, with the values as texts; NaN is empty, too."""
    array = plain(column)
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
