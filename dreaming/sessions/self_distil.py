"""Self-distillation: what the rows of a session tell a policy goes into its weights.

The student acts without rows, in a dream fitted on the session's own log. At the states it comes
to, the teacher says what it would do: the same weights as they were at the start, with the rows of
the session except those of the day that the dream began from. The student learns the whole
distribution.

In which form weights may change (all, under a mask, by low rank) is said in `deltas`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreaming.errors import LossError, TraceError
from dreaming.metrics import chunk_sizes
from dreaming.sessions.config import SelfDistilConfig
from dreaming.sessions.deltas import AllWeights, Delta, Masked
from dreaming.sessions.divergence import alpha_divergence, gap_weight, limited, trust
from dreaming.sessions.network import ReaderShape, read
from dreaming.sessions.retention import retention_loss
from dreaming.sessions.teacher_gap import leave_day_out
from dreaming.sessions.teachers import advise, check_teacher, without_rows
from dreaming.sessions.types import Lesson, OldDreams, Rows, Walk, beside
from worldmodels.factors import FactorModel

CHUNK = 10  # most updates per compiled call


def transitions(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(o, a, next o) of decisions of the same day that follow each other.

    Raises `TraceError` where there is none.
    """
    o, a, day = (np.asarray(x) for x in (rows.o, rows.a, rows.day))
    follows = (day[1:] == day[:-1]) & np.asarray(rows.valid)[1:] & np.asarray(rows.valid)[:-1]
    if not follows.any():
        raise TraceError("the session has no two decisions in a row, so nothing can be dreamed")
    return o[:-1][follows], a[:-1][follows], o[1:][follows]


def make_walk(shape: ReaderShape, dream: FactorModel, config: SelfDistilConfig) -> Callable:
    """`(student, lesson, key) -> Walk`: dreamed days from states of the log."""

    def walk(student: Any, lesson: Lesson, key: jax.Array) -> Walk:
        base, rows, reads = lesson.base, lesson.rows, lesson.reads
        start_key, key = jax.random.split(key)
        chance = jnp.where(rows.valid, 0.0, -jnp.inf)
        start = jax.random.categorical(start_key, chance, shape=(config.dreams,))
        memory = leave_day_out(read(base, shape, reads), reads.day, rows.day[start])

        def step(o, key):
            act_key, step_key = jax.random.split(key)
            drawn = jax.random.categorical(act_key, without_rows(student, shape, o))
            a = jax.nn.one_hot(drawn, shape.num_actions)
            after = dream.step(lesson.tables, o, a, jax.random.key_data(step_key))
            return after, (o, a)

        _, (o, a) = jax.lax.scan(step, rows.o[start], jax.random.split(key, config.horizon))
        ask = lambda o: advise(
            base, shape, memory, o, kind=config.teacher, temperature=config.temperature
        )
        advice, q = jax.vmap(ask)(o)
        return Walk(o, a, advice, q)

    return walk


def distil_loss(
    params: Any, shape: ReaderShape, walk: Walk, old: OldDreams | None, config: SelfDistilConfig
):
    """The divergence from the teacher at the student's own states, and from the base at old ones.

    The states are given: no gradient goes through how the student came there.
    """
    pi = jax.nn.log_softmax(without_rows(params, shape, walk.o))
    target = limited(jax.lax.stop_gradient(pi), walk.advice, config.step)
    regret = walk.q.max(-1) - (walk.q * walk.a).sum(-1)
    agrees = walk.advice.argmax(-1) == walk.a.argmax(-1)
    weight = trust(regret, agrees, most=config.regret, decay=config.trust_decay)
    if config.gap > 0:
        weight = weight * gap_weight(walk.q, config.gap)
    each = alpha_divergence(target, pi, config.alpha, config.clip)
    distil = (weight * each).sum() / (weight.sum() + 1e-6)
    metrics = {"self_distil/divergence": distil}
    if old is None or config.retention == 0:
        return distil, metrics
    kept = retention_loss(params, shape, old)
    return distil + config.retention * kept, metrics | {"self_distil/retention": kept}


def self_distil(
    base: Any,
    shape: ReaderShape,
    rows: Rows,
    dream: tuple[FactorModel, Any],
    key: jax.Array,
    *,
    config: SelfDistilConfig,
    old: OldDreams | None = None,
    kept: Rows | None = None,
    form: AllWeights | None = None,
    update: Callable[..., Any] = lambda *args, **metrics: None,
) -> Delta:
    """What one round changes in the weights of `base`, in one of the forms of `deltas`.

    `rows` [M] are those of the session, `dream` a model and its tables; the teacher also reads what
    is `kept`. `update(updates, **metrics)` is called after each chunk. Raises `LossError`.
    """
    check_teacher(config.teacher, shape)
    form = form or AllWeights()
    programs = compiled(shape, dream[0], config, form)
    mask_key, key = jax.random.split(key)
    tell = {"base": base, "tables": dream[1], "rows": rows, "reads": beside(rows, kept)}
    importance = None
    if isinstance(form, Masked):
        importance = programs.importance(Lesson(frozen=None, old=None, **tell), mask_key)
    state, frozen = form.start(base, importance)
    carry = state, make_optimiser(config).init(state)
    lesson = Lesson(frozen=frozen, old=old, **tell)
    sizes = chunk_sizes(config.updates, CHUNK)
    for each, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True):
        carry, metrics = programs.advance(carry, lesson, jax.random.split(each, size))
        metrics = {name: float(x) for name, x in metrics.items()}
        if not all(np.isfinite(x) for x in metrics.values()):
            raise LossError("self-distillation became not finite; lower its learning_rate")
        update(size, **metrics)
    return form.delta(carry[0], frozen, base)


def make_optimiser(config: SelfDistilConfig) -> optax.GradientTransformation:
    """Adam with a cosine decay over the round."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.updates, alpha=0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@dataclass(frozen=True)
class Programs:
    """What a round runs, compiled."""

    advance: Callable  # an update for each key
    importance: Callable  # mean size of the gradient of each weight before the first


@functools.lru_cache(maxsize=16)
def compiled(
    shape: ReaderShape, dream: FactorModel, config: SelfDistilConfig, form: AllWeights
) -> Programs:
    """The programs of these settings."""
    walk, optimiser = make_walk(shape, dream, config), make_optimiser(config)

    @jax.jit
    def advance(carry, lesson: Lesson, keys):
        step = lambda carry, key: update(carry, lesson, key)
        carry, metrics = jax.lax.scan(step, carry, keys)
        return carry, jax.tree.map(lambda x: x.mean(), metrics)

    def update(carry, lesson: Lesson, key):
        (state, opt_state), base, old = carry, lesson.base, lesson.old
        walk_key, old_key = jax.random.split(key)
        weights = lambda state: form.weights(state, lesson.frozen, base)
        days = walk(weights(state), lesson, walk_key)
        if old is not None:
            index = jax.random.randint(old_key, (config.old,), 0, old.weight.shape[0])
            old = jax.tree.map(lambda x: x[index], old)
        loss = lambda state: distil_loss(weights(state), shape, days, old, config)
        gradient, metrics = jax.grad(loss, has_aux=True)(state)
        gradient = form.allowed(gradient, lesson.frozen)
        change, opt_state = optimiser.update(gradient, opt_state, state)
        return (optax.apply_updates(state, change), opt_state), metrics

    @jax.jit
    def importance(lesson: Lesson, key):
        base = lesson.base

        def once(key):
            days = walk(base, lesson, key)
            gradient, _ = jax.grad(distil_loss, has_aux=True)(base, shape, days, None, config)
            return jax.tree.map(jnp.abs, gradient)

        sizes = jax.lax.map(once, jax.random.split(key, CHUNK))
        return jax.tree.map(lambda x: x.mean(0), sizes)

    return Programs(advance, importance)
