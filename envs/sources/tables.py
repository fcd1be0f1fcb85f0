"""Tables as sources of episodes: everything but how a format is read.

A format gives the columns of a file and bounded batches of its rows. Two passes: the first reads
the columns whose values must be known beforehand (none, if the mapping says all), the second makes
episodes of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np

from envs.sources.accounts import Accounts
from envs.sources.batches import Tables, after
from envs.sources.columns import num_rounded
from envs.sources.episodes import Builder, Skipped
from envs.sources.expressions import Expression, parse
from envs.sources.files import File
from envs.sources.firstpass import check_columns, first_pass
from envs.sources.gathering import Gathering
from envs.sources.ids import EpisodeIds
from envs.sources.mapping import Mapping, flat
from envs.sources.plan import Plan, make_plan
from envs.sources.rows import Decoder, Rows, known_names, size
from envs.types import Trace, TraceError


class TableSource(Tables):
    """Episodes in the files at `uri` (a path, a pattern or a folder), in order of name and row.

    `mapping` (a dict, or the path of a YAML file; see `envs.sources.keys.KEYS`) says what the
    columns are. `verifier`, "package.module:function", names a function of a trace that returns
    its outcome, which is added to the last reward; it runs code, so no mapping may name it.
    """

    def __init__(
        self, uri: str, mapping: dict | str | Mapping | None = None, verifier: str | None = None
    ):
        super().__init__(uri)
        self.mapping = Mapping.read(mapping, has_verifier=verifier is not None)
        self.accounts = Accounts()  # of the last iteration, complete at its end
        self._verify = None if verifier is None else _function(verifier)
        self._plan: Plan | None = None
        self._counts: np.ndarray | None = None  # rows of each episode, if they lie anywhere
        self._reward: Expression | None = None

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
            for first, table in self.read(number, self._names()):
                accounts.read += len(table)
                for name in table.column_names if self.is_text else ():
                    if count := num_rounded(table.column(name)):
                        accounts.rounded[name] = accounts.rounded.get(name, 0) + count
                try:
                    place: Rows = {"row": np.arange(first, first + len(table))}
                    place["file"] = np.full(len(table), number, np.int32)
                    place["run"] = ids(table.column(self.mapping.episode), place["row"])
                    rows = self._with_ids(decoder(table, place), accounts, file)
                    if size(rows):
                        gathering.add(rows)
                except TraceError as error:
                    raise TraceError(f"{file.path}: {after(first)}{error}") from error
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
            self._reward = self._reward_expression()
            rewarded = self._reward.columns if self._reward is not None else ()
            check_columns(self, self._names(), rewarded)
            found = first_pass(self, self.mapping, rewarded)
            self._counts = found.counts
            try:
                self._plan = make_plan(self.mapping, found.facts, found.mask_width)
            except ValueError as error:  # of spaces that Gymnasium does not make, too
                raise TraceError(str(error)) from error
        return self._plan

    def _reward_expression(self) -> Expression | None:
        if (text := self.mapping.reward) is None:
            return None
        if any(text in schema.names for schema in self.stored):
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
