"""Rows of one episode brought together, whether they lie in a row or anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from envs.sources.rows import Rows, joined, num_bytes, size
from envs.types import TraceError

MOST_BYTES = 2 << 30  # of the rows of episodes whose end was not read yet
SHARE = 4  # rows are moved once one in so many can be given out


class Gathering:
    """Rows of episodes of which more may come. `ready` gives out those that are complete.

    Without `remaining`, an episode is complete when one of a later number came (`rows["run"]`
    never falls). With it, int [episodes] of how many rows are still to come, rows may lie
    anywhere; they are sorted by `order`.
    """

    def __init__(self, remaining: np.ndarray | None = None):
        self.remaining = remaining
        self.totals = None if remaining is None else remaining.copy()
        self.chunks: list[Rows] = []
        self.rows = self.done = self.bytes = 0

    def add(self, rows: Rows) -> None:
        """Take the next rows. Raises `TraceError` if too many are open."""
        self.chunks.append(rows)
        self.rows += size(rows)
        self.bytes += num_bytes(rows)
        if self.remaining is not None and self.totals is not None:
            numbers, counts = np.unique(rows["run"], return_counts=True)
            self.remaining[numbers] -= counts
            ended = numbers[self.remaining[numbers] == 0]
            self.done += int(self.totals[ended].sum())
        if self.bytes > MOST_BYTES and not self._is_worth():
            what = f"row {rows['row'][0]}: more than {MOST_BYTES >> 30} GiB of unfinished episodes"
            raise TraceError(f"{what}; sort the rows by episode, or split the episodes")

    def ready(self, *, everything: bool = False) -> Iterator[tuple[Rows, int, int]]:
        """(rows, start, stop) of each episode that is complete; `everything` at the end."""
        if not self.chunks or not (everything or self._is_worth()):
            return
        rows = joined(self.chunks)
        run = rows["run"]
        if self.remaining is not None:
            is_done = self.remaining[run] == 0
            picked = np.flatnonzero(is_done)
            keys = (rows["order"][picked], run[picked]) if "order" in rows else (run[picked],)
            picked = picked[np.lexsort(keys)]
            self._keep(rows, ~is_done)
            rows = {key: x[picked] for key, x in rows.items()}
        else:
            last = len(run) if everything else int(np.searchsorted(run, run[-1]))
            self._keep(rows, slice(last, None))
            rows = {key: x[:last] for key, x in rows.items()}
        cuts = np.flatnonzero(np.diff(rows["run"])) + 1
        for start, stop in zip([0, *cuts], [*cuts, size(rows)], strict=True):
            if start < stop:
                yield rows, int(start), int(stop)

    def _is_worth(self) -> bool:
        """Whether enough is complete to move the rest."""
        if self.remaining is not None:
            return self.done * SHARE >= self.rows
        return self.chunks[-1]["run"][-1] != self.chunks[0]["run"][0]

    def _keep(self, rows: Rows, kept: np.ndarray | slice) -> None:
        left = {key: x[kept].copy() for key, x in rows.items()}
        self.chunks = [left] if size(left) else []
        self.rows, self.bytes, self.done = size(left), num_bytes(left), 0
