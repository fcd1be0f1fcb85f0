"""The searches of the online agent, shared out over a mesh of devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dreaming.devices import each_key, make_mesh, share_out
from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.resets import annealed
from dreaming.efficientzero.types import Acted
from dreaming.search.puct import make_puct
from dreaming.search.teachers import make_teacher
from worldmodels.frames.model import FrameModel


def usual_devices(config: AgentConfig) -> list[Any]:
    """All devices; but one CPU device for small networks, which already use all cores."""
    small = config.size != "base" and jax.default_backend() == "cpu"
    return jax.devices()[: 1 if small else None]


def agent_mesh(devices: Sequence[Any], config: AgentConfig) -> Mesh:
    """A mesh of the most devices that divide both the batch and `refresh_batch` evenly."""
    sequences = config.replay.batch // config.replay.sequence
    return make_mesh(devices, sequences, config.refresh_batch)


def make_teach(model: FrameModel, config: AgentConfig, updates, gumbel_scale: float) -> Callable:
    """The configured teacher (see `make_teacher`), with the annealed discount after `updates`
    updates."""
    rules = model, model.head, config.search, annealed(config, updates)[1]
    if config.search.teacher == "puct":
        return make_puct(*rules, explore=gumbel_scale > 0)
    return make_teacher(*rules, gumbel_scale)


def make_search(
    model: FrameModel, config: AgentConfig, mesh: Mesh, gumbel_scale: float
) -> Callable[..., Acted]:
    """`search(params, stacks [B, W, H, V, F], key, rows [B], updates) -> Acted`.

    Row i draws from `key` and `rows[i]` alone, so its result does not depend on the other rows.
    """

    def search(params, frames, key, rows, updates) -> Acted:
        teach = make_teach(model, config, updates, gumbel_scale)

        def part(params, frames, keys) -> Acted:
            params = model.lowered(params)  # once, not in every simulation
            z = model.begin(model.encode(params, frames))
            found = teach(params, z, jax.random.wrap_key_data(keys), config.value_span)
            v, _, _ = model.predict(params, z)
            return Acted(found.action, found.pi_search, found.v_search, v)

        return share_out(part, mesh, params, frames, each_key(key, rows))

    return search
