"""Old dreams: observations with the rows they were seen with, and what the base said there.

Forgetting is defined on pairs of observation and context. An observation without rows looks the
same in two deployments that want different answers: changing that answer is what learning is.
So old dreams hold the session's skill with rows of other deployments, and the skills that are the
same everywhere with and without rows.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreaming.sessions.divergence import kl
from dreaming.sessions.network import ReaderShape, answer, read, remembered
from dreaming.sessions.pretrain import drawn
from dreaming.sessions.types import OldDreams, Pool


@functools.partial(jax.jit, static_argnums=(1, 4))
def old_dreams(
    params: Any, shape: ReaderShape, pool: Pool, key: jax.Array, count: int
) -> OldDreams:
    """Old dreams of a base on `count` sessions of a pool: half of them with all rows of other days,
    a quarter with a part of these, a quarter without rows."""
    share_key, key = jax.random.split(key)
    part, kind = jax.random.uniform(share_key, (count,)), jnp.arange(count) % 4
    share = jnp.select([kind == 0, kind == 1], [jnp.zeros(count), part], 1.0)
    batch, queries, asked = drawn(pool, key, count, share)
    own = jnp.take_along_axis(batch.rows.o, queries[..., None], 1)
    num_others = batch.others_o.shape[1]
    has_rows = batch.rows.valid.any(-1, keepdims=True)
    weight = jnp.concatenate([has_rows & asked, jnp.ones((count, num_others))], 1)
    o = jnp.concatenate([own, batch.others_o], 1)
    memory = remembered(params, shape, read(params, shape, batch.rows))
    pi, _ = answer(params, shape, memory, o)
    return OldDreams(batch.rows, o, jax.nn.log_softmax(pi), weight.astype(jnp.float32))


def retention_loss(params: Any, shape: ReaderShape, old: OldDreams) -> Float[Array, ""]:
    """The mean KL(base || params) over old dreams; 0 where none of them has a weight."""
    memory = remembered(params, shape, read(params, shape, old.rows))
    pi, _ = answer(params, shape, memory, old.o)
    each = kl(old.log_pi, jax.nn.log_softmax(pi)) * old.weight
    return each.sum() / jnp.maximum(old.weight.sum(), 1.0)  # weights are 0 or 1
