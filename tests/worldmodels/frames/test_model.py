"""The model of images: its parts against the published table, and exact value prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.flops import count_flops
from worldmodels.actions import make_head
from worldmodels.frames.model import FrameAfterstate, FrameModel, PrefixState
from worldmodels.frames.networks import (
    SIZES,
    Decoder,
    Encoder,
    convolve,
    encoder_of,
    latent_sizes,
)
from worldmodels.support import squash, unsquash

ATARI = FrameModel(make_head((18,), 18), (96, 96, 3))

# part -> (parameters, FLOPs): EfficientZero (Ye et al., 2021), 12 x 96 x 96, 18 actions
TABLE = {
    "represent": (318e3, 297e6),
    "step": (112e3, 8.0e6),
    "value_prefix": (2.27e6, 4.6e6),
    "predict": (134e3, 5.6e6),
    "project": (4.47e6, 8.9e6),
    "predict_projection": (1.05e6, 2.1e6),
}
NO_CODE = jnp.zeros(4, jnp.int32)
MODULES = {
    "represent": ["encoder"],
    "step": ["dynamics"],
    "value_prefix": ["prefix"],
    "predict": ["trunk", "value_net", "value_head", "policy_net", "policy_head"],
    "project": ["projector"],
    "predict_projection": ["predictor"],
}


@pytest.fixture(scope="module")
def shapes():
    """Shapes of the parameters of `base`; nothing is allocated."""
    return jax.eval_shape(ATARI.init, jax.random.key(0))


@pytest.mark.parametrize("part", TABLE)
def test_parts_are_as_large_and_as_dear_as_published(part, shapes):
    parameters, flops = TABLE[part]
    mine = jax.tree.leaves([shapes[name] for name in MODULES[part]])
    assert sum(x.size for x in mine) == pytest.approx(parameters, rel=0.03)
    row = lambda *shape: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    z, memory = row(6, 6, 64), (row(512), row(512))
    inputs = {
        "represent": [row(96, 96, 12)],
        "step": [z, row(18)],
        "value_prefix": [z, memory],
        "predict": [z],
        "project": [z],
        "predict_projection": [row(1024)],
    }[part]
    counted = count_flops(lambda p, *x: ATARI.apply(p, part, *x), shapes, *inputs)
    assert counted == pytest.approx(flops, rel=0.03)


def test_squashing_by_hand_and_back():
    x = jnp.array([-100.0, -1.0, 0.0, 0.5, 3.0, 58_000.0])
    by_hand = [-(np.sqrt(101) - 1) - 0.1, -(np.sqrt(2) - 1) - 1e-3, 0, np.sqrt(1.5) - 1 + 5e-4]
    np.testing.assert_allclose(squash(x)[:4], by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unsquash(squash(x)), x, rtol=1e-3, atol=1e-3)


class Counting(FrameModel):
    """A model whose value prefix is what it should be if every step earned 1."""

    @property
    def memory(self):
        """It counts, whatever the horizon."""
        return 1

    def outcome(self, params, y: FrameAfterstate, c):
        latent, memory = y.z.latent, jax.tree.map(lambda x: x + 1, y.z.memory)
        earned = memory[0][:, 0]  # steps since the memory was reset, if it is at the right time
        return self.advance(y.z, latent, memory, earned)


@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_one_per_step_is_backed_up_as_one_per_step(horizon):
    model = Counting(make_head((2,), 2), (32, 32, 1), size="nano", prefix_horizon=horizon)
    z, rewards = model.begin(jnp.zeros((2, 2, 2, 16))), []
    for depth in range(1, 13):
        z, r = model.outcome(None, model.afterstate(None, z, jnp.zeros((2, 2)))[1], NO_CODE)
        rewards.append(np.asarray(r))
        assert z.steps.tolist() == [depth % horizon] * 2
    np.testing.assert_array_equal(rewards, np.ones((12, 2)))


def test_without_a_horizon_rewards_are_what_the_head_says():
    """Nothing is remembered, so what a step earns rests on the latent it leads to alone."""
    model = FrameModel(make_head((2,), 2), (24, 24, 1), size="nano", prefix_horizon=1, bins=11)
    params = model.init(jax.random.key(0))
    assert not any("LSTM" in name for name in params["prefix"])
    noise = lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape)
    params = jax.tree.map(noise, params)
    z = model.begin(jax.random.normal(jax.random.key(1), (3, *model.networks.latent_shape)))
    for _ in range(2):
        y = model.afterstate(params, z, jnp.eye(2)[jnp.array([0, 1, 1])])[1]
        z, p = model.outcome(params, y, NO_CODE)
        _, logits = model.apply(params, "value_prefix", z.latent, z.memory)
        np.testing.assert_allclose(p.r, model.scalar(logits), rtol=1e-5, atol=1e-6)
        assert jnp.ptp(p.r) > 0 and not z.value_prefix.any() and not z.steps.any()


def test_a_fresh_model_earns_nothing_and_prefers_nothing():
    model = FrameModel(make_head((3,), 3), (40, 40, 1), window=2, size="nano", bins=21)
    params = model.init(jax.random.key(0))
    frames = np.random.default_rng(0).integers(0, 256, (4, 2, 40 * 40)).astype(np.float32)
    z = model.begin(model.encode(params, jnp.asarray(frames)))
    assert isinstance(z, PrefixState) and z.latent.shape == (4, 5, 5, 16)
    z, p = model.outcome(params, FrameAfterstate(z, jnp.eye(3)[jnp.array([0, 1, 2, 0])]), NO_CODE)
    np.testing.assert_allclose(p.r, 0, atol=1e-5)
    np.testing.assert_allclose(p.v, 0, atol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(p.pi_logits), 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(p.continuation, jax.nn.sigmoid(3.0), rtol=1e-5)
    shown = model.decode(params, z)
    assert shown.shape == (4, 1600) and 0 <= shown.min() and shown.max() <= 255


def test_channels_that_are_filled_up_change_nothing():
    """Six channels are eight in bfloat16; the kernel and its gradient keep theirs."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 9, 8, 6)), jnp.bfloat16)
    kernel = jnp.asarray(random.normal(size=(3, 3, 6, 4)), jnp.bfloat16)
    shape: dict = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    exact = [y.astype(jnp.float32) for y in (x, kernel)]
    plain = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), **shape)
    filled = lambda x, k: convolve(x, k, (2, 2), **shape).astype(jnp.float32)
    np.testing.assert_allclose(filled(x, kernel), plain(*exact), rtol=0.02, atol=0.1)
    loss = lambda f: lambda k, x: jnp.sum(jnp.square(f(x, k)))
    told, expected = jax.grad(loss(filled))(kernel, x), jax.grad(loss(plain))(exact[1], exact[0])
    assert told.shape == kernel.shape
    np.testing.assert_allclose(told.astype(jnp.float32), expected, rtol=0.1, atol=5)


@pytest.mark.parametrize("size", SIZES)
def test_an_encoder_is_known_by_its_parameters(size):
    first, features = SIZES[size][:2]
    encoder = Encoder(first, features)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 40, 32, 6)))
    assert encoder_of(shapes["params"]) == encoder


@pytest.mark.parametrize("frame", [(40, 40, 1), (84, 84, 1), (25, 7, 3), (210, 160, 3), (3, 9, 2)])
def test_a_decoder_paints_what_each_place_encodes(frame):
    """The last place, and those a 3 x 3 convolution makes differ with it, paint their own squares;
    all others paint what the first one does."""
    decoder, (h, w) = Decoder(8, frame), latent_sizes(*frame[:2])[-1]
    side = 4
    while -(-max(frame[:2]) // side) > 6:
        side *= 2
    assert (h, w) == (-(-frame[0] // side), -(-frame[1] // side))
    z = jnp.zeros((1, h, w, 4)).at[0, -1, -1].set(jnp.arange(4.0))
    painted, _ = decoder.init_with_output(jax.random.key(0), z)
    assert painted.shape == (1, *frame)
    first = jnp.tile(painted[0, :side, :side], (h, w, 1))[: frame[0], : frame[1]]
    differs = np.asarray(jnp.abs(painted[0] - first).max(-1) > 1e-6)
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    assert (rows[0], columns[0]) == (max(0, h - 2) * side, max(0, w - 2) * side)
    assert (rows[-1], columns[-1]) == (frame[0] - 1, frame[1] - 1)
