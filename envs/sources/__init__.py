"""Sources of traces: built-in ones, and plugins of installed packages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import gymnasium

from envs.types import Trace, TraceError, UserError

if TYPE_CHECKING:
    from envs.sources.recorder import Recorder

GROUP = "dreaming.sources"
BUILT_IN = {
    "store": "envs.sources.store:StoreSource",
    "parquet": "envs.sources.parquet:ParquetSource",
    "csv": "envs.sources.csv:CsvSource",
    "jsonl": "envs.sources.jsonl:JsonlSource",
    "minari": "envs.sources.minari:MinariSource",
}


@runtime_checkable
class Source(Protocol):
    """Episodes from outside. Made as `Source(uri, **options)`; can be iterated repeatedly."""

    def __iter__(self) -> Iterator[Trace]:
        """The episodes, in order of time."""
        ...

    def schema(self) -> dict[str, gymnasium.Space]:
        """`observation_space` and `action_space`."""
        ...


def list_sources() -> list[str]:
    """Names for `open_source`; nothing is imported."""
    return sorted(BUILT_IN.keys() | {entry.name for entry in entry_points(group=GROUP)})


def open_source(name: str, uri: str, **options: Any) -> Source:
    """The source `name` for `uri`. Raises `TraceError` for an unknown name or option."""
    make = _load(name)
    try:
        source = make(uri, **options)
    except UserError:
        raise
    except TypeError as error:
        raise TraceError(f"source {name} does not take these options: {error}") from error
    if not isinstance(source, Source):
        raise TraceError(f"source {name} made a {type(source).__name__} without __iter__ or schema")
    return source


def record(env: gymnasium.Env, path: str | Path, **fields: Any) -> Recorder:
    """`env`, whose episodes are appended to the trace store at `path` (`envs.sources.recorder`)."""
    from envs.sources.recorder import record

    return record(env, path, **fields)


def _load(name: str) -> Any:
    """The class of source `name`; broken plugins are skipped. `TraceError` if none is left."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    broken = []
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except Exception as error:  # a plugin's code can fail in any way
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            broken.append(f"source {name} of the package {_distribution(entry)} is broken ({what})")
            logging.getLogger(__name__).warning("%s; skipped", broken[-1])
    if broken:
        raise TraceError(f"{'; '.join(broken)}; repair or uninstall it")
    raise TraceError(f"source {name!r} is unknown; known are {', '.join(list_sources())}")


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else f"that provides {entry.value}"
