"""Sources of traces: built-in ones, and plugins of installed packages."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
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
    "lerobot": "envs.sources.lerobot:LeRobotSource",
    "atif": "envs.sources.atif:AtifSource",
    "steps": "envs.sources.steps:StepsSource",
}


@runtime_checkable
class Source(Protocol):
    """Episodes from outside. Made as `Source(uri, **options)`; can be iterated repeatedly.

    A source may have two methods more. `dreaming record` uses them to bring in every episode once:

    batches(after=None) -> Iterator[tuple[list[Trace], Any]]
        episodes in lists of bounded size, each with a token (JSON): called again with that token,
        the method goes on behind the list. Episodes that are not finished yet are not given.
    fingerprint() -> str
        another text whenever the source holds other episodes.
    """

    def __iter__(self) -> Iterator[Trace]:
        """The episodes, in order of time."""
        ...

    def schema(self) -> dict[str, gymnasium.Space]:
        """`observation_space` and `action_space`."""
        ...


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source by looking at it."""

    name: str
    package: str  # the distribution that brings it
    about: str = ""  # first line of its docstring
    options: str = ""  # as in a call: "mapping=None, ..."
    broken: str | None = None  # why it cannot be loaded


def list_sources() -> list[str]:
    """Names for `open_source`; nothing is imported."""
    return sorted(BUILT_IN.keys() | {entry.name for entry in entry_points(group=GROUP)})


def describe_sources() -> list[SourceInfo]:
    """Every source there is, in order of names. All are imported; what fails then is told."""
    found = [_describe(name, "dreaming", lambda name=name: _built_in(name)) for name in BUILT_IN]
    for entry in entry_points(group=GROUP):
        if entry.name not in BUILT_IN:
            found.append(_describe(entry.name, _distribution(entry), entry.load))
    return sorted(found, key=lambda info: (info.name, info.package))


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
        return _built_in(name)
    broken = []
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except Exception as error:  # a plugin's code can fail in any way
            what = f"source {name} of the package {_distribution(entry)} is broken"
            broken.append(f"{what} ({_line(error)})")
            logging.getLogger(__name__).warning("%s; skipped", broken[-1])
    if broken:
        raise TraceError(f"{'; '.join(broken)}; repair or uninstall it")
    raise TraceError(f"source {name!r} is unknown; known are {', '.join(list_sources())}")


def _built_in(name: str) -> Any:
    module, _, attribute = BUILT_IN[name].partition(":")
    return getattr(import_module(module), attribute)


def _describe(name: str, package: str, load: Any) -> SourceInfo:
    try:
        make = load()
        _, *parameters = inspect.signature(make).parameters.values()  # without the uri
    except Exception as error:  # a plugin's code can fail in any way
        return SourceInfo(name, package, broken=_line(error))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    about = (inspect.getdoc(make) or "").partition("\n\n")[0]
    return SourceInfo(name, package, " ".join(about.split()), ", ".join(map(str, bare)))


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else f"that provides {entry.value}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
