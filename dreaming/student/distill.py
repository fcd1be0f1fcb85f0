"""Distillation: the student learns the teacher's whole distribution. The model's value and policy
heads learn from the rehearsal as well, so that the next search starts from them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dreaming.config import DistillConfig, RehearseConfig, RoundConfig, SearchConfig
from dreaming.devices import everywhere
from dreaming.metrics import chunk_sizes, in_chunks
from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.search.teachers import make_teacher
from dreaming.student.network import learned_part, network, renormalised, student_logits, student_of
from dreaming.student.rehearse import make_rehearse, rehearsal_mesh
from dreaming.types import DistillState, Minibatch, Rehearsal, ReplayState, Walks
from envs.dream import World
from worldmodels.actions import ActionHead
from worldmodels.loops import avoids_loops, further, repeated
from worldmodels.protocol import is_trainable
from worldmodels.types import HeadTargets

CHUNK = 20  # rehearsals per compiled call, and per progress line


def distill_loss(trained, batch: Minibatch, *, model, head, params, incumbent, anchor: float):
    """KL(teacher || student) + anchor KL(incumbent || student) + the planner's own heads."""
    (student, heads), targets = trained, batch.targets
    weight = targets.taught_weight
    mean = lambda x: jnp.sum(x * weight) / (jnp.sum(weight) + 1e-6)
    pi = student_logits(student, batch.context)
    terms = {"student_loss": mean(head.divergence(targets.pi, targets.proposals, pi))}
    if heads:
        terms |= model.heads_loss(model.with_heads(params, heads), targets)
    if incumbent is not None:
        old = student_logits(incumbent, batch.context)
        terms["anchor_loss"] = anchor * mean(head.kl(old, pi))
    return sum(terms.values()), {f"distill/{name}": term for name, term in terms.items()}


def distill_optimiser(config: DistillConfig, iterations: int) -> optax.GradientTransformation:
    """Adam with a cosine decay over the whole rehearsal; the student's normalisers stay."""
    steps = max(1, iterations * config.minibatches)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.05)),
    )


def init_distill(model, params, student, optimiser, walks: Walks, key) -> DistillState:
    """The state before the first rehearsal, with fresh heads. `key` is a typed key."""
    head_key, key = jax.random.split(key)
    heads = model.fresh_heads(params, head_key) if is_trainable(model) else {}
    return DistillState(
        student=student,
        heads=heads,
        slow_heads=heads,
        walks=walks,
        opt_state=optimiser.init((learned_part(student), heads)),
        key=jax.random.key_data(key),
        iterations=jnp.int32(0),
    )


def with_heads(model: Any, params: Any, heads: dict) -> Any:
    """`params` with these heads; a model that has none stays as it is."""
    return model.with_heads(params, heads) if heads else params


def blank_distill(log: Log, world: World, config: RoundConfig) -> DistillState:
    """Shapes and dtypes of what `practise` returns."""
    optimiser = distill_optimiser(config.distill, config.rehearse.iterations)

    def start():
        key = jax.random.key(0)
        student = student_of(log, world.model, config.distill.width, key)
        walks = no_walks(log, world.model, config.rehearse)
        return init_distill(world.model, world.params, student, optimiser, walks, key)

    return jax.eval_shape(start)


def no_walks(log: Log, model: Any, rehearse: RehearseConfig) -> Walks:
    """The walks before the first rehearsal: none can be continued."""
    first = contexts(log.replay(), jnp.zeros(rehearse.dreams, jnp.int32), model.window)
    return Walks(first, jnp.zeros(rehearse.dreams, bool))


def practise(
    log: Log,
    world: World,
    config: RoundConfig,
    incumbent: Any,
    key: jax.Array,
    update: Callable,
) -> DistillState:
    """Rehearse in the dream of `world` and distil, `config.rehearse.iterations` times (`sized`).

    `incumbent` are the parameters of a student to begin from and to stay near, or None.
    `update(iterations, **metrics)` is called after each chunk.
    """
    search, rehearse, distill = config.search, config.rehearse, config.distill
    model, head = regularised(world, rehearse.behaviour_penalty), log.head
    student_key, key = jax.random.split(key)
    fresh = first_student(log, world, distill.width, student_key)
    convolves = "encoder" in fresh
    compiled = functools.partial(
        compiled_distill,
        model,
        head,
        search=search,
        rehearse=rehearse,
        distill=distill,
        discount=world.card["discount"],
        convolves=convolves,
    )
    student = fresh
    if incumbent is not None:
        student = renormalised(network(incumbent), log)
        # Only probabilities over "discrete" actions can be mixed.
        incumbent = incumbent if head.kind == "discrete" else student
    if distill.anchor == 0:
        incumbent = None
    student = student | {"greedy": jnp.array(True)}
    optimiser = distill_optimiser(distill, rehearse.iterations)
    walks = no_walks(log, model, rehearse)
    state = init_distill(model, world.params, student, optimiser, walks, key)
    # The program returns its state on every device: start there, too, or it compiles twice.
    whole = everywhere(rehearsal_mesh(rehearse, convolves))
    place = lambda tree: jax.device_put(tree, whole)
    state, params, replay = place(state), place(world.params), place(log.replay())
    go_on = lambda state, size: compiled(chunk=size)(state, params, replay, incumbent)
    hasten = lambda state, iterations: state.replace(
        opt_state=further(state.opt_state, iterations * distill.minibatches)
    )
    return in_chunks(go_on, state, chunk_sizes(rehearse.iterations, CHUNK), update, hasten)


def first_student(log: Log, world: World, width: int, key: jax.Array) -> Any:
    """A student that knows nothing but what the model gives it: of frames, its encoder."""
    fresh = student_of(log, world.model, width, key)
    return fresh | (world.model.student_start(world.params) if is_trainable(world.model) else {})


def regularised(world: World, behaviour_penalty: float) -> Any:
    """The model of a world, with extra uncertainty for actions that the log's behaviour avoided.

    It is `behaviour_penalty` per nat, times the share of the behaviour that the model foresees on
    held-out episodes (`behaviour_explained`): a purposeful behaviour is only left for a reason, a
    random one has no effect (a value penalty, as in BRAC; Wu et al., 2019).
    """
    known = world.card.get("fidelity", {}).get("behaviour_explained", 0.0)
    if behaviour_penalty * known == 0:
        return world.model
    return world.model.adjusted(behaviour_penalty=behaviour_penalty * known)


@functools.lru_cache(maxsize=8)
def compiled_distill(
    model: Any,
    head: ActionHead,
    *,
    search: SearchConfig,
    rehearse: RehearseConfig,
    distill: DistillConfig,
    discount: float,
    chunk: int,
    convolves: bool,
) -> Callable:
    """`make_distill` with teacher and walks; cached, so that rounds share one program."""
    teach, mesh = make_teacher(model, head, search, discount), rehearsal_mesh(rehearse, convolves)
    costs = {"discount": discount, "penalty": search.penalty}
    walk = make_rehearse(model, head, teach, rehearse, mesh=mesh, **costs)
    return make_distill(
        model, head, walk, distill, rehearse.iterations, chunk=chunk, convolves=convolves
    )


def make_distill(
    model: Any,
    head: ActionHead,
    rehearse: Callable[..., Rehearsal],
    config: DistillConfig,
    iterations: int,
    *,
    chunk: int,
    convolves: bool = False,
):
    """`practise(state, params, replay, incumbent) -> (state, metrics)`: `chunk` times one rehearsal
    and `config.minibatches` gradient steps on it. `convolves`: the student has an encoder."""
    optimiser = distill_optimiser(config, iterations)
    loss = functools.partial(distill_loss, model=model, head=head, anchor=config.anchor)
    follow = functools.partial(gradient_step, loss, optimiser, config.target_decay)

    def iteration(state: DistillState, _, params, replay: ReplayState, incumbent):
        key, rehearse_key, order_key = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        own = with_heads(model, params, state.heads)
        slow = with_heads(model, params, state.slow_heads)
        walked = rehearse(own, slow, state.student, replay, state.walks, rehearse_key)
        batches = minibatches(walked, order_key, config.minibatches)
        step = lambda state, batch: follow(state, batch, params=params, incumbent=incumbent)
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


def gradient_step(
    loss: Callable,
    optimiser: optax.GradientTransformation,
    target_decay: float,
    state: DistillState,
    batch: Minibatch,
    **given: Any,
) -> tuple[DistillState, dict[str, jax.Array]]:
    """`state` after one step of the optimiser; `loss(trained, batch, **given) -> (loss, metrics)`
    of (student, heads)."""

    def loss_of(trained):
        learned, heads = trained
        return loss((state.student | learned, heads), batch, **given)

    trained = (learned_part(state.student), state.heads)
    grads, metrics = jax.grad(loss_of, has_aux=True)(trained)
    updates, opt_state = optimiser.update(grads, state.opt_state, trained)
    new: Any = optax.apply_updates(trained, updates)
    learned, heads = new
    slow = optax.incremental_update(heads, state.slow_heads, 1 - target_decay)
    student = state.student | learned
    return state.replace(
        student=student, heads=heads, slow_heads=slow, opt_state=opt_state
    ), metrics


def minibatches(walked: Rehearsal, key, count: int) -> Minibatch:
    """A rehearsal, shuffled and split into `count` equal parts; leaves [count, ...]."""
    every, taught = jax.random.split(key)
    split = lambda tree, order: jax.tree.map(
        lambda x: x[order].reshape(count, x.shape[0] // count, *x.shape[1:]), tree
    )
    order = jax.random.permutation(every, walked.weight.size)
    taught_order = jax.random.permutation(taught, walked.taught_weight.size)
    targets = HeadTargets(
        z=split(walked.z, order),
        v=split(walked.v_target, order),
        weight=split(walked.weight, order),
        taught_z=split(walked.taught_z, taught_order),
        pi=split(walked.taught.pi_search, taught_order),
        proposals=split(walked.taught.proposals, taught_order),
        taught_weight=split(walked.taught_weight, taught_order),
    )
    return Minibatch(targets, split(walked.taught_context, taught_order))
