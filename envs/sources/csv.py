"""CSV files as a source: one row per step, the names of the columns in the first line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from envs.sources.mapping import Mapping, flat
from envs.sources.names import is_decimal_comma
from envs.sources.tables import TableSource
from envs.types import TraceError

BLOCK_BYTES = 4 << 20  # parsed at once; no row may be longer
NOTHING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None"]  # in place of a number
LINE = re.compile(r"Row #(\d+)")
SIGNATURES = {
    b"\xff\xfe": "UTF-16 text; say +source.options.encoding=utf-16",
    b"\xfe\xff": "UTF-16 text; say +source.options.encoding=utf-16",
    b"\x1f\x8b": "compressed; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed; let its name end in .zst",
    b"PK\x03\x04": "an archive; unpack it",
    b"PAR1": "Parquet; say source.name=parquet",
}


class CsvSource(TableSource):
    """Episodes in CSV files, plain or compressed (.gz, .zst, .bz2); see `TableSource`."""

    format = "CSV"
    is_text = True
    decimal_advice = "if that is a decimal comma, say +source.options.decimal=','"
    endings = tuple(f".{kind}{packed}" for kind in ("csv", "tsv") for packed in ("", ".gz", ".zst"))

    def __init__(
        self,
        uri: str,
        mapping: dict | str | Mapping | None = None,
        verifier: str | None = None,
        *,
        delimiter: str = ",",
        decimal: str = ".",
        encoding: str = "utf-8",
    ):
        for name, value in (("delimiter", delimiter), ("decimal", decimal)):
            if not isinstance(value, str) or len(value) != 1 or not value.isascii():
                raise TraceError(f"{name}={value!r}, expected one character")
        self._options: Any = delimiter, decimal, encoding
        super().__init__(uri, mapping, verifier)

    def _schema(self, path: str) -> pa.Schema:
        with open(path, "rb") as file:
            start = file.read(4)
        for signature, what in SIGNATURES.items():
            if start.startswith(signature) and not path.endswith((".gz", ".zst", ".bz2")):
                if "UTF-16" not in what or self._options[2] == "utf-8":
                    raise TraceError(f"is {what}")
        schema = self._open(path, {}).schema
        if len(schema) == 1 and self._options[0] == ",":
            for other in (";", "\t", "|"):
                if other in schema.names[0]:
                    what = f"has one column called {schema.names[0][:40]!r}"
                    raise TraceError(f"{what}; say +source.options.delimiter='{other}'")
        if binary := [field.name for field in schema if pa.types.is_binary(field.type)]:
            advice = "save it as UTF-8, or say +source.options.encoding=latin-1 (or what it is)"
            raise TraceError(f"column {binary[0]} holds text that is not UTF-8; {advice}")
        return schema

    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        types = {name: self._type(name, stored.field(name).type) for name in names}
        for batch in self._open(path, types, names):
            yield pa.Table.from_batches([batch])

    def _type(self, name: str, first: pa.DataType) -> pa.DataType:
        """The type of a column in all blocks: what a later block holds is not known yet."""
        if name in self._texts():
            return pa.string()
        if name == self.mapping.order and pa.types.is_integer(first):
            return first  # floats beyond 2^53 would tie
        return pa.float64() if pa.types.is_integer(first) or pa.types.is_null(first) else first

    def _texts(self) -> set[str]:
        """Columns that are text whatever they look like."""
        mapping = self.mapping
        names = {mapping.episode, mapping.session, mapping.policy} - {None}
        leaves = [*flat(mapping.observation), *flat(mapping.next_observation), *mapping.action]
        return names | {name for name in leaves if mapping.types.get(name) == "category"}

    def _open(self, path: str, types: dict, names: list[str] | None = None) -> Any:
        delimiter, decimal, encoding = self._options
        texts = {name: pa.string() for name in self._texts()} if not types else types
        try:
            return pyarrow.csv.open_csv(
                path,
                pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=BLOCK_BYTES, encoding=encoding
                ),
                pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                pyarrow.csv.ConvertOptions(
                    column_types=texts,
                    null_values=NOTHING,
                    decimal_point=decimal,
                    include_columns=names or [],
                ),
            )
        except LookupError as error:
            raise TraceError(f"encoding={encoding!r} is unknown") from error

    def _advice(self, line: str) -> str:
        line = LINE.sub(r"line \1", line)
        if "straddling" in line:
            return f"a row is longer than {BLOCK_BYTES >> 20} MiB, or a quote is never closed"
        value = re.search(r"invalid value '(.*)'", line)
        if "conversion error" in line and value and is_decimal_comma(value[1]):
            return f"{line}; {self.decimal_advice}"
        if "conversion error" in line:
            return f"{line}; a column must hold one kind of values from its first to its last row"
        if "invalid UTF8" in line or "codec can't decode" in line:
            return f"{line}; save it as UTF-8, or say +source.options.encoding=latin-1"
        return line
