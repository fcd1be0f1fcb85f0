"""Distillation: the teacher's whole distribution becomes the student's, and the model's own heads
learn what the rehearsal found, so that the next search starts from there."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from dreaming.config import DistillConfig, RehearseConfig, SearchConfig
from dreaming.log import Log
from dreaming.physics import finite
from dreaming.policy import fresh_student, network, student_logits
from dreaming.rehearse import make_rehearse
from dreaming.search import make_teacher
from dreaming.types import DistillState, Rehearsal, ReplayState
from envs.dream import World

CHUNK = 20  # rehearsals per compiled call, and per progress line


def divergence(pi: Float[Array, "*B N"], logits: Float[Array, "*B N"]) -> Float[Array, "*B"]:
    """KL(pi || softmax(logits)) over the whole action set."""
    log_pi = jnp.log(jnp.maximum(pi, 1e-9))
    return jnp.sum(pi * (log_pi - jax.nn.log_softmax(logits)), axis=-1)


def distill_loss(trained, model, params, batch: dict, incumbent, anchor: float):
    """KL(teacher || student) + anchor KL(incumbent || student) + the planner's own heads."""
    student, heads = trained
    weight = batch["taught_weight"]
    mean = lambda x: jnp.sum(x * weight) / (jnp.sum(weight) + 1e-6)
    logits = student_logits(student, batch["context"])
    terms = {"student_loss": mean(divergence(batch["pi"], logits))}
    terms |= model.heads_loss(
        model.with_heads(params, heads),
        *(batch[name] for name in ("z", "v", "weight", "taught_z", "pi", "taught_weight")),
    )
    if incumbent is not None:
        old = jax.nn.softmax(student_logits(incumbent, batch["context"]))
        terms["anchor_loss"] = anchor * mean(divergence(old, logits))
    return sum(terms.values()), {f"distill/{name}": term for name, term in terms.items()}


def make_optimiser(config: DistillConfig, iterations: int) -> optax.GradientTransformation:
    """Adam with a cosine decay over the whole rehearsal; the student's normalisers stay."""
    steps = max(1, iterations * config.minibatches)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.05)),
    )


def init_distill(model, params, student, optimiser, key: jax.Array) -> DistillState:
    """Before the first rehearsal: heads that know nothing. `key` is a typed key."""
    head_key, key = jax.random.split(key)
    heads = model.fresh_heads(params, head_key)
    return DistillState(
        student=student,
        heads=heads,
        slow_heads=heads,
        opt_state=optimiser.init((student["layers"], heads)),
        key=jax.random.key_data(key),
        iterations=jnp.int32(0),
    )


def blank_distill(
    log: Log, world: World, rehearse: RehearseConfig, config: DistillConfig
) -> DistillState:
    """The structure of what `practise` returns, without its numbers."""
    optimiser = make_optimiser(config, rehearse.iterations)

    def start():
        key = jax.random.key(0)
        student = fresh_student(log, world.model.window, config.width, key)
        return init_distill(world.model, world.params, student, optimiser, key)

    return jax.eval_shape(start)


def practise(
    log: Log,
    world: World,
    search: SearchConfig,
    rehearse: RehearseConfig,
    config: DistillConfig,
    incumbent: Any,
    key: jax.Array,
    update: Callable,
) -> DistillState:
    """Rehearse in the dream of `world` and distil, `rehearse.iterations` times.

    `incumbent` are the parameters of a student to begin from and to stay near, or None.
    `update(iterations, **metrics)` is called after each chunk.
    """
    model, discount = world.model, world.card["discount"]
    teach = make_teacher(model, search, discount)
    walk = make_rehearse(model, teach, rehearse, discount, search.penalty)
    chunk = math.gcd(CHUNK, rehearse.iterations)
    advance = make_distill(model, walk, config, rehearse.iterations, chunk)
    student_key, key = jax.random.split(key)
    fresh = fresh_student(log, model.window, config.width, student_key)
    student = fresh if incumbent is None else network(incumbent)
    student = student | {"greedy": jnp.array(True)}
    optimiser = make_optimiser(config, rehearse.iterations)
    state = init_distill(model, world.params, student, optimiser, key)
    # What the program gives back lies on every device: begin there too, or it compiles twice.
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), "walks"), PartitionSpec())
    place = lambda tree: jax.device_put(tree, everywhere)
    state, params, replay = place(state), place(world.params), place(log.replay())
    previous = None
    for _ in range(rehearse.iterations // chunk):
        state, metrics = advance(state, params, replay, incumbent)
        if previous is not None:  # of the chunk before: the device never waits for the host
            update(chunk, **finite(previous))
        previous = metrics
    update(chunk, **finite(previous))
    return state


def make_distill(
    model: Any,
    rehearse: Callable[..., Rehearsal],
    config: DistillConfig,
    iterations: int,
    chunk: int,
):
    """`practise(state, params, replay, incumbent) -> (state, metrics)`: `chunk` rounds of rehearse,
    then `minibatches` gradient steps on it, in one compiled program."""
    optimiser = make_optimiser(config, iterations)

    def gradient_step(carry, batch, params, incumbent):
        state = carry

        def loss_of(trained):
            layers, heads = trained
            student = state.student | {"layers": layers}
            return distill_loss((student, heads), model, params, batch, incumbent, config.anchor)

        trained = (state.student["layers"], state.heads)
        grads, metrics = jax.grad(loss_of, has_aux=True)(trained)
        updates, opt_state = optimiser.update(grads, state.opt_state, trained)
        new: Any = optax.apply_updates(trained, updates)
        layers, heads = new
        slow = optax.incremental_update(heads, state.slow_heads, 1 - config.target_decay)
        state = state.replace(
            student=state.student | {"layers": layers},
            heads=heads,
            slow_heads=slow,
            opt_state=opt_state,
        )
        return state, metrics

    def iteration(state: DistillState, params, replay: ReplayState, incumbent):
        key, rehearse_key, order_key = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        own = model.with_heads(params, state.heads)
        slow = model.with_heads(params, state.slow_heads)
        walked = rehearse(own, slow, state.student, replay, rehearse_key)
        batches = minibatches(walked, order_key, config.minibatches)
        state, metrics = jax.lax.scan(
            lambda carry, batch: gradient_step(carry, batch, params, incumbent), state, batches
        )
        state = state.replace(key=jax.random.key_data(key), iterations=state.iterations + 1)
        taught = walked.taught
        pi = jax.nn.softmax(student_logits(state.student, walked.taught_context))
        gain = jnp.sum((taught.pi_search - pi) * taught.q, -1)  # of the teacher over the student
        metrics = jax.tree.map(jnp.mean, metrics) | {
            "rehearse/v": jnp.mean(walked.v_target),
            "rehearse/search_gain": jnp.mean(gain),
            "rehearse/reached": jnp.mean(walked.weight),
        }
        return state, metrics

    @jax.jit
    def practise(state: DistillState, params, replay: ReplayState, incumbent):
        state, metrics = jax.lax.scan(
            lambda state, _: iteration(state, params, replay, incumbent), state, length=chunk
        )
        return state, jax.tree.map(jnp.mean, metrics)

    return practise


def minibatches(walked: Rehearsal, key, count: int) -> dict:
    """The rehearsal in `count` equal parts, in random order; leaves [count, ...]."""
    every, taught = jax.random.split(key)
    split = lambda tree, order: jax.tree.map(
        lambda x: x[order].reshape(count, x.shape[0] // count, *x.shape[1:]), tree
    )
    order = jax.random.permutation(every, walked.weight.size)
    taught_order = jax.random.permutation(taught, walked.taught_weight.size)
    return {
        "z": split(walked.z, order),
        "v": split(walked.v_target, order),
        "weight": split(walked.weight, order),
        "taught_z": split(walked.taught_z, taught_order),
        "context": split(walked.taught_context, taught_order),
        "pi": split(walked.taught.pi_search, taught_order),
        "taught_weight": split(walked.taught_weight, taught_order),
    }
