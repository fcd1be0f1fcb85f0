"""Forgetting a session: a trace store as it would be had the session never been recorded."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from envs.atomic import clear_drafts, drafts_of, sync_directory
from envs.journal import PATTERN, recover
from envs.traces import MANIFEST, TraceStore
from envs.types import TraceError


def forget(path: str | Path, session: str) -> int:
    """Remove the episodes of `session` from the store at `path`; returns their number.

    The store is then, file by file, what one `extend` with the other episodes makes of an empty
    one, but that it remembers how far its sources were read. Stopped at any instant, the call is
    to be repeated. Raises `TraceError`.
    """
    path = Path(path)
    draft, old = drafts_of(path)
    if not path.exists() and old.exists() and (draft / MANIFEST).exists():
        os.rename(draft, path)  # a call before this one was stopped between its two renames
    if not (path / MANIFEST).exists():
        raise TraceError(f"{path}: is no trace store; name one with path=")
    clear_drafts(path)  # the old store of that call, too
    recover(path)
    if live := sorted(path.glob(PATTERN)):
        raise TraceError(f"{live[0]}: a recorder is writing here; close it, then try again")
    store = TraceStore(path)
    with store.locked():
        count = store.index()["session"].to_pylist().count(session)
        if count:
            _without(store, session, draft)
            os.rename(path, old)
            os.rename(draft, path)
            sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return count


def holds(path: Path, session: str) -> bool:
    """Whether the directory is a trace store with an episode of `session`."""
    if not (path / MANIFEST).is_file():
        return False
    return session in TraceStore(path).index()["session"].to_pylist()


def _without(store: TraceStore, session: str, draft: Path) -> None:
    """Make a store of the episodes of other sessions at `draft`."""
    spaces: Any = store.declared()
    other = TraceStore(draft, **spaces, provenance=store.provenance)
    traces = (trace for trace in store.traces() if trace.session != session)
    other.extend(traces, resume=store.resume or None)
    other.verify()
    sync_directory(draft.parent)
