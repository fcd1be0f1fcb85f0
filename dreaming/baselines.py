"""What the same log gives without any dream: behaviour cloning and conservative Q-learning."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dreaming.config import BaselineConfig
from dreaming.log import Log
from dreaming.physics import finite
from dreaming.policy import fresh_student, student_logits
from dreaming.replay import ReplayState, contexts
from envs.dream import World

KINDS = ("behaviour_cloning", "conservative_q")


def clone_loss(params, replay: ReplayState, rows, window: int):
    """-log pi(a | o): behaviour cloning."""
    logits = student_logits(params, contexts(replay, rows, window))
    return jnp.mean(optax.losses.softmax_cross_entropy(logits, replay.a[rows]))


def conservative_q_loss(params, slow, replay: ReplayState, rows, window, discount, unit, alpha):
    """Huber TD error + alpha (logsumexp Q - Q(a)): CQL(H), Kumar et al. (2020), eq. 4.

    Q is the network's output times `unit`, so that both terms keep their balance whatever the
    size of rewards.
    """
    q = student_logits(params, contexts(replay, rows, window))
    q_next = student_logits(slow, contexts(replay, rows + 1, window))
    q_next = jnp.where(replay.legal[rows + 1], q_next, -1e9).max(-1)  # finite: 0 * inf is NaN
    goes_on = discount * (1 - replay.terminated[rows])
    target = jax.lax.stop_gradient(replay.r[rows] / unit + goes_on * q_next)
    taken = jnp.sum(q * replay.a[rows], -1)
    gap = jax.nn.logsumexp(q, axis=-1) - taken
    return jnp.mean(optax.losses.huber_loss(taken, target)) + alpha * jnp.mean(gap)


def blank_baselines(log: Log, world: World, config: BaselineConfig) -> dict[str, Any]:
    """The structure of both baselines, without their numbers."""
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
        train = _make_train(kind, world, config)
        trained[kind], loss = train(params, replay, jax.random.split(train_key, config.steps))
        update(1, **finite({f"clone/{kind}_loss": loss}))
    trained["behaviour_cloning"]["greedy"] = jnp.array(False)  # it clones the randomness too
    return trained


def _fresh(log: Log, world: World, config: BaselineConfig, key: jax.Array) -> Any:
    return fresh_student(log, world.model.window, config.width, key)


def _make_train(kind: str, world: World, config: BaselineConfig):
    """`train(params, replay, keys) -> (params, loss of the last steps)`, one step per key."""
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.05))
    window, discount = world.model.window, world.card["discount"]
    unit = world.card["value_span"] * (1 - discount)  # one typical reward

    def loss_of(layers, slow, replay, rows):
        params = slow | {"layers": layers}
        if kind == "behaviour_cloning":
            return clone_loss(params, replay, rows, window)
        return conservative_q_loss(
            params, slow, replay, rows, window, discount, unit, config.conservatism
        )

    @jax.jit
    def train(params, replay, keys):
        def step(carry, key):
            layers, slow, opt_state = carry
            drawn = jax.random.randint(key, (config.batch,), 0, replay.num_starts)
            rows = replay.starts[drawn]
            loss, grads = jax.value_and_grad(loss_of)(layers, slow, replay, rows)
            updates, opt_state = optimiser.update(grads, opt_state)
            layers = optax.apply_updates(layers, updates)
            rate = 1 - config.target_decay
            slow = slow | {"layers": optax.incremental_update(layers, slow["layers"], rate)}
            return (layers, slow, opt_state), loss

        carry = params["layers"], params, optimiser.init(params["layers"])
        (layers, _, _), losses = jax.lax.scan(step, carry, keys)
        return params | {"layers": layers}, jnp.mean(losses[-100:])

    return train
