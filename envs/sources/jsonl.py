"""JSON lines as a source: one object per step and line, nested objects as `outer.inner`."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from envs.sources.nesting import DEEPEST, is_too_deep
from envs.sources.parquet import flat_table, flattened
from envs.sources.tables import TableSource
from envs.types import TraceError

BLOCK_BYTES = 4 << 20  # parsed at once; no line may be longer
BOM = b"\xef\xbb\xbf"


class JsonlSource(TableSource):
    """Episodes in files of JSON lines, plain or compressed (.gz, .zst); see `TableSource`."""

    format = "JSON lines"
    is_text = True
    endings = tuple(
        f".{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".zst")
    )

    def _schema(self, path: str) -> pa.Schema:
        with _opened(path) as stream:
            return flattened(_reader(stream).schema)

    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        with _opened(path) as stream:
            outer = _reader(stream).schema
        mapping = self.mapping
        exact = {mapping.episode, mapping.session, mapping.policy, mapping.order}
        roots = {name.split(".")[0] for name in names} | {name for name in names}
        fields = [
            field.with_type(_widened(field.type, field.name, exact))
            for field in outer
            if field.name in roots
        ]
        with _opened(path) as stream:
            for batch in _reader(stream, pa.schema(fields)):
                yield flat_table(pa.Table.from_batches([batch])).select(names)

    def _advice(self, line: str) -> str:
        if "straddling" in line:
            return f"a line is longer than {BLOCK_BYTES >> 20} MiB"
        if "changed from" in line:
            return f"{line} of its part; a key must hold one kind of values from first to last"
        return line


def _reader(stream: Any, schema: pa.Schema | None = None) -> Any:
    return pyarrow.json.open_json(
        stream,
        pyarrow.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        pyarrow.json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="infer" if schema is None else "ignore",
        ),
    )


def _widened(dtype: pa.DataType, name: str, exact: set[str | None]) -> pa.DataType:
    """The type of a key in all blocks: what a later block holds is not known yet.

    `name` is `outer.inner`; those that are `exact` stay as they are: floats beyond 2^53 would tie.
    """
    if name in exact:
        return dtype
    if pa.types.is_integer(dtype) or pa.types.is_null(dtype):
        return pa.float64()
    if pa.types.is_list(dtype):
        return pa.list_(_widened(dtype.value_type, name, set()))
    if pa.types.is_struct(dtype):
        inner = lambda field: _widened(field.type, f"{name}.{field.name}", exact)
        return pa.struct([field.with_type(inner(field)) for field in dtype])
    return dtype


def _opened(path: str) -> Checked:
    """The bytes of a file, decompressed, without a byte-order mark."""
    if path.endswith(".gz"):
        return Checked(gzip.open(path, "rb"))
    return Checked(pa.input_stream(path, compression="detect"))


class Checked:
    """A file whose lines are checked, before anybody gets them, not to be nested too deeply."""

    def __init__(self, file: Any):
        self._file = file
        self._head = file.read(len(BOM))
        if self._head == BOM:
            self._head = b""
        elif self._head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise TraceError("is UTF-16 text; save it as UTF-8")
        self._tail = b""
        self._row = 0
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises `TraceError`."""
        size = BLOCK_BYTES if size is None or size < 0 else size
        data, self._head = self._head, b""
        data += self._file.read(max(size - len(data), 0))
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in [*lines, self._tail] if len(data) < size else lines:
            if is_too_deep(line):
                raise TraceError(f"row {self._row} is nested deeper than {DEEPEST}")
            self._row += 1
        if len(self._tail) > BLOCK_BYTES:
            raise TraceError(f"row {self._row} is longer than {BLOCK_BYTES >> 20} MiB")
        return data

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._file.close()

    def __enter__(self) -> Checked:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
