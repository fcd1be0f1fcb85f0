"""Sharing rows out over devices: a mesh of one axis, shardings, and functions of rows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "rows"
EACH, EVERY = PartitionSpec(AXIS), PartitionSpec()


def make_mesh(devices: Sequence[Any], *rows: int) -> Mesh:
    """A mesh of the most devices that divide each of the numbers `rows` evenly (their gcd)."""
    parts = math.gcd(len(devices), *rows)
    return Mesh(np.array(devices[:parts]), AXIS)


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding in which every device holds the whole array."""
    return NamedSharding(mesh, EVERY)


def spread(mesh: Mesh) -> NamedSharding:
    """The sharding in which every device holds an equal share of the rows."""
    return NamedSharding(mesh, EACH)


def each_key(key: jax.Array, rows) -> jax.Array:
    """Raw keys [B, 2] of rows numbered `rows` [B], folded from one typed key."""
    return jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(key, row)))(rows)


def share_out(part: Callable, mesh: Mesh, params, *rows) -> Any:
    """`part(params, *rows)` with rows shared out over the mesh, if it divides them evenly."""
    if mesh.size == 1 or jax.tree.leaves(rows)[0].shape[0] % mesh.size:
        return part(params, *rows)
    specs = EVERY, *(EACH for _ in rows)
    shared = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=EACH, check_vma=False)
    return shared(params, *rows)
