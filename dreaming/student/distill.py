"""Distillation: the teacher's whole distribution becomes the student's, and the model's own heads
learn what the rehearsal found, so that the next search starts from there."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dreaming.config import DistillConfig, RehearseConfig, SearchConfig
from dreaming.metrics import finite
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.search.teachers import make_teacher
from dreaming.student.rehearse import make_mesh, make_rehearse
from dreaming.student.student import learned_part, network, student_logits, student_of
from dreaming.types import DistillState, Rehearsal, ReplayState, Walks
from envs.dream import World
from worldmodels.actions import ActionHead
from worldmodels.loops import avoids_loops, repeated

LONG = 4  # walks in a logged episode, from which on some are gone on with
CHUNK = 20  # rehearsals per compiled call, and per progress line


def distill_loss(trained, model, head, params, batch: dict, incumbent, anchor: float):
    """KL(teacher || student) + anchor KL(incumbent || student) + the planner's own heads."""
    student, heads = trained
    weight = batch["taught_weight"]
    mean = lambda x: jnp.sum(x * weight) / (jnp.sum(weight) + 1e-6)
    pi = student_logits(student, batch["context"])
    terms = {"student_loss": mean(head.divergence(batch["pi"], batch["proposals"], pi))}
    names = ("z", "v", "weight", "taught_z", "pi", "proposals", "taught_weight")
    taught = (batch[name] for name in names)
    terms |= model.heads_loss(model.with_heads(params, heads), *taught)
    if incumbent is not None:
        old = student_logits(incumbent, batch["context"])
        terms["anchor_loss"] = anchor * mean(head.kl(old, pi))
    return sum(terms.values()), {f"distill/{name}": term for name, term in terms.items()}


def make_optimiser(config: DistillConfig, iterations: int) -> optax.GradientTransformation:
    """Adam with a cosine decay over the whole rehearsal; the student's normalisers stay."""
    steps = max(1, iterations * config.minibatches)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.05)),
    )


def init_distill(model, params, student, optimiser, walks: Walks, key) -> DistillState:
    """Before the first rehearsal: heads that know nothing. `key` is a typed key."""
    head_key, key = jax.random.split(key)
    heads = model.fresh_heads(params, head_key)
    return DistillState(
        student=student,
        heads=heads,
        slow_heads=heads,
        walks=walks,
        opt_state=optimiser.init((learned_part(student), heads)),
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
        student = student_of(log, world.model, config.width, key)
        walks = no_walks(log, world.model, rehearse)
        return init_distill(world.model, world.params, student, optimiser, walks, key)

    return jax.eval_shape(start)


def no_walks(log: Log, model: Any, rehearse: RehearseConfig) -> Walks:
    """None that could be gone on with. Those to come last as long as a logged episode on average.

    Where that is hardly longer than a walk, none is gone on with: walks from logged states cover
    what there is, and a student's long run would rest on a model that short episodes taught.
    """
    first = contexts(log.replay(), jnp.zeros(rehearse.dreams, jnp.int32), model.window)
    walks = len(log) / len(log.traces) / rehearse.horizon  # that an episode takes
    restart = max(rehearse.restart, 1 / walks) if walks >= LONG else 1.0
    return Walks(first, jnp.zeros(rehearse.dreams, bool), jnp.float32(restart))


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
    """Rehearse in the dream of `world` and distil, `rehearse.iterations` times (`sized`, not 0).

    `incumbent` are the parameters of a student to begin from and to stay near, or None.
    `update(iterations, **metrics)` is called after each chunk.
    """
    model, discount = regularised(world, rehearse.behaviour_penalty), world.card["discount"]
    head = log.head
    chunk = math.gcd(CHUNK, rehearse.iterations)
    student_key, key = jax.random.split(key)
    fresh = first_student(log, world, config.width, student_key)
    convolves, rules = "encoder" in fresh, (search, rehearse, config, discount, chunk)
    advance = compiled_distill(model, head, *rules, convolves)
    student = fresh if incumbent is None else network(incumbent)
    if incumbent is not None and head.kind != "discrete":
        incumbent = student  # only enumerated probabilities can be mixed: stay near the newest part
    if config.anchor == 0:
        incumbent = None
    student = student | {"greedy": jnp.array(True)}
    optimiser = make_optimiser(config, rehearse.iterations)
    walks = no_walks(log, model, rehearse)
    state = init_distill(model, world.params, student, optimiser, walks, key)
    # What the program gives back lies on every device: begin there too, or it compiles twice.
    everywhere = NamedSharding(make_mesh(rehearse, convolves), PartitionSpec())
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


def first_student(log: Log, world: World, width: int, key: jax.Array) -> Any:
    """A student that knows nothing; one of frames has the encoder of the model."""
    fresh = student_of(log, world.model, width, key)
    return fresh | ({"encoder": world.params["net"]["encoder"]} if "encoder" in fresh else {})


def regularised(world: World, behaviour_penalty: float) -> Any:
    """The model of a world, for which actions are uncertain that the log's behaviour avoided.

    By `behaviour_penalty` a nat, times how far that behaviour can be foreseen on episodes nobody
    fitted: one that knew what it did is left where there is a reason, a random one does not count
    (a value penalty, as in BRAC; Wu et al., 2019).
    """
    known = world.card.get("fidelity", {}).get("behaviour_explained", 0.0)
    if behaviour_penalty * known == 0:
        return world.model
    return dataclasses.replace(world.model, behaviour_penalty=behaviour_penalty * known)


@functools.lru_cache(maxsize=8)
def compiled_distill(
    model: Any,
    head: ActionHead,
    search: SearchConfig,
    rehearse: RehearseConfig,
    config: DistillConfig,
    discount: float,
    chunk: int,
    convolves: bool,
) -> Callable:
    """`make_distill` with its teacher and its walks; the next round uses the same program."""
    teach, mesh = make_teacher(model, head, search, discount), make_mesh(rehearse, convolves)
    walk = make_rehearse(model, head, teach, rehearse, discount, search.penalty, mesh)
    return make_distill(model, head, walk, config, rehearse.iterations, chunk, convolves)


def make_distill(
    model: Any,
    head: ActionHead,
    rehearse: Callable[..., Rehearsal],
    config: DistillConfig,
    iterations: int,
    chunk: int,
    convolves: bool = False,
):
    """`practise(state, params, replay, incumbent) -> (state, metrics)`: `chunk` rounds of rehearse,
    then `minibatches` gradient steps on it. `convolves` says that students do."""
    optimiser = make_optimiser(config, iterations)

    def gradient_step(carry, batch, params, incumbent):
        state = carry

        def loss_of(trained):
            learned, heads = trained
            student = state.student | learned
            return distill_loss(
                (student, heads), model, head, params, batch, incumbent, config.anchor
            )

        trained = (learned_part(state.student), state.heads)
        grads, metrics = jax.grad(loss_of, has_aux=True)(trained)
        updates, opt_state = optimiser.update(grads, state.opt_state, trained)
        new: Any = optax.apply_updates(trained, updates)
        learned, heads = new
        slow = optax.incremental_update(heads, state.slow_heads, 1 - config.target_decay)
        state = state.replace(
            student=state.student | learned,
            heads=heads,
            slow_heads=slow,
            opt_state=opt_state,
        )
        return state, metrics

    def iteration(state: DistillState, _, params, replay: ReplayState, incumbent):
        key, rehearse_key, order_key = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        own = model.with_heads(params, state.heads)
        slow = model.with_heads(params, state.slow_heads)
        walked = rehearse(own, slow, state.student, replay, state.walks, rehearse_key)
        batches = minibatches(walked, order_key, config.minibatches)
        step = lambda state, batch: gradient_step(state, batch, params, incumbent)
        state, metrics = jax.lax.scan(step, state, batches, unroll=avoids_loops(convolves))
        state = state.replace(
            walks=state.walks.replace(last=walked.last, goes_on=walked.goes_on),
            key=jax.random.key_data(key),
            iterations=state.iterations + 1,
        )
        taught = walked.taught
        pi = student_logits(state.student, walked.taught_context)
        gain = head.gain(taught.pi_search, taught.q, pi)  # of the teacher over the student
        metrics = jax.tree.map(jnp.mean, metrics) | {
            "rehearse/v": jnp.mean(walked.v_target),
            "rehearse/search_gain": jnp.mean(gain),
            "rehearse/reached": jnp.mean(walked.weight),
        }
        return state, metrics

    return repeated(iteration, chunk, convolves=convolves)


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
        "proposals": split(walked.taught.proposals, taught_order),
        "taught_weight": split(walked.taught_weight, taught_order),
    }
