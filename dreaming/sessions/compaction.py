"""The baseline that changes no weights: a few rows of a session are kept as context.

Rows are chosen one after the other; each time the one with which the policy comes nearest to what
it does with all rows, over the session's own observations: the least mean KL(all || kept).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.sessions.divergence import kl
from dreaming.sessions.network import ReaderShape, pi_logits, read
from dreaming.sessions.types import Memory, Rows


@functools.lru_cache(maxsize=4)
def _costs(shape: ReaderShape) -> Any:
    """Compiled: the cost [M] of keeping each row in addition to `kept` [M]."""

    @jax.jit
    def costs(params, rows: Rows, kept):
        memory = read(params, shape, rows)
        look = lambda valid: jax.nn.log_softmax(
            pi_logits(params, shape, Memory(memory.keys, memory.values, valid), rows.o)
        )
        whole = look(rows.valid)

        def cost(row):
            each = kl(whole, look(kept | (jnp.arange(kept.size) == row)))
            return (each * rows.valid).sum() / rows.valid.sum()

        return jax.lax.map(cost, jnp.arange(kept.size), batch_size=20)

    return costs


def compact(params: Any, shape: ReaderShape, rows: Rows, count: int) -> Rows:
    """The `count` rows (or all, if there are no more) that say most of what all rows say."""
    rows = jax.tree.map(jnp.asarray, rows)
    valid, kept = np.asarray(rows.valid), np.zeros(rows.valid.shape, bool)
    for _ in range(min(count, int(valid.sum()))):
        costs = np.asarray(_costs(shape)(params, rows, kept))
        kept[np.where(valid & ~kept, costs, np.inf).argmin()] = True
    return jax.tree.map(lambda x: np.asarray(x)[kept], rows)
