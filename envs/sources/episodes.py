"""From the rows of one episode to its `Trace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.sources.mapping import Mapping
from envs.sources.names import one_line
from envs.sources.plan import Leaf, Plan
from envs.sources.rows import Decoder, Rows
from envs.spaces import conform
from envs.types import Trace, TraceError

NO_END = (
    "the observation after the last action is missing; add a last row with an empty action, or "
    "map next_observation, or set final: repeat"
)
ENTRIES = ("r", "ended", "cut", "p")  # of steps


class Skipped(Exception):
    """An episode that is left out as the mapping says; the text is the reason."""


class Builder:
    """Makes traces. Calls raise `TraceError` for what is wrong, `Skipped` for what is unwanted."""

    def __init__(
        self, mapping: Mapping, plan: Plan, decoder: Decoder, verify: Callable[[Trace], Any] | None
    ):
        self.mapping = mapping
        self.plan = plan
        self.decoder = decoder
        self.verify = verify
        self.leaves = plan.leaves()

    def __call__(self, rows: Rows, start: int, stop: int) -> tuple[Trace, int]:
        """(the episode in rows start to stop, rows before its first action that are left out)."""
        if "consent" in rows and not rows["consent"][start:stop].all():
            raise Skipped("no consent")
        if "order" in rows:
            self._check_order(rows, start, stop)
        if self.decoder.next and stop - start > 1:
            self._check_next(rows, start, stop)
        left_out = 0
        if "event" in rows and rows["event"][start:stop].any():
            rows, left_out = folded(rows, start, stop)
            start, stop = 0, len(rows["row"])
        is_complete = bool(rows["a_empty"][stop - 1])
        end = stop - is_complete
        if rows["a_empty"][start:stop].all():
            raise Skipped("no action")
        self._check(rows, start, end, stop)
        steps = slice(start, end)
        o = self._observation(rows, start, end, stop)
        a = rows["a"][steps]
        spaces = self.plan.spaces
        o = conform(o, spaces["observation_space"], "observation", bounded=False)
        a = conform(a, spaces["action_space"], "action", bounded=True)
        r, ended, cut, p = (rows[key][steps] if key in rows else None for key in ENTRIES)
        ended = np.zeros(end - start, bool) if ended is None else ended.copy()
        cut = np.zeros(end - start, bool) if cut is None else cut.copy()
        if end < stop:  # a last row without action may bring the end
            for flags, key in ((ended, "ended"), (cut, "cut")):
                flags[-1] |= bool(rows[key][end]) if key in rows else False
        cut &= ~ended  # both: terminated
        assert r is not None
        masks = self._next_to(rows, "m", start, end, stop) if "m" in rows else None
        times = self._next_to(rows, "time", start, end, stop) if "time" in rows else None
        words = {key: self._word(rows, key, start, stop) for key in ("session", "policy")}
        optional = {"propensities": p, "action_masks": masks, "times": times, **words}
        optional["review"] = _review(rows, start, stop)
        trace = Trace(o, a, r, ended, cut, **optional)
        return (trace if self.verify is None else self._verified(trace, optional)), left_out

    def _check_order(self, rows: Rows, start: int, stop: int) -> None:
        """Raise `TraceError` where two rows have the same order: which is first is not known."""
        order, good = rows["order"][start:stop], rows["bad_other"][start:stop] == 0
        same = (order[1:] == order[:-1]) & good[1:] & good[:-1]
        if same.any():
            place = start + int(np.argmax(same))
            one, other = rows["row"][place : place + 2]
            files = rows["file"][place : place + 2]
            where = f"rows {one} and {other}{' (of two files)' if np.ptp(files) else ''}"
            what = f"{where} have the same {one_line(self.mapping.order)}"
            advice = "give each row of an episode another order, and each episode another id"
            raise TraceError(f"{what}; {advice}")

    def _check_next(self, rows: Rows, start: int, stop: int) -> None:
        """Raise `TraceError` where a row does not begin with what was seen after the one before.

        Not asked where something else happened in between, or of cells that hold no number.
        """
        one, other = slice(start, stop - 1), slice(start + 1, stop)
        asked = ~rows["a_empty"][one] & (rows["bad_next"][one] == 0) & (rows["bad"][other] == 0)
        if "event" in rows:
            asked &= ~rows["event"][one] & ~rows["event"][other]
        for i, leaf in enumerate(self.leaves):
            later = rows[f"n{i}"][one]
            differs = later != rows[f"o{i}"][other]
            differs = differs.reshape(len(asked), -1).any(axis=1)
            if leaf.has_unknown:  # or empty
                differs &= later != leaf.space.n - 1
            if (differs := differs & asked).any():
                place = start + int(np.argmax(differs))
                before, row = rows["row"][place : place + 2]
                what = f"row {row} does not begin with the next_{leaf.name} of row {before}"
                advice = "add the rows that are missing, or split the episode there"
                raise TraceError(f"{what}; {advice}")

    def _check(self, rows: Rows, start: int, end: int, stop: int) -> None:
        """Raise `TraceError` for the first row with something bad in it."""
        asked = [("bad", start, stop), ("bad_step", start, end), ("bad_other", start, stop)]
        if self.decoder.next and end == stop:
            asked.append(("bad_next", end - 1, end))
        found = []
        for key, first, last in asked:
            marks = rows[key][first:last]
            if marks.any():
                place = int(np.argmax(marks != 0))
                found.append((first + place - start, int(marks[place])))
        if found:
            t, number = min(found)
            raise TraceError(self.decoder.problems[number].replace("{t}", str(t)))
        if end < stop and rows["pays"][end]:
            what = f"reward {rows['r'][end]:g} in the last row, which has no action"
            advice = "a reward stands in the row of its action; empty it, or mark an event there"
            raise TraceError(f"{what}: {advice}")

    def _observation(self, rows: Rows, start: int, end: int, stop: int) -> Any:
        """o[0..T] in the structure of the space."""
        if end == stop and not self.decoder.next and self.mapping.final != "repeat":
            raise TraceError(NO_END)
        values = []
        for i, leaf in enumerate(self.leaves):
            x = rows[f"o{i}"][start:stop]
            if end == stop:
                more = rows[f"n{i}"] if self.decoder.next else rows[f"o{i}"]
                x = np.concatenate([x, more[end - 1 : end]])
            values.append(_since_start(leaf, x) if leaf.times else x)
        each = iter(values)
        return _filled(self.plan.observation, each)

    def _next_to(self, rows: Rows, key: str, start: int, end: int, stop: int) -> np.ndarray:
        """T + 1 rows; where the last was never logged, masks allow all and time stands still."""
        x = rows[key][start:stop]
        if end < stop:
            return x
        return np.concatenate([x, np.ones_like(x[:1]) if key == "m" else x[-1:]])

    def _word(self, rows: Rows, key: str, start: int, stop: int) -> str | None:
        """The session or policy of an episode, which must be one."""
        if key not in rows:
            return None
        codes = rows[key][start:stop]
        codes = codes[codes >= 0]
        if not len(codes):
            return None
        names = self.decoder.names[key].names
        if (codes != codes[0]).any():
            other = codes[np.argmax(codes != codes[0])]
            what = f"{key} is {one_line(names[codes[0]])}, then {one_line(names[other])}"
            raise TraceError(f"{what}; an episode has one {key}")
        return str(names[codes[0]])

    def _verified(self, trace: Trace, optional: dict[str, Any]) -> Trace:
        """The trace with the verifier's outcome added to its last reward."""
        assert self.verify is not None
        try:
            outcome = self.verify(trace)
        except Exception as error:  # a user's code can fail in any way
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TraceError(f"the verifier raised {what}") from error
        number = isinstance(outcome, int | float | np.number | np.bool_)
        if not number or not np.isfinite(float(outcome)):
            raise TraceError(f"the verifier returned {outcome!r}, expected a finite number")
        r = trace.rewards.copy()
        r[-1] += float(outcome)
        o, a = trace.observations, trace.actions
        return Trace(o, a, r, trace.terminated, trace.truncated, **optional)


def folded(rows: Rows, start: int, stop: int) -> tuple[Rows, int]:
    """(rows of an episode without its events, rows before the first action).

    What an event paid, and an end that it brought, belong to the action before it, and what is
    wrong with it, too; what was seen after the last event is the last observation.
    """
    rows = {key: x[start:stop] for key, x in rows.items()}
    if (both := rows["event"] & ~rows["a_empty"]).any():
        place = int(np.argmax(both))
        what = f"row {rows['row'][place]} is an event and has an action, expected one of them"
        raise TraceError(f"{what}; empty its action, or say that it is no event")
    if rows["a_empty"].all():
        raise Skipped("no action")
    first = int(np.argmin(rows["a_empty"]))
    if not (before := rows["event"][:first]).all():
        place = int(np.argmin(before))
        what = f"row {rows['row'][place]} before the first action is no event, and"
        raise TraceError(f"{what} has no action; mark it as an event, or drop it")
    rows = {key: x[first:] for key, x in rows.items()}
    event = rows["event"]
    kept = np.flatnonzero(~event)
    last = len(event) - 1
    out = {key: x[kept] for key, x in rows.items()}
    out["r"] = np.add.reduceat(rows["r"], kept)
    out["bad_other"] = np.maximum.reduceat(rows["bad_other"], kept)
    for key in ("ended", "cut"):
        if key in rows:
            out[key] = np.logical_or.reduceat(rows[key], kept)
    if event[last]:  # closes the episode, as a row without an action does
        closing = {key: x[last:] for key, x in rows.items()}
        closing |= {"a_empty": np.ones(1, bool), "pays": np.zeros(1, bool)}  # to the action before
        out = {key: np.concatenate([out[key], closing[key]]) for key in out}
    return out, first


def _since_start(leaf: Leaf, x: np.ndarray) -> np.ndarray:
    """`x` with times as seconds since the first row of the episode."""
    if x.ndim == 1:
        return x - x[0]
    x = x.copy()
    x[:, leaf.times] -= x[0, leaf.times]
    return x


def _filled(tree: Any, values: Any) -> Any:
    """The values in the structure of a tree of leaves, keys in sorted order."""
    if isinstance(tree, dict):
        return {key: _filled(tree[key], values) for key in sorted(tree)}
    return next(values)


def _review(rows: Rows, start: int, stop: int) -> float | None:
    """The last grade that is not empty."""
    if "review" not in rows:
        return None
    grades = rows["review"][start:stop]
    grades = grades[~np.isnan(grades)]
    return float(grades[-1]) if len(grades) else None
