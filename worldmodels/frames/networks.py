"""The networks of EfficientZero for frames (flax linen), NHWC.

The layers are those of Ye et al. (2021), appendix A, with LayerNorm in place of BatchNorm, a bias
per action in place of one plane that all actions share, and two parts of our own: the probability
that the task goes on, and a decoder. MuZero's h, g, f are represent, step and predict.
Latent states are [B, h, w, C]; the memory of the value prefix is an LSTM's pair [B, M].
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# name -> channels of the first stage (0: patches instead), C, M, width of the heads, size of the
# projection P, width of its predictor
SIZES = {
    "nano": (0, 16, 32, 32, 64, 32),
    "small": (16, 32, 128, 32, 256, 128),
    "base": (32, 64, 512, 32, 1024, 512),
}
PATCH = 4  # rows and columns of pixels
CHANNELS = 8  # of bfloat16, which matrix units of GPUs take at once
REDUCED = 16  # channels of a latent that a head flattens
LATENT = 6  # most rows and columns of a latent
SIDES = {"nano": 48, "small": 64}  # longest side in pixels up to which "auto" chooses this size


def usual_size(height: int, width: int) -> str:
    """The default network size for frames of `height` x `width` pixels."""
    fits = [size for size, side in SIDES.items() if max(height, width) <= side]
    return [*fits, "base"][0]


class Norm(nn.Module):
    """LayerNorm over a whole feature map or vector, scale and bias per channel; float32 inside."""

    @nn.compact
    def __call__(self, x):
        axes = tuple(range(-min(x.ndim - 1, 3), 0))
        normed = nn.LayerNorm(reduction_axes=axes, feature_axes=-1, dtype=jnp.float32)(x)
        return normed.astype(x.dtype)


def convolve(x: Float[Array, "B H W C"], kernel: Float[Array, "I J C D"], *how: Any, **more: Any):
    """`jax.lax.conv_general_dilated` of channels that are, in bfloat16, filled up with zeros to a
    multiple of CHANNELS. The result is the same; cuDNN does it otherwise, in slow passes of its
    own."""
    missing = -x.shape[-1] % CHANNELS if x.dtype == jnp.bfloat16 else 0
    if missing:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
    return jax.lax.conv_general_dilated(x, kernel, *how, **more)


def conv(features: int, stride: int = 1, size: int = 3, bias: bool = False) -> nn.Conv:
    """A convolution that keeps height and width (stride 1), or halves them (stride 2)."""
    pad = (size // 2, size // 2)
    shape = (size, size), (stride, stride), (pad, pad)
    return nn.Conv(features, *shape, use_bias=bias, conv_general_dilated=convolve)


def patches(features: int, size: tuple[int, int]) -> nn.Conv:
    """A layer over patches of PATCH x PATCH pixels; `size` (height, width) is padded with 0."""
    pad = [(0, -x % PATCH) for x in size]
    square = (PATCH, PATCH)
    return nn.Conv(features, square, square, pad, use_bias=False, conv_general_dilated=convolve)


class Residual(nn.Module):
    """Two convolutions plus a skip, then ReLU; with a stride the skip is a convolution."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.relu(Norm()(conv(self.features, self.stride)(x)))
        y = Norm()(conv(self.features)(y))
        skip = x if self.stride == 1 else conv(self.features, self.stride)(x)
        return nn.relu(y + skip)


def halve(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Average pooling, 3x3 with stride 2."""
    padding: Any = ((1, 1), (1, 1))
    return nn.avg_pool(x, (3, 3), (2, 2), padding)


def latent_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes (h, w) inside an encoder, from a quarter of the frame to the latent."""
    sizes = [(-(-height // 4), -(-width // 4))]
    while max(sizes[-1]) > LATENT:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


class Encoder(nn.Module):
    """Frames in [0, 1] to latents of at most LATENT x LATENT (6 x 6 for 96 x 96 pixels).

    With `first` 0, one layer of 4 x 4 patches replaces the two strided stages: far cheaper on a
    CPU, and enough for simple frames.
    """

    first: int
    features: int

    @nn.compact
    def __call__(self, x):
        if self.first:
            x = nn.relu(Norm()(conv(self.first, 2)(x)))
            x = Residual(self.first)(x)
            x = Residual(self.features, 2)(x)
        else:
            x = nn.relu(Norm()(patches(self.features, x.shape[1:3])(x)))
        x = Residual(self.features)(x)
        while max(x.shape[1:3]) > LATENT:
            x = Residual(self.features)(halve(x))
        return x


def encoder_of(params: Any) -> Encoder:
    """The encoder to which parameters belong, from the shapes of their kernels."""
    side, _, _, width = params["Conv_0"]["kernel"].shape
    if side == PATCH:
        return Encoder(0, width)
    return Encoder(width, params["Residual_1"]["Conv_1"]["kernel"].shape[-1])


class Dynamics(nn.Module):
    """The next latent; the residual connection keeps the gradient alive over an unroll.

    An action adds a bias to the first layer, the same at every place (like one constant plane per
    action). With planes that vary between places, movement is hardly learned.
    """

    features: int

    @nn.compact
    def __call__(self, z, a):
        unit = nn.initializers.normal(1.0)
        said = nn.Dense(self.features, use_bias=False, kernel_init=unit, name="action")(a)
        x = Norm()(conv(self.features)(z) + said[:, None, None, :])
        return Residual(self.features)(nn.relu(x + z))


class Flat(nn.Module):
    """A latent reduced to REDUCED channels and flattened to a vector."""

    @nn.compact
    def __call__(self, z):
        x = nn.relu(Norm()(conv(REDUCED, size=1, bias=True)(z)))
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])


class Head(nn.Module):
    """A hidden layer and an output that starts at zero: value and reward 0, uniform policy."""

    width: int
    size: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Norm()(nn.Dense(self.width)(x)))
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.size, kernel_init=zeros, dtype=jnp.float32, name="output")(x)


class ValuePrefix(nn.Module):
    """Logits of the sum of rewards since the last reset, by an LSTM over the latents.

    With `memory` 0, without the LSTM: logits of the last reward.
    """

    memory: int
    width: int
    size: int

    @nn.compact
    def __call__(self, z, h):
        x = Flat()(z)
        if self.memory:
            h, x = nn.OptimizedLSTMCell(self.memory)(h, x)
            x = nn.relu(Norm()(x))
        return h, Head(self.width, self.size)(x)


class Project(nn.Module):
    """The projection that the consistency loss compares (SimSiam's projector)."""

    size: int

    @nn.compact
    def __call__(self, z):
        x = z.reshape(z.shape[0], z.shape[1] * z.shape[2] * z.shape[3])
        for _ in range(2):
            x = nn.relu(Norm()(nn.Dense(self.size)(x)))
        return Norm()(nn.Dense(self.size)(x))


class PredictProjection(nn.Module):
    """The predictor on top of a projection; it keeps the projection from collapsing."""

    width: int
    size: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.size)(nn.relu(Norm()(nn.Dense(self.width)(x))))


class Decoder(nn.Module):
    """Logits of the newest frame in [0, 1]: each place of the latent gives one patch of the frame
    (sub-pixel convolution; Shi et al., 2016), so that no hidden layer is as large as a frame."""

    features: int
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, z):
        (B, h, w, _), (height, width, channels) = z.shape, self.shape
        side = PATCH * 2 ** (len(latent_sizes(height, width)) - 1)  # of a place's patch
        x = nn.relu(Norm()(conv(self.features)(z)))
        x = conv(side * side * channels, size=1, bias=True)(x)
        x = x.reshape(B, h, w, side, side, channels).swapaxes(2, 3)
        return x.reshape(B, h * side, w * side, channels)[:, :height, :width]


class ErrorHead(nn.Module):
    """The logarithm of how much a decoded frame errs (Yoo and Kweon, 2019, learn to predict a
    loss; as an ensemble, whose heads differ where there was nothing to learn from)."""

    width: int

    @nn.compact
    def __call__(self, z):
        return Head(self.width, 1)(Flat()(z))[:, 0]


Ensemble = nn.vmap(ErrorHead, variable_axes={"params": 0}, split_rngs={"params": True})


class FrameNetworks(nn.Module):
    """All networks of a frame model, behind methods that take and return arrays."""

    size: str
    num_actions: int
    reward_bins: int
    value_bins: int
    frame: tuple[int, int, int]
    memory: int  # M
    error_heads: int = 0  # E

    def setup(self):
        first, features, _, width, projection, predictor = SIZES[self.size]
        self.encoder = Encoder(first, features)
        self.dynamics = Dynamics(features)
        self.trunk = Residual(features)
        self.value_net, self.policy_net = Flat(), Flat()
        self.value_head = Head(width, self.value_bins)
        self.policy_head = Head(width, self.num_actions)
        self.prefix = ValuePrefix(self.memory, width, self.reward_bins)
        self.goes_on_net, self.goes_on_head = Flat(), Head(width, 1)
        self.projector = Project(projection)
        self.predictor = PredictProjection(predictor, projection)
        self.decoder = Decoder(4 * features, self.frame)
        if self.error_heads:
            self.errors = Ensemble(width)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, C) of a latent."""
        height, width = latent_sizes(*self.frame[:2])[-1]
        return height, width, SIZES[self.size][1]

    def represent(self, x: Float[Array, "B H W F"]):
        """Latents of stacked frames in [0, 1]."""
        return self.encoder(x)

    def step(self, z, a: Float[Array, "B A"]):
        """The latents that one-hot actions lead to."""
        return self.dynamics(z, a.astype(z.dtype))

    def value_prefix(self, z, h):
        """(memory, logits of the value prefix) after reaching `z`."""
        return self.prefix(z, h)

    def predict(self, z):
        """Logits of the value [B, S] and of the policy [B, A]."""
        x = self.trunk(z)
        return self.value_head(self.value_net(x)), self.policy_head(self.policy_net(x))

    def continuation(self, z):
        """Logit [B] of the probability that the task goes on."""
        return self.goes_on_head(self.goes_on_net(z))[:, 0] + 3.0

    def project(self, z):
        """Consistency embedding [B, P]."""
        return self.projector(z)

    def predict_projection(self, p):
        """The predictor on top of a projection."""
        return self.predictor(p)

    def decode(self, z):
        """Logits of the newest frame, in the shape [B, *frame]."""
        return self.decoder(z)

    def log_errors(self, z):
        """What each head expects, [E, B], in logarithms."""
        return self.errors(jnp.broadcast_to(z, (self.error_heads, *z.shape)))

    def __call__(self, x, a, h: Any):
        z = self.represent(x)
        if self.error_heads:
            self.log_errors(z)
        after = self.step(z, a)
        heads = self.predict(after), self.value_prefix(after, h), self.continuation(after)
        return heads, self.decode(after), self.predict_projection(self.project(after))
