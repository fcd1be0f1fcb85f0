"""Rows shared out over devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

EACH, EVERY = PartitionSpec("batch"), PartitionSpec()


def each_key(key: jax.Array, rows) -> jax.Array:
    """Raw keys of rows, from a typed one and the number of each."""
    return jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(key, row)))(rows)


def share_out(part: Callable, mesh: Mesh, params, *rows) -> Any:
    """`part(params, *rows)`, each device doing its share of the rows where that is even."""
    if mesh.size == 1 or rows[0].shape[0] % mesh.size:
        return part(params, *rows)
    specs = EVERY, *(EACH for _ in rows)
    shared = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=EACH, check_vma=False)
    return shared(params, *rows)
