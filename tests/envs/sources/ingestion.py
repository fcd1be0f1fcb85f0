"""How fast tables become a committed store: `python tests/envs/sources/ingestion.py [rows]`.

Rows of 10 columns in episodes of 100, as Parquet and as CSV; the spaces are inferred. Each format
runs in a process of its own, so that its peak of memory is its own, too.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from envs.sources import open_source
from envs.traces import TraceStore

COLUMNS = [f"x{i}" for i in range(6)]
MAPPING = {"episode": "id", "observation": COLUMNS, "action": "a", "reward": "r", "terminated": "d"}
LENGTH = 100  # rows of an episode


def rows(count: int) -> pa.Table:
    """Random rows; the last one of each episode has no action."""
    draw, last = np.random.default_rng(0), np.arange(count) % LENGTH == LENGTH - 1
    columns: dict[str, Any] = {"id": np.arange(count) // LENGTH}
    columns |= {name: draw.normal(size=count) for name in COLUMNS}
    columns["a"] = pa.array(draw.integers(0, 4, count), mask=last)
    return pa.table(
        columns | {"r": pa.array(draw.normal(size=count), mask=last), "d": np.zeros(count, bool)}
    )


def ingest(name: str, path: str, folder: str) -> None:
    """Read a file into a store, and print how fast that was."""
    wall, cpu = time.perf_counter(), time.process_time()
    source: Any = open_source(name, path, mapping=MAPPING)
    spaces = source.schema()
    TraceStore(
        folder,
        observation_space=spaces["observation_space"],
        action_space=spaces["action_space"],
    ).extend(source)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    count, peak = source.accounts.used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    speed = f"{count / wall:,.0f} rows/s of wall clock, {count / cpu:,.0f} of CPU"
    print(f"{name}: {count:,} rows, {speed}, peak {peak:,} MiB")


def main(count: int) -> None:
    """Write both files, and read each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        table = rows(count)
        pq.write_table(table, Path(folder) / "log.parquet")
        pyarrow.csv.write_csv(table, Path(folder) / "log.csv")
        del table
        for name in ("parquet", "csv"):
            words = [__file__, name, f"{folder}/log.{name}", f"{folder}/{name}"]
            subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ingest(*sys.argv[1:4])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
