"""Time by part of an update: programs of their own, compiled and timed one by one.

In the real update the parts are one program, so their sum is not quite the whole: how far it is off
is a figure too (`update/parts_over_whole`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreaming.efficientzero.learner import make_optimiser, windows
from dreaming.efficientzero.ring import draw
from dreaming.efficientzero.types import AgentState
from experiments.bench.case import Case
from experiments.bench.clock import timed
from worldmodels.frames.augment import augment
from worldmodels.frames.losses import image_loss
from worldmodels.frames.types import ImageWindows


def update_figures(
    case: Case, state: AgentState, whole: float, update: Callable
) -> dict[str, float]:
    """Milliseconds and share of each part; `whole` is the seconds of an update in one program.

    `state` is not donated to anything.
    """
    sample, key = make_sample(case), case.key("sample")
    gradient = make_gradient(case)
    batch = jax.block_until_ready(sample(state, key))
    grads, priorities = jax.block_until_ready(gradient(state.params, batch))
    follow, slots = make_follow(case), jnp.arange(len(priorities))
    store = jax.jit(lambda priority, at, x: priority.at[at].set(x))
    calls = {
        "sample": lambda: sample(state, key),
        "forward_backward": lambda: gradient(state.params, batch),
        "optimiser": lambda: follow(state.params, state.opt_state, grads),
        "priorities": lambda: store(state.ring.priority, slots, priorities),
    }
    seconds = {}
    for name, call in calls.items():
        waits = lambda call=call: jax.block_until_ready(call())
        seconds[name] = timed(waits, case.repetitions)[0]
        update(1)
    total = sum(seconds.values())
    return (
        {f"update/{name}_ms": 1e3 * each for name, each in seconds.items()}
        | {f"update/{name}_share": each / total for name, each in seconds.items()}
        | {"update/parts_over_whole": total / whole}
    )


def make_sample(case: Case) -> Callable[[AgentState, jax.Array], ImageWindows]:
    """`sample(state, key)`: draw, stack, look targets up, augment."""
    config, replay = case.config, case.config.replay
    limits = {"envs": config.envs, "window": config.window}

    def sample(state: AgentState, key) -> ImageWindows:
        draw_key, action_key, augment_key = jax.random.split(key, 3)
        slots, weight = draw(
            state.ring, draw_key, replay.batch, alpha=replay.alpha, beta=replay.beta_first, **limits
        )
        batch = windows(state, slots, weight, action_key, config)
        stacks = batch.o.reshape(-1, *batch.o.shape[2:])
        return _spread(case, batch.replace(o=augment(stacks, augment_key).reshape(batch.o.shape)))

    return jax.jit(sample)


def make_gradient(case: Case) -> Callable:
    """`gradient(params, batch) -> (grads, priorities)`: forward and backward, no augmentation."""
    config = case.config

    def gradient(params, batch: ImageWindows):
        loss_of = lambda params: image_loss(
            params,
            case.model,
            _spread(case, batch),
            config.weights,
            gradient_scale=config.gradient_scale,
        )
        (_, (_, priorities)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return grads, priorities

    return jax.jit(gradient)


def make_follow(case: Case) -> Callable:
    """`follow(params, opt_state, grads)`: the optimiser's step."""
    optimiser = make_optimiser(case.config.optimiser, case.config.updates)

    def follow(params, opt_state, grads):
        norm = optax.tree.norm(grads)
        changes, opt_state = optimiser.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), opt_state, norm

    return jax.jit(follow)


def _spread(case: Case, batch: ImageWindows) -> ImageWindows:
    """Shared out over devices, as it is in the real update."""
    mesh = Mesh(case.batch_devices, "batch")
    return jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("batch")))
