"""Snapshots of dreams as bytes: a SHA-256, then safetensors. No pickle, no code."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import safetensors.numpy

from envs.types import DreamFileError

if TYPE_CHECKING:
    from envs.rows import Rows

SCHEMA_VERSION = 2
Randoms = list[tuple[np.random.Generator, Any]]  # generator and the seed it was made from


def _name(index: int) -> str:
    return f"state/{index:03}"


def _identity(rows: Rows) -> dict[str, Any]:
    """What a snapshot must match: the world, the options and the number of dreams."""
    options = repr((rows.options, rows.horizon, rows.num))
    return {"schema_version": SCHEMA_VERSION, "world": rows.world.fingerprint, "options": options}


def pack(rows: Rows, flags: dict[str, np.ndarray], randoms: Randoms) -> bytes:
    """Bytes of the state of `rows`, the flags of their shell and its random generators."""
    state = [] if rows.state is None else jax.tree.leaves(rows.state)
    states = [(random.bit_generator.state, seed) for random, seed in randoms]
    header = json.dumps({**_identity(rows), "randoms": states, "leaves": len(state)}).encode()
    tensors = {_name(i): np.asarray(x, order="C") for i, x in enumerate(state)}
    tensors |= {f"flag/{name}": np.asarray(x, order="C") for name, x in flags.items()}
    body = safetensors.numpy.save({**tensors, "header": np.frombuffer(header, np.uint8)})
    return hashlib.sha256(body).digest() + body


def _generator(state: Any) -> np.random.Generator:
    bits = np.random.PCG64()
    bits.state = state
    return np.random.Generator(bits)


def unpack(rows: Rows, data: bytes) -> tuple[dict[str, np.ndarray], Randoms]:
    """Restore the state of `rows`; returns flags and generators. On an error nothing changes."""
    digest, body = bytes(data[:32]), bytes(data[32:])
    if hashlib.sha256(body).digest() != digest:
        raise DreamFileError("this is no snapshot of a dream, or it is damaged; take a new one")
    try:
        tensors = safetensors.numpy.load(body)
        header = json.loads(tensors.pop("header").tobytes())
        for name, value in _identity(rows).items():
            if header[name] != value:
                raise DreamFileError(
                    f"the snapshot is of another dream: its {name} is {header[name]}, here it is "
                    f"{value}; restore it in an env made from the same file and options"
                )
        randoms = [(_generator(state), seed) for state, seed in header["randoms"]]
        flags = {k.removeprefix("flag/"): x for k, x in tensors.items() if k.startswith("flag/")}
        leaves = [tensors[_name(i)] for i in range(header["leaves"])]
        state = jax.tree.unflatten(rows.structure()[0], leaves) if leaves else None
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        if isinstance(error, DreamFileError):
            raise
        raise DreamFileError(f"the snapshot cannot be read ({error}); take a new one") from error
    rows.state = state
    return flags, randoms
