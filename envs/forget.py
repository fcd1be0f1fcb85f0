"""Forgetting a session: a trace store as it would be had the session never been recorded.

The store is rewritten inside its directory, and can be read after a stop at any instant:

    store/rewritten/    a store of the episodes that stay
    store/manifest.json names the files in there: from now on the session is gone
    store/              the old files are removed, the new ones take their names
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from envs.atomic import sync_directory, write_file
from envs.journal import PATTERN, recover
from envs.manifest import dump_manifest, parse_manifest
from envs.traces import MANIFEST, OURS, TraceStore
from envs.types import TraceError

DRAFT = "rewritten"  # a folder in the store, while it is rewritten


def forget(path: str | Path, session: str) -> int:
    """Remove the episodes of `session` from the store at `path`; returns their number.

    The store is then, file by file, what one `extend` with the other episodes makes of an empty
    one, but that it remembers how far its sources were read; files of others stay. Stopped at any
    instant, the call is to be repeated. Raises `TraceError`.
    """
    path = Path(path).resolve()
    if not (path / MANIFEST).exists():
        raise TraceError(f"{path}: is no trace store; name one with path=")
    recover(path)
    with TraceStore(path).locked(), _told(path):
        if live := sorted(path.glob(PATTERN)):
            raise TraceError(f"{live[0]}: a recorder is writing here; close it, then try again")
        _settle(path)  # what a call before this one was stopped in
        store = TraceStore(path)
        count = store.index()["session"].to_pylist().count(session)
        if count:
            _without(store, session)
            _rename(path, path / DRAFT / MANIFEST, lambda name: f"{DRAFT}/{name}")
        _settle(path)
    return count


def holds(path: Path, session: str) -> bool:
    """Whether the directory is a trace store with an episode of `session`."""
    if not (path / MANIFEST).is_file():
        return False
    return session in TraceStore(path).index()["session"].to_pylist()


def _without(store: TraceStore, session: str) -> None:
    """Make a store of the episodes of other sessions in the draft's folder."""
    spaces: Any = store.declared()
    other = TraceStore(store.path / DRAFT, **spaces, provenance=store.provenance)
    traces = (trace for trace in store.traces() if trace.session != session)
    other.extend(traces, resume=store.resume or None)
    other.verify()
    sync_directory(store.path)


def _settle(path: Path) -> None:
    """Give files in the draft's folder that the manifest names their own names; remove the rest.

    Names follow from a segment's place, so that no other segment has them.
    """
    names = _names(path)
    for name in names:
        if name != Path(name).name:
            write_file(path / Path(name).name, (path / name).read_bytes())
    if any(name != Path(name).name for name in names):
        sync_directory(path)
        _rename(path, path / MANIFEST, lambda name: Path(name).name)
    if (path / DRAFT).exists():
        shutil.rmtree(path / DRAFT)
    for name in set(filter(OURS.fullmatch, os.listdir(path))) - set(_names(path)):
        os.unlink(path / name)
    sync_directory(path)


def _names(path: Path) -> list[str]:
    """The files that the manifest names."""
    manifest = parse_manifest((path / MANIFEST).read_bytes(), path / MANIFEST)
    return [file["name"] for entry in manifest["segments"] for file in (entry, entry["index"])]


def _rename(path: Path, source: Path, new_name: Callable[[str], str]) -> None:
    """Make the manifest at `source` that of the store, with other names of the same files."""
    manifest = parse_manifest(source.read_bytes(), source)
    for entry in manifest["segments"]:
        for file in (entry, entry["index"]):
            file["name"] = new_name(file["name"])
    write_file(path / MANIFEST, dump_manifest(manifest))
    sync_directory(path)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the disk as `TraceError`."""
    try:
        yield
    except OSError as error:
        what = f"not all of the session could be removed ({error.strerror})"
        raise TraceError(f"{error.filename or path}: {what}; mend that, then repeat it") from error
