"""Students in dreams: walks, returns and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class DreamEpisodes:
    """P policies in the same n dreams: their starts, members and chance are drawn once."""

    returns: Float[np.ndarray, "P n"]  # float64, only what was earned before the dreamed end
    trusted: Float[np.ndarray, " P"]  # share of the steps whose uncertainty is at most u_max
    steps: int  # dreamed steps in all


def dream_episodes(world: Any, students: Sequence[Any], key: Any, episodes: int) -> DreamEpisodes:
    """Each student in `episodes` dreams of `world` from logged starts, to its horizon.

    `key` is a typed key.
    """
    import jax.numpy as jnp

    from dreaming.student.student import act, head_of

    dream, head = world.dream("member"), head_of(world.action_space)
    start_key, row_key, walk_key = jax.random.split(key, 3)
    firsts = np.flatnonzero(world.initial)
    drawn = np.asarray(jax.random.choice(start_key, firsts, (episodes,)))
    for_each = lambda x: jnp.concatenate([jnp.asarray(x)] * len(students))
    context = jax.tree.map(lambda x: for_each(x[drawn]), world.starts)
    rows = for_each(jax.random.key_data(jax.random.split(row_key, episodes)))

    @jax.jit
    def walk(params, students, context, rows, key):
        def step(carry, key):
            state, legal, alive = carry
            keys = jax.random.key_data(jax.random.split(key, episodes))
            asked = state.context, legal
            of = lambda i: jax.tree.map(lambda x: x[i * episodes :][:episodes], asked)
            answer = lambda who, context, legal: act(who, context, keys, head, legal)
            a = jnp.concatenate([answer(who, *of(i)) for i, who in enumerate(students)])
            state, seen = dream.step(params, state, a)
            trusted = alive & (seen.uncertainty <= world.u_max)
            going = alive & ~seen.terminated
            return (state, seen.legal, going), (alive * seen.r, alive, trusted)

        state, begun = dream.initial(params, context, rows)
        start = state, begun.legal, jnp.ones(len(rows), bool)
        sums = jax.lax.scan(step, start, jax.random.split(key, world.horizon))[1]
        return jax.tree.map(lambda x: x.sum(0).reshape(len(students), episodes), sums)

    returns, steps, trusted = walk(world.params, tuple(students), context, rows, walk_key)
    steps, trusted = (np.asarray(x, np.float64).sum(1) for x in (steps, trusted))
    return DreamEpisodes(np.asarray(returns, np.float64), trusted / steps, int(steps.sum()))


def dream_returns(world: Any, student: Any, key: Any, episodes: int) -> Float[np.ndarray, " n"]:
    """Returns of one student in `episodes` dreams; see `dream_episodes`."""
    return dream_episodes(world, (student,), key, episodes).returns[0]
