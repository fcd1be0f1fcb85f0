"""EfficientZero's loss, with two terms of our own for dreams: decode and continuation.

L = 1/K sum_k [c_v value + c_pi policy + c_d (decode + error)]
  + 1/K sum_{k>=1} [c_vp value prefix + c_c consistency + c_g continuation],

where the expensive decode term of each row is estimated on a part of the windows. The term `error`
is that of heads which tell how much a decoded frame errs; its gradient is theirs alone. The
model is unrolled K steps from the encoded root; losses are weighted by the importance weight of the
draw and averaged over the batch. After a termination the targets of value, reward and continuation
are 0; after a truncation nothing is known and nothing is learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Num

from worldmodels.config import FitConfig, FrameLossWeights
from worldmodels.frames.augment import augment
from worldmodels.frames.model import FrameModel
from worldmodels.frames.types import FrameWindows, ImaginedWindows
from worldmodels.loops import scale_gradient
from worldmodels.support import scalar_to_histogram, scalar_to_support, squash
from worldmodels.targets import n_step_targets, value_prefixes
from worldmodels.types import Windows

LEAST_ERROR = 1e-3  # of a frame in [0, 1]; below this it does not matter
LEAST_PRIORITY = 1e-6  # so that a window without error can still be drawn
cross_entropy = optax.losses.softmax_cross_entropy
binary_cross_entropy = optax.losses.sigmoid_binary_cross_entropy


def unroll(model: FrameModel, params, latent, a: Float[Array, "B K A"], gradient_scale: float):
    """(latents [B, K, h, w, C], logits of the value prefix [B, K, S]) after each action.

    The gradient into each latent is multiplied by `gradient_scale`, also that of the heads. The
    memory of the value prefix is reset every `prefix_horizon` steps.
    """

    def step(carry, x):
        (latent, memory), (a_k, restarts) = carry, x
        memory = jax.tree.map(lambda h: jnp.where(restarts, 0.0, h), memory)
        latent = scale_gradient(model.apply(params, "step", latent, a_k), gradient_scale)
        memory, logits = model.apply(params, "value_prefix", latent, memory)
        return (latent, memory), (latent, logits)

    restarts = jnp.arange(a.shape[1]) % model.prefix_horizon == 0
    start = latent, model.begin(latent).memory
    # unroll=True: gradients of convolutions inside a loop are slow on CPUs.
    _, unrolled = jax.lax.scan(step, start, (jnp.moveaxis(a, 1, 0), restarts), unroll=True)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), unrolled)


def over_rows(model: FrameModel, params, method: str, x: Float[Array, "B R ..."]):
    """A method of the networks applied to each of R rows."""
    B, R = x.shape[:2]
    out = model.apply(params, method, x.reshape(B * R, *x.shape[2:]))
    return jax.tree.map(lambda y: y.reshape(B, R, *y.shape[1:]), out)


def scalar_loss(
    model: FrameModel, logits: Float[Array, "B R S"], x: Float[Array, "B R"], hl_gauss: bool
) -> Float[Array, "B R"]:
    """Cross-entropy against squashed scalars `x`, as Gaussian histograms or two-hot weights."""
    spread = scalar_to_histogram if hl_gauss else scalar_to_support
    return cross_entropy(logits, spread(squash(x), model.support))


def consistency_loss(
    model: FrameModel, params, latents, real, is_real: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """1 - cos(P2(P1(latent)), stop_gradient(standardised P1(encoder of the real frames))).

    Standardised over the real rows of the batch, as by the BatchNorm that ends EfficientZero's
    projection. Otherwise the features that all frames share dominate the cosine, and moving parts
    hardly count (see docs/results.md).
    """
    ours = over_rows(model, params, "project", latents)
    ours = over_rows(model, params, "predict_projection", ours)
    theirs = jax.lax.stop_gradient(over_rows(model, params, "project", real))
    theirs = standardised(theirs, is_real)
    return 1 - optax.losses.cosine_similarity(ours, theirs, epsilon=1e-6)


def standardised(x: Float[Array, "B K P"], counts: Bool[Array, "B K"]) -> Float[Array, "B K P"]:
    """`x` with mean 0 and deviation 1 in every column, over the rows where `counts`."""
    counts = counts[..., None]
    mean = lambda x: jnp.sum(counts * x, axis=(0, 1)) / jnp.maximum(jnp.sum(counts), 1)
    x = x - mean(x)
    return x / jnp.sqrt(mean(jnp.square(x)) + 1e-6)


def decoded_rows(windows: int, rows: int):
    """((window [N], row [N]) of the states to decode, number of states with that row [N]).

    Windows take turns through the rows, one row each, or more where `rows` > `windows`.
    """
    i = np.arange(-(-rows // windows) * windows)
    return (i % windows, i % rows), np.bincount(i % rows)[i % rows]


def decode_terms(model: FrameModel, params, latents, frames) -> dict[str, Float[Array, " N"]]:
    """Terms of decoded frames, 0 to 255, without gradient to the latents.

    `decode`: mean cross-entropy per pixel. `error`, if there are heads for it: mean squared error
    of what they tell of the logarithm of a frame's error (see `log_error`).
    """
    latents, frames = jax.lax.stop_gradient(latents), frames / 255.0
    logits = model.apply(params, "decode", latents)
    terms = {"decode": jnp.mean(binary_cross_entropy(logits, frames), axis=(1, 2, 3))}
    if model.error_heads:
        real = log_error(jax.lax.stop_gradient(jax.nn.sigmoid(logits)), frames)
        told = model.apply(params, "log_errors", latents)
        terms["error"] = jnp.mean(jnp.square(told - real), axis=0)
    return terms


def log_error(x: Float[Array, "N H V F"], frames: Float[Array, "N H V F"]) -> Float[Array, " N"]:
    """log(e + LEAST_ERROR) of the root mean square error e of frames in [0, 1]."""
    return jnp.log(jnp.sqrt(jnp.mean(jnp.square(x - frames), axis=(1, 2, 3))) + LEAST_ERROR)


def frame_loss(
    params,
    model: FrameModel,
    batch: FrameWindows,
    weights: FrameLossWeights,
    *,
    gradient_scale: float = 0.5,
    hl_gauss: bool = False,
    key: jax.Array | None = None,
    real: Float[Array, "B K h w C"] | None = None,
):
    """(loss, (metrics, priorities [B])): priorities are |v - target| of the roots, in reward units.

    With `hl_gauss` scalars are learned as Gaussian histograms, else as two-hot weights. `key` draws
    augmentations, None = no augmentation. `real` are latents of the frames of rows 1..K, if known.
    Raises `ValueError` for frames of another shape, and for `real` of windows that share frames.
    """
    (B, K), G = batch.r.shape, batch.o.shape[0]
    expected = (G, B // G + K, model.window, *model.frame)
    if batch.o.shape != expected:
        raise ValueError(f"frames have shape {batch.o.shape}, expected {expected}")
    if real is not None and batch.shown is not None:
        raise ValueError("latents of windows that share frames are made here: leave out `real`")

    o = batch.o.reshape(-1, *batch.o.shape[2:])
    o = (augment(o, key) if key is not None else o).reshape(batch.o.shape)
    if real is None:
        root, real = encodings(model, params, o, batch)
    else:
        root = encode_rows(model, params, o[:, :1])[:, 0]
    after, prefix_logits = unroll(model, params, root, batch.a, gradient_scale)
    latents = jnp.concatenate([root[:, None], after], axis=1)
    v_logits, pi_logits = over_rows(model, params, "predict", latents)
    goes_on = over_rows(model, params, "continuation", after)

    is_known_step = batch.is_real_step | batch.is_absorbing[:, :-1]
    is_known_row = batch.is_real_o | batch.is_absorbing
    r = jnp.where(batch.is_real_step, batch.r, 0.0)
    has_pi = batch.is_real_o & ~batch.is_absorbing
    terms = {
        "value_prefix": is_known_step
        * scalar_loss(model, prefix_logits, value_prefixes(r, model.prefix_horizon), hl_gauss),
        "value": is_known_row * scalar_loss(model, v_logits, batch.v, hl_gauss),
        "policy": has_pi * cross_entropy(pi_logits, batch.pi),
        "consistency": batch.is_real_o[:, 1:]
        * consistency_loss(model, params, after, real, batch.is_real_o[:, 1:]),
        "continuation": is_known_step
        * binary_cross_entropy(goes_on, 1.0 - batch.is_absorbing[:, 1:]),
    }
    if weights.decode > 0:
        newest, (at, counts) = of_windows(batch.o[:, :, -1], batch), decoded_rows(B, K + 1)
        every = B / counts * batch.is_real_o[at]
        for name, term in decode_terms(model, params, latents[at], newest[at]).items():
            terms[name] = jnp.zeros((B, K + 1)).at[at].set(every * term)

    per_window = {}
    for name, term in terms.items():
        rows = K if name in ("value_prefix", "consistency", "continuation") else K + 1
        assert term.shape == (B, rows), (name, term.shape)
        weight = weights.decode if name == "error" else getattr(weights, name)
        per_window[name] = weight * jnp.sum(term, axis=1) / K
    total = {name: jnp.mean(batch.weight * term) for name, term in per_window.items()}
    metrics = {f"learn/{name}_loss": term for name, term in total.items()}
    v = model.scalar(v_logits[:, 0])
    return sum(total.values()), (metrics, jnp.abs(v - batch.v[:, 0]) + LEAST_PRIORITY)


def imagined_loss(
    params, model: FrameModel, batch: ImaginedWindows, weights: FrameLossWeights, hl_gauss: bool
):
    """(loss, metrics): 1/D sum_d weight [c_v value + c_pi policy] at imagined states, averaged over
    the batch. Only trunk and heads of value and policy get a gradient: targets that the model made
    itself must not change its dynamics."""
    still = jax.lax.stop_gradient(params)
    latents, _ = unroll(model, still, model.encode(still, batch.o), batch.a, 1.0)
    v_logits, pi_logits = over_rows(model, params, "predict", latents)
    terms = {
        "value": weights.value * scalar_loss(model, v_logits, batch.v, hl_gauss),
        "policy": weights.policy * cross_entropy(pi_logits, batch.pi),
    }
    total = {name: jnp.mean(batch.weight * term) for name, term in terms.items()}
    return sum(total.values()), {f"learn/imagined_{name}_loss": x for name, x in total.items()}


def encodings(model: FrameModel, params, o: Num[Array, "G Q W H V F"], batch: FrameWindows):
    """Latents [B, h, w, C] of the roots, and [B, K, h, w, C] of the real frames of rows 1..K.

    In a sequence the roots of later windows are real frames of earlier ones and are encoded once.
    Only the roots have a gradient to the encoder.
    """
    T = batch.r.shape[0] // o.shape[0]
    roots = encode_rows(model, params, o[:, :T])
    rest = encode_rows(model, jax.lax.stop_gradient(params), o[:, T:])
    real = rest
    if batch.shown is not None:
        both = jnp.concatenate([jax.lax.stop_gradient(roots), rest], axis=1)
        real = of_windows(both, batch)[:, 1:]
    return roots.reshape(-1, *roots.shape[2:]), real


def encode_rows(model: FrameModel, params, o: Num[Array, "G R W H V F"]):
    """Latents [G, R, h, w, C] of stacks."""
    latents = model.encode(params, o.reshape(-1, *o.shape[2:]))
    return latents.reshape(*o.shape[:2], *latents.shape[1:])


def of_windows(x: Num[Array, "G Q ..."], batch: FrameWindows) -> Num[Array, "B K1 ..."]:
    """Items of sequences, gathered for every row of every window."""
    if batch.shown is None:
        return x
    sequence = jnp.arange(len(batch.shown)) // (len(batch.shown) // len(x))
    return x[sequence[:, None], batch.shown]


def log_loss(
    params,
    target_params,
    model: FrameModel,
    batch: Windows,
    config: FitConfig,
    key: jax.Array,
    *,
    weights: FrameLossWeights,
):
    """`frame_loss` of windows of a log, with the arguments of `vectors.losses.model_loss`.

    Value targets bootstrap on the current params' values of the real frames, whose encodings the
    consistency loss needs anyway; `target_params` and `config.noise` are not used.
    """
    B, L = batch.a.shape[0], batch.o.shape[1]
    rows, steps = slice(0, config.unroll_steps + 1), slice(0, config.unroll_steps)
    frames = batch.o.reshape(B, L, model.window, *model.frame)
    still = jax.lax.stop_gradient(params)
    real = encode_rows(model, still, frames[:, 1:])
    v_logits, _ = over_rows(model, still, "predict", real)
    v = jnp.pad(model.scalar(v_logits), ((0, 0), (1, 0)))  # no target bootstraps on row 0
    windows = FrameWindows(
        o=frames[:, rows],
        a=batch.a[:, steps],
        r=batch.r[:, steps],
        is_real_step=batch.is_real_step[:, steps],
        is_real_o=batch.is_real_o[:, rows],
        is_absorbing=batch.is_absorbing[:, rows],
        v=n_step_targets(v, batch, config),
        pi=batch.pi[:, rows],
        weight=batch.member_weights[:, 0] * batch.weight,
    )
    loss, (metrics, _) = frame_loss(
        params,
        model,
        windows,
        weights,
        gradient_scale=config.gradient_scale,
        real=real[:, : config.unroll_steps],
    )
    return loss, {name.replace("learn/", "fit/"): term for name, term in metrics.items()}
