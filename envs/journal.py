"""Journals: finished episodes of a running recorder, each written by one call, beside its store.

    store/recording-<time>-<process>-<number>.journal
        records, each a HEAD (magic, size and CRC-32 of the body, CRC-32 of these) and a body
        the first body is JSON: the spaces, and what holds for all episodes
        the others are one episode each (see `pack`)

A journal is locked for as long as its recorder lives. `fold` moves its episodes into the store,
each exactly once: how many were moved stands in the manifest that names them. What a killed process
wrote is in the file; a power cut can lose what was not folded yet.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import gymnasium
import numpy as np

from envs.features import map_space
from envs.traces import TraceStore
from envs.types import Trace, TraceError, space_from_json, space_to_json

PATTERN = "recording-*.journal"
RESUME = "recordings"  # name in the manifest: journal -> episodes that the store holds
MAGIC = b"EPIS"
HEAD = struct.Struct("<4sQI")  # magic, bytes of the body, CRC-32 of the body
CRC = struct.Struct("<I")  # of the head
SIZES = struct.Struct("<IIB")  # steps, entries of an action mask (0 = none), flags
TERMINATED, TRUNCATED, PROPENSITIES, TIMES = 1, 2, 4, 8  # flags
VERSION = 1

_numbers = itertools.count()


class Journal:
    """A new journal in the directory of a store, open for writing and locked."""

    def __init__(
        self, store: Path, spaces: dict[str, gymnasium.Space], fields: dict[str, Any]
    ) -> None:
        name = f"recording-{time.time_ns():020d}-{os.getpid()}-{next(_numbers)}.journal"
        self.path = store / name
        self._spaces, self._fields = spaces, fields
        self._file: BinaryIO | None = None
        self.size = 0  # bytes of episodes

    def write(self, body: Sequence[Any]) -> None:
        """Add the parts of an episode's body (see `pack`). The first one makes the file.

        Raises `TraceError` if that fails; the file is then as it was before.
        """
        try:
            self._file = self._file or self._begin()
            self.size += _write_record(self._file.fileno(), body)
        except OSError as error:
            what = f"cannot be written ({error.strerror}); this episode is lost, those before stand"
            raise TraceError(f"{self.path}: {what}") from error

    def close(self) -> None:
        """Release the file; it is folded by `fold`. `TraceError` if it is no longer at its path."""
        file, self._file = self._file, None
        if file is None:
            return
        with file:
            if not _is_at(self.path, file):
                what = "is gone, with the episodes in it; was the store moved while it was used?"
                raise TraceError(f"{self.path}: {what}")

    def _begin(self) -> BinaryIO:
        """The file with its header; it has its name, by which others find it, once it is locked."""
        spaces = {name: space_to_json(space) for name, space in self._spaces.items()}
        header = json.dumps({"journal": VERSION, "spaces": spaces, "fields": self._fields})
        draft = self.path.with_name(f"{self.path.name}.tmp")
        file = open(draft, "xb", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_record(file.fileno(), [header.encode()])
            os.rename(draft, self.path)
        except BaseException:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        return file


def pack(
    leaves: Sequence[np.ndarray], actions: np.ndarray, rewards: np.ndarray, **rest: Any
) -> list[bytes]:
    """The parts of an episode's body: sizes and the bytes of its arrays.

    `leaves` [T + 1, ...] are in the order of `map_space`; `rest` are `terminated` and `truncated`
    (bool) and the optional `propensities`, `masks`, `times`, as in `Trace`.
    """
    masks, p, times = rest.get("masks"), rest.get("propensities"), rest.get("times")
    flags = TERMINATED * rest["terminated"] + TRUNCATED * rest["truncated"]
    flags += PROPENSITIES * (p is not None) + TIMES * (times is not None)
    width = 0 if masks is None else masks.shape[1]
    arrays = [*leaves, actions, rewards, *(x for x in (masks, p, times) if x is not None)]
    return [SIZES.pack(len(actions), width, flags), *(x.tobytes() for x in arrays)]


def recover(store: str | Path) -> int:
    """Fold the journals that recorders left in the directory `store` when they were stopped.

    Returns the number of episodes that were added; journals of living recorders are left alone.
    """
    return sum(fold(path) for path in sorted(Path(store).glob(PATTERN)))


def fold(path: Path) -> int:
    """Move the episodes of the journal into its store; 0 if a recorder still writes it."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0
        if not _is_at(path, file):  # another process was faster
            return 0
        added = _move(path, file)
        path.unlink(missing_ok=True)
    return added


def _move(path: Path, file: BinaryIO) -> int:
    bodies = _bodies(path, file)
    if (first := next(bodies, None)) is None:  # its writer was stopped before it stood
        return 0
    spaces, fields = _header(path, first)
    given: Any = {f"{name}_space": space for name, space in spaces.items()}
    store = TraceStore(path.parent, **given)
    done, total = store.resume.get(RESUME, {}).get(path.name, 0), sum(1 for _ in bodies)
    file.seek(0)
    rest = itertools.islice(_bodies(path, file), 1 + done, None)
    traces = (unpack(body, spaces, fields) for body in rest)

    def moved(resume: dict[str, Any]) -> dict[str, Any]:
        stored = resume.get(RESUME, {}).items()
        kept = {name: count for name, count in stored if (path.parent / name).exists()}
        return {RESUME: kept | {path.name: total}}

    store.extend(traces, resume=moved)
    return total - done


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _header(path: Path, body: bytes) -> tuple[dict[str, gymnasium.Space], dict[str, Any]]:
    """The spaces of a journal, and what holds for all of its episodes."""
    data = json.loads(body)
    if data["journal"] != VERSION:
        raise TraceError(f"{path}: is a journal of version {data['journal']}, expected {VERSION}")
    return {name: space_from_json(x) for name, x in data["spaces"].items()}, data["fields"]


def _bodies(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The bodies of the whole records; the last one may be torn, its process died there."""
    for number in itertools.count():
        head = file.read(HEAD.size + CRC.size)
        if len(head) < HEAD.size + CRC.size:
            return
        magic, size, crc = HEAD.unpack_from(head)
        if magic != MAGIC or CRC.pack(zlib.crc32(head[: HEAD.size])) != head[HEAD.size :]:
            raise _damaged(path, number)
        body = file.read(size)
        if len(body) < size:
            return
        if zlib.crc32(body) != crc:
            raise _damaged(path, number)
        yield body


def _damaged(path: Path, number: int) -> TraceError:
    what = f"record {number} is damaged; move the file away to go on without its episodes"
    return TraceError(f"{path}: {what}")


def unpack(body: bytes, spaces: dict[str, gymnasium.Space], fields: dict[str, Any]) -> Trace:
    """The episode of a body that `pack` made."""
    steps, width, flags = SIZES.unpack_from(body)
    at = SIZES.size

    def take(rows: int, dtype: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        nonlocal at
        count = rows * int(np.prod(shape))
        x = np.frombuffer(body, dtype, count, at).reshape(rows, *shape)
        at += x.nbytes
        return x

    leaf = lambda name, space: take(steps + 1, space.dtype, space.shape)
    o = map_space(leaf, "observation", spaces["observation"])
    a, r = take(steps, spaces["action"].dtype, spaces["action"].shape or ()), take(steps, float)
    masks = take(steps + 1, bool, (width,)) if width else None
    propensities = take(steps, float) if flags & PROPENSITIES else None
    times = take(steps + 1, float) if flags & TIMES else None
    ends = bool(flags & TERMINATED), bool(flags & TRUNCATED)
    if at != len(body):
        raise TraceError(f"an episode of a journal has {len(body)} bytes, expected {at}")
    optional = {"propensities": propensities, "action_masks": masks, "times": times}
    return Trace(o, a, r, *ends, **optional, **fields)


def _write_record(descriptor: int, body: Sequence[Any]) -> int:
    """Write the parts of a body as one record, or nothing; returns its bytes."""
    crc = size = 0
    for part in body:
        crc, size = zlib.crc32(part, crc), size + len(part)
    head = HEAD.pack(MAGIC, size, crc)
    rest = memoryview(b"".join((head, CRC.pack(zlib.crc32(head)), *body)))
    begin = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:  # what follows a torn record could not be read
        os.ftruncate(descriptor, begin)
        os.lseek(descriptor, begin, os.SEEK_SET)
        raise
    return size
