"""The networks of a world model for vector observations (flax linen).

One encoder, one decoder and one latent space; E members, each with its own dynamics, reward,
continuation and value, in one vmapped program. MuZero's h, g, f are represent, afterstate with
outcome, and predict.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


class Mlp(nn.Module):
    """Dense layers with SiLU between them; the last one starts near zero."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.sizes[:-1]:
            x = nn.silu(nn.Dense(size)(x))
        return nn.Dense(self.sizes[-1], kernel_init=small)(x)


class Residual(nn.Module):
    """A linear map plus a small network that starts near zero: at first a linear embedding."""

    width: int
    size: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.size)(x) + Mlp((self.width, self.width, self.size))(x)


class Recurrent(nn.Module):
    """A GRU over the rows of a context, oldest first; embeds its last state and the newest row."""

    width: int
    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "*B W F"]):
        h: Any = nn.RNN(nn.GRUCell(self.width))(x)
        h = h[..., -1, :]
        newest = jnp.concatenate([x[..., -1, :], h], axis=-1)
        return Residual(self.width, self.size)(newest)


class Member(nn.Module):
    """The networks of one member.

    The change of the latent is a linear map of latent and action plus a small network: much of
    physics is nearly linear, which a log of a few hundred steps alone would hardly teach.
    """

    width: int
    latent: int
    chance_codes: int
    reward_bins: int
    value_bins: int

    def setup(self):
        self.action = nn.Dense(self.width)
        self.code_logits = Mlp((self.width, self.chance_codes))
        self.code = nn.Dense(self.width, use_bias=False)
        self.body = nn.Dense(self.width)
        self.change = nn.Dense(self.latent, kernel_init=small)
        self.drift = nn.Dense(self.latent, kernel_init=small, use_bias=False)
        self.reward = nn.Dense(self.reward_bins, kernel_init=small)
        self.goes_on = nn.Dense(1, kernel_init=small, bias_init=nn.initializers.constant(3.0))
        self.value_net = Mlp((self.width, self.width, self.value_bins))

    def afterstate(self, z: Float[Array, "B D"], a: Float[Array, "B A"]):
        """Hidden afterstate [B, H + D], its linear part last, and logits of the codes [B, C]."""
        x = jnp.concatenate([z, a], -1)
        hidden = nn.silu(self.action(x))
        return jnp.concatenate([hidden, self.drift(x)], -1), self.code_logits(hidden)

    def outcome(self, z, hidden, code: Float[Array, "B C"]):
        """Next latent [B, D], reward logits [B, S], continuation logit [B]."""
        hidden, drift = hidden[..., : self.width], hidden[..., self.width :]
        x = self.body(hidden)
        if self.chance_codes > 1:
            x = x + self.code(code)
        x = nn.silu(x)
        return z + drift + self.change(x), self.reward(x), self.goes_on(x)[..., 0]

    def value(self, z):
        """Value logits [B, S]."""
        return self.value_net(z)

    def __call__(self, z, a, code):
        hidden, code_logits = self.afterstate(z, a)
        return code_logits, self.outcome(z, hidden, code), self.value(z)


Members = nn.vmap(
    Member,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    methods=["__call__", "afterstate", "outcome", "value"],
)


class Networks(nn.Module):
    """All networks of a vector model, behind methods that take and return arrays."""

    width: int
    latent: int
    members: int
    chance_codes: int
    reward_bins: int
    value_bins: int
    projection_size: int
    observation_size: int
    action_size: int
    policy_size: int
    recurrent: bool

    def setup(self):
        sizes = (self.width, self.latent, self.chance_codes, self.reward_bins, self.value_bins)
        encoder = Recurrent if self.recurrent else Residual
        self.encoder = encoder(self.width, self.latent)
        self.decoder = Residual(self.width, self.observation_size)
        self.member = Members(*sizes)
        self.policy = Mlp((self.width, self.width, self.policy_size))
        self.legality = nn.Dense(self.action_size, bias_init=nn.initializers.constant(3.0))
        self.projector = Mlp((self.projection_size, self.projection_size))
        self.predictor = Mlp((self.projection_size, self.projection_size))

    def represent(self, x):
        """Latent [*B, D] of a normalised context: flattened, or rows [*B, W, F] if recurrent."""
        return self.encoder(x)

    def decode(self, z):
        """Observation features [B, O]: normalised numbers, logits of categories and of bits."""
        return self.decoder(z)

    def afterstate(self, z, a):
        """Per member: hidden [E, B, H], code logits [E, B, C]; z is [E, B, D]."""
        return self.member.afterstate(z, self._each(a))

    def outcome(self, z, hidden, code):
        """Per member: latent [E, B, D], reward logits [E, B, S], continuation logit [E, B]."""
        return self.member.outcome(z, hidden, self._each(code))

    def value(self, z):
        """Value logits per member [E, B, S]; z is [E, B, D]."""
        return self.member.value(z)

    def pi_logits(self, z):
        """Outputs of the search prior [B, P]."""
        return self.policy(z)

    def legal_logits(self, z):
        """Legality of every action feature [B, A]."""
        return self.legality(z)

    def project(self, z):
        """Consistency embedding [B, P]."""
        return self.projector(z)

    def predict_projection(self, p):
        """The predictor on top of a projection; it keeps the embedding from collapsing."""
        return self.predictor(p)

    def _each(self, x):
        return jnp.broadcast_to(x, (self.members, *x.shape))

    def __call__(self, x, a, code):
        z = self.represent(x)
        zs = self._each(z)
        members = self.member(zs, self._each(a), self._each(code))
        heads = self.pi_logits(z), self.legal_logits(z), self.decode(z)
        return members, heads, self.predict_projection(self.project(z))


def init_params(networks: Networks, context_shape: tuple[int, ...], key: jax.Array):
    """Fresh parameters, drawn in one compiled program."""
    x = jnp.zeros((1, *context_shape))
    a, code = jnp.zeros((1, networks.action_size)), jnp.zeros((1, networks.chance_codes))
    return jax.jit(networks.init)(key, x, a, code)["params"]
