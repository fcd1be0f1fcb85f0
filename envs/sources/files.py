"""The files that a uri names, within their root, with the keys of partitioned folders."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from envs.types import TraceError

MOST_FILES = 100_000
NOTHING = "__HIVE_DEFAULT_PARTITION__"  # an empty value in the name of a folder


@dataclass(frozen=True)
class File:
    """One file, and the `key=value` folders that it lies in below the root."""

    path: str
    keys: dict[str, str | None]


def find(uri: str, endings: tuple[str, ...], what: str) -> list[File]:
    """The files at `uri`, a path, a pattern or a folder, in order of name.

    Folders are searched for names with `endings`, but for those that begin with . or _. Raises
    `TraceError` if there are none, and for a link that leads out of the folder or pattern's root.
    """
    if "\0" in uri:
        raise TraceError(f"{uri!r} is no path; expected {what} by path, pattern or folder")
    root = _root(uri)
    if os.path.isdir(uri):
        paths = _within(uri, endings)
    else:
        paths = [path for path in glob.glob(uri, recursive=True) if not os.path.isdir(path)]
        if not paths and os.path.exists(uri):
            paths = [uri]  # a name with brackets
    if not paths:
        tail = f" with the endings {', '.join(endings)}" if os.path.isdir(uri) else ""
        raise TraceError(f"{uri}: no such file{tail}; expected {what} by path, pattern or folder")
    if len(paths) > MOST_FILES:
        raise TraceError(f"{uri}: {len(paths)} files; at most {MOST_FILES} are read")
    if root is not None:
        _check_within(paths, root)
    return [File(path, _keys(path, root)) for path in sorted(paths)]


def _root(uri: str) -> Path | None:
    """The folder that all files must lie in; None for a file named by its own path."""
    if os.path.isdir(uri):
        return Path(uri)
    if os.path.exists(uri) or not glob.has_magic(uri):
        return None
    parts = Path(uri).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _within(folder: str, endings: tuple[str, ...]) -> list[str]:
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [
            os.path.join(base, name)
            for name in names
            if name[0] not in "._" and name.lower().endswith(endings)
        ]
    return found


def _check_within(paths: list[str], root: Path) -> None:
    top = root.resolve()
    for path in paths:
        if not Path(path).resolve().is_relative_to(top):
            raise TraceError(f"{path}: leads out of {root}; name the file itself, if you trust it")


def _keys(path: str, root: Path | None) -> dict[str, str | None]:
    """{key: value} of the folders `key=value` in the path, outermost first."""
    folders = Path(path).parent.parts[len(root.parts) if root else 0 :]
    pairs = [folder.partition("=") for folder in folders]
    read = lambda value: None if value == NOTHING else unquote(value)
    return {unquote(key): read(value) for key, sign, value in pairs if sign and key}
