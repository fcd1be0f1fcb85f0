"""Pretraining: a base that learns in context how a deployment works, over many deployments.

First on scripted sessions, whose decisions are right with a probability of their own; then on the
base's own: without these it copies its own mistakes, since in a script what was done is a hint to
what is right. A base that plays from the start learns nothing in context.

Every update asks for the right decisions of two days, given a random share of the other days: so
the base learns to act without rows, with some, and with all.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from dreaming.errors import LossError
from dreaming.metrics import chunk_sizes
from dreaming.sessions.config import PretrainConfig
from dreaming.sessions.deltas import FIXED
from dreaming.sessions.family import Family
from dreaming.sessions.network import ReaderShape, answer, init_reader, read, remembered
from dreaming.sessions.play import Learner, oracle, play, scripted
from dreaming.sessions.types import Pool

CHUNK = 20  # most updates per compiled call
QUERIES = 40  # decisions asked of each session and update, of the session's own skill
OTHERS = 10  # and of each of the others
BLOCK = 1_000_000  # deployments of a seed; pretraining has the first of them


def shape_of(family: Family, config: PretrainConfig) -> ReaderShape:
    """The reader of a family."""
    sizes = family.observation.size, family.action.size, len(family.outcomes)
    return ReaderShape(*sizes, width=config.width, layers=config.layers, kind=config.kind)


def make_pool(
    family: Family,
    numbers: Any,
    steps: int,
    seed: int | Sequence[int],
    *,
    reader: tuple[Any, ReaderShape] | None = None,
) -> Pool:
    """Sessions of deployments `numbers`: scripted, or worked by a reader (parameters, shape).

    Several numbers as `seed` are a stream of their own.
    """
    random = np.random.default_rng(seed)
    tasks = [family.deployment(int(number)) for number in numbers]
    first = family.skills[0] if family.skills else None
    if reader is None:
        chooses, seen = scripted(family, tasks, random), None
    else:
        learner = Learner(*reader, len(tasks), steps, int(random.integers(2**31)))
        chooses, seen = learner.chooses, learner.seen
    options = {"random": random, "skill": first}
    rows = play(family, tasks, chooses, steps=steps, seen=seen, **options)
    others = [
        play(family, tasks, scripted(family, tasks, random), steps=OTHERS, random=random, skill=s).o
        for s in family.skills[1:]
    ]
    empty = np.zeros((len(tasks), 0, family.observation.size), np.float32)
    others_o = np.concatenate([empty, *others], axis=1)
    answers = lambda o: oracle(family, tasks, family.observation.unflatten(o))
    right = answers(others_o) if others_o.shape[1] else np.zeros((len(tasks), 0), np.int32)
    known: dict[str, Any] = {"rows": rows, "right": answers(rows.o)}
    known |= {"others_o": others_o, "others_right": right}
    return jax.tree.map(jnp.asarray, Pool(**known))


def held_back(seed: int, count: int) -> Int[np.ndarray, " N"]:
    """The last deployments of a seed's numbers, which no pretraining comes to."""
    return BLOCK * (seed + 1) - count + np.arange(count)


def drawn(
    pool: Pool, key: jax.Array, batch: int, share: Float[Array, " B"] | None = None
) -> tuple[Pool, Int[Array, "B Q"], Bool[Array, "B Q"]]:
    """(`batch` sessions with a random `share` of the rows of some days, QUERIES of two other days,
    which of these count: two short days have fewer). By default the share is itself drawn, and in
    one case of eight there are no rows."""
    keys = jax.random.split(key, 6)
    index = jax.random.randint(keys[0], (batch,), 0, pool.right.shape[0])
    some: Pool = jax.tree.map(lambda x: x[index], pool)
    rows, steps = some.rows, some.right.shape[1]
    is_out = jnp.zeros((batch, steps), bool)
    for each in jax.random.split(keys[1]):  # the day of a row that is in, so two different days
        picked = jnp.where(is_out, -1.0, jax.random.uniform(each, is_out.shape)).argmax(1)
        is_out |= rows.day == jnp.take_along_axis(rows.day, picked[:, None], 1)
    if share is None:
        share = jax.random.uniform(keys[2], (batch,), minval=-0.15, maxval=1.0)  # < 0: no rows
    valid = ~is_out & (jax.random.uniform(keys[3], is_out.shape) < share[:, None])
    paid = jax.random.bernoulli(keys[4], 0.5, (batch, 1))
    rows = dataclasses.replace(rows, known=rows.known & paid, valid=valid)
    chance = jnp.where(is_out, jax.random.uniform(keys[5], is_out.shape), -1.0)
    _, queries = jax.lax.top_k(chance, min(QUERIES, steps))
    asked = jnp.take_along_axis(is_out, queries, 1)
    return Pool(rows, some.right, some.others_o, some.others_right), queries, asked


def pretrain_loss(
    params: Any,
    shape: ReaderShape,
    batch: Pool,
    queries: Int[Array, "B Q"],
    asked: Bool[Array, "B Q"],
):
    """Cross-entropy of the right decisions, and of the outcomes that were seen on the way, at the
    queries that count (a row that the memory holds would be its own answer)."""
    rows = batch.rows
    at = lambda x: jnp.take_along_axis(x, queries.reshape(queries.shape + (1,) * (x.ndim - 2)), 1)
    o = jnp.concatenate([at(rows.o), batch.others_o], 1)
    right = jnp.concatenate([at(batch.right), batch.others_right], 1)
    memory = remembered(params, shape, read(params, shape, rows))
    pi, outcome = answer(params, shape, memory, o)
    counts = jnp.concatenate([asked, jnp.ones(batch.others_right.shape, bool)], 1)
    policy_nll = optax.softmax_cross_entropy_with_integer_labels(pi, right)
    policy_loss = (policy_nll * counts).sum() / counts.sum()
    is_right = (pi.argmax(-1) == right)[:, : queries.shape[1]]
    correct = (is_right & asked).sum() / asked.sum()
    metrics = {"pretrain/policy_loss": policy_loss, "pretrain/right": correct}
    if shape.num_outcomes == 0:
        return policy_loss, metrics
    taken, seen = at(rows.a), at(rows.outcome)
    logits = jnp.einsum("bqak,bqa->bqk", outcome[:, : queries.shape[1]], taken)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(seen, 0))
    told = (seen >= 0) & asked
    outcome_loss = (nll * told).sum() / (told.sum() + 1e-6)
    metrics["pretrain/outcome_loss"] = outcome_loss
    return policy_loss + 0.5 * outcome_loss, metrics


def make_updates(shape: ReaderShape, optimiser: Any, batch: int) -> Callable:
    """Compiled `(params, opt_state), pools, keys -> (params, opt_state), metrics`: an update for
    each key, each on one of the pools, drawn with equal probability."""

    def step(state, key, pools):
        params, opt_state = state
        key, which = jax.random.split(key)
        draws = [drawn(pool, key, batch) for pool in pools]
        index = jax.random.randint(which, (), 0, len(pools))
        mine: Any = jax.tree.map(lambda *x: jnp.stack(x)[index], *draws)
        grad = jax.grad(lambda p: pretrain_loss(p, shape, *mine), has_aux=True)
        gradient, metrics = grad(params)
        change, opt_state = optimiser.update(gradient, opt_state, params)
        return (optax.apply_updates(params, change), opt_state), metrics

    @jax.jit
    def advance(state, pools, keys):
        state, metrics = jax.lax.scan(lambda s, k: step(s, k, pools), state, keys)
        return state, jax.tree.map(lambda x: x.mean(), metrics)

    return advance


def make_optimiser(
    params: Any, learning_rate: float, updates: int
) -> optax.GradientTransformationExtraArgs:
    """AdamW with a cosine decay over all updates; what is fixed in a reader stays as it is."""
    schedule = optax.cosine_decay_schedule(learning_rate, updates, alpha=0.05)
    adam = optax.adamw(schedule, weight_decay=1e-4)
    kinds: dict[Hashable, optax.GradientTransformation] = {
        "weight": optax.chain(optax.clip_by_global_norm(1.0), adam),
        "fixed": optax.set_to_zero(),
    }
    of = {name: "fixed" if name in FIXED else "weight" for name in params}
    return optax.multi_transform(kinds, of)


def pretrain(
    family: Family,
    config: PretrainConfig,
    seed: int,
    update: Callable[..., Any] = lambda *args, **metrics: None,
) -> tuple[Any, ReaderShape]:
    """(parameters, shape) of a base. `update(updates, **metrics)` is called after each chunk."""
    shape, key = shape_of(family, config), jax.random.key(seed)
    first = np.arange(config.deployments) + 1 + BLOCK * seed
    stream = lambda number: (seed % 2**32, number)
    pools = [make_pool(family, first, config.steps, stream(0))]
    r = np.asarray(pools[0].rows.r)
    key, init_key = jax.random.split(key)
    params = init_reader(init_key, shape, float(max(np.abs(r).max(), 1e-6)))
    total = config.updates + config.own_rounds * config.own_updates
    optimiser = make_optimiser(params, config.learning_rate, total)
    state = params, optimiser.init(params)
    advance = make_updates(shape, optimiser, config.batch)

    def learn(state, key, updates):
        sizes = chunk_sizes(updates, CHUNK)
        for each, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True):
            state, metrics = advance(state, tuple(pools), jax.random.split(each, size))
            metrics = {name: float(x) for name, x in metrics.items()}
            if not all(np.isfinite(x) for x in metrics.values()):
                raise LossError("pretrain became not finite; lower learning_rate")
            update(size, **metrics)
        return state

    key, scripted_key = jax.random.split(key)
    state = learn(state, scripted_key, config.updates)
    for number in range(config.own_rounds):
        numbers = first[-1] + 1 + number * config.own_deployments
        numbers = numbers + np.arange(config.own_deployments)
        reader = state[0], shape
        own = make_pool(family, numbers, config.steps, stream(1 + number), reader=reader)
        pools = [pools[0], own]
        key, own_key = jax.random.split(key)
        state = learn(state, own_key, config.own_updates)
    return state[0], shape
