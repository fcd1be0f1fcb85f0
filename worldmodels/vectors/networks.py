"""The networks of a world model for vector observations (flax linen).

One encoder and one latent space; E members, each with its own dynamics, reward, continuation and
value, in one vmapped program. MuZero's h, g, f are represent, afterstate with outcome, and predict.
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
    """The networks of one member."""

    width: int
    chance_codes: int
    reward_bins: int
    value_bins: int
    observation_size: int

    def setup(self):
        self.action = nn.Dense(self.width)
        if self.chance_codes > 1:
            self.code_logits = Mlp((self.width, self.chance_codes))
        self.code = nn.Dense(self.width, use_bias=False)
        self.body = nn.Dense(self.width)
        self.observation = nn.Dense(self.observation_size, kernel_init=small)
        self.reached = nn.Dense(self.width, use_bias=False)
        self.reward = nn.Dense(self.reward_bins, kernel_init=small)
        self.goes_on = nn.Dense(1, kernel_init=small, bias_init=nn.initializers.constant(3.0))
        self.value_net = Mlp((self.width, self.width, self.value_bins))

    def afterstate(self, z: Float[Array, "B D"], a: Float[Array, "B A"]):
        """Hidden afterstate [B, H] and logits of the codes [B, C]."""
        hidden = nn.silu(self.action(jnp.concatenate([z, a], -1)))
        if self.chance_codes == 1:  # nothing to tell apart
            return hidden, jnp.zeros((*hidden.shape[:-1], 1))
        return hidden, self.code_logits(hidden)

    def outcome(self, hidden, code: Float[Array, "B C"]):
        """(what `consequences` reads [B, H], what is observed next [B, O]: of numbers the change
        that the base leaves over, of categories and bits logits)."""
        x = self.body(hidden)
        if self.chance_codes > 1:
            x = x + self.code(code)
        return x, self.observation(nn.silu(x))

    def consequences(self, x: Float[Array, "B H"], z: Float[Array, "B D"]):
        """(reward logits [B, S], continuation logit [B]) of a step that reached the latent z."""
        x = nn.silu(x + self.reached(z))
        return self.reward(x), self.goes_on(x)[..., 0]

    def value(self, z):
        """Value logits [B, S]."""
        return self.value_net(z)

    def __call__(self, z, a, code):
        hidden, code_logits = self.afterstate(z, a)
        x, told = self.outcome(hidden, code)
        return code_logits, told, self.consequences(x, z), self.value(z)


Members = nn.vmap(
    Member,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    methods=["__call__", "afterstate", "outcome", "consequences", "value"],
)


class Networks(nn.Module):
    """All networks of a vector model, behind methods that take and return arrays."""

    width: int
    latent: int
    members: int
    chance_codes: int
    reward_bins: int
    value_bins: int
    observation_size: int
    action_size: int
    policy_size: int
    recurrent: bool

    def setup(self):
        sizes = (self.width, self.chance_codes, self.reward_bins, self.value_bins)
        sizes += (self.observation_size,)
        encoder = Recurrent if self.recurrent else Residual
        self.encoder = encoder(self.width, self.latent)
        self.member = Members(*sizes)
        self.policy = Mlp((self.width, self.width, self.policy_size))
        self.legality = nn.Dense(self.action_size, bias_init=nn.initializers.constant(3.0))

    def represent(self, x):
        """Latent [*B, D] of a normalised context: flattened, or rows [*B, W, F] if recurrent.

        What is seen (the newest row, if recurrent) beside what is learned of it: no loss can take
        from the heads what they may need.
        """
        return jnp.concatenate([x[..., -1, :] if self.recurrent else x, self.encoder(x)], axis=-1)

    def afterstate(self, z, a):
        """Per member: hidden [E, B, H], code logits [E, B, C]; z is [E, B, D]."""
        return self.member.afterstate(z, self._each(a))

    def outcome(self, hidden, code):
        """Per member: what `consequences` reads [E, B, H], what is observed next [E, B, O]."""
        return self.member.outcome(hidden, self._each(code))

    def consequences(self, x, z):
        """Per member: reward logits [E, B, S], continuation logit [E, B]; z is [B, D]."""
        return self.member.consequences(x, self._each(z))

    def value(self, z):
        """Value logits per member [E, B, S]; z is [E, B, D]."""
        return self.member.value(z)

    def pi_logits(self, z):
        """Outputs of the search prior [B, P]."""
        return self.policy(z)

    def legal_logits(self, z):
        """Legality of every action feature [B, A]."""
        return self.legality(z)

    def _each(self, x):
        return jnp.broadcast_to(x, (self.members, *x.shape))

    def __call__(self, x, a, code):
        z = self.represent(x)
        zs = self._each(z)
        members = self.member(zs, self._each(a), self._each(code))
        return members, self.pi_logits(z), self.legal_logits(z)


def init_params(networks: Networks, context_shape: tuple[int, ...], key: jax.Array):
    """Fresh parameters, drawn in one compiled program."""
    x = jnp.zeros((1, *context_shape))
    a, code = jnp.zeros((1, networks.action_size)), jnp.zeros((1, networks.chance_codes))
    return jax.jit(networks.init)(key, x, a, code)["params"]
