"""What became of the rows that were read: every one was used, or skipped for a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass
class Accounts:
    """Counts of rows; `skipped` has (rows, first example) for each reason."""

    read: int = 0
    used: int = 0
    episodes: int = 0  # given out
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)  # cells of no known category, by column
    rounded: dict[str, int] = field(default_factory=dict)  # cells that floats may miss, by column

    def skip(self, rows: int, reason: str, example: str) -> None:
        """Note rows that are left out. Reasons that differ in their numbers alone count as one."""
        reason = NUMBER.sub("#", reason)
        before, first = self.skipped.get(reason, (0, example))
        self.skipped[reason] = before + rows, first

    @property
    def balanced(self) -> bool:
        """Whether nothing vanished; true once all was read."""
        return self.read == self.used + sum(rows for rows, _ in self.skipped.values())

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        skipped = [
            {"reason": reason, "rows": rows, "first": first}
            for reason, (rows, first) in sorted(self.skipped.items())
        ]
        counts: dict[str, Any] = {"read": self.read, "used": self.used, "episodes": self.episodes}
        counts |= {"skipped": skipped, "unknown_categories": dict(self.unknown)}
        return counts | ({"rounded": dict(self.rounded)} if self.rounded else {})

    def in_words(self) -> list[str]:
        """A sentence for each reason that rows were left out, and for what cells lost."""
        found = [
            f"{rows:,} of {self.read:,} rows were left out: {reason} (first: {first})"
            for reason, (rows, first) in sorted(self.skipped.items())
        ]
        for column, count in sorted(self.unknown.items()):
            found.append(f"{count:,} cells of column {column} are of no known category, or empty")
        for column, count in sorted(self.rounded.items()):
            what = "are whole numbers of 2^53 or more, rounded to the nearest float64"
            found.append(f"{count:,} cells of column {column} {what}")
        return found
