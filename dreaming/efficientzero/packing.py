"""A saved agent packed for another machine: compressed, in small files, without its frames.

    pack/part-000.bin    compressed arrays, cut into parts of at most PART_BYTES
    pack/manifest.json   arrays, configuration of the run, SHA-256 of everything; last

Seeds and actions of the episodes are packed; the frames are rebuilt from them and verified by hash.
Everything else is kept bit for bit, except that the optimiser's moments may be rounded to bfloat16.
"""

import hashlib
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dreaming.checkpoint import MANIFEST, Damaged, Saved, seal, unseal
from dreaming.errors import CheckpointError
from envs.atomic import sync_directory, write_file

SCHEMA_VERSION = 1
PART_BYTES, MOST_BYTES = 16 << 20, 64 << 20
FRAMES = ".ring.o"
GROUPS = {".params": "params", ".opt_state": "optimiser", ".ring": "replay"}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Packed:
    """A verified pack: its manifest, and all arrays but the frames."""

    path: Path
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(
    saved: Saved,
    directory: Path,
    *,
    about: Mapping[str, Any],
    files: Mapping[str, bytes],
    optimiser: str = "float32",
) -> dict[str, int]:
    """Pack a saved agent into a new directory; returns the bytes of each group of arrays.

    `about` is added to the manifest, `files` (name -> content) to the arrays. optimiser="bfloat16"
    rounds the moments. Raises `CheckpointError`, and writes nothing, above MOST_BYTES.
    """
    arrays = {name: _reduced(name, x, optimiser) for name, x in saved.arrays.items()}
    frames = arrays.pop(FRAMES)
    arrays |= {f"file/{name}": np.frombuffer(data, np.uint8) for name, data in files.items()}
    squeezed = {name: squeeze(x) for name, x in arrays.items()}
    sizes = _sizes({name: len(data) for name, data in squeezed.items()})
    body = b"".join(squeezed.values())
    parts = [body[i : i + PART_BYTES] for i in range(0, len(body), PART_BYTES)]
    manifest = seal(
        {
            "schema_version": SCHEMA_VERSION,
            "optimiser": optimiser,
            "leaves": saved.manifest["leaves"],
            "arrays": [_description(name, x, len(squeezed[name])) for name, x in arrays.items()],
            "frames": {"shape": frames.shape, "sha256": _sha256(frames.tobytes())},
            "parts": [
                {"name": f"part-{i:03d}.bin", "bytes": len(data), "sha256": _sha256(data)}
                for i, data in enumerate(parts)
            ],
            **about,
        }
    )
    sizes["manifest"] = len(manifest)
    if sum(sizes.values()) > MOST_BYTES:
        raise CheckpointError(_too_large(directory, sizes, saved, optimiser))
    _write(directory, parts, manifest)
    return sizes


def read_pack(directory: Path) -> Packed:
    """Read and verify a pack. Raises `CheckpointError` if it is damaged, incomplete or newer."""
    try:
        manifest = unseal((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{directory}: holds no {MANIFEST}; name a packed run") from error
    except Damaged as error:
        raise CheckpointError(f"{directory}: {error}; {COPY_AGAIN}") from error
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"{directory}: its schema_version is {manifest['schema_version']}, expected "
            f"{SCHEMA_VERSION}; unpack it with the version of dreaming that packed it"
        )
    body = b"".join(_part(directory, part) for part in manifest["parts"])
    arrays, at = {}, 0
    for each in manifest["arrays"]:
        data, at = body[at : at + each["bytes"]], at + each["bytes"]
        arrays[each["name"]] = unsqueeze(data, np.dtype(each["dtype"]), each["shape"])
    return Packed(directory, manifest, arrays)


def with_frames(packed: Packed, frames: np.ndarray) -> Saved:
    """The saved agent with its rebuilt frames. Raises `CheckpointError` if their hash differs."""
    if _sha256(frames.tobytes()) != packed.manifest["frames"]["sha256"]:
        raise CheckpointError(
            f"{packed.path}: the same seeds and actions show other frames here than where it was "
            "packed; install the version of the task that it was learned in"
        )
    arrays = {name: _whole(x) for name, x in packed.arrays.items()} | {FRAMES: frames}
    arrays = {name: x for name, x in arrays.items() if not name.startswith("file/")}
    return Saved(packed.path, packed.manifest, arrays)


def files_of(packed: Packed) -> dict[str, bytes]:
    """The files that were packed beside the state."""
    named = ((name.partition("/"), x) for name, x in packed.arrays.items())
    return {name: x.tobytes() for (kind, _, name), x in named if kind == "file"}


def squeeze(x: np.ndarray) -> bytes:
    """Compress an array; bytes of equal significance are grouped, as only exponents compress."""
    planes = np.frombuffer(x.tobytes(), np.uint8).reshape(-1, x.dtype.itemsize).T
    return zlib.compress(planes.tobytes())


def unsqueeze(data: bytes, dtype: np.dtype, shape: Iterable[int]) -> np.ndarray:
    """The array of `dtype` and `shape` from the bytes that `squeeze` made."""
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    return np.frombuffer(planes.T.tobytes(), dtype).reshape(tuple(shape))


COPY_AGAIN = "copy it again from where it was packed"


def _part(directory: Path, part: dict[str, Any]) -> bytes:
    try:
        data = (directory / part["name"]).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{directory}: {part['name']} is missing; {COPY_AGAIN}") from error
    if _sha256(data) != part["sha256"]:
        raise CheckpointError(
            f"{directory}: the bytes of {part['name']} have changed since it was packed; "
            f"{COPY_AGAIN}"
        )
    return data


def _write(directory: Path, parts: list[bytes], manifest: bytes) -> None:
    """Write a pack directory, completely or not at all."""
    draft = directory.parent / f"{directory.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)  # of an attempt that was cut
    draft.mkdir(parents=True)
    try:
        for i, data in enumerate(parts):
            write_file(draft / f"part-{i:03d}.bin", data)
        write_file(draft / MANIFEST, manifest)
        sync_directory(draft)
        draft.replace(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_directory(directory.parent)


def _reduced(name: str, x: np.ndarray, optimiser: str) -> np.ndarray:
    is_moment = name.startswith(".opt_state") and x.dtype == np.float32
    return x.astype(BFLOAT16) if is_moment and optimiser == "bfloat16" else x


def _whole(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == BFLOAT16 else x


def _description(name: str, x: np.ndarray, size: int) -> dict[str, Any]:
    return {"name": name, "dtype": x.dtype.name, "shape": x.shape, "bytes": size}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sizes(bytes_of: Mapping[str, int]) -> dict[str, int]:
    """Bytes by group (see GROUPS) from bytes by array."""
    sizes = dict.fromkeys([*GROUPS.values(), "rest"], 0)
    for name, size in bytes_of.items():
        group = next((GROUPS[start] for start in GROUPS if name.startswith(start)), "rest")
        sizes[group] += size
    return sizes


def _too_large(directory: Path, sizes: dict[str, int], saved: Saved, optimiser: str) -> str:
    """The error line for a pack above MOST_BYTES: bytes of each group, and what frees some."""
    mb = lambda size: f"{size / 2**20:.1f} MiB"
    named = ", ".join(f"{name} {mb(size)}" for name, size in sizes.items())
    whole, most = mb(sum(sizes.values())), mb(MOST_BYTES)
    line = f"{directory}: packed it would take {whole}, more than {most} ({named})"
    if optimiser == "bfloat16":
        return f"{line}; nothing else can be left out: copy the run directory itself"
    moments = {name: x for name, x in saved.arrays.items() if name.startswith(".opt_state")}
    less = sum(len(squeeze(_reduced(name, x, "bfloat16"))) for name, x in moments.items())
    return (
        f"{line}; optimiser=bfloat16 frees about {mb(sizes['optimiser'] - less)}, but then the run "
        "does not end as it would have"
    )
