"""Parquet files as a source: one row per step, named columns."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from envs.sources.batches import BATCH_BYTES, BATCH_ROWS
from envs.sources.columns import sort_of
from envs.sources.tables import TableSource

MOST_DEPTH = 20  # of structs
PROBES = 1, 64  # rows that are read to judge their size


class ParquetSource(TableSource):
    """Episodes in Parquet files; see `TableSource`."""

    format = "Parquet"
    endings = (".parquet", ".pq")

    def _schema(self, path: str) -> pa.Schema:
        with pq.ParquetFile(path) as reader:
            return flattened(reader.schema_arrow)

    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        # Not pyarrow.dataset: it reads ahead by threads, many batches of unbounded size.
        for batch in self._batches(path, stored, names, self._batch_rows(path, stored, names)):
            batch.validate(full=True)  # places in a dictionary may lie outside of it
            yield flat_table(pa.Table.from_batches([batch]))

    def _batches(
        self, path: str, stored: pa.Schema, names: list[str], rows: int
    ) -> Iterator[pa.RecordBatch]:
        texts = [name for name in names if sort_of(stored.field(name).type) == "text"]
        # Text stays a dictionary, so that a long one is in memory once however often it occurs.
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as reader:
            # No threads: see `envs.segments.from_parquet`.
            yield from reader.iter_batches(rows, columns=names, use_threads=False)

    def _batch_rows(self, path: str, stored: pa.Schema, names: list[str]) -> int:
        """How many rows take about `BATCH_BYTES`, judged by the first ones.

        Sizes in a file are of encoded values, of which repeated ones take nothing. (Those of single
        columns are not asked for: pyarrow ends the process if a damaged file has wrong ones.)
        """
        rows = 1
        for probe in PROBES:
            batch = next(self._batches(path, stored, names, min(probe, rows)), None)
            if batch is None or not batch.num_rows:
                break
            rows = BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1)
        return max(1, min(BATCH_ROWS, rows))


def flattened(schema: pa.Schema) -> pa.Schema:
    """The schema with structs as columns `outer.inner`."""
    for _ in range(MOST_DEPTH):
        if not any(pa.types.is_struct(field.type) for field in schema):
            break
        fields = []
        for field in schema:
            inner = field.flatten() if pa.types.is_struct(field.type) else [field]
            fields += inner
        schema = pa.schema(fields)
    return schema


def flat_table(table: pa.Table) -> pa.Table:
    """The table with structs as columns `outer.inner`."""
    for _ in range(MOST_DEPTH):
        if not any(pa.types.is_struct(field.type) for field in table.schema):
            break
        table = table.flatten()
    return table
