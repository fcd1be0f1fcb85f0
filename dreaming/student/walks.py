"""Students in dreams: walks, and the returns of dreamed episodes."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dreaming.student.network import act, head_of
from envs.dream import DreamState, DreamStep, World
from worldmodels.actions import ActionHead


class WalkStep(NamedTuple):
    """One step of D walks: the argument of `keep` in `walk_dream`."""

    before: DreamState
    seen: DreamStep  # what the step showed
    alive: Bool[Array, " D"]  # no dream had ended before the step
    now: Any  # the step's row of `times`


def walk_dream(
    dream: Any,
    params: Any,
    begun: tuple[DreamState, DreamStep],
    times: Any,
    *,
    draw: Callable,
    keep: Callable[[WalkStep], Any],
) -> tuple[DreamState, Any]:
    """Step D dreams once per row of `times`: (their last state, `keep(step)` stacked over steps).

    `begun` is the result of `dream.initial`. `draw(context, legal, now)` chooses the actions, where
    `now` is the step's row of `times`.
    """

    def step(carry, now):
        before, legal, alive = carry
        after, seen = dream.step(params, before, draw(before.context, legal, now))
        kept = keep(WalkStep(before, seen, alive, now))
        return (after, seen.legal, alive & ~seen.terminated), kept

    state, first = begun
    start = state, first.legal, jnp.ones(first.terminated.shape, bool)
    (last, _, _), kept = jax.lax.scan(step, start, times)
    return last, kept


@dataclass(frozen=True)
class DreamEpisodes:
    """P policies in n dreams each, with the same starts, members and random keys."""

    returns: Float[np.ndarray, "P n"]  # float64, rewards up to the end of the dreamed episode
    trusted: Float[np.ndarray, " P"]  # share of the steps whose uncertainty is at most u_max
    steps: int  # dreamed steps in all


def dream_episodes(
    world: World, students: Sequence[Any], key: jax.Array, episodes: int
) -> DreamEpisodes:
    """Each student in `episodes` dreams of `world` from logged starts, to its horizon.

    `key` is a typed key.
    """
    dream, head = world.dream("member"), head_of(world.action_space)
    start_key, row_key, walk_key = jax.random.split(key, 3)
    firsts = np.flatnonzero(world.initial)
    drawn = np.asarray(jax.random.choice(start_key, firsts, (episodes,)))
    for_each = lambda x: jnp.concatenate([jnp.asarray(x)] * len(students))
    context = jax.tree.map(lambda x: for_each(x[drawn]), world.starts)
    rows = for_each(jax.random.key_data(jax.random.split(row_key, episodes)))

    @jax.jit
    def walk(params, students, context, rows, key):
        draw = lambda context, legal, key: acts_of_each(students, context, legal, key, head)
        keep = lambda step: (
            step.alive * step.seen.r,
            step.alive,
            step.alive & (step.seen.uncertainty <= world.u_max),
        )
        begun, times = dream.initial(params, context, rows), jax.random.split(key, world.horizon)
        _, sums = walk_dream(dream, params, begun, times, draw=draw, keep=keep)
        return jax.tree.map(lambda x: x.sum(0).reshape(len(students), episodes), sums)

    returns, steps, trusted = walk(world.params, tuple(students), context, rows, walk_key)
    steps, trusted = (np.asarray(x, np.float64).sum(1) for x in (steps, trusted))
    return DreamEpisodes(np.asarray(returns, np.float64), trusted / steps, int(steps.sum()))


def acts_of_each(students: Sequence[Any], context: Any, legal: Any, key: Any, head: ActionHead):
    """Actions [P * n, A] of P students, n consecutive rows each; all use the same n keys."""
    episodes = len(legal) // len(students)
    keys = jax.random.key_data(jax.random.split(key, episodes))
    of = lambda i: jax.tree.map(lambda x: x[i * episodes :][:episodes], (context, legal))
    answer = lambda who, context, legal: act(who, context, keys, head, legal)
    return jnp.concatenate([answer(who, *of(i)) for i, who in enumerate(students)])


def dream_returns(
    world: World, student: Any, key: jax.Array, episodes: int
) -> Float[np.ndarray, " n"]:
    """Returns of one student in `episodes` dreams; see `dream_episodes`."""
    return dream_episodes(world, (student,), key, episodes).returns[0]


def limited_dreams(
    world: World, policy: Any, context: Any, key: jax.Array, limits: Int[np.ndarray, " D"]
) -> tuple[Float[np.ndarray, " D"], Int[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """(returns, lengths, members) of D dreams from `context`, at most `limits` steps long each.

    The policy draws as it does where it is deployed.
    """
    row_key, walk_key = jax.random.split(key)
    rows = jax.random.key_data(jax.random.split(row_key, limits.size))
    rules = {"head": head_of(world.action_space), "steps": int(limits.max())}
    inputs = world.params, policy, context, (rows, walk_key, limits)
    found = _limited(world.dream(), *inputs, **rules)
    returns, lengths, members = (np.asarray(x) for x in found)
    return returns.astype(np.float64), lengths.astype(np.int64), members.astype(np.int64)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("head", "steps"))
def _limited(dream, params, policy, context, drawn, *, head: ActionHead, steps: int):
    rows, key, limits = drawn

    def draw(context, legal, now):
        keys = jax.random.key_data(jax.random.split(now[0], limits.size))
        return act(policy, context, keys, head, legal)

    def keep(step: WalkStep):
        counts = step.alive & (step.now[1] < limits)
        return counts * step.seen.r, counts

    begun = dream.initial(params, context, rows)
    times = jax.random.split(key, steps), jnp.arange(steps)
    r, counts = walk_dream(dream, params, begun, times, draw=draw, keep=keep)[1]
    return r.sum(0), counts.sum(0), begun[1].member
