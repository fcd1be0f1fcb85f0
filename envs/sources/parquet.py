"""Parquet files as a source: one row per step, named columns."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from envs.sources.columns import sort_of
from envs.sources.tables import BATCH_BYTES, BATCH_ROWS, TableSource

MOST_DEPTH = 20  # of structs


class ParquetSource(TableSource):
    """Episodes in Parquet files; see `TableSource`."""

    format = "Parquet"
    endings = (".parquet", ".pq")

    def _schema(self, path: str) -> pa.Schema:
        with pq.ParquetFile(path) as reader:
            return flattened(reader.schema_arrow)

    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        texts = [name for name in names if sort_of(stored.field(name).type) == "text"]
        # Not pyarrow.dataset: it reads ahead by threads, many batches of unbounded size.
        with pq.ParquetFile(
            path, page_checksum_verification=True, read_dictionary=texts
        ) as reader:
            rows = batch_rows(reader.metadata, names)
            # No threads: see `envs.segments.from_parquet`.
            for batch in reader.iter_batches(rows, columns=names, use_threads=False):
                yield flat_table(pa.Table.from_batches([batch]))


def batch_rows(metadata: pq.FileMetaData, names: list[str]) -> int:
    """How many rows of these columns take about `BATCH_BYTES` once decoded.

    The sizes in a file are of encoded values, of which repeated ones take nothing: so values count.
    """
    most, wanted = 1, tuple(f"{name}." for name in names)
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        found = [group.column(j) for j in range(group.num_columns)]
        found = [each for each in found if f"{each.path_in_schema}.".startswith(wanted)]
        size = sum(max(8 * each.num_values, each.total_uncompressed_size) for each in found)
        most = max(most, size // max(group.num_rows, 1))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // most))


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
