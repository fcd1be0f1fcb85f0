"""A file of lines that grows while it is read: what is new, and where to go on after a stop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from envs.types import TraceError

HEAD_BYTES = 4096  # of the beginning of a file, to know it again
LINE_BYTES = 16 << 20  # a longer line is not read


class Tail:
    """The whole lines of the file from byte `offset` on.

    `line` is the number of the line there, `head` the hash of the `head_bytes` bytes that the file
    began with. Raises `TraceError` if it begins otherwise now, or became shorter than `offset`.
    """

    def __init__(
        self, path: Path, offset: int = 0, line: int = 0, head: str = "", head_bytes: int = 0
    ):
        self.path, self.offset, self.line = path, offset, line
        self.head, self.head_bytes = head, head_bytes

    def is_at(self, path: Path) -> bool:
        """Whether a file at `path` begins as the one that was read."""
        try:
            with open(path, "rb") as file:
                return not self.head_bytes or _hash(file.read(self.head_bytes)) == self.head
        except OSError:
            return False

    def lines(self) -> Iterator[tuple[int, int, bytes | None]]:
        """(byte, line number, line) of each whole line; None for one that is too long to be read.

        A line is whole once its line feed is written. `offset` and `line` are behind what came.
        """
        try:
            with open(self.path, "rb") as file:
                self._check(file)
                file.seek(self.offset)
                while line := self._next(file):
                    begin, number = self.offset, self.line
                    self.offset, self.line = file.tell(), number + 1
                    yield begin, number, line if line.endswith(b"\n") else None
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _next(self, file: BinaryIO) -> bytes:
        """A whole line; its beginning alone if it is too long; nothing if there is none yet."""
        line = piece = file.readline(LINE_BYTES)
        while len(piece) == LINE_BYTES and not piece.endswith(b"\n"):
            piece, line = file.readline(LINE_BYTES), line[:1]
        return line if piece.endswith(b"\n") else b""

    def _check(self, file: BinaryIO) -> None:
        """Raise `TraceError` if this is not the file that was read before, only longer."""
        begin = file.read(HEAD_BYTES)
        size = file.seek(0, 2)
        if size < self.offset:
            what = f"has {size} bytes, but {self.offset} were read before"
        elif self.head_bytes and _hash(begin[: self.head_bytes]) != self.head:
            what = "is another file than the one that was read under this name"
        else:
            self.head, self.head_bytes = _hash(begin), len(begin)
            return
        raise TraceError(f"{self.path}: {what}; only add to a log, and give each file its own name")


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
