"""The portable `.dream` file: an uncompressed zip with a world, usable without the trainer.

Its comment is the SHA-256 of all bytes before it, checked before anything is parsed. The
manifest names every member with size and SHA-256 and is signed with this user's key, because
the programs inside are code.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import io
import json
import math
import os
import re
import secrets
import tempfile
import weakref
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import safetensors.numpy

from envs import forks
from envs.atomic import sync_directory, write_file
from envs.dream import World
from envs.programs import ExportedDream, ExportedModel, export_programs
from envs.types import (
    Context,
    DreamFileError,
    SpaceError,
    action_features,
    space_from_json,
    space_to_json,
)

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 31
COMMENT = 64  # length of the zip comment: the SHA-256 as hexadecimal digits
SIZES = ("num_codes", "num_members", "num_actions", "action_size")  # of the model
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # fixed times: equal worlds make equal bytes
MEMBER = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)?\.(json|safetensors|jax|md)")
_loaded: weakref.WeakValueDictionary[str, World] = weakref.WeakValueDictionary()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json(x: Any) -> bytes:
    return json.dumps(x, sort_keys=True, allow_nan=False, indent=1).encode()


def _finite(x: Any) -> Any:
    """JSON values with null for numbers that are not finite."""
    if isinstance(x, dict):
        return {str(name): _finite(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_finite(value) for value in x]
    if isinstance(x, (float, np.floating)):
        return float(x) if math.isfinite(x) else None
    return int(x) if isinstance(x, np.integer) else x


def _key_path() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "dreaming" / "key"


def check_key() -> None:
    """Make this user's signing key if there is none. Raises `DreamFileError` if it cannot be kept:
    better before a world is fitted than when it is written."""
    _user_key(create=True)


def _user_key(create: bool) -> bytes | None:
    """This user's signing key; None if there is none and `create` is false."""
    path = _key_path()
    try:
        if path.parts[0] == "~":
            raise OSError(errno.ENOENT, "this user has no home directory")
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(name, path)  # the first process wins, and the key file is complete
            except FileExistsError:
                pass
            finally:
                os.unlink(name)
        return path.read_bytes()
    except OSError as error:
        if not create:
            return None
        raise DreamFileError(
            f"cannot keep a signing key at {path} ({error.strerror}); set XDG_CONFIG_HOME to a "
            "directory that can be written"
        ) from error


def _signature(manifest: dict[str, Any], key: bytes) -> str:
    body = {name: value for name, value in manifest.items() if name != "signature"}
    return hmac.new(key, _json(body), "sha256").hexdigest()


def _arrays(named: dict[str, Any]) -> bytes:
    return safetensors.numpy.save({name: np.asarray(x, order="C") for name, x in named.items()})


def _card(manifest: dict[str, Any]) -> bytes:
    lines = ["---", "library_name: dreaming", "tags: [world-model, gymnasium]", "---", "# A dream"]
    lines += ["", "Play it: `gymnasium.make('dreaming/Dream-v0', path='<this file>')`.", ""]
    for name in ("observation_space", "action_space", "horizon", "versions", "card"):
        lines.append(f"- {name.replace('_', ' ')}: `{json.dumps(manifest[name], sort_keys=True)}`")
    return "\n".join(lines).encode() + b"\n"


def _members(world: World) -> dict[str, bytes]:
    """Every member of the file; the manifest last."""
    named = jax.tree.leaves_with_path(world.params)
    names = [f"{i:03}{jax.tree_util.keystr(path)}" for i, (path, _) in enumerate(named)]
    starts = {name: getattr(world.starts, name) for name in ("o", "a", "elapsed", "valid")}
    members = {
        "params.safetensors": _arrays({n: x for n, (_, x) in zip(names, named, strict=True)}),
        "starts.safetensors": _arrays({**starts, "initial": world.initial}),
    }
    programs = export_programs(world)
    members |= {f"programs/{name}.jax": programs[name] for name in sorted(programs)}
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "observation_space": space_to_json(world.observation_space),
        "action_space": space_to_json(world.action_space),
        "horizon": int(world.horizon),
        "u_max": float(world.u_max) if math.isfinite(world.u_max) else None,
        "model": {name: int(getattr(world.model, name)) for name in SIZES},
        "params": names,
        "card": _finite(world.card),
        "versions": {m.__name__: m.__version__ for m in (jax, np, gymnasium)},
    }
    members["card.md"] = _card(manifest)
    manifest["members"] = {
        name: {"sha256": _sha256(data), "size": len(data)} for name, data in members.items()
    }
    key = _user_key(create=True)
    assert key is not None
    manifest["signature"] = _signature(manifest, key)
    return {**members, "manifest.json": _json(manifest)}


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, LONG_AGO)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
        archive.comment = b"0" * COMMENT
    body = buffer.getvalue()[:-COMMENT]
    return body + _sha256(body).encode()


def write_dream(path: str | os.PathLike, world: World) -> None:
    """Write a world as a `.dream` file, whole or not at all; equal worlds give equal bytes."""
    path = Path(path)
    write_file(path, _zip(_members(world)))
    sync_directory(path.parent)


def _unzip(data: bytes) -> dict[str, bytes]:
    """The members of an intact zip: each listed once, uncompressed, with a safe name."""
    if len(data) <= COMMENT or _sha256(data[:-COMMENT]).encode() != data[-COMMENT:]:
        raise DreamFileError("it is cut short, damaged or no dream file; copy or export it again")
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            if not MEMBER.fullmatch(info.filename) or info.filename in members:
                raise DreamFileError(f"member {info.filename!r} is repeated or badly named")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                raise DreamFileError(f"member {info.filename!r} is compressed or oversized")
            members[info.filename] = archive.read(info)
    return members


def _checked_manifest(members: dict[str, bytes], trust: bool) -> dict[str, Any]:
    """The manifest, after checking its signature (unless `trust`) and the hash of every member."""
    manifest = json.loads(members.pop("manifest.json"))
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise DreamFileError(
            f"schema_version {version}, expected {SCHEMA_VERSION}; update dreaming"
        )
    key = None if trust else _user_key(create=False)
    good = trust or (key and hmac.compare_digest(_signature(manifest, key), manifest["signature"]))
    if not good:
        raise DreamFileError(
            "it was not signed with this user's key, and it holds programs that would run here; "
            "if you know where it comes from, pass trust=True to run them"
        )
    seen = {name: {"sha256": _sha256(x), "size": len(x)} for name, x in members.items()}
    if seen != manifest["members"]:
        raise DreamFileError("its members are not those of its manifest; export it again")
    return manifest


def _world(members: dict[str, bytes], manifest: dict[str, Any]) -> World:
    action_space = space_from_json(manifest["action_space"])
    weights = safetensors.numpy.load(members["params.safetensors"])
    starts: dict[str, Any] = safetensors.numpy.load(members["starts.safetensors"])
    initial = starts.pop("initial")
    size = action_features(action_space).size
    sizes = {"num_actions": size, "action_size": size} | manifest["model"]  # older files lack them
    programs = {Path(name).stem: x for name, x in members.items() if name.endswith(".jax")}
    sizes["window"] = starts["o"].shape[1]
    span = float(manifest["card"].get("value_span", 1.0))
    model = ExportedModel(programs, **sizes, span=span)
    return World(
        model=model,
        params=tuple(jax.numpy.asarray(weights[name]) for name in manifest["params"]),
        observation_space=space_from_json(manifest["observation_space"]),
        action_space=action_space,
        horizon=int(manifest["horizon"]),
        starts=Context(**starts),
        initial=initial,
        u_max=math.inf if manifest["u_max"] is None else float(manifest["u_max"]),
        card=manifest["card"],
        make_dream=ExportedDream,
    )


def load_spaces(path: str | os.PathLike, trust: bool = False) -> tuple[Any, Any]:
    """(observation space, action space) of a `.dream` file, without JAX. `DreamFileError`."""
    manifest = _checked_manifest(_unzip(Path(path).read_bytes()), trust)
    return tuple(space_from_json(manifest[f"{name}_space"]) for name in ("observation", "action"))


def load_world(path: str | os.PathLike, trust: bool = False) -> World:
    """The world of a `.dream` file, or `DreamFileError`.

    `trust=True` also accepts a file that this user did not sign, whose programs are code. Raises
    `EnvError` in a forked process in which it would hang.
    """
    forks.check()
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise DreamFileError(f"it is larger than {MAX_BYTES >> 20} MiB")
        data = Path(path).read_bytes()
        members = _unzip(data)
        manifest = _checked_manifest(members, trust)
        digest = _sha256(data)
        world = _loaded.get(digest)  # envs of the same file share one compiled program
        if world is None:
            _loaded[digest] = world = _world(members, manifest)
        return world
    except DreamFileError as error:
        raise DreamFileError(f"{path}: {error}") from error
    except OSError as error:
        raise DreamFileError(f"{path}: {error.strerror}; give the path of a .dream file") from error
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
        SpaceError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise DreamFileError(f"{path}: not a valid dream file ({reason})") from error
