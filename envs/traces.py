"""TraceStore: recorded episodes on disk; appends are atomic, and every read is verified.

    store/manifest.json            spaces, provenance, size and SHA-256 of every file; written last
    store/segment-000000.parquet   the rows of many episodes (see `envs.segments`)
    store/episodes-000000.parquet  one row per episode of that segment

Files named by the manifest never change; an append adds files, then replaces the manifest.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa

from envs.atomic import sync_directory, write_file
from envs.manifest import SCHEMA_VERSION, damage, describe, dump_manifest, parse_manifest, sha256
from envs.segments import (
    INDEX,
    ROW_GROUP_BYTES,
    check_trace,
    decode,
    encode,
    from_parquet,
    row_bytes,
    to_parquet,
)
from envs.spaces import infer_space
from envs.types import Trace, TraceError, space_from_json, space_to_json

SEGMENT_BYTES = 32 << 20  # of rows in memory: of a segment, and so while reading
MANIFEST = "manifest.json"
Resume = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]
OURS = re.compile(r"(segment|episodes)-\d{6}\.parquet(\.tmp)?|manifest\.json\.tmp")


class TraceStore:
    """Episodes in a directory, which the first append creates. Spaces not given are inferred.

    One process writes at a time (by a lock), any number may read. Methods raise `TraceError`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        observation_space: gymnasium.Space | None = None,
        action_space: gymnasium.Space | None = None,
        provenance: dict | None = None,
    ):
        self.path = Path(path)
        self._given = {"observation": observation_space, "action": action_space}
        self._provenance = provenance or {}  # used if the store is new
        self._spaces: dict[str, gymnasium.Space] = {}
        self._load()

    def append(self, trace: Trace) -> None:
        """Add one episode durably, for about five fsyncs; use `extend` for many episodes."""
        self.extend([trace])

    def extend(self, traces: Iterable[Trace], *, resume: Resume | None = None) -> None:
        """Add all episodes or, if anything fails, none.

        `resume` (name -> JSON) is kept by the same commit: how far those came who bring episodes.
        A function makes it of the one that is stored, while no other process can change that.
        """
        with self.locked():
            self._load()
            self._sweep()
            if not (self.path / MANIFEST).exists():
                self._commit()  # an empty store; from now on a missing manifest means damage
            before = self._manifest, self._spaces
            try:
                self._manifest = copy.deepcopy(self._manifest)
                for chunk in _chunks(traces):
                    self._write_segment(chunk)
                if resume is not None:
                    new = resume(self.resume) if callable(resume) else resume
                    self._manifest["resume"] = self.resume | new
                if self._manifest != before[0]:
                    self._commit()
            except BaseException:
                self._manifest, self._spaces = before
                with contextlib.suppress(TraceError, OSError):
                    self._load()  # the commit itself may have succeeded
                    self._sweep()
                raise

    def judge(self) -> Callable[[Trace], None]:
        """A function that raises `TraceError` for an episode that `extend` would refuse after all
        that are stored, and after those that were judged before."""
        apart = copy.copy(self)
        apart._manifest = dict(self._manifest)

        def check(trace: Trace) -> None:
            apart._check_masked(trace)
            check_trace(trace, apart._widen(trace))

        return check

    def traces(self, chosen: np.ndarray | None = None) -> Iterator[Trace]:
        """The episodes in order of recording, one segment in memory at a time; only those whose
        numbers are `chosen`, if given."""
        kept = None if chosen is None else set(np.asarray(chosen).tolist())
        first = 0
        for entry in self._manifest["segments"]:
            numbers = range(first, first := first + entry["index"]["rows"])
            if kept is not None and kept.isdisjoint(numbers):
                continue
            index, rows = self._table(entry["index"]), self._table(entry)
            try:
                for number, trace in decode(rows, index, self._spaces):
                    if kept is None or number in kept:
                        yield trace
            except (TraceError, KeyError, pa.ArrowException) as error:
                raise TraceError(f"{self.path / entry['name']}: {error}") from error

    def __iter__(self) -> Iterator[Trace]:
        return self.traces()

    def index(self) -> pa.Table:
        """One row per episode: number, segment, rows, return, flags, session, policy, review, and
        consent and keep_until where any episode has such."""
        tables = [self._table(entry["index"]) for entry in self._manifest["segments"]]
        if not tables:
            return INDEX.empty_table()
        return pa.concat_tables(tables, promote_options="default")

    def verify(self) -> None:
        """Read and check everything. Raises `TraceError` with file and row of the first damage."""
        self._load()
        episodes = steps = 0
        for trace in self.traces():
            try:
                self._check_masked(trace)
                check_trace(trace, self._spaces)
            except TraceError as error:
                raise TraceError(f"{self.path}: episode {episodes}: {error}") from error
            episodes, steps = episodes + 1, steps + len(trace)
        if (episodes, steps) != (len(self), self.num_steps):
            raise TraceError(
                f"{self.path}: holds {episodes} episodes and {steps} steps, "
                f"expected {len(self)} and {self.num_steps}"
            )

    def __len__(self) -> int:
        """Number of episodes."""
        return sum(entry["index"]["rows"] for entry in self._manifest["segments"])

    @property
    def num_steps(self) -> int:
        """Number of real steps in all episodes."""
        return sum(entry["rows"] for entry in self._manifest["segments"]) - len(self)

    @property
    def provenance(self) -> dict:
        """The writer's description of where the traces come from."""
        return self._manifest["provenance"]

    @property
    def resume(self) -> dict[str, Any]:
        """How far those came who bring episodes, by name (see `extend`)."""
        return self._manifest.get("resume", {})

    def declared(self) -> dict[str, gymnasium.Space]:
        """The spaces that were given when the store was new, as arguments of `TraceStore`."""
        inferred = self._manifest["inferred"]
        known = self._spaces.items()
        return {f"{name}_space": space for name, space in known if name not in inferred}

    def schema(self) -> dict[str, gymnasium.Space]:
        """`observation_space` and `action_space`."""
        if len(self._spaces) < 2:
            raise TraceError(f"{self.path}: holds no trace; record or append one first")
        return {f"{name}_space": self._spaces[name] for name in ("observation", "action")}

    def digest(self) -> str:
        """SHA-256 over the hashes of all segments and indices, in order."""
        hashes = [
            file["sha256"]
            for entry in self._manifest["segments"]
            for file in (entry, entry["index"])
        ]
        return sha256("".join(hashes).encode())

    def _load(self) -> None:
        """Read the manifest, or start one in memory."""
        given = {name: space for name, space in self._given.items() if space is not None}
        file = self.path / MANIFEST
        try:
            data = file.read_bytes() if file.exists() else None
            names = os.listdir(self.path) if self.path.exists() else []
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read as a trace store: {error}") from error
        if data is None:
            if any(OURS.fullmatch(name) and name.endswith(".parquet") for name in names):
                raise TraceError(f"{file}: is missing; restore it, it names the files beside it")
            self._spaces = given
            self._manifest = {
                "spaces": {},
                "inferred": [name for name in self._given if name not in given],
                "provenance": self._provenance,
                "segments": [],
            }
            return
        self._manifest = parse_manifest(data, file)
        known = self._manifest["spaces"]
        self._spaces = {name: space_from_json(data) for name, data in known.items()}
        for name in given:
            if name in known and given[name] != self._spaces[name]:
                raise TraceError(
                    f"{file}: the {name} space is {self._spaces[name]}, expected {given[name]}; "
                    "keep each task in a store of its own"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for writing."""
        try:
            os.makedirs(self.path, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise TraceError(f"{self.path}: cannot make a trace store: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                raise TraceError(f"{self.path}: was replaced while it was opened; try again")
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove files of interrupted appends: ours by name, but not in the manifest."""
        entries = self._manifest["segments"]
        named = {file["name"] for entry in entries for file in (entry, entry["index"])}
        for name in os.listdir(self.path):
            if OURS.fullmatch(name) and name not in named:
                with contextlib.suppress(OSError):
                    os.unlink(self.path / name)

    def _write_segment(self, traces: list[Trace]) -> None:
        first, number = len(self), len(self._manifest["segments"])
        checked = []
        for i, trace in enumerate(traces):
            try:
                self._check_masked(trace)
                checked.append(check_trace(trace, self._widen(trace)))
            except TraceError as error:
                raise TraceError(f"episode {first + i}: {error}") from error
        name = f"segment-{number:06d}.parquet"
        rows, index = encode(checked, self._spaces, first, name)
        group_rows = max(1, min(1 << 16, ROW_GROUP_BYTES // row_bytes(checked[0])))
        entry = self._write_table(name, rows, group_rows)
        entry["index"] = self._write_table(f"episodes-{number:06d}.parquet", index, 1 << 16)
        self._manifest["segments"].append(entry)

    def _check_masked(self, trace: Trace) -> None:
        """Raise `TraceError` unless all episodes have action masks of one width, or none has any.

        The first episode says which.
        """
        width = _mask_width(trace)
        if not {"masked", "mask_width"} <= self._manifest.keys():  # a new store, or one of before
            first = _mask_width(next(self.traces(), trace))
            self._manifest |= {"masked": first is not None, "mask_width": first}
        masked = trace.action_masks is not None
        if masked != self._manifest["masked"]:
            what = "has action masks, episode 0 has none" if masked else "has no action masks"
            raise TraceError(f"{what}; give masks for all episodes or none")
        if width != (known := self._manifest["mask_width"]):
            what = f"has action masks of {width} entries, episode 0 of {known}"
            raise TraceError(f"{what}; give each action an entry in every mask")

    def _widen(self, trace: Trace) -> dict[str, gymnasium.Space]:
        """The spaces, the inferred ones widened so that they contain this trace."""
        values = {"observation": trace.observations, "action": trace.actions}
        masks = trace.action_masks
        if masks is not None and "action" not in self._spaces and trace.actions.ndim == 1:
            values["action"] = np.append(trace.actions, masks.shape[1] - 1)  # its width says so
        for name in self._manifest["inferred"]:
            known = self._spaces.get(name)
            space = infer_space(values[name], known, is_action=name == "action")
            self._spaces = self._spaces | {name: space}
        return self._spaces

    def _write_table(self, name: str, table: pa.Table, group_rows: int) -> dict:
        data = to_parquet(table, group_rows)
        self._write(name, data)
        return {"name": name, **describe(data)}

    def _commit(self) -> None:
        """Sync the segments, then replace the manifest by one that names them."""
        spaces = {name: space_to_json(space) for name, space in self._spaces.items()}
        self._manifest |= {"schema_version": SCHEMA_VERSION, "spaces": spaces}
        self._sync()
        self._write(MANIFEST, dump_manifest(self._manifest))
        self._sync()

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_file(self.path / name, data)
        except OSError as error:
            raise TraceError(
                f"{self.path / name}: cannot be written ({error.strerror}); nothing was added, "
                "what was stored before is intact; make room and append again"
            ) from error

    def _sync(self) -> None:
        try:
            sync_directory(self.path)
        except OSError as error:
            raise TraceError(
                f"{self.path}: cannot be made safe against a power cut ({error.strerror}); "
                "look at the disk, then at the length of the store before appending again"
            ) from error

    def _table(self, entry: dict) -> pa.Table:
        """A file of the store, verified against the manifest before it is parsed."""
        file = self.path / entry["name"]
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise TraceError(f"{file}: is missing; restore it from a copy") from error
        except OSError as error:
            raise TraceError(f"{file}: cannot be read: {error.strerror}") from error
        if what := damage(data, entry):
            raise TraceError(f"{file}: {what}; restore the file from a copy")
        try:
            return from_parquet(data)
        except (pa.ArrowException, OSError) as error:
            raise TraceError(f"{file}: is not readable as Parquet: {error}") from error


def _mask_width(trace: Trace) -> int | None:
    """Entries of an action mask, None without such."""
    return None if trace.action_masks is None else trace.action_masks.shape[1]


def _chunks(traces: Iterable[Trace]) -> Iterator[list[Trace]]:
    """The traces in lists of about `SEGMENT_BYTES` each."""
    chunk, size = [], 0
    for trace in traces:
        chunk.append(trace)
        size += row_bytes(trace) * (len(trace) + 1)
        if size >= SEGMENT_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
