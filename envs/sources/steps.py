"""Files that grow by a line of JSON per step, in the names of a trace.

    {"episode": "a7", "observation": [0.1, 2], "action": 1, "reward": 0.5, "propensity": 0.5}
    {"episode": "a7", "observation": [0.3, 1], "action": 0, "reward": 1.0, "terminated": true}
    {"episode": "a7", "observation": [0.2, 1]}

A line without action ends an episode. So does one that is terminated or truncated and has a
`next_observation`. Lines of several episodes may stand between each other.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.sources.tail import Tail
from envs.spaces import infer_space
from envs.types import Trace, TraceError, UserError, space_from_json

STEP = {"action": "actions", "reward": "rewards", "propensity": "propensities"}
ROW = {"observation": "observations", "action_mask": "action_masks", "time": "times"}
FLAGS = ("terminated", "truncated")
WORDS = (
    "session",
    "policy",
    "review",
    "consent",
    "keep_until",
)  # of an episode: the last line that has one counts
KEYS = {"episode", "t", "next_observation", *STEP, *ROW, *FLAGS, *WORDS}
BATCH_LINES = 20_000  # about, of the episodes that are given at once
EPISODE_LINES = 1_000_000  # of one episode, which is held in memory
KNOWN_EPISODES = 10_000  # of one file: unfinished ones, and those that ended after they began

GIVEN_UP = f"its episode is not used: it did not end while {KNOWN_EPISODES:,} others came"

Line = dict[str, Any]


class StepsSource:
    """Growing files of JSON, a line per step in the names of a trace: `uri` is one, or a folder.

    A folder holds files `*.jsonl`; a pattern works, too. `observation_space` and `action_space`
    (as a store's manifest has them) replace the inferred ones. Whatever a line cannot be used for
    is counted with its reason in `tally`; so are episodes for which `judge` raises `TraceError`.
    """

    judge: Callable[[Trace], None] | None = None  # of who takes the episodes

    def __init__(
        self,
        uri: str,
        observation_space: dict | None = None,
        action_space: dict | None = None,
    ):
        self.uri = uri
        given = {"observation_space": observation_space, "action_space": action_space}
        self.given = {name: space_from_json(x) for name, x in given.items() if x is not None}
        self._logs: dict[str, GrowingLog] = {}
        self._token: Any = None
        self.tally = Tally()

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces that are given, or inferred from all episodes."""
        spaces: dict[str, Any] = dict(self.given)
        for trace in self if len(spaces) < 2 else ():
            for name, x in (
                ("observation_space", trace.observations),
                ("action_space", trace.actions),
            ):
                if name not in self.given:
                    is_action = name == "action_space"
                    spaces[name] = infer_space(x, spaces.get(name), is_action=is_action)
        if len(spaces) < 2:
            raise TraceError(
                f"{self.uri}: holds no episode yet; the spaces can be given as options"
            )
        return spaces

    def __iter__(self) -> Iterator[Trace]:
        """All episodes; those that no line ends are open."""
        self._restore(None)
        for traces, _ in self._batches():
            yield from traces
        for log in list(self._logs.values()):
            yield from log.unfinished()

    def batches(self, after: Any = None) -> Iterator[tuple[list[Trace], Any]]:
        """The episodes that were finished since the token `after`, in lists of bounded size."""
        if after is None or after != self._token:
            self._restore(after)
        yield from self._batches()

    def files(self) -> list[str]:
        """The files that are there now, each by one name, whatever links lead to it."""
        pattern = os.path.realpath(self.uri)
        if os.path.exists(pattern):
            pattern = glob.escape(pattern)
        if os.path.isdir(self.uri):
            pattern = os.path.join(pattern, "*.jsonl")
        return sorted({os.path.realpath(name) for name in glob.glob(pattern)})

    def _batches(self) -> Iterator[tuple[list[Trace], Any]]:
        names = self.files()
        self._logs = moved(self._logs, names)
        for name in names:
            log = self._logs.setdefault(name, GrowingLog(Tail(Path(name)), self.tally))
            for traces in log.finished(self.judge):
                self._token = self._save()
                yield traces, self._token

    def _restore(self, token: Any) -> None:
        token = token or {"files": {}, "tally": {}}
        self.tally, self._token = Tally(**token["tally"]), None
        saved = {os.path.realpath(name): log for name, log in token["files"].items()}
        restore = lambda name, log: GrowingLog.restore(Path(name), self.tally, log)
        self._logs = {name: restore(name, log) for name, log in saved.items()}

    def _save(self) -> Any:
        files = {name: log.save() for name, log in self._logs.items()}
        return json.loads(json.dumps({"files": files, "tally": vars(self.tally)}))


class Tally:
    """What became of all lines: `lines` = `used` + those that were skipped + those that wait."""

    def __init__(self, lines: int = 0, used: int = 0, skipped: dict[str, list] | None = None):
        self.lines, self.used = lines, used
        self.skipped = skipped or {}  # reason -> [count, where the first one is]

    def skip(self, count: int, reason: str, where: str) -> None:
        """Count lines that are not used."""
        self.skipped.setdefault(reason, [0, where])[0] += count

    @property
    def waiting(self) -> int:
        """Lines of episodes that are not finished."""
        return self.lines - self.used - sum(count for count, _ in self.skipped.values())


class GrowingLog:
    """The episodes of one file. What it holds of unfinished ones is read again after a stop."""

    def __init__(
        self,
        tail: Tail,
        tally: Tally,
        seen: int = 0,
        done: dict[str, int] | None = None,
        given_up: list[str] | None = None,
    ):
        self._tail, self._tally = tail, tally
        self._seen = seen  # bytes whose lines were counted
        self._done = done or {}  # episode -> byte behind its last line
        self._given_up = dict.fromkeys(given_up or [])  # the newest such episodes
        self._running: dict[str, Running] = {}
        self._judge: Callable[[Trace], None] | None = None

    @classmethod
    def restore(cls, path: Path, tally: Tally, saved: dict[str, Any]) -> GrowingLog:
        """The log as `save` left it."""
        given_up = saved.get("given_up")
        return cls(Tail(path, **saved["tail"]), tally, saved["seen"], saved["done"], given_up)

    def save(self) -> dict[str, Any]:
        """All that is needed to go on: reading begins where the first unfinished episode does."""
        tail = self._tail
        offset, line = self._begin()
        at = {"offset": offset, "line": line, "head": tail.head, "head_bytes": tail.head_bytes}
        self._done = {id: end for id, end in self._done.items() if end > offset}
        seen, given_up = max(self._seen, tail.offset), list(self._given_up)
        return {"tail": at, "seen": seen, "done": self._done, "given_up": given_up}

    def is_at(self, name: str) -> bool:
        """Whether a file begins as this one."""
        return self._tail.is_at(Path(name))

    def is_read_at(self, name: str) -> bool:
        """The same, of a file of which something was read."""
        return self._tail.head_bytes > 0 and self.is_at(name)

    def move(self, name: str) -> None:
        """Go on with this file under a new name."""
        self._tail.path = Path(name)

    def finished(self, judge: Callable[[Trace], None] | None = None) -> Iterator[list[Trace]]:
        """What is new: finished episodes, in lists of about `BATCH_LINES` lines; the last is empty
        if nothing but lines came. Those for which `judge` raises `TraceError` are skipped."""
        self._judge = judge
        traces: list[Trace] = []
        lines = read = 0
        for byte, number, line in self._tail.lines():
            read += 1
            is_new = byte >= self._seen
            self._tally.lines += is_new
            trace = self._take(byte, number, line, is_new)
            self._seen = max(self._seen, self._tail.offset)
            if trace is not None:
                traces.append(trace)
                lines += len(trace)
            if lines >= BATCH_LINES:
                yield traces
                traces, lines, read = [], 0, 0
        if read:
            yield traces

    def unfinished(self) -> Iterator[Trace]:
        """The running episodes as open ones."""
        for running in self._running.values():
            if running.broken is None and (trace := running.open_trace()) is not None:
                yield trace

    def _take(self, byte: int, number: int, text: bytes | None, is_new: bool) -> Trace | None:
        """Use one line; returns the episode that it finishes."""
        where = f"{self._tail.path}: line {number + 1}"
        try:
            id, line = parse(text)
        except TraceError as error:
            if is_new:
                self._tally.skip(1, str(error), where)
            for running in self._running.values():  # it may have been a line of any of them
                self._break(running, "a line in its midst cannot be read", where, is_new)
            return None
        if byte < self._done.get(id, 0):
            return None  # of an episode that was finished before
        if id in self._given_up:
            if is_new:
                self._tally.skip(1, GIVEN_UP, where)
            if ends(line) and is_new:
                self._done[id] = self._tail.offset
                del self._given_up[id]
            return None
        running = self._running.setdefault(id, Running(byte, number))
        self._bound(where, is_new)
        try:
            is_last = running.add(line)
            trace = running.trace() if is_last and running.broken is None else None
            if trace is not None and self._judge is not None:
                self._judge(trace)
        except UserError as error:
            is_last = ends(line)
            self._break(running, " ".join(str(error).split()), where, is_new)
            trace = None
        else:
            if running.broken is not None and is_new:
                self._tally.skip(1, running.broken, where)
        if is_last:
            del self._running[id]
            self._done[id] = self._tail.offset
        if trace is not None:
            self._tally.used += running.lines
        return trace

    def _begin(self) -> tuple[int, int]:
        """(byte, line number) where the first unfinished episode begins, or reading stands."""
        if (first := next(iter(self._running.values()), None)) is not None:
            return first.byte, first.line
        return self._tail.offset, self._tail.line

    def _bound(self, where: str, is_new: bool) -> None:
        """Give up the oldest unfinished episodes if too many episodes have to be known."""
        while len(self._running) > 1 and len(self._running) + len(self._done) > KNOWN_EPISODES:
            begin, _ = self._begin()
            self._done = {id: end for id, end in self._done.items() if end > begin}
            if len(self._running) + len(self._done) <= KNOWN_EPISODES:
                return
            id = next(iter(self._running))
            running = self._running.pop(id)
            if running.broken is None and is_new:
                self._tally.skip(running.lines, GIVEN_UP, where)
            self._given_up[id] = None
            if len(self._given_up) > KNOWN_EPISODES:
                del self._given_up[next(iter(self._given_up))]

    def _break(self, running: Running, why: str, where: str, is_new: bool) -> None:
        """Give up an episode: all of its lines are skipped."""
        if running.broken is None:
            running.broken = f"its episode is not used: {why}"
            if is_new:
                self._tally.skip(running.lines, running.broken, where)
            running.rows = []


def moved(logs: dict[str, GrowingLog], names: list[str]) -> dict[str, GrowingLog]:
    """The logs by the names that their files have now. Raises `TraceError` for a copy of one."""
    if all(name in logs for name in names):
        return logs
    stay = {name: log for name, log in logs.items() if log.is_at(name)}
    away, found = {name: log for name, log in logs.items() if name not in stay}, {}
    for name in (name for name in names if name not in stay):
        if copied := next((each for each, log in stay.items() if log.is_read_at(name)), None):
            what = f"begins as {copied} does, which was read before"
            raise TraceError(f"{name}: {what}; keep copies of a log elsewhere")
        if old := next((each for each, log in away.items() if log.is_read_at(name)), None):
            found[name] = away.pop(old)
            found[name].move(name)
    return stay | away | found


class Running:
    """An episode that is not finished: its lines, and where it began."""

    def __init__(self, byte: int, line: int):
        self.byte, self.line = byte, line
        self.lines, self.rows = 0, list[Line]()
        self.broken: str | None = None

    def add(self, line: Line) -> bool:
        """Add a line; returns whether it is the last one."""
        self.lines += 1
        if self.broken is None:
            check(line, self.lines - 1)
            if self.rows and any(self.rows[-1].get(flag) for flag in FLAGS) and not ends(line):
                raise TraceError("it goes on after its end")
            self.rows.append(line)
        return ends(line)

    def trace(self) -> Trace:
        """The finished episode."""
        last = self.rows[-1]
        if last.get("action") is not None:  # it brings the last observation along
            after = {"observation": last["next_observation"]}
            rows, steps = [*self.rows, after], self.rows
        else:
            rows, steps = self.rows, self.rows[:-1]
        return make_trace(rows, steps)

    def open_trace(self) -> Trace | None:
        """The episode so far, up to its newest observation; None if it has no step."""
        return make_trace(self.rows, self.rows[:-1]) if len(self.rows) > 1 else None


def parse(text: bytes | None) -> tuple[str, Line]:
    """(episode, line), or `TraceError` if it is no object with an episode."""
    if text is None:
        raise TraceError("a line is too long")
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError("a line is not JSON") from error
    if not isinstance(line, dict) or not isinstance(line.get("episode"), str | int):
        raise TraceError("a line is no object that names its episode")
    return str(line["episode"]), line


def ends(line: Line) -> bool:
    """Whether a line is the last one of its episode."""
    is_end = any(line.get(flag) in (True, 1) for flag in FLAGS)
    return line.get("action") is None or (is_end and "next_observation" in line)


def check(line: Line, number: int) -> None:
    """Raise `TraceError` for a line that is no step, or not the one with this number."""
    if unknown := [key for key in line if key not in KEYS]:
        raise TraceError(f"a line has the unknown key {unknown[0][:40]!r}")
    needed = ("observation",) if line.get("action") is None else ("observation", "reward")
    if missing := [key for key in needed if line.get(key) is None]:
        raise TraceError(f"a line has no {missing[0]}")
    for flag in FLAGS:
        x = line.get(flag)
        if x is not None and not (isinstance(x, bool | int) and x in (0, 1)):
            raise TraceError(f"{flag} is {str(x)[:40]!r}, expected true or false")
    if line.get("t", number) != number:
        raise TraceError(f"step {number} is missing, or comes twice")
    if number >= EPISODE_LINES:
        raise TraceError(f"it has more than {EPISODE_LINES:,} lines")


def make_trace(rows: list[Line], steps: list[Line]) -> Trace:
    """A trace of T + 1 rows and T steps."""
    if not steps:
        raise TraceError("it has no step")
    fields: dict[str, Any] = {}
    for lines, names in ((rows, ROW), (steps, STEP)):
        for key, name in names.items():
            values = [line.get(key) for line in lines]
            if key == "action_mask" and values[-1] is None and values[0] is not None:
                values[-1] = [True] * len(values[0])  # no action follows
            if any(value is not None for value in values):
                fields[name] = values
    for name in FLAGS:
        fields[name] = any(bool(line.get(name)) for line in rows[-2:])
    if any(line.get(name) for line in steps[:-1] for name in FLAGS):
        raise TraceError("it goes on after its end")
    for name in WORDS:
        given = [line[name] for line in rows if line.get(name) is not None]
        fields[name] = given[-1] if given else None
    try:
        actions = np.array(fields.pop("actions"))
        fields["observations"] = _arrays(fields["observations"])
        return Trace(actions=actions, **fields)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise TraceError(f"its values are no numbers of one shape ({error})") from error


def _arrays(rows: list[Any]) -> Any:
    """A list of rows as an array, or as dicts of such."""
    if isinstance(rows[0], dict):
        if any(not isinstance(row, dict) or row.keys() != rows[0].keys() for row in rows):
            raise TraceError("its observations have different keys")
        return {key: _arrays([row[key] for row in rows]) for key in rows[0]}
    return np.array(rows)
