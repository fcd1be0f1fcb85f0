"""Files of tables as bounded batches of rows, whatever their format and damage."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa

from envs.sources.files import File, find
from envs.types import TraceError

BATCH_ROWS = 1 << 16
BATCH_BYTES = 32 << 20  # about, of a batch in memory
DAMAGE = (pa.ArrowException, OSError, UnicodeError, EOFError, zlib.error, MemoryError)


class Tables(ABC):
    """The tables in the files at `uri`. A format says which columns a file has, and reads them."""

    format = ""  # what files must be, in words
    endings: tuple[str, ...] = ()
    is_text = False  # numbers are parsed: what was written may lie between two floats
    decimal_advice = ""  # what to do about decimal commas

    def __init__(self, uri: str):
        self.files = find(uri, self.endings, f"{self.format} files")

    @abstractmethod
    def _schema(self, path: str) -> pa.Schema:
        """The columns of a file, structs flattened to `outer.inner`."""

    @abstractmethod
    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        """The rows of these columns, in bounded batches."""

    @cached_property
    def stored(self) -> list[pa.Schema]:
        """The columns of each file, those of its folders included. `TraceError` if one is bad."""
        return [self._with_keys(file) for file in self.files]

    def sample(self) -> pa.Table:
        """The first batch of rows of the first file, all columns, whatever the mapping says."""
        schema = self.stored[0]
        names = [name for name in schema.names if schema.names.count(name) == 1]
        for _, table in self.read(0, names):
            return table
        raise TraceError(f"{self.files[0].path}: holds no rows")

    def read(self, number: int, names: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, columns `names`) of one file, in bounded batches."""
        file, schema = self.files[number], self.stored[number]
        own = [name for name in names if name not in file.keys]
        keys = {name: _key_value(file.keys[name]) for name in names if name in file.keys}
        own = own or [next(name for name in schema.names if name not in file.keys)]
        tables, first = self._tables(file.path, schema, own), 0
        while True:
            table = self._guard(file, lambda: next(tables, None), first)  # noqa: B023
            if table is None:
                return
            for start in range(0, len(table), BATCH_ROWS):
                part = table.slice(start, BATCH_ROWS)
                for key, value in keys.items():
                    part = part.append_column(key, pa.repeat(pa.scalar(value), len(part)))
                if len(part):
                    yield first, part
                first += len(part)

    def _guard(self, file: File, read: Callable[[], Any], first: int = 0) -> Any:
        """What `read` returns; Arrow's errors, and those of decoders, as `TraceError`."""
        try:
            return read()
        except TraceError as error:
            raise TraceError(f"{file.path}: {after(first)}{error}") from error
        except DAMAGE as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            what = f"is not readable as {self.format}: {self._advice(line)}"
            raise TraceError(f"{file.path}: {after(first)}{what}") from error

    def _advice(self, line: str) -> str:
        """An error of Arrow, with what to do about it where that is known."""
        return line

    def _with_keys(self, file: File) -> pa.Schema:
        """The columns of a file, those of its folders included. Raises `TraceError`."""
        schema = self._guard(file, lambda: self._schema(file.path))
        self._guard(file, lambda: schema.names)  # text, which a damaged file may not hold
        for key, value in file.keys.items():
            if key not in schema.names:
                schema = schema.append(pa.field(key, pa.scalar(_key_value(value)).type))
        return schema


def _key_value(value: str | None) -> Any:
    """The value in a folder's name: a whole number if it is written as one."""
    if value is not None and value.lstrip("-").isdigit() and len(value) < 19:
        return int(value)
    return value


def after(row: int) -> str:
    """Where something is, in words, if so many rows were read before."""
    return f"after row {row - 1}: " if row else ""
