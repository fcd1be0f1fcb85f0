"""The reader: a policy network that looks things up in the rows of a session.

An observation asks the rows of the session in layers of cross-attention. Rows do not look at each
other, so what is kept of one depends on it alone: memory grows row by row, and leaving rows out is
a mask. `kind="set"` weighs rows by a softmax (Vaswani et al., 2017) with one learned row beside
them that says nothing; `kind="linear"` by a kernel (Katharopoulos et al., 2020), so that sums over
the rows are all there is to keep. Without rows this is a policy by its weights alone.

Two heads: the policy, and the outcome of every action, a world model that learns in context.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreaming.sessions.types import Memory, Rows, Sums

KINDS = ("set", "linear")


@dataclass(frozen=True)
class ReaderShape:
    """All sizes of a reader; `features` are those of a kernel of linear attention, per head."""

    o_size: int
    num_actions: int
    num_outcomes: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    kind: str = "set"
    features: int = 32

    @property
    def row_size(self) -> int:
        """Features of a row: observation, action, reward, known, outcome (or unseen)."""
        return self.o_size + self.num_actions + 2 + self.num_outcomes + 1


def init_reader(key: jax.Array, shape: ReaderShape, r_scale: float = 1.0) -> dict[str, Any]:
    """Parameters of a reader; rewards are divided by `r_scale`, their typical size."""
    embed_key, row_key, pi_key, outcome_key, key = jax.random.split(key, 5)
    width, outputs = shape.width, shape.num_actions * shape.num_outcomes
    return {
        "embed": _mlp(embed_key, (shape.o_size, width, width)),
        "row": _mlp(row_key, (shape.row_size, width, width)),
        "layers": [_init_layer(k, shape) for k in jax.random.split(key, shape.layers)],
        "pi": _mlp(pi_key, (width, shape.num_actions), gain=0.1),
        "outcome": _mlp(outcome_key, (width, outputs), gain=0.1),
        "r_scale": jnp.float32(r_scale),
    }


def _init_layer(key: jax.Array, shape: ReaderShape) -> dict[str, Any]:
    width, each = shape.width, shape.width // shape.heads
    keys = jax.random.split(key, 6)
    square = lambda k: jax.random.normal(k, (width, width)) / np.sqrt(width)
    layer = {name: square(k) for name, k in zip("qkvo", keys, strict=False)}
    layer["mlp"] = _mlp(keys[4], (width, 2 * width, width))
    if shape.kind == "linear":
        draw = jax.random.normal(keys[5], (shape.heads, each, shape.features))
        return layer | {"features": draw / each**0.25}
    null = jnp.zeros((shape.heads, each))
    return layer | {"null_key": null, "null_value": null}


def _mlp(key: jax.Array, sizes: tuple[int, ...], gain: float = 1.0) -> list[dict[str, Any]]:
    keys = jax.random.split(key, len(sizes) - 1)
    draw = lambda k, m, n: jax.random.normal(k, (m, n)) * gain / np.sqrt(m)
    return [
        {"w": draw(k, m, n), "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def _through(layers: list[dict[str, Any]], x: jax.Array) -> jax.Array:
    """The output of a perceptron; nothing follows its last layer."""
    *hidden, last = layers
    for layer in hidden:
        x = jax.nn.silu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def _normal(x: jax.Array) -> jax.Array:
    """Layer normalisation without parameters."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def row_features(params: Any, shape: ReaderShape, rows: Rows) -> Float[Array, "*B M R"]:
    """What a reader is told of each row."""
    outcome = jax.nn.one_hot(rows.outcome, shape.num_outcomes)
    unseen = (rows.outcome < 0)[..., None]
    r = jnp.where(rows.known, rows.r / params["r_scale"], 0.0)[..., None]
    return jnp.concatenate([rows.o, rows.a, r, rows.known[..., None], outcome, unseen], -1)


def read(params: Any, shape: ReaderShape, rows: Rows) -> Memory:
    """The memory of rows; each depends on its own row alone."""
    tokens = _normal(_through(params["row"], row_features(params, shape, rows)))
    split = lambda x: x.reshape(*x.shape[:-1], shape.heads, -1)
    each = lambda name: [split(tokens @ layer[name]) for layer in params["layers"]]
    keys, values = (jnp.stack(each(name), axis=-3) for name in "kv")
    return Memory(keys, values, rows.valid)


def kernel(x: Float[Array, "*B H D"], draw: Float[Array, "H D F"]) -> Float[Array, "*B H F"]:
    """Positive features, whose products weigh rows in linear attention."""
    return jnp.square(jax.nn.relu(jnp.einsum("...hd,hdf->...hf", x, draw)))


def summed(params: Any, memory: Memory) -> Sums:
    """The sums over valid rows that linear attention needs."""
    draw = jnp.stack([layer["features"] for layer in params["layers"]])  # [L, H, D, F]
    keys = jnp.square(jax.nn.relu(jnp.einsum("...mlhd,lhdf->...mlhf", memory.keys, draw)))
    keys = keys * memory.valid[..., None, None, None]
    outer = jnp.einsum("...mlhf,...mlhd->...lhfd", keys, memory.values)
    return Sums(outer, keys.sum(-4))


def _look_up(layer: Any, q: jax.Array, memory: Memory | Sums, index: int) -> jax.Array:
    """What queries [*B, Q, H, D] find in the rows [*B, ...] at layer `index`."""
    if isinstance(memory, Sums):
        q = kernel(q, layer["features"])
        found = jnp.einsum("...qhf,...hfd->...qhd", q, memory.outer[..., index, :, :, :])
        weight = jnp.einsum("...qhf,...hf->...qh", q, memory.total[..., index, :, :])
        return found / (weight + 1.0)[..., None]  # 1: a row that says nothing
    keys, values = memory.keys[..., index, :, :], memory.values[..., index, :, :]
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("...qhd,...mhd->...qhm", q, keys) * scale
    logits = jnp.where(memory.valid[..., None, None, :], logits, -1e9)
    null = jnp.einsum("...qhd,hd->...qh", q, layer["null_key"])[..., None] * scale
    weights = jax.nn.softmax(jnp.concatenate([logits, null], -1), axis=-1)
    found = jnp.einsum("...qhm,...mhd->...qhd", weights[..., :-1], values)
    return found + weights[..., -1:] * layer["null_value"]


def answer(
    params: Any, shape: ReaderShape, memory: Memory | Sums, o: Float[Array, "*B Q O"]
) -> tuple[Float[Array, "*B Q A"], Float[Array, "*B Q A K"]]:
    """(policy logits, logits of the outcome of each action) at observations, given a memory."""
    x = _through(params["embed"], o)
    for index, layer in enumerate(params["layers"]):
        q = (_normal(x) @ layer["q"]).reshape(*x.shape[:-1], shape.heads, -1)
        found = _look_up(layer, q, memory, index)
        x = x + found.reshape(x.shape) @ layer["o"]
        x = x + _through(layer["mlp"], _normal(x))
    x = _normal(x)
    outcome = _through(params["outcome"], x)
    outcome = outcome.reshape(*x.shape[:-1], shape.num_actions, shape.num_outcomes)
    return _through(params["pi"], x), outcome


def nothing(shape: ReaderShape, batch: tuple[int, ...] = (), rows: int = 1) -> Memory:
    """A memory of no rows, with room for some."""
    size = (*batch, rows, shape.layers, shape.heads, shape.width // shape.heads)
    return Memory(jnp.zeros(size), jnp.zeros(size), jnp.zeros((*batch, rows), bool))


def remembered(params: Any, shape: ReaderShape, memory: Memory) -> Memory | Sums:
    """What `answer` takes of a memory: itself, or for linear attention its sums."""
    return summed(params, memory) if shape.kind == "linear" else memory


def pi_logits(
    params: Any, shape: ReaderShape, memory: Memory, o: Float[Array, "*B Q O"]
) -> Float[Array, "*B Q A"]:
    """Policy logits at observations, given a memory."""
    return answer(params, shape, remembered(params, shape, memory), o)[0]
