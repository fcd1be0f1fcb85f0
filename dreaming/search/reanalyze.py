"""Reanalysis: a search at every real state of the log, once per world, cached beside its rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreaming.config import SearchConfig
from dreaming.observe.replay import contexts
from dreaming.search.teachers import make_teacher
from dreaming.types import ReplayState
from envs.dream import World
from worldmodels.actions import ActionHead

ROWS = 1024  # states searched per compiled call


def reanalyze(
    world: World | None, head: ActionHead, search: SearchConfig, key: jax.Array, replay: ReplayState
) -> ReplayState:
    """`replay` with policy and value targets from a search in `world` at every row.

    Without a world the replay stays as it is. A later round fits its model to these targets rather
    than to the logged actions and returns (MuZero Reanalyse). Terminal rows have value 0. `key` is
    a typed key.
    """
    if world is None:
        return replay
    searched = compiled_searches(world.model, head, search, world.card["discount"])
    count = replay.o.shape[0]
    parts = -(-count // ROWS)
    rows = jnp.minimum(jnp.arange(parts * ROWS), count - 1).reshape(parts, ROWS)
    results = [
        searched(world.params, replay, part, part_key)
        for part, part_key in zip(rows, jax.random.split(key, parts), strict=True)
    ]
    pi, v = (np.concatenate(x)[:count] for x in zip(*results, strict=True))
    last = np.asarray(replay.last)
    ended = np.asarray(replay.terminated)[np.maximum(last - 1, 0)] & (last == np.arange(count))
    if head.kind == "box":  # a Gaussian keeps imitating the logged actions
        pi = replay.pi_target
    return replay.replace(
        pi_target=jnp.where(ended[:, None], 0.0, pi),
        v_search=jnp.where(ended, 0.0, v),
        searched=jnp.asarray(~ended),
    )


@functools.lru_cache(maxsize=8)
def compiled_searches(
    model: Any, head: ActionHead, search: SearchConfig, discount: float
) -> Callable:
    """`searched(params, replay, rows, key) -> (pi_search, v_search)`; cached, compiled once."""
    teach = make_teacher(model, head, search, discount)

    @jax.jit
    def searched(params, replay, rows, key):
        z = model.root(params, contexts(replay, rows, model.window))
        result = teach(params, z, key, model.value_span(params))
        return result.pi_search, result.v_search

    return searched
