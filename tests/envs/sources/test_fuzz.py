"""Damaged tables: whatever the bytes are, episodes come out or one typed error, and soon."""

import gzip
import json
import random
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from envs.sources import open_source
from envs.types import Trace, TraceError

FORMATS = ("parquet", "csv", "jsonl")
MAPPING = {
    "episode": "id",
    "observation": {"numbers": ["x", "y"], "kind": "kind", "cells": "cells"},
    "action": "a",
    "reward": "r - 2 * x / 4",
    "terminated": "end",
    "time": "at",
    "types": {"kind": "category"},
}
WORDS = [b",", b"\n", b'"', b"[", b"]", b"{", b"}", b":", b"nan", b"-1e999", b"null", b"\x00"]
WORDS += [b"\xff", b"1" * 400, b"[" * 90, b"x,y", b"7.5", b"true", b"\xef\xbb\xbf", b"9" * 20]
MOST_SECONDS, MOST_BYTES = 2.0, 200 << 20  # an input may take, and add to the memory in use


def table() -> pa.Table:
    """Four small episodes with every kind of column."""
    draw = np.random.default_rng(0)
    rows, steps = 24, np.arange(24) % 6
    return pa.table(
        {
            "id": [f"e{i // 6}" for i in range(rows)],
            "x": draw.normal(size=rows),
            "y": draw.integers(0, 9, rows),
            "kind": [("red", "green", "blue")[i % 3] for i in range(rows)],
            "cells": draw.normal(size=(rows, 2)).astype(np.float32).tolist(),
            "a": pa.array([int(t) % 3 if t < 5 else None for t in steps]),
            "r": pa.array(draw.normal(size=rows), mask=steps == 5),
            "end": [bool(t == 4) for t in steps],
            "at": np.arange(rows, dtype=float),
        }
    )


def write(name: str, path: Path) -> bytes:
    """The table in a format; CSV has no lists."""
    rows = table()
    if name == "parquet":
        pq.write_table(rows, path, row_group_size=10)  # no checksums: damage comes through
    elif name == "csv":
        pyarrow.csv.write_csv(rows.drop(["cells"]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    return path.read_bytes()


def mapping(name: str) -> dict:
    o = {
        key: value
        for key, value in MAPPING["observation"].items()
        if (name, key) != ("csv", "cells")
    }
    return MAPPING | {"observation": o}


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """The bytes with a few random changes."""
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at, how = draw.randrange(len(data) + 1), draw.randrange(6)
        if how == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            data[at:at] = draw.choice(WORDS)
        elif how == 2:
            del data[at : at + draw.choice([1, 2, 9, 60])]
        elif how == 3:
            start = draw.randrange(len(data) + 1)
            data[at:at] = data[start : start + draw.choice([1, 8, 70])]
        elif how == 4:
            del data[at:]
        else:
            lines = bytes(data).split(b"\n")
            draw.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        if not data:
            break
    return bytes(data)


def read(name: str, path: Path) -> str:
    """ "read" or the error; anything but our own error is raised."""
    try:
        traces = list(open_source(name, str(path), mapping=mapping(name)))
    except TraceError as error:
        assert str(path) in str(error) and "\n" not in str(error), error
        return "refused"
    assert all(isinstance(trace, Trace) for trace in traces)
    return "read"


def fuzz(name: str, folder: Path, count: int, seed: int) -> dict[str, int]:
    path = folder / f"log.{name}"
    whole, found, draw = write(name, path), {"read": 0, "refused": 0}, random.Random(seed)
    assert read(name, path) == "read"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    slowest = 0.0
    for _ in range(count):
        path.write_bytes(mutated(whole, draw))
        start = time.process_time()
        found[read(name, path)] += 1
        slowest = max(slowest, time.process_time() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert slowest < MOST_SECONDS and grown < MOST_BYTES, (slowest, grown)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused_in_words(name, tmp_path):
    found = fuzz(name, tmp_path, 60, seed=0)
    assert found["refused"] > 10, "the damage was done"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_damaged_files_are_read_or_refused_in_words(name, tmp_path):
    found = fuzz(name, tmp_path, 10_000, seed=1)
    assert found["refused"] > 2000 and (name == "parquet" or found["read"] > 200)


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_a_compressed_file_that_is_cut_or_a_bomb_is_refused(name, tmp_path):
    path = tmp_path / f"log.{name}.gz"
    packed = gzip.compress(write(name, tmp_path / f"log.{name}"))
    path.write_bytes(packed)
    assert read(name, path) == "read"
    path.write_bytes(packed[: len(packed) // 2])
    assert read(name, path) == "refused"
    path.write_bytes(gzip.compress(write(name, tmp_path / "x") + b"1" * (24 << 20)))  # one long row
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert path.stat().st_size < 1 << 20 and read(name, path) == "refused"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_BYTES >> 10


def fuzz_mapping(folder: Path, count: int, seed: int) -> int:
    """How many damaged mapping files are refused; the others read the log."""
    log, path, draw = folder / "log.parquet", folder / "m.yaml", random.Random(seed)
    write("parquet", log)
    whole, refused = json.dumps(MAPPING, indent=1).encode(), 0
    for _ in range(count):
        path.write_bytes(mutated(whole, draw))
        try:
            list(open_source("parquet", str(log), mapping=str(path)))
        except TraceError as error:
            assert "\n" not in str(error), error
            refused += 1
    return refused


def test_damaged_mappings_are_refused_in_words(tmp_path):
    assert fuzz_mapping(tmp_path, 60, seed=0) > 20


@pytest.mark.slow
def test_thousands_of_damaged_mappings_are_refused_in_words(tmp_path):
    assert fuzz_mapping(tmp_path, 5000, seed=1) > 2000
