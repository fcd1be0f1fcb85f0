"""Opening the log that the options name, and checking what comes out of it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium

from dreaming.checkpoint import atomic_write
from dreaming.errors import ConfigError, TraceError
from envs.segments import check_trace
from envs.sources import open_source
from envs.sources.mapping import Mapping
from envs.sources.suggestion import suggest
from envs.sources.tables import TableSource
from envs.types import Features, Trace, action_features
from experiments.config import SourceConfig


def named_log(store: str | None, source: SourceConfig, option: str = "traces") -> Any:
    """The trace store at `store` (given as `option`), or the source; None if neither is named.

    Raises `UserError` if both are named, or if the log cannot be opened.
    """
    if store is not None and source.name is not None:
        raise ConfigError(f"{option}= and source.name= both name a log; give one of them")
    if store is not None:
        return open_source("store", store)
    if source.name is None:
        return None
    if source.uri is None:
        raise ConfigError(f"source.name={source.name} needs source.uri=...")
    options = source.options | ({"mapping": source.mapping} if source.mapping else {})
    return open_source(source.name, source.uri, **options)


def checked(traces: Iterable[Trace], spaces: dict[str, gymnasium.Space]) -> Iterator[Trace]:
    """The traces, once each was found fit to be learned from: `inspect-traces` and all that learns
    ask the same. Raises `UserError` with the episode."""
    Features(spaces["observation_space"])
    action_features(spaces["action_space"])
    plain = {name.removesuffix("_space"): space for name, space in spaces.items()}
    masked = None
    for number, trace in enumerate(traces):
        has_mask = trace.action_masks is not None
        masked = has_mask if masked is None else masked
        try:
            if masked != has_mask:
                raise TraceError("some episodes have action masks, others none; give all or none")
            checked_trace = check_trace(trace, plain)
        except TraceError as error:
            raise TraceError(f"episode {number}: {error}") from error
        yield checked_trace


def drafted_mapping(source: SourceConfig) -> str:
    """A first draft of a mapping for the table that the options name.

    It is written to the file in `source.mapping` if one is named, and then said where; else it is
    the text itself. Raises `UserError` for what is no table, and for a file that exists.
    """
    if source.uri is None:
        raise ConfigError("suggest=true needs a table; add source.name= and source.uri=")
    unread = Mapping(episode="", observation=[], action=[])
    table = open_source(source.name or "", source.uri, mapping=unread, **source.options)
    if not isinstance(table, TableSource):
        raise ConfigError(f"source.name={source.name} needs no mapping; suggest=true is for tables")
    text = suggest(table)
    if source.mapping is None:
        return text
    path = Path(source.mapping)
    if path.exists():
        raise ConfigError(f"{path}: exists; suggest=true writes a new file only")
    atomic_write(path, text)
    return f"written to {path}: read it, and correct every guess\n"
