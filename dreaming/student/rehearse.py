"""Rehearsal: the student acts in the dream from logged states (a walk), and a teacher searches at
states of these walks and at logged states."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from dreaming.config import RehearseConfig
from dreaming.devices import everywhere, make_mesh, share_out
from dreaming.observe.replay import contexts
from dreaming.search.teachers import penalised
from dreaming.student.network import student_logits
from dreaming.student.walks import walk_dream
from dreaming.types import Rehearsal, ReplayState, Walks
from envs.dream import Dream
from envs.types import Context
from worldmodels.actions import ActionHead
from worldmodels.loops import avoids_loops
from worldmodels.targets import lambda_returns


def rehearsal_mesh(config: RehearseConfig, convolves: bool = False) -> Mesh:
    """A mesh of the most devices that divide walks and taught states evenly.

    On a CPU a search on one virtual device uses one core, whatever its batch. With convolutions a
    CPU is one device: it uses all cores, and several would wait for each other's threads.
    """
    most = 1 if avoids_loops(convolves) else None
    return make_mesh(jax.devices()[:most], config.dreams, config.taught)


def make_rehearse(
    model: Any,
    head: ActionHead,
    teach: Callable,
    config: RehearseConfig,
    *,
    discount: float,
    penalty: float,
    mesh: Mesh | None = None,
) -> Callable[..., Rehearsal]:
    """`rehearse(params, slow_params, student, replay, walks, key) -> Rehearsal`, a pure function.

    A share of the walks continues the last `walks`, the others begin at logged states. `penalty`
    lowers the rewards of walks and teacher. `slow_params` give the values of the walks' states,
    `params` are those of the teacher. It searches at `config.taught` states, a share `config.real`
    of them logged, the others from the walks. The work is shared out over `mesh`.
    """
    mesh = mesh or rehearsal_mesh(config)
    taught = config.taught // mesh.size
    logged = round((config.real or 0.0) * taught)
    walk = make_walk(model, head, config, discount, penalty)
    values = lambda slow_params, walked: walk_values(
        model, slow_params, walked, discount, config.lam
    )

    def part(weights, context: Context, real: Context, key) -> Rehearsal:
        """The part of one device: its walks, their value targets, and its searches."""
        params, slow_params, student = weights
        keys = jax.random.split(jax.random.wrap_key_data(key[0]), 4)
        walk_key, pick_key, teach_key, end_key = keys
        last, walked = walk(params, student, context, walk_key)
        v_target, reached = values(slow_params, walked)
        z, seen, weight = _mean(_flat(walked.z)), _flat(walked.context), reached.reshape(-1)
        picked = jax.random.choice(pick_key, weight.size, (taught - logged,), replace=False)
        at = jax.tree.map(lambda x: x[picked], (z, seen, weight))
        if logged:
            at = _joined((model.root(params, real), real, jnp.ones(logged)), at)
        taught_z, taught_context, taught_weight = at
        return Rehearsal(
            z=z,
            v_target=v_target.reshape(-1),
            weight=weight,
            taught_z=taught_z,
            taught_context=taught_context,
            taught_weight=taught_weight,
            taught=teach(params, taught_z, teach_key, model.value_span(params)),
            last=last.context,
            goes_on=jax.random.bernoulli(end_key, jnp.prod(walked.continuation, axis=0)),
        )

    def rehearse(params, slow_params, student, replay: ReplayState, walks: Walks, key) -> Rehearsal:
        start_key, real_key, anew_key, key = jax.random.split(key, 4)
        context = drawn(replay, start_key, config.dreams, model.window)
        real = drawn(replay, real_key, logged * mesh.size, model.window)
        context = begun(context, walks, config, anew_key)
        keys = jax.random.key_data(jax.random.split(key, mesh.size))
        found = share_out(part, mesh, (params, slow_params, student), context, real, keys)
        if mesh.size == 1:
            return found
        return jax.lax.with_sharding_constraint(found, everywhere(mesh))

    return rehearse


def begun(context: Context, walks: Walks, config: RehearseConfig, key) -> Context:
    """First contexts of D walks: a share `config.going_on` continues the last walks, except where
    these ended or a restart is drawn; the others begin at `context` [D]."""
    count = walks.goes_on.shape[0]
    goes_on = walks.goes_on & (jnp.arange(count) < config.going_on * count)
    goes_on &= jax.random.bernoulli(key, 1 - config.restart, goes_on.shape)
    either = lambda x, y: jnp.where(_column(goes_on, x), x, y)
    return jax.tree.map(either, walks.last, context)


class Walked(NamedTuple):
    """H steps of D walks, and the states after the last step."""

    z: Any  # [H, D] before each step
    context: Context  # [H, D]
    r: Float[Array, "H D"]  # minus the cost of uncertainty
    continuation: Float[Array, "H D"]
    last_z: Any  # [D]


def walk_values(model, slow_params, walked: Walked, discount: float, lam: float):
    """(TD(lambda) targets [H, D], probability [H, D] that the walk gets there without ending)."""
    joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), walked.z, walked.last_z)
    v = jax.vmap(lambda z: model.predict(slow_params, _mean(z))[0])(joined)
    r, continuation = walked.r, walked.continuation
    v_target = lambda_returns(r, discount * continuation, v, lam)
    reached = jnp.cumprod(jnp.concatenate([jnp.ones_like(r[:1]), continuation[:-1]]), axis=0)
    return v_target, reached


def make_walk(
    model: Any, head: ActionHead, config: RehearseConfig, discount: float, penalty: float
) -> Callable:
    """`walk(params, student, context [D], key) -> (last dream states [D], Walked)`: the student
    takes `config.horizon` actions from each context, in a share `config.greedy` of the walks its
    most probable ones, else drawn; rewards are lowered by `penalty`."""
    dream = Dream(model, sampling=config.sampling)

    def walk(params, student, context: Context, key):
        count = context.o.shape[0]
        action_key, dream_key = jax.random.split(key)
        rows = jax.random.key_data(jax.random.split(dream_key, count))
        pi = lambda context, legal: head.masked(student_logits(student, context), legal)
        cost = lambda seen: penalised(seen, penalty, discount, model.value_span(params))
        greedy = evenly(config.greedy, count)[:, None]
        either = lambda pi, keys: jnp.where(greedy, head.mode(pi), head.sample(pi, keys))
        step_keys = jax.random.split(action_key, (config.horizon, count))
        last, walked = walk_dream(
            dream,
            params,
            dream.initial(params, context, rows),
            jax.random.key_data(step_keys),
            draw=lambda context, legal, keys: either(pi(context, legal), keys),
            keep=lambda step: (
                step.before.z,
                step.before.context,
                cost(step.seen),
                step.seen.continuation,
            ),
        )
        return last, Walked(*walked, last_z=last.z)

    return walk


def evenly(share: float, count: int) -> Bool[np.ndarray, " count"]:
    """A share of so many, evenly spread."""
    return np.diff(np.floor(share * np.arange(count + 1))) > 0


def drawn(replay: ReplayState, key, count: int, window: int) -> Context:
    """`count` logged states, uniformly drawn with replacement; leaves [count, W, ...]."""
    start = jax.random.randint(key, (count,), 0, replay.num_starts)
    return contexts(replay, replay.starts[start], window)


def _column(flag, like):
    return flag.reshape(-1, *(1,) * (like.ndim - 1))


def _mean(z: Any) -> Any:
    """The same latent states, for the mean of the members (`member` = -1)."""
    return dataclasses.replace(z, member=jnp.full_like(z.member, -1))


def _joined(one: Any, other: Any) -> Any:
    """The rows of `one`, then those of `other`."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), one, other)


def _flat(tree: Any) -> Any:
    """Leaves [H, D, ...] as [H * D, ...]."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
