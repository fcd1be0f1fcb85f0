"""LeRobot v3 data sets: their tables read with pyarrow; camera frames where a decoder is installed.

    root/meta/info.json                        version, features with dtype and shape, counts
    root/meta/episodes/chunk-*/file-*.parquet  where the frames of each episode lie
    root/data/chunk-*/file-*.parquet           a row per frame: o[t], a[t] and what is "next"
    root/videos/CAMERA/chunk-*/file-*.mp4

A row has no observation after its action, so the last one of an episode is missing, unless columns
`next.observation...` were added to the format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from envs.sources import cameras
from envs.spaces import infer_space
from envs.types import Trace, TraceError, UserError, space_from_json

INFO_BYTES = 16 << 20
BATCH_ROWS = 1 << 14
OBSERVATION, NEXT = "observation.", "next."
DONE, TERMINATED, TRUNCATED = "next.done", "next.terminated", "next.truncated"
DAMAGE = (pa.ArrowException, OSError, UnicodeError, OverflowError, MemoryError)
OPTIONAL = {"propensity": "propensities"}  # added columns


class LeRobotSource:
    """A LeRobot v3 data set in the directory `uri`, read from its Parquet files.

    `final` says what stands for the missing observation after the last action: "repeat" (the one
    before it) or "drop" (the last action is left out). `reward` names the column of rewards. An
    episode that is done is terminated, unless a column next.truncated or `done="truncated"` says
    otherwise. `frames=False` leaves cameras out; `task` takes the episodes of one task (a number).
    `observation_space` and `action_space` (as a store's manifest has them) replace inferred ones.
    """

    def __init__(
        self,
        uri: str,
        *,
        final: str | None = None,
        reward: str = "next.reward",
        done: str = "terminated",
        frames: bool = True,
        task: int | None = None,
        observation_space: dict | None = None,
        action_space: dict | None = None,
    ):
        self.root = Path(uri)
        self.final, self.reward, self.done, self.task = final, reward, done, task
        for name, value, choices in (
            ("final", final, (None, "repeat", "drop")),
            ("done", done, ("terminated", "truncated")),
        ):
            if value not in choices:
                shown = " or ".join(choice for choice in choices if choice)
                raise TraceError(f"{name}={value} does not exist; choose {shown}")
        self.info = _info(self.root / "meta" / "info.json")
        self.features = self.info["features"]
        self._files = sorted(self.root.glob("data/chunk-*/file-*.parquet"))
        given = {"observation_space": observation_space, "action_space": action_space}
        self._spaces: dict[str, Any] = {k: space_from_json(x) for k, x in given.items() if x}
        self._plan(frames)

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces that are given, or inferred by reading everything once."""
        if len(self._spaces) < 2:
            spaces: dict[str, Any] = {}
            for trace in self:
                o, a = trace.observations, trace.actions
                spaces["observation_space"] = infer_space(o, spaces.get("observation_space"))
                known = spaces.get("action_space")
                spaces["action_space"] = infer_space(a, known, is_action=True)
            self._spaces = spaces | self._spaces
        return self._spaces

    def __iter__(self) -> Iterator[Trace]:
        frames = 0
        for where, number, table in self._episodes():
            frames += len(table)
            if self.task is not None and table["task_index"][0].as_py() != self.task:
                continue
            try:
                yield self._trace(number, table)
            except UserError as error:
                raise TraceError(f"{where}: episode {number}: {error}") from error
        if frames != self.info["total_frames"]:
            what = f"{frames} frames were found, expected {self.info['total_frames']}"
            raise TraceError(f"{self.root}: {what}; restore the data set from a copy")

    def _plan(self, frames: bool) -> None:
        """Which columns are read, and which cameras. Raises `TraceError` for what is missing."""
        seen = [name for name in self.features if name.startswith(OBSERVATION)]
        is_camera = lambda name: self.features[name]["dtype"] in ("video", "image")
        self._cameras = [name for name in seen if is_camera(name) and frames]
        self._observed = [name for name in seen if not is_camera(name)]
        if not self._observed and not self._cameras:
            raise TraceError(f"{self.root}: has no feature {OBSERVATION}*, so nothing is observed")
        for name in ("action", self.reward):
            if name not in self.features:
                advice = f"has {', '.join(self.features)}; name one with +source.options.reward="
                what = advice if name != "action" else "is no log of actions"
                raise TraceError(f"{self.root}: has no feature {name}; {what}")
        later = [NEXT + name for name in self._observed]
        self._later = later if set(later) <= set(self.features) and not self._cameras else []
        if not self._later and self.final is None:
            advice = "add +source.options.final=repeat, or drop"
            what = f"the observation after the last action is not in the data; {advice}"
            raise TraceError(f"{self.root}: {what}")
        flags = [name for name in (DONE, TERMINATED, TRUNCATED) if name in self.features]
        if flags == [DONE]:
            what = f"{DONE} does not say whether the task or its clock ended; read as {self.done}"
            logging.getLogger(__name__).warning("%s: %s", self.root, what)
        self._columns = [*self._observed, *self._later, "action", self.reward, *flags]
        self._columns += [name for name in OPTIONAL if name in self.features]
        images = [name for name in self._cameras if self.features[name]["dtype"] == "image"]
        self._pictures = cameras.Cameras(self.root, self._cameras, images, self.info["fps"])

    def _episodes(self) -> Iterator[tuple[Path, int, pa.Table]]:
        """(file, number, rows) of each episode; an episode lies in one file."""
        keys = ["episode_index", "frame_index", "task_index"]
        names = [*keys, *self._columns, *self._pictures.images]
        for file in self._files:
            parts: list[pa.Table] = []
            for table in _tables(file, names):
                for number, rows in _runs(table):
                    if parts and parts[0]["episode_index"][0].as_py() != number:
                        yield file, *_whole(file, parts)
                        parts = []
                    parts.append(rows)
            if parts:
                yield file, *_whole(file, parts)

    def _trace(self, number: int, table: pa.Table) -> Trace:
        columns = {name: self._values(table, name) for name in self._columns}
        o = {name.removeprefix(OBSERVATION): columns[name] for name in self._observed}
        for name, frames in self._pictures(number, table).items():
            o[name.removeprefix(OBSERVATION)] = frames
        a, r = columns["action"], columns[self.reward].astype(np.float64)
        if r.ndim == 2 and r.shape[1] == 1:
            r = r[:, 0]
        terminated, truncated = self._flags(columns, len(table))
        optional: dict[str, Any] = {
            name: columns[key].reshape(len(table)).astype(np.float64)
            for key, name in OPTIONAL.items()
            if key in columns
        }
        if self._later:
            after = {name: columns[NEXT + OBSERVATION + name][-1:] for name in o}
        elif self.final == "repeat":
            after = {name: x[-1:] for name, x in o.items()}
        else:
            after = {name: x[:0] for name, x in o.items()}
            a, r, terminated, truncated = a[:-1], r[:-1], terminated[:-1], truncated[:-1]
            optional = {name: x[:-1] for name, x in optional.items()}
        whole = {name: np.concatenate([x, after[name]]) for name, x in o.items()}
        observations = next(iter(whole.values())) if len(whole) == 1 else whole
        return Trace(observations, a, r, terminated, truncated, **optional)

    def _flags(self, columns: dict[str, np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """terminated and truncated, bool [rows]."""
        never = np.zeros(rows, bool)
        get = lambda name: columns[name].reshape(rows).astype(bool) if name in columns else None
        done, terminated, truncated = get(DONE), get(TERMINATED), get(TRUNCATED)
        done = never if done is None else done
        if terminated is None and truncated is None:
            return (done, never) if self.done == "terminated" else (never, done)
        if terminated is None:
            return done & ~np.asarray(truncated), np.asarray(truncated)
        return terminated, (done if truncated is None else truncated) & ~terminated

    def _values(self, table: pa.Table, name: str) -> np.ndarray:
        """[rows] of whole scalars, [rows, *shape] of all else."""
        feature, column = self.features[name], table[name].combine_chunks()
        if column.null_count:
            raise TraceError(f"{name} has empty cells")
        x = column.to_numpy(zero_copy_only=False)
        try:
            if x.dtype == object:  # lists, of lists where there are more axes
                x = np.array([np.stack(row) if row.dtype == object else row for row in x])
            shape = tuple(feature["shape"])
            if x.dtype.kind in "biu" and shape in ((1,), ()):
                return x.reshape(len(x)).astype(np.int64 if x.dtype.kind != "b" else bool)
            return x.reshape(len(x), *shape)
        except (ValueError, TypeError, AttributeError) as error:
            what = f"expected {feature['dtype']} of shape {feature['shape']}"
            raise TraceError(f"{name}: {what} in every row") from error


def _info(file: Path) -> dict[str, Any]:
    """The description of a data set, as far as it is used here."""
    try:
        if file.stat().st_size > INFO_BYTES:
            raise TraceError(f"{file}: has more than {INFO_BYTES} bytes")
        info = json.loads(file.read_text("utf-8"))
        version, features = info["codebase_version"], info["features"]
        if not str(version).startswith("v3."):
            advice = "convert it with lerobot's own script"
            raise TraceError(f"{file}: is of LeRobot {version}, expected v3; {advice}")
        info |= {"total_frames": int(info["total_frames"]), "fps": float(info["fps"])}
        for feature in features.values():
            feature |= {"dtype": str(feature["dtype"]), "shape": [*map(int, feature["shape"])]}
        return info
    except UserError:
        raise
    except FileNotFoundError as error:
        raise TraceError(f"{file}: is missing; expected the root of a LeRobot data set") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise TraceError(f"{file}: is no description of a LeRobot data set: {line}") from error


def _tables(file: Path, names: list[str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as reader:
            if missing := [name for name in names if name not in reader.schema_arrow.names]:
                raise TraceError(f"{file}: has no column {', '.join(missing)}")
            # No threads: see `envs.segments.from_parquet`.
            for batch in reader.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    except DAMAGE as error:
        line = " ".join(str(error).split())
        raise TraceError(f"{file}: is not readable as Parquet: {line}") from error


def _runs(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(episode, its consecutive rows)."""
    ids = table["episode_index"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    for start, stop in zip(cuts, cuts[1:], strict=False):
        yield ids[start], table.slice(start, stop - start)


def _whole(file: Path, parts: list[pa.Table]) -> tuple[int, pa.Table]:
    """(number, rows) of one episode; its frames must be all there, in order."""
    table = pa.concat_tables(parts)
    number, frames = table["episode_index"][0].as_py(), table["frame_index"].to_numpy()
    if not np.array_equal(frames, np.arange(len(table))):
        row = int(np.argmax(frames != np.arange(len(table))))
        what = f"frame {row} is missing, or not in its place (frame_index {frames[row]})"
        raise TraceError(f"{file}: episode {number}: {what}")
    return number, table
