"""Which episode a row belongs to, by the id in its column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from envs.sources.files import File
from envs.sources.mapping import Mapping
from envs.sources.names import Numbering, one_line
from envs.types import TraceError


class EpisodeIds:
    """Numbers of episodes: per row, or of runs of rows with one id where rows are not gathered."""

    def __init__(self, mapping: Mapping, files: list[File]):
        self.mapping, self.files = mapping, files
        self._number = Numbering()
        self._file = 0
        self._home: list[int] = []  # the file that each id was first seen in
        self._last = -1
        self._begun = np.zeros(0, bool)

    def enter(self, number: int) -> None:
        """The next rows are of this file."""
        self._file = number
        if self.mapping.episode_ids == "per_file" and number:
            self._number.forget()

    def __call__(self, column: pa.ChunkedArray, row: np.ndarray) -> np.ndarray:
        """int64 [rows]: the episode of each row, -1 without an id. Raises `TraceError`."""
        try:
            ids = self._number(column)
        except TraceError as error:
            raise TraceError(f"column {self.mapping.episode} {error}") from error
        self._home += [self._file] * (len(self._number) - len(self._home))
        if self.mapping.episode_ids is None and len(self.files) > 1:
            self._check_homes(ids, row)
        return ids if self.mapping.order is not None else self._runs(ids, row)

    def _check_homes(self, ids: np.ndarray, row: np.ndarray) -> None:
        for id in np.unique(ids[ids >= 0]):
            if (home := self._home[id]) != self._file:
                at, name = row[np.argmax(ids == id)], one_line(self._number.names[id])
                raise TraceError(
                    f"row {at}: episode {name} is also in {self.files[home].path}: say in the "
                    "mapping whether it is the same episode (episode_ids: whole) or another "
                    "(episode_ids: per_file)"
                )

    def _runs(self, ids: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The ids themselves, once it is clear that each comes in one piece and they rise."""
        starts = np.flatnonzero(np.diff(ids, prepend=self._last))
        begun = ids[starts]
        known = begun >= 0
        if len(self._number) > len(self._begun):
            more = np.zeros(2 * len(self._number) + 1024, bool)
            more[: len(self._begun)] = self._begun
            self._begun = more
        _, first = np.unique(begun, return_index=True)
        again = np.ones(len(begun), bool)
        again[first] = False
        again |= self._begun[np.maximum(begun, 0)]
        if (again := again & known).any():
            place = int(np.argmax(again))
            name = one_line(self._number.names[begun[place]])
            raise TraceError(
                f"row {row[starts[place]]}: episode {name} is not in one piece; sort the rows by "
                "episode and time, or name a column for order in the mapping"
            )
        self._begun[begun[known]] = True
        if len(ids):
            self._last = int(ids[-1])
        return ids
