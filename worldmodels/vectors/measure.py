"""What is measured on a log: normalisers before a fit, the range of latents after it."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from worldmodels.config import ModelConfig
from worldmodels.contexts import observation_scale
from worldmodels.protocol import RowChunk
from worldmodels.support import reward_support, value_bounds, value_support
from worldmodels.vectors.model import VectorModel


def measure_scale(
    o, change, rewards, terminated, *, config: ModelConfig, discount: float, is_number
) -> dict[str, Any]:
    """The normalisers of a log: every number the model needs to speak in real units.

    `o` [N, O] all observation features, `change` [M, O] one-step changes; `rewards` [T] of each
    episode, and whether it `terminated`; `is_number` bool [O]: all others keep their 0 and 1.
    `v_range`, the width of the range that values usually take, is the unit of temperatures.
    """
    usual = value_bounds(rewards, terminated, discount, window=round(1 / (1 - discount)))
    possible = value_bounds(rewards, terminated, discount)
    r_support = reward_support(np.concatenate(rewards), config.reward_bins)
    scale = observation_scale(o, change, is_number) | {
        "o_low": o.min(0),
        "o_high": o.max(0),
        "margin": config.clip_margin,
        "z_low": np.full(config.latent, -1e3),
        "z_high": np.full(config.latent, 1e3),
        "z_std": np.ones(config.latent),
        "reward_support": r_support,
        "r_range": r_support[-1] - r_support[0],
        "v_range": usual[1] - usual[0],
        "value_support": value_support(usual, possible, config.value_bins),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), scale)


def measure_latents(model: VectorModel, params, every: Iterable[RowChunk]):
    """`params` with the range and spread of the log's latents, so that dreams stay inside it."""
    encode = jax.jit(model.encode)
    z = [
        np.asarray(encode(params, rows.o[:, 0], rows.a_past[:, 0], rows.valid[:, 0]))[:count]
        for rows, count in every
    ]
    z, margin = np.concatenate(z), float(params["scale"]["margin"])
    std = z.std(0) + 1e-6
    measured = {"z_low": z.min(0) - margin * std, "z_high": z.max(0) + margin * std, "z_std": std}
    return {"net": params["net"], "scale": params["scale"] | jax.tree.map(jnp.asarray, measured)}
