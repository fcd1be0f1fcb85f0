"""What the values of a column are, over all rows of all files: the ground of every guess."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from envs.sources.columns import is_whole, item_dtype, numbers, sort_of
from envs.sources.names import distinct
from envs.spaces import MAX_CATEGORIES
from envs.types import TraceError


@dataclass
class Facts:
    """What is known of one column. `look` adds the rows of one batch."""

    name: str
    sort: str = "nothing"  # see `columns.sort_of`
    where: str = ""  # the first file that says so
    dtypes: list[np.dtype] = field(default_factory=list)  # stored, in different files
    is_whole: bool = True  # stored as integers or booleans in every file
    rows: int = 0
    empty: int = 0
    shape: tuple[int, ...] | None = None  # of a cell
    low: np.ndarray | None = None  # least and greatest, elementwise in lists
    high: np.ndarray | None = None
    whole: bool = True  # every value is
    seen: np.ndarray = field(default_factory=lambda: np.zeros(2 * MAX_CATEGORIES + 1, bool))
    texts: set[str] = field(default_factory=set)

    def stored(self, dtype: pa.DataType, file: str) -> None:
        """Add how a file stores the column. `TraceError` if it does not go with the others."""
        sort = sort_of(dtype)
        if sort == "nothing":
            return
        if self.sort not in ("nothing", sort):
            what = f"column {self.name} holds {dtype} ({sort}), but {self.sort} in {self.where}"
            raise TraceError(f"{file}: {what}; give all files the same type")
        if sort == "other":
            what = f"column {self.name} holds {str(dtype)[:80]}"
            raise TraceError(f"{file}: {what}, expected numbers, text, times or lists of numbers")
        self.sort, self.where = sort, self.where or file
        if sort in ("number", "lists", "time"):
            self.dtypes.append(item_dtype(dtype))
            self.is_whole &= is_whole(dtype)

    def look(self, column: pa.ChunkedArray) -> None:
        """Add the values of a batch of numbers."""
        cells = numbers(column)
        x = cells.values
        self.rows += len(x)
        good = np.ones(len(x), bool) if cells.empty is None else ~cells.empty
        if cells.bad is not None:
            good &= ~cells.bad
        if x.dtype.kind == "f":
            good &= np.isfinite(x) if x.ndim == 1 else np.isfinite(x.reshape(len(x), -1)).all(1)
        if not good.all():
            self.empty += len(x) - int(good.sum())
            x = x[good]
        if not len(x):
            return
        self.shape = x.shape[1:] if self.shape is None else self.shape
        if x.shape[1:] != self.shape:
            return  # told with its row when it is read
        x = x.astype(np.float64)
        low, high = x.min(axis=0), x.max(axis=0)
        self.low = low if self.low is None else np.minimum(low, self.low)
        self.high = high if self.high is None else np.maximum(high, self.high)
        self.whole = self.whole and bool((x == np.rint(x)).all())
        if self.whole and x.ndim == 1 and max(-low, high) <= MAX_CATEGORIES:
            self.seen[x.astype(np.int64) + MAX_CATEGORIES] = True

    def look_texts(self, column: pa.ChunkedArray) -> None:
        """Add the values of a batch of categories. `TraceError` if there are too many."""
        self.texts |= distinct(column)
        if len(self.texts) > MAX_CATEGORIES:
            what = f"column {self.name} has more than {MAX_CATEGORIES} categories"
            raise TraceError(f"{what}; is it a number, or an identifier?")

    @property
    def dtype(self) -> np.dtype:
        """float32 if nothing wider is stored, else float64."""
        narrow = bool(self.dtypes) and all(each in (np.float32, np.float16) for each in self.dtypes)
        return np.dtype(np.float32 if narrow else np.float64)

    @property
    def is_category(self) -> bool:
        """Whether single numbers name categories rather than amounts.

        Stored as integers: up to `MAX_CATEGORIES` of them. Stored as floats, as a column with
        empty cells often is: only if at least half of the numbers from 0 to the greatest occur.
        """
        if self.low is None or self.high is None or not self.whole or self.shape != ():
            return False
        if self.high + 1 - min(0.0, self.low) > MAX_CATEGORIES:
            return False
        dense = self.low >= 0 and 2 * self.seen.sum() >= self.high + 1
        return self.is_whole or bool(dense)
