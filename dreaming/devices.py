"""Rows shared out over devices: a mesh of one axis, and functions of rows spread over it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "rows"
EACH, EVERY = PartitionSpec(AXIS), PartitionSpec()


def make_mesh(devices: Sequence[Any], *rows: int) -> Mesh:
    """As many of the devices as share each of these numbers of rows evenly."""
    parts = math.gcd(len(devices), *rows)
    return Mesh(np.array(devices[:parts]), AXIS)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Where every device of the mesh holds all of an array."""
    return NamedSharding(mesh, EVERY)


def spread(mesh: Mesh) -> NamedSharding:
    """Where every device of the mesh holds its share of the rows."""
    return NamedSharding(mesh, EACH)


def each_key(key: jax.Array, rows) -> jax.Array:
    """Raw keys of rows, from a typed one and the number of each."""
    return jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(key, row)))(rows)


def share_out(part: Callable, mesh: Mesh, params, *rows) -> Any:
    """`part(params, *rows)`, each device doing its share of the rows where that is even."""
    if mesh.size == 1 or jax.tree.leaves(rows)[0].shape[0] % mesh.size:
        return part(params, *rows)
    specs = EVERY, *(EACH for _ in rows)
    shared = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=EACH, check_vma=False)
    return shared(params, *rows)
