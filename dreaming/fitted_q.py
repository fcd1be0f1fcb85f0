"""Fitted-Q evaluation: what a policy is worth, by an ensemble of Q functions fitted on the log.

    Q <- argmin sum_t w_t (r_t + discount (1 - terminated_t) sum_k p_k Q_slow(o[t+1], a_k) - Q)^2

(Ernst et al., 2005; Le et al., 2019), until nothing changes. A Q network has one hidden layer that
is drawn and not trained (random Fourier features, Rahimi & Recht, 2007) under a fitted output
layer; where observations are categories, every pair of observation and action is a feature of its
own. So each regression is solved exactly, and all of it takes seconds.

Members differ in the weight of each episode (Exp(1), the Bayesian bootstrap), in their hidden layer
and in what they believe before any data: where the log says nothing they disagree.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num

from dreaming.log import Log
from dreaming.replay import contexts
from dreaming.student import action_distribution, fresh_student
from envs.frames import frame_shape
from envs.types import Context
from worldmodels.actions import ActionHead
from worldmodels.contexts import context_rows

ROWS = 2048  # steps whose features are held at once; logs are padded to a multiple of it
EPISODES = 256  # and to a multiple of so many episodes, so that they share compiled programs
GAIN = 2.0  # of the hidden layer; with 3 networks see less far than a CartPole drifts
DOUBT = 0.3  # logged steps that a member's belief before any data weighs as much as; with 0.01 the
# iteration diverges on random logs of CartPole, with 10 every value is drawn to the log's mean
LEFT = 0.003  # share of the first error that may be left when the iteration ends
SIDE = 16  # blocks along the longer side of a frame, at most
MOST_PAIRS = 4096  # of observation and action, for a feature each


class Seen(struct.PyTreeNode):
    """What a policy is asked about."""

    context: Context  # [N]
    legal: Bool[Array, "N A"]


class Steps(struct.PyTreeNode):
    """N logged steps and the beginnings of E episodes, with padding."""

    now: Seen  # [N]
    next: Seen  # [N]
    first: Seen  # [E]
    x: Float[Array, "N X"]  # the contexts as inputs of about unit length
    x_next: Float[Array, "N X"]
    x_first: Float[Array, "E X"]
    a: Float[Array, "N A"]
    r: Float[Array, " N"]
    goes_on: Float[Array, " N"]  # 0 after a termination, 1 after a truncation
    episode: Int[Array, " N"]
    is_real: Float[Array, " N"]  # 0 in padding
    is_episode: Float[Array, " E"]  # 0 in padding
    mean: Float[Array, ""]  # of the discounted returns from the steps of the log
    spread: Float[Array, ""]  # half their range
    head: ActionHead = struct.field(pytree_node=False)


class Valued(struct.PyTreeNode):
    """A policy in the eyes of M members, and of their mean at N logged steps (L is then empty)."""

    values: Float[Array, "*M"]  # mean value where episodes begin
    q: Float[Array, "*L N"]  # of the logged action
    v: Float[Array, "*L N"]  # before the step
    v_next: Float[Array, "*L N"]  # after it, whether or not it ended


Evaluate = Callable[[Any], Valued]  # of the parameters of a student


def make_fitted_q(
    log: Log, window: int, discount: float, key: jax.Array, members: int = 32, width: int = 256
) -> tuple[Steps, Evaluate]:
    """The steps of the log, and the evaluation of any policy on them. `key` is a typed key."""
    steps = make_steps(log, window, discount)
    pairs = steps.x.shape[-1] * steps.a.shape[-1]
    categories = bool(jnp.all(jnp.sum(steps.x != 0, -1) == 1) & jnp.all(steps.x >= 0))
    if categories and window == 1 and pairs <= MOST_PAIRS and len(log.action.factors) == 1:
        from dreaming.counted_q import count, evaluate_counted

        counts = count(steps, discount, key, members)
        return steps, functools.partial(evaluate_counted, steps, counts)
    ensemble = make_members(steps, discount, key, members, width)
    return steps, functools.partial(evaluate_fitted, steps, ensemble, discount)


def make_steps(log: Log, window: int, discount: float) -> Steps:
    """The steps of a log."""
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

    at = lambda i: Seen(contexts(replay, jnp.asarray(i), window), replay.legal[i])
    now, later, first = (at(i) for i in (rows, rows + 1, begins))
    x, x_next, x_first = (inputs(seen.context) for seen in (now, later, first))
    length = jnp.sqrt(jnp.mean(jnp.sum(jnp.square(x[:count]), -1)))
    length = jnp.where(length > 1e-6, length, 1.0)  # an observation that never changes
    seen = returns_to_go(log, discount)
    return Steps(
        now=now,
        next=later,
        first=first,
        x=x / length,
        x_next=x_next / length,
        x_first=x_first / length,
        a=replay.a[rows],
        r=replay.r[rows],
        goes_on=1.0 - replay.terminated[rows],
        episode=replay.episode[rows],
        is_real=real(rows, count),
        is_episode=real(begins, episodes),
        mean=jnp.float32(seen.mean()),
        spread=jnp.float32(np.ptp(seen) / 2),
        head=log.head,
    )


def make_shown(log: Log, window: int) -> tuple[dict, Callable]:
    """(normalisers, what of observations [*B, O] is looked at): all; of frames blocks of pixels.

    A frame is shown as the means of at most SIDE x SIDE blocks; a drawn hidden layer finds nothing
    in single pixels. What a last, incomplete block would hold is left out.
    """
    if log.observation.kind != "pixels":
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


def returns_to_go(log: Log, discount: float) -> np.ndarray:
    """Discounted sum of the logged rewards from each step on."""
    every = []
    for trace in log.traces:
        total, out = 0.0, np.zeros(len(trace))
        for t in range(len(trace) - 1, -1, -1):
            total = out[t] = trace.rewards[t] + discount * total
        every.append(out)
    return np.concatenate(every)


def episode_weights(steps: Steps, key: jax.Array) -> Float[Array, " E"]:
    """The Bayesian bootstrap (Rubin, 1981) of one member: Exp(1) by episode."""
    return jax.random.exponential(key, steps.is_episode.shape) * steps.is_episode


def sweeps(discount: float) -> int:
    """How often an evaluation is iterated until LEFT of its first error can be left."""
    return math.ceil(math.log(LEFT) / math.log(discount))


def hidden(layer: Any, x: Float[Array, "*B X"], a: Float[Array, "*B A"]) -> Float[Array, "*B D"]:
    """The hidden layer of one member: of about unit length."""
    u = jnp.concatenate([x, a], -1) @ layer["w"] + layer["b"]
    return jnp.cos(u) * math.sqrt(2 / u.shape[-1])


def expected(
    layer: Any, x: Float[Array, "B X"], a: Float[Array, "B K A"], p: Float[Array, "B K"]
) -> Float[Array, "B D"]:
    """sum_k p_k hidden(x, a_k)."""
    one = lambda a, p: p[:, None] * hidden(layer, x, a)
    return jax.vmap(one, 1)(a, p).sum(0)


class Members(struct.PyTreeNode):
    """M networks before their output layers are fitted, and the log under them."""

    layer: Any  # {"w": [M, X + A, D], "b": [M, D]}
    weights: Float[Array, "*M E"]  # of the episodes
    inverse: Float[Array, "*M D D"]  # (Phi^T W Phi + DOUBT)^-1
    constant: Float[Array, "*M D"]  # Phi^T W (r - (1 - discount goes_on) mean) + DOUBT * belief


def _in_parts(arrays: tuple, add: Callable, zero: Any) -> Any:
    """`add` summed over parts of ROWS steps."""
    parts = jax.tree.map(lambda x: x.reshape(-1, ROWS, *x.shape[1:]), arrays)
    plus = lambda total, part: (jax.tree.map(jnp.add, total, add(*part)), None)
    return jax.lax.scan(plus, zero, parts)[0]


@functools.partial(jax.jit, static_argnames=("members", "width"))
def make_members(steps: Steps, discount: Any, key: jax.Array, members: int, width: int):
    """`members` networks of `width` hidden units."""

    def one(key):
        w_key, b_key, weight_key, belief_key = jax.random.split(key, 4)
        size = steps.x.shape[-1] + steps.a.shape[-1]
        layer = {
            "w": GAIN * jax.random.normal(w_key, (size, width)),
            "b": jax.random.uniform(b_key, (width,), maxval=2 * math.pi),
        }
        weights = episode_weights(steps, weight_key)
        belief = steps.spread * jax.random.normal(belief_key, (width,))

        def add(x, a, r, goes_on, episode, is_real):
            phi = hidden(layer, x, a)
            weighed = phi * (weights[episode] * is_real)[:, None]
            return phi.T @ weighed, (r - (1 - discount * goes_on) * steps.mean) @ weighed

        arrays = (steps.x, steps.a, steps.r, steps.goes_on, steps.episode, steps.is_real)
        gram, constant = _in_parts(arrays, add, (jnp.zeros((width, width)), jnp.zeros(width)))
        inverse = jnp.linalg.inv(gram + DOUBT * jnp.eye(width))
        return Members(layer, weights, inverse, constant + DOUBT * belief)

    return jax.lax.map(one, jax.random.split(key, members))


@jax.jit
def _evaluate(steps: Steps, members: Members, discount, times, now, next, first) -> Valued:
    """`now`, `next` and `first` are (actions, probabilities) of the policy there."""

    def one(member):
        def add(x, a, x_next, episode, goes_on, is_real, a_next, p):
            weighed = hidden(member.layer, x, a) * (member.weights[episode] * is_real)[:, None]
            after = expected(member.layer, x_next, a_next, p) * goes_on[:, None]
            return weighed.T @ after

        arrays = (steps.x, steps.a, steps.x_next, steps.episode, steps.goes_on, steps.is_real)
        cross = _in_parts((*arrays, *next), add, jnp.zeros_like(member.inverse))
        constant, linear = member.inverse @ member.constant, discount * member.inverse @ cross
        w = jax.lax.fori_loop(0, times, lambda _, w: constant + linear @ w, 0 * constant)
        value = lambda x, choice: expected(member.layer, x, *choice) @ w + steps.mean
        start = member.weights @ value(steps.x_first, first) / member.weights.sum()
        q = hidden(member.layer, steps.x, steps.a) @ w + steps.mean
        return Valued(start, q, value(steps.x, now), value(steps.x_next, next))

    valued = jax.lax.map(one, members)
    mean = lambda x: jnp.mean(x, axis=0)
    return Valued(valued.values, mean(valued.q), mean(valued.v), mean(valued.v_next))


@functools.partial(jax.jit, static_argnums=1)
def ask(policy: Any, head: ActionHead, seen: Seen) -> tuple[Array, Array]:
    """What a policy does where it is asked: actions [N, K, A], and their probabilities [N, K]."""
    return action_distribution(policy, seen.context, head, seen.legal)


def evaluate_fitted(steps: Steps, members: Members, discount: float, policy: Any) -> Valued:
    """What `policy` (parameters of a student) is worth to the members."""
    choices = (ask(policy, steps.head, seen) for seen in (steps.now, steps.next, steps.first))
    return _evaluate(steps, members, discount, sweeps(discount), *choices)
