"""Baselines from the same log without a dream: behaviour cloning, conservative Q-learning."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreaming.config import BaselineConfig
from dreaming.metrics import chunk_sizes, finite
from dreaming.observe.log import Log
from dreaming.observe.replay import ReplayState, contexts
from dreaming.student.network import learned_part, student_logits, student_of
from envs.dream import World
from worldmodels.actions import ActionHead
from worldmodels.loops import repeated

KINDS = ("behaviour_cloning", "conservative_q")
CHUNK = 100  # steps per compiled call
ANYWHERE = 16  # uniform actions in the log-sum-exp of Q over a Box


def clone_loss(params, head: ActionHead, replay: ReplayState, rows, window: int):
    """-log pi(a | o) among the legal actions: behaviour cloning."""
    pi = student_logits(params, contexts(replay, rows, window))
    pi = head.masked(pi, replay.legal[rows])
    return jnp.mean(head.imitation(head.target(replay.a[rows]), pi))


def conservative_q_loss(
    params, slow, head: ActionHead, replay: ReplayState, rows, *, window, discount, unit, alpha
):
    """Huber TD error + alpha (logsumexp Q - Q(a)): CQL(H), Kumar et al. (2020), eq. 4.

    Q is the network's output times `unit`, so that the balance of both terms does not depend on the
    size of rewards. For "factored" actions Q is a sum over factors (Sunehag et al., 2018); for
    "box" actions a parabola around the policy's mean (NAF, Gu et al., 2016).
    """
    out = student_logits(params, contexts(replay, rows, window))
    out_next = student_logits(slow, contexts(replay, rows + 1, window))
    goes_on = discount * (1 - replay.terminated[rows])
    best_next = best_value(head, out_next, replay.legal[rows + 1])
    target = jax.lax.stop_gradient(replay.r[rows] / unit + goes_on * best_next)
    taken = value_of(head, out, replay.a[rows])
    gap = soft_best_value(head, out, replay.legal[rows]) - taken
    return jnp.mean(optax.losses.huber_loss(taken, target)) + alpha * jnp.mean(gap)


def value_of(head: ActionHead, out, a):
    """Q [B] of actions [B, A], from network outputs [B, P] (one more for "box")."""
    if head.kind != "box":
        return jnp.sum(out * head.target(a), -1)
    mean, curve, best = jnp.split(out, [head.size, 2 * head.size], axis=-1)
    fall = jax.nn.softplus(curve) * jnp.square(a - jnp.clip(mean, -1.0, 1.0))
    return best[..., 0] - jnp.sum(fall, -1)


def best_value(head: ActionHead, out, legal):
    """The highest Q [B] of a legal action."""
    if head.kind == "box":
        return out[..., -1]
    return head.best(head.masked(out, legal))  # illegal ones are NEVER, not -inf: 0 * inf is NaN


def soft_best_value(head: ActionHead, out, legal):
    """log-sum-exp of Q over the legal actions; for "box" over ANYWHERE uniformly drawn ones."""
    if head.kind != "box":
        return head.soft_best(head.masked(out, legal))
    a = head.random(jax.random.key(0), (ANYWHERE, 1))
    return jax.nn.logsumexp(jax.vmap(lambda a: value_of(head, out, a))(a), axis=0)


def blank_baselines(log: Log, world: World, config: BaselineConfig) -> dict[str, Any]:
    """Shapes and dtypes of what `fit_baselines` returns."""
    return jax.eval_shape(
        lambda: {kind: _fresh(log, world, config, jax.random.key(0)) for kind in KINDS}
    )


def fit_baselines(
    log: Log, world: World, config: BaselineConfig, key: jax.Array, update: Callable
) -> dict[str, Any]:
    """Student parameters of `behaviour_cloning` and `conservative_q`, trained on the whole log.

    Raises `UserError` when a loss is not finite at the end.
    """
    replay, trained = log.replay(), {}
    for kind, kind_key in zip(KINDS, jax.random.split(key), strict=True):
        init_key, train_key = jax.random.split(kind_key)
        params = _fresh(log, world, config, init_key)
        if kind == "conservative_q" and log.head.kind == "box":
            params = _with_value(params)
        train = _make_train(kind, log.head, world, config)
        trained[kind], loss = train(params, replay, jax.random.split(train_key, config.steps))
        trained[kind] = _cut(trained[kind], log.head.num_outputs)
        update(1, **finite({f"clone/{kind}_loss": loss}))
    trained["behaviour_cloning"]["greedy"] = jnp.array(False)  # it draws, as the behaviour did
    return trained


def _fresh(log: Log, world: World, config: BaselineConfig, key: jax.Array) -> Any:
    return student_of(log, world.model, config.width, key)


def _with_value(params: Any) -> Any:
    """`params` with one more output: the value of the best action."""
    *hidden, last = params["layers"]
    widen = lambda x: jnp.concatenate([x, jnp.zeros_like(x[..., :1])], axis=-1)
    return params | {"layers": [*hidden, jax.tree.map(widen, last)]}


def _cut(params: Any, num_outputs: int) -> Any:
    """`params` with the first `num_outputs` outputs alone: an ordinary student."""
    *hidden, last = params["layers"]
    return params | {"layers": [*hidden, jax.tree.map(lambda x: x[..., :num_outputs], last)]}


def _make_train(kind: str, head: ActionHead, world: World, config: BaselineConfig):
    """`train(params, replay, keys) -> (params, loss of the last steps)`, one step per key."""
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.05))
    discount = world.card["discount"]
    rules = {"window": world.model.window, "discount": discount, "alpha": config.conservatism}
    rules["unit"] = world.card["value_span"] * (1 - discount)  # one typical reward
    sizes = chunk_sizes(config.steps, CHUNK)

    def loss_of(learned, slow, replay, rows):
        params = slow | learned
        if kind == "behaviour_cloning":
            return clone_loss(params, head, replay, rows, world.model.window)
        return conservative_q_loss(params, slow, head, replay, rows, **rules)

    def step(state, i, replay, keys):
        learned, slow, opt_state = state
        drawn = jax.random.randint(keys[i], (config.batch,), 0, replay.num_starts)
        rows = replay.starts[drawn]
        loss, grads = jax.value_and_grad(loss_of)(learned, slow, replay, rows)
        updates, opt_state = optimiser.update(grads, opt_state)
        learned: Any = optax.apply_updates(learned, updates)
        rate = 1 - config.target_decay
        slow = slow | optax.incremental_update(learned, learned_part(slow), rate)
        return (learned, slow, opt_state), loss

    def train(params, replay, keys):
        learned, loss = learned_part(params), jnp.nan
        state = learned, params, optimiser.init(learned)
        convolves = "encoder" in learned
        advance = {size: repeated(step, size, convolves=convolves) for size in set(sizes)}
        for part in jnp.split(keys, np.cumsum(sizes)[:-1]):
            state, loss = advance[len(part)](state, replay, part)
        return params | state[0], loss

    return train
