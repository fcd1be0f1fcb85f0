"""The student: the policy network over contexts of observations, which is deployed."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from envs.frames import frame_shape
from envs.types import Context, action_features
from worldmodels.actions import ActionHead, make_head
from worldmodels.contexts import among_all, context_rows, observation_scale, row_size

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Num, UInt32

MIXED = ("old", "new")  # parts of a mixture


def head_of(space: Any) -> ActionHead:
    """The `ActionHead` of an action space, shared by all models and students of a task."""
    features = action_features(space)
    return make_head(features.factors, features.size)


def init_student(
    key: jax.Array,
    context_size: int,
    num_outputs: int,
    width: int,
    o_mean,
    o_std,
    *,
    o_step=None,
    gru_row: int | None = None,
):
    """Parameters of a student: two hidden layers and an output near zero (a uniform policy).

    With `gru_row`, a GRU of `width` units reads the rows of the context, `gru_row` features each;
    its last state and the newest row are the input, and `context_size` is not used.
    """
    keys = jax.random.split(key, 3)
    gru = {}
    if gru_row is not None:
        gru_key, *_ = jax.random.split(keys[0], 2)
        fan_in = gru_row + width
        draw = jax.random.normal(gru_key, (fan_in, 3 * width)) / np.sqrt(fan_in)
        gru, context_size = {"gru": {"w": draw, "b": jnp.zeros(3 * width)}}, fan_in
    sizes = (context_size, width, width, num_outputs)
    gains = (1.0, 1.0, 0.01)
    layers = [
        {
            "w": jax.random.normal(layer_key, (fan_in, fan_out)) * gain / np.sqrt(fan_in),
            "b": jnp.zeros(fan_out),
        }
        for fan_in, fan_out, gain, layer_key in zip(sizes[:-1], sizes[1:], gains, keys, strict=True)
    ]
    o_step = o_std if o_step is None else o_step
    scale = {"o_mean": o_mean, "o_std": o_std, "o_step": o_step}
    scale = {name: jnp.asarray(x, jnp.float32) for name, x in scale.items()}
    return {"layers": layers, **gru, "scale": scale, "greedy": jnp.array(True)}


def init_frame_student(
    key: jax.Array,
    frame: tuple[int, int, int],
    window: int,
    num_outputs: int,
    width: int,
    size: str,
):
    """Parameters of a student for `window` frames [H, V, F]: an encoder as in a frame model of that
    `size`, then the layers of `init_student`."""
    from worldmodels.frames.networks import SIZES, Encoder

    encoder_key, key = jax.random.split(key)
    height, columns, channels = frame
    x = jnp.zeros((1, height, columns, channels * window))
    encoder = Encoder(*SIZES[size][:2])
    out, variables = jax.jit(encoder.init_with_output)(encoder_key, x)
    student = init_student(key, out.size, num_outputs, width, jnp.zeros(frame), 255.0)
    return student | {"encoder": variables["params"]}


def fresh_student(
    log: Any,
    window: int,
    width: int,
    key: jax.Array,
    *,
    recurrent: bool | None = None,
    size: str | None = None,
) -> Any:
    """A student for the spaces of `log` (a `Log`), normalised by its observations; frames are
    divided by 255.

    `size` is that of the encoder for frames; None = `usual_size` of these frames.
    """
    if log.observation.kind == "frames":
        from worldmodels.frames.networks import usual_size

        frame = frame_shape(log.observation.space)
        size = size or usual_size(*frame[:2])
        return init_frame_student(key, frame, window, log.head.num_outputs, width, size)
    row = row_size(window, log.observation.size, log.action.size)
    sizes = window * row, log.head.num_outputs, width
    gru_row = row if recurrent else None
    return init_student(key, *sizes, **scale_of(log), gru_row=gru_row)


def scale_of(log: Any) -> dict[str, np.ndarray]:
    """The `observation_scale` of a log."""
    o = log.numbers()
    change = np.concatenate([np.diff(x, axis=0) for x in o])
    return among_all(observation_scale(np.concatenate(o), change), log.is_number)


def renormalised(params: Any, log: Any) -> Any:
    """The same student, normalised by the observations of `log`: what changes of its inputs is
    folded into its first layer. For frames, which need none, the student itself.

    A feature that hardly varied in an earlier log would else stay large or small for ever.
    """
    if "encoder" in params:
        return params
    old = {name: np.asarray(x, np.float64) for name, x in params["scale"].items()}
    new = scale_of(log)
    layers, gru = params["layers"], params.get("gru")
    weights = np.asarray(layers[0]["w"], np.float64)
    rows = gru["w"].shape[0] - gru["b"].size // 3 if gru else None  # features of a row
    fold = functools.partial(
        _folded, old=old, new=new, row=row_size(2, log.observation.size, log.action.size)
    )
    first, bias = fold(weights[:rows], np.asarray(layers[0]["b"], np.float64))
    weights = np.concatenate([first, weights[rows:]]) if gru else first
    f32 = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
    folded = {"layers": [f32({"w": weights, "b": bias}), *layers[1:]], "scale": f32(new)}
    if gru:
        w, b = (np.asarray(gru[name], np.float64) for name in ("w", "b"))
        read, b = fold(w[:rows], b)
        folded["gru"] = f32({"w": np.concatenate([read, w[rows:]]), "b": b})
    return params | folded


def _folded(
    w: np.ndarray, b: np.ndarray, *, old: dict, new: dict, row: int
) -> tuple[np.ndarray, np.ndarray]:
    """(weights, bias) of rows of contexts normalised anew, that say what `w`, `b` said of the old:
    (o - m) / s = (o - m') / s' * s' / s + (m' - m) / s. A row has `row` features, if not O."""
    size = old["o_mean"].size
    longer = new["o_std"] / old["o_std"]
    shift = (new["o_mean"] - old["o_mean"]) / old["o_std"]
    if len(w) == size:  # W = 1
        return w * longer[:, None], b + shift @ w
    rows = w.reshape(-1, row, w.shape[1]).copy()
    rows[:, -1] += np.einsum("o,roh->rh", shift, rows[:, :size])  # by `valid`
    rows[:, :size] *= longer[:, None]
    rows[:, size : 2 * size] *= (new["o_step"] / old["o_step"])[:, None]
    return rows.reshape(w.shape), b


def mixture(old: Any, new: Any, share: float) -> Any:
    """A student that at each step asks `new` with probability `share`, else `old`."""
    return {"old": old, "new": new, "share": jnp.float32(share)}


def network(params: Any) -> Any:
    """The student itself; of a mixture, its newest part, from which training goes on."""
    return network(params["new"]) if "share" in params else params


def learned_part(params: Any) -> Any:
    """The trained parameters of a student; its normalisers are not trained."""
    return {name: params[name] for name in ("layers", "gru", "encoder") if name in params}


def student_of(log: Any, model: Any, width: int, key: jax.Array) -> Any:
    """A fresh student that reads its context as `model` does."""
    return fresh_student(log, model.window, width, key, **getattr(model, "student", {}))


def student_logits(params: Any, context: Context) -> Float[Array, "*B P"]:
    """Policy outputs (see `ActionHead`) for contexts [*B]. Of a mixture, which must have "discrete"
    actions, the log of its mixed probabilities."""
    if "share" in params:
        old, new = (jax.nn.softmax(student_logits(params[part], context)) for part in MIXED)
        return jnp.log(old + params["share"] * (new - old) + 1e-9)
    x = _inputs(params, context)
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jax.nn.silu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def _inputs(params: Any, context: Context) -> Float[Array, "*B X"]:
    """The input of a student's first layer for contexts [*B]."""
    if "encoder" in params:
        return _look(params["encoder"], params["scale"], context.o)
    x = context_rows(context.o, context.a, context.valid, params["scale"])
    if "gru" in params:
        return _read(params["gru"], x)
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def _look(encoder: Any, scale: Any, o: Num[Array, "*B W O"]) -> Float[Array, "*B X"]:
    """The encoder's output for frames stacked along channels, as in the world model."""
    from worldmodels.frames.networks import encoder_of

    shape, frame = o.shape[:-2], scale["o_mean"].shape
    x = o.reshape(math.prod(shape), o.shape[-2], *frame)
    x = jnp.moveaxis((x - scale["o_mean"]) / scale["o_std"], 1, 3)
    x = x.reshape(*x.shape[:3], x.shape[3] * x.shape[4])
    z: Any = encoder_of(encoder).apply({"params": encoder}, x)
    return z.reshape(*shape, math.prod(z.shape[1:]))


def _read(gru: Any, rows: Float[Array, "*B W F"]) -> Float[Array, "*B X"]:
    """The newest row and the last state of a GRU over all rows (Cho et al., 2014)."""
    width = gru["b"].size // 3

    def read(h, row):
        gates = jnp.concatenate([row, h], -1) @ gru["w"][:, : 2 * width] + gru["b"][: 2 * width]
        update, reset = jnp.split(jax.nn.sigmoid(gates), 2, axis=-1)
        new = jnp.concatenate([row, reset * h], -1) @ gru["w"][:, 2 * width :]
        h = update * h + (1 - update) * jnp.tanh(new + gru["b"][2 * width :])
        return h, None

    h = jnp.zeros((*rows.shape[:-2], width))
    h, _ = jax.lax.scan(read, h, jnp.moveaxis(rows, -2, 0))
    return jnp.concatenate([rows[..., -1, :], h], axis=-1)


def action_probabilities(
    params: Any, context: Context, head: ActionHead, legal: Bool[Array, "*B A"]
) -> Float[Array, "*B P"]:
    """The probability with which `act` takes each action of a "discrete" head's `table`."""
    every = jnp.asarray(head.table)
    of = lambda a: probability(params, context, head, legal, jnp.broadcast_to(a, legal.shape))
    return jax.vmap(of, out_axes=-1)(every)


def probability(
    params: Any,
    context: Context,
    head: ActionHead,
    legal: Bool[Array, "*B A"],
    a: Float[Array, "*B A"],
) -> Float[Array, "*B"]:
    """The probability with which `act` takes actions `a` at contexts [*B]; not for "box"."""
    if "share" in params:
        old, new = (probability(params[part], context, head, legal, a) for part in MIXED)
        return (1 - params["share"]) * old + params["share"] * new
    pi = head.masked(student_logits(params, context), legal)
    is_best = jnp.all(jnp.abs(a - head.mode(pi)) < 1e-6, axis=-1)
    p = jnp.where(params["greedy"], is_best, jnp.exp(head.log_prob(pi, a)))
    if "uniform" not in params:
        return p
    anything = head.log_prob(head.masked(jnp.zeros_like(pi), legal), a)
    return p + params["uniform"] * (jnp.exp(anything) - p)


def drawn_actions(
    params: Any, context: Context, keys: UInt32[Array, "K B 2"], head: ActionHead, legal: Any
) -> Float[Array, "B K A"]:
    """K actions of a student at each of B contexts, drawn as `act` draws them."""
    draw = lambda key: act(params, context, key, head, legal)
    return jax.vmap(draw, out_axes=1)(keys)


def with_uniform(params: Any, share: float) -> Any:
    """A student that takes a uniformly drawn legal action with probability `share`, else its own.

    For scoring, not for saving.
    """
    return params | {"uniform": jnp.float32(share)}


def act(
    params: Any,
    context: Context,
    key: UInt32[Array, "B 2"],
    head: ActionHead,
    legal: Bool[Array, "B A"] | None = None,
) -> Float[Array, "B A"]:
    """Action features [B, A] of a student: the most probable action if it is greedy, else drawn,
    each row by its own key.

    Distilled students are greedy, clones of a behaviour are not.
    """
    if "share" in params:
        split = jax.vmap(lambda k: jax.random.split(jax.random.wrap_key_data(k)))(key)
        is_new = jax.vmap(jax.random.uniform)(split[:, 0]) < params["share"]
        rest = jax.random.key_data(split[:, 1])
        old, new = (act(params[part], context, rest, head, legal) for part in MIXED)
        return jnp.where(is_new[:, None], new, old)
    pi = student_logits(params, context)
    pi = pi if legal is None else head.masked(pi, legal)
    a = jnp.where(params["greedy"], head.mode(pi), head.sample(pi, key))
    if "uniform" not in params:
        return a
    split = jax.vmap(lambda k: jax.random.split(jax.random.wrap_key_data(k)))(key)
    anything = head.masked(jnp.zeros_like(pi), jnp.ones_like(a, bool) if legal is None else legal)
    draw = head.anywhere(anything, jax.random.key_data(split[:, 0]))
    is_own = jax.vmap(jax.random.uniform)(split[:, 1]) >= params["uniform"]
    return jnp.where(is_own[:, None], a, draw)
