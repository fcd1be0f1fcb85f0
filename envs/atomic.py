"""Atomic file writes: temporary name, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is the old or the new file at every instant, never half of one.

    The new name survives a power cut only after `sync_directory(path.parent)`. Raises `OSError`.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def replace_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Make `target` a directory of exactly these files, all at once; what it held before is gone.

    A power cut can leave it missing, never half: say elsewhere first that it is not valid.
    """
    draft, old = drafts_of(target)
    clear_drafts(target)
    draft.mkdir(parents=True)
    for name, data in files.items():
        write_file(draft / name, data)
    sync_directory(draft)
    if target.exists():
        os.rename(target, old)
    os.rename(draft, target)
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def drafts_of(target: Path) -> tuple[Path, Path]:
    """Where a directory is made, and where the one before it is moved."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def clear_drafts(target: Path) -> None:
    """Remove what a stopped attempt left."""
    for leftover in drafts_of(target):
        shutil.rmtree(leftover, ignore_errors=True)


def remove_directory(target: Path) -> None:
    """Remove a directory, by its name at once."""
    _, old = drafts_of(target)
    clear_drafts(target)
    if target.exists():
        os.rename(target, old)
        sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, so that their names survive a power
    cut. Raises `OSError`."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Sync a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
