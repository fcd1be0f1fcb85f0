"""The searches of the online agent, shared out over a mesh of devices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dreaming.agent_config import AgentConfig
from dreaming.puct import make_puct
from dreaming.resets import annealed
from dreaming.search import make_teacher
from dreaming.types import Acted
from worldmodels.efficientzero import ImageModel

EACH, EVERY = PartitionSpec("batch"), PartitionSpec()


def usual_devices(config: AgentConfig) -> list[Any]:
    """All devices there are, but one CPU for small networks, which keep its cores busy alone."""
    small = config.size != "base" and jax.default_backend() == "cpu"
    return jax.devices()[: 1 if small else None]


def make_mesh(devices: Sequence[Any], config: AgentConfig) -> Mesh:
    """As many of the devices as share batches evenly."""
    sequences = config.replay.batch // config.replay.sequence
    parts = math.gcd(len(devices), sequences, config.refresh_batch)
    return Mesh(np.array(devices[:parts]), "batch")


def make_teach(model: ImageModel, config: AgentConfig, updates, gumbel_scale: float) -> Callable:
    """The teacher of a configuration, as `make_teacher` makes it, with the discount of so many
    `updates`."""
    rules = model, model.head, config.search, annealed(config, updates)[1]
    if config.search.teacher == "puct":
        return make_puct(*rules, explore=gumbel_scale > 0)
    return make_teacher(*rules, gumbel_scale)


def make_search(
    model: ImageModel, config: AgentConfig, mesh: Mesh, gumbel_scale: float
) -> Callable[..., Acted]:
    """`search(params, stacks [B, W, H, V, F], key, rows [B], updates) -> Acted`.

    Row i draws from `key` and `rows[i]`, whatever is searched beside it.
    """

    def search(params, frames, key, rows, updates) -> Acted:
        teach = make_teach(model, config, updates, gumbel_scale)

        def part(params, frames, keys) -> Acted:
            z = model.begin(model.encode(params, frames))
            found = teach(params, z, jax.random.wrap_key_data(keys), config.value_span)
            v, _, _ = model.predict(params, z)
            return Acted(found.action, found.pi_search, found.v_search, v)

        return share_out(part, mesh, params, frames, each_key(key, rows))

    return search


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
