"""Rehearsal: the student walks the dream from real states, a teacher looks ahead where it went,
and at logged states themselves."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreaming.config import RehearseConfig
from dreaming.observe.replay import contexts
from dreaming.search.teachers import penalised
from dreaming.student.student import student_logits
from dreaming.types import Rehearsal, ReplayState, Walks
from envs.dream import Dream
from envs.types import Context
from worldmodels.actions import ActionHead
from worldmodels.loops import avoids_loops
from worldmodels.targets import lambda_returns


def make_mesh(config: RehearseConfig, convolves: bool = False) -> Mesh:
    """The devices that share the walks out: as many as share them evenly.

    On a CPU with virtual devices a search would else use one core, whatever its batch. Convolutions
    use all cores of one device, and those of several would wait for each other's threads.
    """
    most = 1 if avoids_loops(convolves) else jax.device_count()
    parts = math.gcd(most, math.gcd(config.dreams, config.taught))
    return Mesh(np.array(jax.devices()[:parts]), "walks")


def make_rehearse(
    model: Any,
    head: ActionHead,
    teach: Callable,
    config: RehearseConfig,
    discount: float,
    penalty: float,
    mesh: Mesh | None = None,
):
    """`rehearse(params, slow_params, student, replay, walks, key) -> Rehearsal`, a pure function.

    A share of the walks goes on from where `walks` got to, the others begin at logged states.
    Rewards are lowered by `penalty`, as the teacher's are. `slow_params` value the states of a
    walk; `params` serve the teacher, who speaks of states of the walks and, `config.real` of them,
    of logged ones. The work is shared out over `mesh`.
    """
    mesh = mesh or make_mesh(config)
    parts = mesh.size
    taught = config.taught // parts
    walk = make_walk(model, head, config, discount, penalty)
    logged = round((config.real or 0.0) * taught)

    def part(params, slow_params, student, context: Context, real: Context, key) -> Rehearsal:
        """What one device does: its walks, their value targets, and its share of the teaching."""
        keys = jax.random.split(jax.random.wrap_key_data(key[0]), 4)
        walk_key, pick_key, teach_key, end_key = keys
        last, z, seen, r, continuation = walk(params, student, context, walk_key)
        joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), z, last.z)
        v = jax.vmap(lambda z: model.predict(slow_params, _mean(z))[0])(joined)
        v_target = lambda_returns(r, discount * continuation, v, config.lam)
        reached = jnp.cumprod(jnp.concatenate([jnp.ones_like(r[:1]), continuation[:-1]]), axis=0)
        z, seen, weight = _mean(_flat(z)), _flat(seen), reached.reshape(-1)
        picked = jax.random.choice(pick_key, weight.size, (taught - logged,), replace=False)
        at = lambda tree: jax.tree.map(lambda x: x[picked], tree)
        taught_z, taught_context, taught_weight = at(z), at(seen), at(weight)
        if logged:
            both = lambda one, other: jax.tree.map(lambda *x: jnp.concatenate(x), one, other)
            taught_z = both(model.root(params, real), taught_z)
            taught_context = both(real, taught_context)
            taught_weight = both(jnp.ones(logged), taught_weight)
        return Rehearsal(
            z=z,
            v_target=v_target.reshape(-1),
            weight=weight,
            taught_z=taught_z,
            taught_context=taught_context,
            taught_weight=taught_weight,
            taught=teach(params, taught_z, teach_key, model.value_span(params)),
            last=last.context,
            goes_on=jax.random.bernoulli(end_key, jnp.prod(continuation, axis=0)),
        )

    def rehearse(params, slow_params, student, replay: ReplayState, walks: Walks, key) -> Rehearsal:
        start_key, anew_key, key = jax.random.split(key, 3)
        context = drawn(replay, start_key, config.dreams, model.window)
        real = drawn(replay, jax.random.fold_in(start_key, 1), logged * parts, model.window)
        goes_on = walks.goes_on & (jnp.arange(config.dreams) < config.going_on * config.dreams)
        goes_on &= jax.random.bernoulli(anew_key, 1 - walks.restart, goes_on.shape)
        either = lambda x, y: jnp.where(_column(goes_on, x), x, y)
        context = jax.tree.map(either, walks.last, context)
        keys = jax.random.key_data(jax.random.split(key, parts))
        if parts == 1:
            return part(params, slow_params, student, context, real, keys)
        every, each = PartitionSpec(), PartitionSpec("walks")
        specs = (every, every, every, each, each, each)
        shared = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)(
            params, slow_params, student, context, real, keys
        )
        whole = NamedSharding(mesh, every)
        return jax.lax.with_sharding_constraint(shared, whole)

    return rehearse


def make_walk(
    model: Any, head: ActionHead, config: RehearseConfig, discount: float, penalty: float
) -> Callable:
    """`walk(params, student, context [D], key)`: the student's own walks from contexts.

    The last dream states [D], then by step the latent states and contexts [H, D], rewards lowered
    by `penalty` and continuations [H, D].
    """
    dream = Dream(model, sampling=config.sampling)

    def walk(params, student, context: Context, key):
        count = context.o.shape[0]
        action_key, dream_key = jax.random.split(key)
        rows = jax.random.key_data(jax.random.split(dream_key, count))
        state, begun = dream.initial(params, context, rows)

        def step(carry, keys):
            state, legal = carry
            pi = head.masked(student_logits(student, state.context), legal)
            after, seen = dream.step(params, state, head.sample(pi, keys))
            r = penalised(seen, penalty, discount, model.value_span(params))
            return (after, seen.legal), (state.z, state.context, r, seen.continuation)

        step_keys = jax.random.split(action_key, (config.horizon, count))
        start = state, begun.legal
        (last, _), walked = jax.lax.scan(step, start, jax.random.key_data(step_keys))
        return last, *walked

    return walk


def drawn(replay: ReplayState, key, count: int, window: int) -> Context:
    """So many logged states, uniformly drawn with replacement; leaves [count, W, ...]."""
    start = jax.random.randint(key, (count,), 0, replay.num_starts)
    return contexts(replay, replay.starts[start], window)


def _column(flag, like):
    return flag.reshape(-1, *(1,) * (like.ndim - 1))


def _mean(z: Any) -> Any:
    """The same states, carried on by the mean of the members."""
    return dataclasses.replace(z, member=jnp.full_like(z.member, -1))


def _flat(tree: Any) -> Any:
    """Leaves [H, D, ...] as [H * D, ...]."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
