"""Each term of the loss for images by hand, and no gradient where there must be none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.flops import count_flops
from worldmodels.actions import make_head
from worldmodels.config import FrameLossWeights
from worldmodels.frames.losses import (
    decoded_rows,
    encode_rows,
    encodings,
    frame_loss,
    imagined_loss,
    of_windows,
    scalar_loss,
    standardised,
    unroll,
)
from worldmodels.frames.model import FrameModel
from worldmodels.frames.types import FrameWindows, ImaginedWindows
from worldmodels.support import scalar_to_histogram, scalar_to_support, squash

B, K, A = 4, 3, 2
MODEL = FrameModel(
    make_head((A,), A), (16, 16, 1), window=2, size="nano", prefix_horizon=2, bins=11
)
WEIGHTS = FrameLossWeights(decode=0.5)
BLANK, OVER, CUT = 0, 1, 2  # windows: all real; terminated by step 1; truncated by step 1
TERMS = {f"learn/{name}_loss" for name in vars(WEIGHTS)}


@pytest.fixture(scope="module")
def params():
    """Fresh ones: all values, rewards and policy logits are 0, and so are their kernels."""
    return MODEL.init(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    """A window that goes on, one that terminated, one that was cut, and one of no weight."""
    random = np.random.default_rng(0)
    real_step, real_o = np.ones((B, K), bool), np.ones((B, K + 1), bool)
    absorbing = np.zeros((B, K + 1), bool)
    for row in (OVER, CUT):
        real_step[row, 2:], real_o[row, 3:] = False, False
    absorbing[OVER, 2:] = True
    return FrameWindows(
        o=jnp.asarray(random.integers(0, 256, (B, K + 1, 2, 16, 16, 1), np.uint8)),
        a=jnp.eye(A)[random.integers(A, size=(B, K))],
        r=jnp.asarray(random.normal(size=(B, K)), jnp.float32),
        is_real_step=jnp.asarray(real_step),
        is_real_o=jnp.asarray(real_o),
        is_absorbing=jnp.asarray(absorbing),
        v=jnp.where(absorbing, 0.0, jnp.asarray(random.normal(size=(B, K + 1)), jnp.float32)),
        pi=jnp.full((B, K + 1, A), 0.5),
        weight=jnp.array([1.0, 1.0, 0.5, 0.0]),
    )


@functools.partial(jax.jit, static_argnames=("scale",))
def loss_and_gradients(params, batch, scale=0.5):
    """Loss, its parts, the gradient of the loss and that of the decoder's term alone."""
    both = lambda params: frame_loss(params, MODEL, batch, WEIGHTS, gradient_scale=scale)
    decode = lambda params: both(params)[1][0]["learn/decode_loss"]
    (loss, aux), gradient = jax.value_and_grad(both, has_aux=True)(params)
    return loss, aux, gradient, jax.grad(decode)(params)


def unrolled(model, params, batch):
    """Latents of rows 0..K, step by step."""
    latents = [model.encode(params, batch.o[:, 0])]
    for k in range(K):
        latents.append(model.apply(params, "step", latents[-1], batch.a[:, k]))
    return latents


def size(gradient, *modules):
    """The greatest entry of a gradient in some of the modules."""
    return max(float(jnp.abs(x).max()) for name in modules for x in jax.tree.leaves(gradient[name]))


def test_a_fresh_model_loses_what_can_be_counted(params, batch):
    loss, (metrics, priorities), _, _ = loss_and_gradients(params, batch)
    assert set(metrics) == TERMS
    weight = np.array([1, 1, 0.5, 0])
    mean = lambda per_window: (weight * per_window).sum() / B / K
    steps, rows, real_rows = [3, 3, 2, 3], [4, 4, 3, 4], [4, 3, 3, 4]  # known; absorbing count
    by_hand = {
        "value_prefix": mean(np.log(11) * np.array(steps)),
        "value": 0.25 * mean(np.log(11) * np.array(rows)),
        "policy": mean(np.log(2) * np.array([4, 2, 3, 4])),
        # The logit of going on starts at 3; two of the steps lead to where it is over.
        "continuation": mean(np.log1p(np.exp(-3)) * np.array(steps) + np.array([0, 6, 0, 0])),
    }
    for name, expected in by_hand.items():
        np.testing.assert_allclose(metrics[f"learn/{name}_loss"], expected, rtol=1e-5)
    assert 0 < metrics["learn/consistency_loss"] < 2 * 2 * mean(np.array([3, 2, 2, 3]))
    assert 0 < metrics["learn/decode_loss"] < 0.5 * 2 * mean(np.array(real_rows))
    np.testing.assert_allclose(loss, sum(metrics.values()), rtol=1e-5)
    np.testing.assert_allclose(priorities, np.abs(batch.v[:, 0]) + 1e-6, atol=1e-5)


def test_heads_learn_how_much_a_decoded_frame_errs(batch):
    """Fresh heads tell 0, the logarithm of an error of 1. Nothing but they learns from it."""
    model = dataclasses.replace(MODEL, error_heads=3)
    params = model.init(jax.random.key(0))

    @jax.jit
    def learned(params):
        term = lambda p: frame_loss(p, model, batch, WEIGHTS)[1][0]["learn/error_loss"]
        return jax.value_and_grad(term)(params)

    loss, gradient = learned(params)
    latents = unrolled(model, params, batch)
    expected = 0.0
    for b, weight in enumerate([1.0, 1.0, 0.5]):
        x = 1 / (1 + np.exp(-np.asarray(model.apply(params, "decode", latents[b])[b], float)))
        error = np.sqrt(np.mean(np.square(x - np.asarray(batch.o[b, b, -1]) / 255)))
        expected += weight * np.log(error + 1e-3) ** 2
    scale = WEIGHTS.decode * (K + 1) / K / B
    np.testing.assert_allclose(loss, scale * expected, rtol=1e-4)
    assert size(gradient, "errors") > 0
    assert size(gradient, *(set(gradient) - {"errors"})) == 0


def test_every_row_is_decoded_and_counts_once():
    """6 rows of 4 windows: two of each, so that all are shown, and those twice count half."""
    (window, row), counts = decoded_rows(4, 6)
    np.testing.assert_array_equal(window, [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(row, [0, 1, 2, 3, 4, 5, 0, 1])
    np.testing.assert_array_equal(counts, [2, 2, 1, 1, 1, 1, 2, 2])
    for windows, rows in ((1, 6), (3, 6), (5, 6), (7, 6), (64, 6)):
        (window, row), counts = decoded_rows(windows, rows)
        assert len(set(zip(window, row, strict=True))) == len(row)  # none of them twice
        np.testing.assert_allclose(np.bincount(row, 1 / counts), np.ones(rows))


def test_a_frame_is_compared_with_the_latent_of_its_row(params, batch):
    """Of window b row b is shown; the last window has no weight, and its term none."""
    _, (metrics, _), _, _ = loss_and_gradients(params, batch)
    latents = unrolled(MODEL, params, batch)
    expected = 0.0
    for b, weight in enumerate([1.0, 1.0, 0.5]):
        x = 1 / (1 + np.exp(-np.asarray(MODEL.apply(params, "decode", latents[b])[b], float)))
        o = np.asarray(batch.o[b, b, -1]) / 255
        expected += weight * -np.mean(o * np.log(x) + (1 - o) * np.log(1 - x))
    scale = WEIGHTS.decode * (K + 1) / K / B
    np.testing.assert_allclose(metrics["learn/decode_loss"], scale * expected, rtol=1e-4)


def test_what_is_known_of_real_frames_changes_nothing(params, batch, sequences):
    """Latents that are given, and the same ones made inside."""
    given = encode_rows(MODEL, params, batch.o[:, 1:])
    one = frame_loss(params, MODEL, batch, WEIGHTS)
    other = frame_loss(params, MODEL, batch, WEIGHTS, real=given)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), one, other)
    with pytest.raises(ValueError, match="leave out `real`"):
        frame_loss(params, MODEL, sequences, WEIGHTS, real=given)


def test_what_all_rows_share_is_no_part_of_consistency():
    """Columns over the rows that count, by hand: (1, 3) -> (-1, 1); a constant one -> 0."""
    x = jnp.array([[[1.0, 7.0], [3.0, 7.0]], [[99.0, 7.0], [-50.0, 0.0]]])
    counts = jnp.array([[True, True], [False, False]])
    found = standardised(x, counts)
    np.testing.assert_allclose(found[0], [[-1, 0], [1, 0]], atol=1e-5)
    np.testing.assert_allclose(standardised(x + 100, counts)[0], found[0], atol=1e-4)
    assert np.isfinite(standardised(x, jnp.zeros((2, 2), bool))).all()


def test_value_prefixes_restart_and_stand_still_where_it_is_over(params, batch):
    bias = np.random.default_rng(1).normal(size=11).astype(np.float32)
    head = params["prefix"]["Head_0"]
    head = head | {"output": head["output"] | {"bias": jnp.asarray(bias)}}
    biased = params | {"prefix": params["prefix"] | {"Head_0": head}}
    _, (metrics, _), _, _ = loss_and_gradients(biased, batch)
    r = np.asarray(batch.r)
    prefix = np.stack([r[:, 0], r[:, 0] + r[:, 1], r[:, 2]], 1)  # restarted after two steps
    prefix[OVER, 2] = 0.0  # nothing is earned after the end
    target = np.asarray(scalar_to_support(squash(jnp.asarray(prefix)), MODEL.support))
    cross = -(target * np.asarray(jax.nn.log_softmax(bias))).sum(-1)
    cross[CUT, 2] = 0.0
    expected = (cross.sum(1) * np.asarray(batch.weight)).sum() / B / K
    np.testing.assert_allclose(metrics["learn/value_prefix_loss"], expected, rtol=1e-5)


def test_gradients_reach_only_what_they_should(params, batch):
    _, _, gradient, decode = loss_and_gradients(params, batch)
    learned = "encoder", "dynamics", "projector", "predictor", "decoder"
    assert all(size(gradient, name) > 0 for name in learned)
    assert size(decode, "decoder") > 0
    assert size(decode, *(set(decode) - {"decoder"})) == 0
    # Without a way through the dynamics nothing is left: the real frames' branch is stopped, and
    # the heads' kernels are 0.
    _, _, gradient, _ = loss_and_gradients(params, batch, scale=0.0)
    assert size(gradient, "predictor", "projector") > 0
    assert size(gradient, "encoder", "dynamics") == 0


@pytest.fixture(scope="module")
def sequences(batch):
    """Two sequences of two windows; the second is over after its second row."""
    frames = np.random.default_rng(2).integers(0, 256, (2, 2 + K, 2, 16, 16, 1), np.uint8)
    shown = jnp.array([[0, 1, 2, 3], [1, 2, 3, 4], [0, 1, 1, 1], [1, 1, 1, 1]])
    return batch.replace(o=jnp.asarray(frames), shown=shown)


def separated(sequences):
    """The same windows, each with frames of its own."""
    return sequences.replace(o=of_windows(sequences.o, sequences), shown=None)


def test_a_sequence_encodes_less_and_sees_the_same(params, sequences):
    random = np.random.default_rng(3)
    weights = [jnp.asarray(random.normal(size=(B, *x, 1, 1, 16)), jnp.float32) for x in ((), (K,))]

    @jax.jit
    def encoded(params, batch):
        def seen(params):
            both = encodings(MODEL, params, batch.o, batch)
            return sum(jnp.sum(x * w) for x, w in zip(both, weights, strict=True)), both

        (_, both), gradient = jax.value_and_grad(seen, has_aux=True)(params)
        return both, gradient["encoder"]

    separate = separated(sequences)
    one, other = (encoded(params, x) for x in (separate, sequences))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one, other)
    loss = lambda params, batch: frame_loss(params, MODEL, batch, WEIGHTS)[0]
    flops = [count_flops(loss, params, x) for x in (separate, sequences)]
    one_encoding = count_flops(MODEL.encode, params, sequences.o[:1, 0])
    assert flops[0] - flops[1] == one_encoding * (B - 2) * K


@pytest.mark.slow
def test_a_sequence_teaches_the_same(params, sequences):
    noisy = np.random.default_rng(2).normal
    params = jax.tree.map(lambda x: x + jnp.asarray(noisy(0, 0.1, x.shape), x.dtype), params)
    one, other = (loss_and_gradients(params, x) for x in (separated(sequences), sequences))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), one, other)


def test_imagined_states_teach_the_heads_alone(params):
    """Fresh heads lose log(11) and log(2) at every state, whatever they are told."""
    weight = jnp.array([[1.0, 0.5], [1.0, 0.0]])
    batch = ImaginedWindows(
        o=jnp.ones((2, 2, 16, 16, 1), jnp.uint8),
        a=jnp.eye(A)[jnp.array([[0, 1], [1, 1]])],
        v=jnp.array([[1.0, 2], [3, 4]]),
        pi=jnp.array([[[1.0, 0], [0, 1]]] * 2),
        weight=weight,
    )
    learned = jax.jit(
        jax.value_and_grad(lambda p: imagined_loss(p, MODEL, batch, WEIGHTS, False), has_aux=True)
    )
    (loss, metrics), gradient = learned(params)
    assert set(metrics) == {"learn/imagined_value_loss", "learn/imagined_policy_loss"}
    np.testing.assert_allclose(loss, 2.5 / 4 * (0.25 * np.log(11) + np.log(2)), rtol=1e-5)
    assert size(gradient, "value_head", "policy_head") > 0
    heads = {"value_head", "policy_head", "value_net", "policy_net", "trunk"}
    assert size(gradient, *(set(gradient) - heads)) == 0


def test_half_of_the_gradient_enters_each_step(params):
    latent, a = MODEL.begin(jnp.ones((2, 4, 4, 16))).latent, jnp.eye(A)[None].repeat(2, 0)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=16), jnp.float32)

    def gradient(scale, steps):
        reached = lambda z: unroll(MODEL, params, z, a[:, :steps], scale)[0][:, -1] @ weight
        return jax.grad(lambda z: reached(z).sum())(latent)

    for steps in (1, 2):
        half, whole = gradient(0.5, steps), gradient(1.0, steps)
        assert jnp.abs(whole).max() > 0
        np.testing.assert_allclose(half, 0.5**steps * whole, rtol=1e-4, atol=1e-7)


def test_what_is_not_a_number_is_named_by_its_term(params, batch):
    bad = lambda metrics: {name for name, x in metrics.items() if not np.isfinite(x)}
    _, (metrics, _), _, _ = loss_and_gradients(
        params, batch.replace(r=batch.r.at[0, 0].set(np.nan))
    )
    assert bad(metrics) == {"learn/value_prefix_loss"}
    _, (metrics, _), _, _ = loss_and_gradients(
        params, batch.replace(v=batch.v.at[0, 1].set(np.inf))
    )
    assert bad(metrics) <= {"learn/value_loss"}
    _, (metrics, _), _, _ = loss_and_gradients(
        params, batch.replace(v=batch.v.at[0, 1].set(np.nan))
    )
    assert bad(metrics) == {"learn/value_loss"}


def test_frames_of_another_shape_are_refused(params, batch):
    with pytest.raises(
        ValueError, match=r"\(4, 4, 2, 16, 15, 1\), expected \(4, 4, 2, 16, 16, 1\)"
    ):
        frame_loss(params, MODEL, batch.replace(o=batch.o[:, :, :, :, :15]), WEIGHTS)


def test_scalars_as_gaussian_histograms():
    """Logits that are the histogram itself lose its entropy."""
    x, support = jnp.array([[0.7]]), MODEL.support
    histogram = scalar_to_histogram(squash(x), support)
    entropy = -jnp.sum(histogram * jnp.log(histogram + 1e-30))
    lost = scalar_loss(MODEL, jnp.log(histogram + 1e-30), x, hl_gauss=True)
    np.testing.assert_allclose(lost[0, 0], entropy, rtol=1e-5)
    two_hot = scalar_to_support(squash(x), support)
    lost = scalar_loss(MODEL, jnp.log(histogram + 1e-30), x, hl_gauss=False)
    np.testing.assert_allclose(lost, -jnp.sum(two_hot * jnp.log(histogram + 1e-30), -1), rtol=1e-5)


def test_decoding_of_no_weight_is_not_computed(params, batch):
    count = lambda weights: len(
        jax.make_jaxpr(lambda p: frame_loss(p, MODEL, batch, weights))(params).jaxpr.eqns
    )
    assert count(FrameLossWeights(decode=0.0)) < count(WEIGHTS) - 10


def test_windows_of_a_log_become_windows_with_targets(monkeypatch):
    """One step earns 2 and leads to a value of 3; the next one terminates with -1."""
    from worldmodels.config import FitConfig
    from worldmodels.frames import losses
    from worldmodels.types import Windows

    model = FrameModel(make_head((2,), 2), (16, 16, 1), window=1, size="nano", bins=21)
    config, L = FitConfig(unroll_steps=1, td_steps=1, discount=0.5), 3
    flags = lambda *x: jnp.array([x])
    batch = Windows(
        o=jnp.arange(L, dtype=jnp.uint8)[None, :, None, None] * jnp.ones((1, L, 1, 256), jnp.uint8),
        a_past=jnp.zeros((1, L, 0, 2)),
        valid=jnp.ones((1, L, 1), bool),
        is_real_o=flags(True, True, True),
        is_absorbing=flags(False, False, True),
        a=jnp.eye(2)[None],
        r=flags(2.0, -1.0),
        terminated=flags(False, True),
        is_real_step=flags(True, True),
        pi=jnp.zeros((1, L, 2)),
        has_pi=flags(True, True, False),
        legal=jnp.ones((1, L, 2), bool),
        member_weights=jnp.full((1, 1), 1.4),
        weight=jnp.full(1, 0.5),
    )
    encode = lambda model, params, o: o[:, :, -1].astype(float)  # a frame is its own latent
    monkeypatch.setattr(losses, "encode_rows", encode)
    value = jnp.array([jnp.nan, 3.0, 99.0])  # of frame 0, 1, 2
    said = lambda model, params, name, z: (value[z[..., 0, 0, 0].astype(int)], None)
    monkeypatch.setattr(losses, "over_rows", said)
    monkeypatch.setattr(FrameModel, "scalar", lambda self, logits: logits)
    made = {}

    def seen(params, model, windows, weights, **options):
        made["windows"], made["options"] = windows, options
        return 0.0, ({"learn/value_loss": 1.0}, None)

    monkeypatch.setattr(losses, "frame_loss", seen)
    key = jax.random.key(0)
    _, metrics = losses.log_loss({}, {}, model, batch, config, key, weights=WEIGHTS)
    assert metrics == {"fit/value_loss": 1.0}
    windows = made["windows"]
    assert windows.o.shape == (1, 2, 1, 16, 16, 1) and windows.o.dtype == jnp.uint8
    np.testing.assert_allclose(windows.v, [[2 + 0.5 * 3, -1]])
    np.testing.assert_allclose(windows.weight, [0.7])
    assert windows.a.shape == (1, 1, 2) and windows.r.shape == (1, 1)
    np.testing.assert_array_equal(made["options"].pop("real"), np.ones((1, 1, 16, 16, 1)))
    assert made["options"] == {"gradient_scale": config.gradient_scale}
