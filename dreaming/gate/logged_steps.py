"""The steps of a log as arrays, for the offline estimates G1 and G2 (see `offline.py`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Num

from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.student.network import (
    action_probabilities,
    drawn_actions,
    fresh_student,
    probability,
)
from dreaming.types import ReplayState
from envs.frames import frame_shape
from envs.types import Context
from worldmodels.actions import ActionHead
from worldmodels.contexts import context_rows, row_size

ROWS = 2048  # steps whose features are held at once; steps are padded to a multiple
EPISODES = 256  # episodes are padded to a multiple, so that logs share compiled programs
DRAWS = 16  # actions drawn at each context of a policy whose actions cannot be listed
SIDE = 16  # most blocks along the longer side of a frame


class Paid(NamedTuple):
    """The least and the most that a log paid for a step after which the episode went on (or
    nothing), and for one that may have been the last."""

    on: tuple[float, float]
    last: tuple[float, float]


class Steps(struct.PyTreeNode):
    """N logged steps and the first observations of E episodes, padded."""

    replay: ReplayState
    rows: Int[Array, " N"]  # of the replay, at which the steps are; the next rows are after them
    begins: Int[Array, " E"]  # rows of the first observations
    x: Float[Array, "N X"]  # the contexts as inputs of about unit length
    x_next: Float[Array, "N X"]
    x_first: Float[Array, "E X"]
    a: Float[Array, "N A"]
    r: Float[Array, " N"]
    left: Int[Array, " N"]  # steps to the horizon, this one included; at least 1
    goes_on: Float[Array, " N"]  # 0 after a termination, 1 after a truncation
    episode: Int[Array, " N"]
    is_real: Float[Array, " N"]  # 0 in padding
    is_episode: Float[Array, " E"]  # 0 in padding
    mean: Float[Array, ""]  # of the returns from each logged step
    spread: Float[Array, ""]  # half the range of these returns
    paid: Paid
    window: int = struct.field(pytree_node=False)  # observations of a context
    horizon: int = struct.field(pytree_node=False)  # steps of an episode
    head: ActionHead = struct.field(pytree_node=False)


class Valued(struct.PyTreeNode):
    """Undiscounted returns of a policy to the horizon, by M members."""

    values: Float[Array, "*M"]  # mean value of the first observations
    q: Float[Array, "*M N"]  # of the logged action, for the steps that are left
    v: Float[Array, "*M N"]  # before the step, for the steps that are left
    v_next: Float[Array, "*M N"]  # after the step, for one step less; also after a termination


Evaluate = Callable[[Any], Valued]  # from the parameters of a student to its values


def make_steps(log: Log, window: int, horizon: int) -> Steps:
    """The padded steps of a log, with contexts of `window` observations; episodes of the task end
    after `horizon` steps."""
    replay = log.replay()
    scale, shown = make_shown(log, window)
    count = int(replay.num_starts)
    rows = np.asarray(replay.starts)[:count]
    begins = np.unique(np.asarray(replay.first)[rows])
    episodes = begins.size
    rows, begins = np.pad(rows, (0, -count % ROWS)), np.pad(begins, (0, -episodes % EPISODES))
    real = lambda i, size: jnp.asarray(np.arange(i.size) < size, jnp.float32)

    def inputs(context: Context) -> Array:
        x = context_rows(shown(context.o), context.a, context.valid, scale)
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2])

    seen = lambda i: by_parts(lambda part: inputs(contexts(replay, part, window)), jnp.asarray(i))
    x, x_next, x_first = (seen(i) for i in (rows, rows + 1, begins))
    length = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(x[:count]), -1)))
    length = jnp.where(length > 1e-6, length, 1.0)  # for observations that never change
    to_go = returns_to_go(log)
    left = horizon - (rows - np.asarray(replay.first)[rows])
    return Steps(
        replay=replay,
        rows=jnp.asarray(rows, jnp.int32),
        begins=jnp.asarray(begins, jnp.int32),
        x=x / length,
        x_next=x_next / length,
        x_first=x_first / length,
        a=replay.a[rows],
        r=replay.r[rows],
        left=jnp.asarray(np.maximum(left, 1), jnp.int32),
        goes_on=1.0 - replay.terminated[rows],
        episode=replay.episode[rows],
        is_real=real(rows, count),
        is_episode=real(begins, episodes),
        mean=jnp.float32(to_go.mean()),
        spread=jnp.float32(np.ptp(to_go) / 2),
        paid=jax.tree.map(jnp.float32, paid_by(log)),
        window=window,
        horizon=horizon,
        head=log.head,
    )


def make_shown(log: Log, window: int) -> tuple[dict, Callable]:
    """(normalisers, `shown`): `shown` maps observations [*B, O] to the inputs of Q functions.

    Frames become the means of at most SIDE x SIDE blocks (incomplete blocks are cut off), since a
    random hidden layer cannot use single pixels; other observations stay as they are.
    """
    if log.observation.kind != "frames":
        return fresh_student(log, window, 1, jax.random.key(0))["scale"], lambda o: o
    height, width, channels = frame_shape(log.observation.space)
    side = -(-max(height, width) // SIDE)
    rows, columns = max(1, height // side), max(1, width // side)
    down, right = min(side, height), min(side, width)

    def shown(o: Num[Array, "*B O"]) -> Float[Array, "*B o"]:
        x = jnp.reshape(o, (*o.shape[:-1], height, width, channels)).astype(jnp.float32)
        x = x[..., : rows * down, : columns * right, :]
        x = x.reshape(*o.shape[:-1], rows, down, columns, right, channels).mean((-4, -2))
        return x.reshape(*o.shape[:-1], rows * columns * channels)

    mean, std = log.frame_scale()
    mean = shown(jnp.asarray(mean, jnp.float32).ravel())
    return {"o_mean": mean, "o_std": jnp.float32(std), "o_step": jnp.float32(std)}, shown


def input_bytes(log: Log, window: int) -> int:
    """Bytes of the inputs of one step, at most."""
    size = log.observation.size
    if log.observation.kind == "frames":
        size = min(size, SIDE * SIDE * frame_shape(log.observation.space)[2])
    return 4 * window * row_size(window, size, log.action.size)


def returns_to_go(log: Log) -> np.ndarray:
    """float64 [N]: sum of the logged rewards from each step to its episode's end."""
    after = lambda r: np.cumsum(np.asarray(r, np.float64)[::-1])[::-1]
    return np.concatenate([after(trace.rewards) for trace in log.traces])


def paid_by(log: Log) -> Paid:
    """What the log paid for going on, and for ending."""
    ends = [trace.rewards[-1] for trace in log.traces if trace.terminated[-1]]
    on = np.concatenate([t.rewards[: len(t) - bool(t.terminated[-1])] for t in log.traces])
    lowest, highest = min(on.min(initial=0.0), 0.0), max(on.max(initial=0.0), 0.0)
    return Paid((lowest, highest), (min([lowest, *ends]), max([highest, *ends])))


def possible(paid: Paid, left: Any) -> tuple[Any, Any]:
    """The least and the highest return that `left` steps can have, by the rewards of the log."""
    least, most = ((left - 1) * on + last for on, last in zip(paid.on, paid.last, strict=True))
    return least, most


def episode_weights(steps: Steps, key: jax.Array) -> Float[Array, " E"]:
    """The Bayesian bootstrap (Rubin, 1981) of one member: Exp(1) by episode."""
    return jax.random.exponential(key, steps.is_episode.shape) * steps.is_episode


def by_parts(function: Callable, *arrays: Any) -> Any:
    """`function` of the arrays' rows, a multiple of EPISODES, a part at a time: contexts of frames
    take much room, and what a policy makes of them more."""
    parts = [x.reshape(-1, EPISODES, *x.shape[1:]) for x in arrays]
    found = jax.lax.map(lambda part: function(*part), tuple(parts))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


@jax.jit
def ask(policy: Any, steps: Steps, rows: Int[Array, " N"]) -> tuple[Array, Array]:
    """Actions [N, K, A] of a policy at rows of the log, and their probabilities [N, K].

    All actions where they can be listed, else DRAWS of each context, drawn as the policy draws
    where it is deployed; all policies draw with the same keys.
    """
    replay, head = steps.replay, steps.head
    if head.kind == "discrete":
        listed = lambda part: action_probabilities(
            policy, contexts(replay, part, steps.window), head, replay.legal[part]
        )
        p = by_parts(listed, rows)
        return jnp.broadcast_to(jnp.asarray(head.table), (*p.shape, head.size)), p

    def draw(part, keys):
        context, legal = contexts(replay, part, steps.window), replay.legal[part]
        return drawn_actions(policy, context, keys.swapaxes(0, 1), head, legal)

    keys = jax.random.key_data(jax.random.split(jax.random.key(0), (DRAWS, rows.size)))
    a = by_parts(draw, rows, keys.swapaxes(0, 1))
    return a, jnp.full(a.shape[:-1], 1 / DRAWS)


@jax.jit
def taken(policy: Any, steps: Steps) -> Float[Array, " N"]:
    """Probability under a policy of each logged action."""
    replay = steps.replay

    def one(part):
        context = contexts(replay, part, steps.window)
        return probability(policy, context, steps.head, replay.legal[part], replay.a[part])

    return by_parts(one, steps.rows)
