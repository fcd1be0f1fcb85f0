"""The manifest of a trace store: sizes and hashes of its files, and a hash of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.types import TraceError

SCHEMA_VERSION = 3  # 2 added Dict and Tuple observations, and masks; 3 consent, retention, resume
READABLE = (1, 2, 3)


def dump_manifest(manifest: dict) -> bytes:
    """The manifest as JSON; its last field is the hash of the JSON without that field."""
    dump = lambda data: (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
    return dump(manifest | {"sha256": sha256(dump(manifest))})


def parse_manifest(data: bytes, file: Path) -> dict:
    """The manifest, which must be exactly what `dump_manifest` wrote."""
    try:
        manifest = json.loads(data.decode())
        version = manifest["schema_version"]
        del manifest["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TraceError(f"{file}: is damaged ({error}); restore it from a copy") from error
    if version not in READABLE:
        raise TraceError(
            f"{file}: has schema version {version}, this program reads {SCHEMA_VERSION}"
        )
    if dump_manifest(manifest) != data:
        raise TraceError(f"{file}: was changed after it was written; restore it from a copy")
    return manifest


def describe(data: bytes) -> dict:
    """A Parquet file as the manifest has it: size, hash, rows, and the same per row group."""
    metadata = pq.read_metadata(pa.BufferReader(data))
    groups, start = [], 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        first = lambda column: min(
            offset
            for offset in (column.dictionary_page_offset, column.data_page_offset)
            if offset is not None
        )
        end = max(first(column) + column.total_compressed_size for column in columns)
        groups.append({"rows": group.num_rows, "end": end, "sha256": sha256(data[start:end])})
        start = end
    size, rows = len(data), metadata.num_rows
    return {"bytes": size, "sha256": sha256(data), "rows": rows, "row_groups": groups}


def damage(data: bytes, entry: dict) -> str | None:
    """The damage of a file whose `describe` was `entry`, as a text; None if it is intact."""
    if len(data) == entry["bytes"] and sha256(data) == entry["sha256"]:
        return None
    with contextlib.suppress(Exception):  # a damaged footer raises various errors
        rows = pq.read_metadata(pa.BufferReader(data)).num_rows
        if rows != entry["rows"]:
            return f"holds {rows} rows, expected {entry['rows']}"
    start = row = 0
    for number, group in enumerate(entry["row_groups"]):
        end, last = group["end"], row + group["rows"] - 1
        if sha256(data[start:end]) != group["sha256"]:
            how = "is cut short" if len(data) < end else "is damaged"
            return f"row group {number} (rows {row} to {last}) {how}"
        start, row = end, last + 1
    return f"its footer (after row {row - 1}) is cut short or damaged"


def sha256(data: bytes) -> str:
    """The SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
