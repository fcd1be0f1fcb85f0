"""Units on disk: directories that are there whole or not at all, and never change.

A unit holds `arrays.safetensors` and `manifest.json`, which has its facts, the hash of the arrays
and a hash of itself. It is written under a draft's name and renamed, so a kill or a power cut at
any instant leaves a draft, which the next writer clears, or the unit.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from dreaming.checkpoint import ARRAYS, MANIFEST, Damaged, seal, unseal
from dreaming.errors import RegistryError
from envs.atomic import make_directory, sync_directory, write_file

DRAFT = ".draft-"


@dataclass(frozen=True)
class Unit:
    """What a unit says, with its arrays by name; `sha` is the hash of its manifest's bytes."""

    path: Path
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    sha: str


def write_unit(
    target: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    """Make the unit `target`. Raises `RegistryError` if it is there, or cannot be written."""
    if target.exists():
        raise RegistryError(f"{target} is there already; what a registry holds is never rewritten")
    draft = target.with_name(DRAFT + target.name)
    data = safetensors.numpy.save({k: np.asarray(x, order="C") for k, x in (arrays or {}).items()})
    try:
        shutil.rmtree(draft, ignore_errors=True)
        make_directory(target.parent)
        draft.mkdir()
        write_file(draft / ARRAYS, data)
        write_file(draft / MANIFEST, seal({"facts": dict(facts), "arrays": sha256(data)}))
        sync_directory(draft)
        os.rename(draft, target)
        sync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise cannot_write(target, error) from error


def read_unit(path: Path) -> Unit:
    """The unit at `path`. Raises `RegistryError` if it is missing, damaged or half there."""
    try:
        manifest = (path / MANIFEST).read_bytes()
        said, data = unseal(manifest), (path / ARRAYS).read_bytes()
    except FileNotFoundError as error:
        missing = error.filename if path.is_dir() else path
        raise RegistryError(
            f"{missing} is missing; the registry was copied in half or changed by others: copy it "
            "again, whole"
        ) from error
    except (OSError, Damaged) as error:
        raise RegistryError(f"{path}: {error}; restore it from a copy") from error
    if sha256(data) != said.get("arrays"):
        raise RegistryError(f"{path / ARRAYS} is damaged; restore it from a copy")
    return Unit(path, said["facts"], safetensors.numpy.load(data), sha256(manifest))


def write_once(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a sealed file that is not there yet. Raises `RegistryError`."""
    if path.exists():
        raise RegistryError(f"{path} is there already; what a registry holds is never rewritten")
    try:
        make_directory(path.parent)
        write_file(path, seal(dict(facts)))
        sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_once` wrote; None if there is no such file. Raises `RegistryError`."""
    try:
        return unseal(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, Damaged) as error:
        raise RegistryError(f"{path}: {error}; restore it from a copy") from error


def numbered(directory: Path) -> list[Path]:
    """The units of a directory whose names are numbers, in order."""
    names = os.listdir(directory) if directory.is_dir() else []
    return [directory / name for name in sorted(filter(str.isdigit, names), key=int)]


def clear_drafts(directory: Path) -> None:
    """Remove what stopped writers left. Only for who holds the lock."""
    for path in directory.glob(f"{DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


def sha256(data: bytes) -> str:
    """The SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def cannot_write(path: Path, error: OSError) -> RegistryError:
    """The error for what could not be written."""
    why = error.strerror or str(error)
    return RegistryError(
        f"cannot write {path}: {why}; make room and try again, what was there before is intact"
    )


def now() -> str:
    """The time, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
