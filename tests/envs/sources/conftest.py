"""Tables in every format, written from the same columns."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from envs.sources import open_source

FORMATS = ("parquet", "csv", "jsonl")


def write_table(path, columns):
    """Write columns to a file in the format that its name ends in; returns its path as text."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return str(path)


@pytest.fixture
def opened(tmp_path):
    """`opened(mapping, columns, name)`: a source of one file with these columns."""

    def call(mapping, columns, name="parquet", **options):
        uri = write_table(tmp_path / f"log.{name}", columns)
        return open_source(name, uri, mapping=mapping, **options)

    return call
