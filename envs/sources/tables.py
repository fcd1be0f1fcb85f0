"""Tables as sources of episodes: everything but how a format is read.

A format gives the columns of a file and bounded batches of its rows. Two passes: the first reads
the columns whose values must be known beforehand (none, if the mapping says all), the second makes
episodes of batches.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa

from envs.sources import columns
from envs.sources.accounts import Accounts
from envs.sources.columns import Numbering, one_line
from envs.sources.episodes import Builder, Skipped
from envs.sources.expressions import Expression, parse
from envs.sources.files import File, find
from envs.sources.gathering import Gathering
from envs.sources.mapping import Mapping, closest, flat
from envs.sources.plan import Plan, make_plan
from envs.sources.rows import Decoder, Rows, known_names
from envs.sources.survey import Facts
from envs.types import Trace, TraceError

BATCH_ROWS = 1 << 16
BATCH_BYTES = 32 << 20  # about, of a batch in memory
SHOWN = 20  # columns that an error lists
DAMAGE = (pa.ArrowException, OSError, UnicodeError, EOFError, zlib.error, MemoryError)


class TableSource(ABC):
    """Episodes in the files at `uri` (a path, a pattern or a folder), in order of name and row.

    `mapping` (a dict, or the path of a YAML file; see `envs.sources.mapping.KEYS`) says what the
    columns are. `verifier`, "package.module:function", names a function of a trace that returns
    its outcome, which is added to the last reward; it runs code, so no mapping may name it.
    """

    format = ""  # what files must be, in words
    endings: tuple[str, ...] = ()

    def __init__(
        self, uri: str, mapping: dict | str | Mapping | None = None, verifier: str | None = None
    ):
        self.files = find(uri, self.endings, f"{self.format} files")
        self.mapping = Mapping.read(mapping, has_verifier=verifier is not None)
        self.accounts = Accounts()  # of the last iteration, complete at its end
        self._verify = None if verifier is None else _function(verifier)
        self._stored: list[pa.Schema] | None = None
        self._plan: Plan | None = None
        self._counts: np.ndarray | None = None  # rows of each episode, if they lie anywhere
        self._reward: Expression | None = None

    @abstractmethod
    def _schema(self, path: str) -> pa.Schema:
        """The columns of a file, structs flattened to `outer.inner`."""

    @abstractmethod
    def _tables(self, path: str, stored: pa.Schema, names: list[str]) -> Iterator[pa.Table]:
        """The rows of these columns, in bounded batches."""

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces given by the mapping, or inferred from all rows of all files."""
        return self._planned().spaces

    @property
    def reward_parts(self) -> tuple[str, ...]:
        """The terms of the reward if the mapping declares a sum of such, else the reward itself."""
        self._planned()
        return self._reward.parts if self._reward is not None else ()

    @property
    def categories(self) -> dict[str, list[str]]:
        """The values of each column of categories, in the order of their numbers."""
        plan = self._planned()
        leaves = [leaf for leaf in [*plan.leaves(), plan.action] if leaf.categories is not None]
        return {leaf.columns[0]: list(leaf.categories or ()) for leaf in leaves}

    def sample(self) -> pa.Table:
        """The first batch of rows of the first file, all columns, whatever the mapping says."""
        self._stored = self._stored or [self._with_keys(file) for file in self.files]
        schema = self._stored[0]
        names = [name for name in schema.names if schema.names.count(name) == 1]
        for _, table in self._read(0, names):
            return table
        raise TraceError(f"{self.files[0].path}: holds no rows")

    def __iter__(self) -> Iterator[Trace]:
        plan = self._planned()
        decoder = Decoder(self.mapping, plan, self._reward)
        builder = Builder(self.mapping, plan, decoder, self._verify)
        self.accounts = accounts = Accounts(unknown=decoder.unknown)
        counts = None if self._counts is None else self._counts.copy()
        gathering = Gathering(counts)
        ids = EpisodeIds(self.mapping, self.files)
        file = self.files[0]
        for number, file in enumerate(self.files):
            ids.enter(number)
            for first, table in self._read(number, self._names()):
                accounts.read += len(table)
                try:
                    place = {"row": np.arange(first, first + len(table))}
                    place["file"] = np.full(len(table), number, np.int32)
                    place["run"] = ids(table.column(self.mapping.episode), place["row"])
                    rows = decoder(table, place)
                    gathering.add(self._with_ids(rows, accounts, file))
                except TraceError as error:
                    raise TraceError(f"{file.path}: {_after(first)}{error}") from error
                yield from self._built(gathering.ready(), builder, accounts)
        yield from self._built(gathering.ready(everything=True), builder, accounts)
        if not accounts.read:
            raise TraceError(f"{file.path}: holds no rows")
        assert accounts.balanced, accounts

    def _with_ids(self, rows: Rows, accounts: Accounts, file: File) -> Rows:
        """The rows that belong to an episode."""
        lost = rows["run"] < 0
        if not lost.any():
            return rows
        row = int(rows["row"][np.argmax(lost)])
        what = f"row {row}: column {self.mapping.episode} is empty, so the row is of no episode"
        if self.mapping.broken != "skip":
            raise TraceError(what)
        accounts.skip(int(lost.sum()), "no episode id", f"{file.path}: {what}")
        return {key: x[~lost] for key, x in rows.items()}

    def _built(
        self, ready: Iterator[tuple[Rows, int, int]], build: Builder, accounts: Accounts
    ) -> Iterator[Trace]:
        for rows, start, stop in ready:
            path = self.files[rows["file"][start]].path
            where = f"{path}: row {rows['row'][start]}: the episode that starts here"
            try:
                trace, left_out = build(rows, start, stop)
            except Skipped as reason:
                accounts.skip(stop - start, str(reason), where)
            except TraceError as error:
                if self.mapping.broken != "skip":
                    raise TraceError(f"{where}: {error}") from error
                accounts.skip(stop - start, str(error), where)
            else:
                if left_out:
                    accounts.skip(left_out, "events before the first action", where)
                accounts.used += stop - start - left_out
                accounts.episodes += 1
                yield trace

    def _planned(self) -> Plan:
        """The plan, made in the first pass."""
        if self._plan is None:
            self._stored = [self._with_keys(file) for file in self.files]
            self._reward = self._reward_expression()
            self._check_columns(self._names())
            facts, width = self._survey()
            try:
                self._plan = make_plan(self.mapping, facts, width)
            except ValueError as error:  # of spaces that Gymnasium does not make, too
                raise TraceError(str(error)) from error
        return self._plan

    def _with_keys(self, file: File) -> pa.Schema:
        """The columns of a file, those of its folders included. `TraceError` if it is unreadable."""
        schema = self._guard(file, lambda: self._schema(file.path))
        self._guard(file, lambda: schema.names)  # text, which a damaged file may not hold
        for key, value in file.keys.items():
            if key not in schema.names:
                schema = schema.append(pa.field(key, pa.scalar(_key_value(value)).type))
        return schema

    def _reward_expression(self) -> Expression | None:
        if (text := self.mapping.reward) is None:
            return None
        assert self._stored is not None
        if any(text in schema.names for schema in self._stored):
            return parse(f"`{text}`") if "`" not in text else parse(text)
        return parse(text)

    def _names(self) -> list[str]:
        """All columns that are read."""
        mapping = self.mapping
        names = [mapping.episode, *known_names(mapping.observation, mapping.types)]
        names += [name for name in mapping.action if mapping.types.get(name) != "identifier"]
        names += [*flat(mapping.next_observation), *flat(mapping.action_mask)]
        keys = ("terminated", "truncated", "propensity", "order", "event", "session", "policy")
        single = [getattr(mapping, key) for key in (*keys, "review", "consent", "time")]
        names += [name for name in single if name is not None]
        names += self._reward.columns if self._reward is not None else ()
        return list(dict.fromkeys(names))

    def _check_columns(self, names: list[str]) -> None:
        """Raise `TraceError` for a column that a file lacks, or has twice."""
        assert self._stored is not None
        for file, schema in zip(self.files, self._stored, strict=True):
            missing = [name for name in names if name not in schema.names]
            if missing:
                has = ", ".join(map(one_line, schema.names[:SHOWN]))
                has += ", ..." if len(schema.names) > SHOWN else ""
                hint = one_line(closest(missing[0], schema.names))
                what = f"has no column {', '.join(missing)}{hint}; it has {has}"
                if self._reward is not None and set(missing) & set(self._reward.columns):
                    what += "; reward must be a column or arithmetic over columns"
                raise TraceError(f"{file.path}: {what}")
            if twice := [name for name in names if schema.names.count(name) > 1]:
                what = f"has {schema.names.count(twice[0])} columns called {twice[0]}"
                raise TraceError(f"{file.path}: {what}; give each a name of its own")

    def _survey(self) -> tuple[dict[str, Facts], int | None]:
        """(facts of the columns of observations and actions, width of the action masks)."""
        assert self._stored is not None
        mapping = self.mapping
        facts = {name: Facts(name) for name in mapping.leaves()}
        for file, schema in zip(self.files, self._stored, strict=True):
            for name, each in facts.items():
                if name in schema.names:
                    each.stored(schema.field(name).type, file.path)
        wanted = self._wanted(facts)
        width = None if mapping.action_mask is None else len(mapping.action_mask)
        mask = (mapping.action_mask or [""])[0]
        is_list = bool(mask) and columns.is_list(self._stored[0].field(mask).type)
        reads_ids = mapping.order is not None
        names = [*wanted, *([mapping.episode] if reads_ids else [])]
        first_batch = {name for name, how in wanted.items() if how == "shape"}
        names += [mask] if is_list and mask not in names else []
        ids, totals = EpisodeIds(mapping, self.files), np.zeros(0, np.int64)
        for number, file in enumerate(self.files if names else ()):
            ids.enter(number)
            for first, table in self._read(number, list(dict.fromkeys(names))):
                try:
                    for name, how in wanted.items():
                        column = table.column(name)
                        if how == "texts":
                            facts[name].look_texts(column)
                        elif how == "values" or facts[name].shape is None:
                            facts[name].look(column)
                    if is_list:
                        shape = columns.numbers(table.column(mask)).values.shape
                        width, is_list = (shape[1] if len(shape) > 1 else None), False
                    if reads_ids:
                        runs = ids(table.column(mapping.episode), np.arange(first, first + len(table)))
                        found = np.bincount(runs[runs >= 0], minlength=len(totals))
                        found[: len(totals)] += totals
                        totals = found
                except TraceError as error:
                    raise TraceError(f"{file.path}: {_after(first)}{error}") from error
                shapes_known = all(facts[name].shape is not None for name in first_batch)
                if shapes_known and not is_list and not reads_ids and len(first_batch) == len(wanted):
                    return facts, width
        if reads_ids:
            self._counts = totals
        return facts, width

    def _wanted(self, facts: dict[str, Facts]) -> dict[str, str]:
        """Column -> "values", "texts" or (of the first row alone) "shape": what must be known."""
        mapping, wanted = self.mapping, {}
        o = [*_groups(mapping.observation)]
        later = [*_groups(mapping.next_observation)] if mapping.next_observation else []
        for group in [*o, *later, mapping.action]:
            is_action = group is mapping.action
            given = mapping.action_space if is_action else mapping.observation_space
            for name in group:
                kind = mapping.types.get(name)
                if kind == "category" and name not in mapping.categories:
                    wanted[name] = "texts"
                elif given is not None or kind not in (None, "number"):
                    continue
                elif facts[name].sort == "lists" and not is_action:
                    wanted.setdefault(name, "shape")
                elif kind is None and (is_action or len(group) == 1):
                    wanted[name] = "values"
                elif is_action and facts[name].sort == "lists":
                    wanted[name] = "values"
        return wanted

    def _read(self, number: int, names: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, columns `names`) of one file, in bounded batches."""
        assert self._stored is not None
        file, schema = self.files[number], self._stored[number]
        own = [name for name in names if name not in file.keys]
        keys = {name: _key_value(file.keys[name]) for name in names if name in file.keys}
        own = own or [next(name for name in schema.names if name not in file.keys)]
        tables, first = self._tables(file.path, schema, own), 0
        while True:
            table = self._guard(file, lambda: next(tables, None), first)  # noqa: B023
            if table is None:
                return
            for start in range(0, len(table), BATCH_ROWS):
                part = table.slice(start, BATCH_ROWS)
                for key, value in keys.items():
                    part = part.append_column(key, pa.array([value] * len(part), pa.scalar(value).type))
                if len(part):
                    yield first, part
                first += len(part)

    def _guard(self, file: File, read: Callable[[], Any], first: int = 0) -> Any:
        """What `read` returns; Arrow's errors, and those of decoders, as `TraceError`."""
        try:
            return read()
        except TraceError as error:
            raise TraceError(f"{file.path}: {_after(first)}{error}") from error
        except DAMAGE as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            what = f"is not readable as {self.format}: {self._advice(line)}"
            raise TraceError(f"{file.path}: {_after(first)}{what}") from error

    def _advice(self, line: str) -> str:
        """An error of Arrow, with what to do about it where that is known."""
        return line


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
            self._home.append(number)

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


def _groups(entry: Any) -> Iterator[list[str]]:
    """The lists of columns in an entry of the mapping."""
    if isinstance(entry, dict):
        for value in entry.values():
            yield from _groups(value)
    else:
        yield entry


def _key_value(value: str | None) -> Any:
    """The value in a folder's name: a whole number if it is written as one."""
    if value is not None and value.lstrip("-").isdigit() and len(value) < 19:
        return int(value)
    return value


def _after(row: int) -> str:
    return f"after row {row - 1}: " if row else ""


def _function(name: str) -> Callable[[Trace], Any]:
    """The function at "package.module:function"."""
    module, sign, attribute = name.partition(":")
    if not (sign and module and attribute):
        raise TraceError(f"verifier={name!r} is not like package.module:function")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module can fail in any way
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise TraceError(f"verifier={name}: cannot be imported ({what})") from error
    if not callable(found):
        raise TraceError(f"verifier={name}: is no function")
    return found
