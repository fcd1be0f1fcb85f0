"""What is on disk of sessions: their state, their rows, and what was said of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreaming.errors import RegistryError
from dreaming.sessions.types import Rows, rows_of
from dreaming.sessions.units import numbered, read_sealed, read_unit


@dataclass(frozen=True)
class Record:
    """A session as it is on disk: its decisions [M], with propensities (NaN where missing)."""

    path: Path
    facts: dict[str, Any]
    closed: bool
    review: dict[str, Any] | None
    rows: Rows | None
    propensities: np.ndarray
    legal: np.ndarray  # [M, A] which actions there were
    ended: np.ndarray  # [M] whether a decision ended its day
    units: int  # that they lie in

    @property
    def id(self) -> str:
        """The session's name."""
        return self.facts["id"]

    @property
    def decisions(self) -> int:
        """How many there are."""
        return len(self.propensities)

    def summary(self) -> dict[str, Any]:
        """What `session-status` shows."""
        seen = int((np.asarray(self.rows.outcome) >= 0).sum()) if self.rows else 0
        paid = int(np.asarray(self.rows.known).sum()) if self.rows else 0
        days = int(np.unique(np.asarray(self.rows.day)).size) if self.rows else 0
        state = "closed" if self.closed else "open"
        counts = {"decisions": self.decisions, "days": days, "outcomes": seen, "rewards": paid}
        return self.facts | {"state": state, "review": self.review} | counts


def read_record(path: Path) -> Record:
    """The session in a directory. Raises `RegistryError` where it is damaged or half there."""
    facts = read_sealed(path / "session.json")
    if facts is None:
        raise RegistryError(f"{path / 'session.json'} is missing; copy the registry again, whole")
    units = [read_unit(each) for each in numbered(path / "rows")]
    for number, unit in enumerate(units):
        if int(unit.path.name) != number:
            raise RegistryError(
                f"{path / 'rows' / f'{number:06d}'} is missing; the registry was copied in half: "
                "copy it again, whole"
            )
    join = lambda name: np.concatenate([unit.arrays[name] for unit in units])
    rows = rows_of({name: join(name) for name in units[0].arrays}) if units else None
    propensities = join("p") if units else np.zeros(0, np.float32)
    legal = join("legal") if units else np.zeros((0, 0), bool)
    closed = (path / "closed.json").exists()
    review = read_sealed(path / "review.json")
    ended = _ended(rows, [unit.arrays.get("ended") for unit in units])
    return Record(path, facts, closed, review, rows, propensities, legal, ended, len(units))


def _ended(rows: Rows | None, told: list[np.ndarray | None]) -> np.ndarray:
    """Whether each decision [M] ended its day. Units of before do not tell: there a day ends where
    the next one begins, and with the last row."""
    if rows is None:
        return np.zeros(0, bool)
    known = [each for each in told if each is not None]
    if len(known) < len(told):
        return np.append(np.diff(np.asarray(rows.day)) != 0, True)
    return np.concatenate(known)
