"""The meaning of policy outputs: how actions are proposed, drawn and learned from them.

An action is a feature vector a [A]. A policy has P outputs, of one of three kinds:

"discrete": a logit per action; with few factors, per combination of their values;
"factored": a logit per value of each factor, factors being independent (mean field);
"box": mean and spread of a Gaussian over [-1, 1]^A, searched by sampled proposals (Hubert et al.,
2021; EfficientZero V2, Wang et al., 2024).

A search compares K candidate actions. For "factored", each candidate is the likeliest action with
one factor changed; the improved distribution of a factor is over the candidates that change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

NEVER = -1e9  # logit of an action that must not be taken
MOST_COMBINATIONS = 64  # most combinations of factors that are searched as single actions
PROPOSALS = 16  # actions that a search samples from a Gaussian
LEAST_SPREAD, FIRST_SPREAD = 0.05, 0.6  # of a Gaussian, in units of half the action's range
WIDER, WIDEST = 2.0, 0.1  # spread of the wide half of the proposals: spread * WIDER + WIDEST


@dataclass(frozen=True)
class ActionHead:
    """Relates P policy outputs to actions of A features. Static: hashable, without arrays."""

    kind: str
    factors: tuple[int, ...]  # sizes of the one-hot groups of an action; () for "box"
    size: int  # A

    @property
    def num_outputs(self) -> int:
        """P, the number of policy outputs."""
        sizes = {"discrete": math.prod(self.factors), "factored": self.size, "box": 2 * self.size}
        return sizes[self.kind]

    @property
    def num_candidates(self) -> int:
        """K, the number of candidates in a search."""
        return PROPOSALS if self.kind == "box" else self.num_outputs

    @property
    def num_choices(self) -> int:
        """Number of distributions in an improved policy: one per factor if "factored", else one."""
        return len(self.factors) if self.kind == "factored" else 1

    @cached_property
    def table(self) -> Float[np.ndarray, "K A"]:
        """Features of every action of a "discrete" head."""
        grid = np.indices(self.factors).reshape(len(self.factors), -1)
        groups = [np.eye(n, dtype=np.float32)[i] for n, i in zip(self.factors, grid, strict=True)]
        return np.concatenate(groups, axis=-1)

    # Legality

    def masked(self, pi: Float[Array, "*B P"], legal: Bool[Array, "*B A"]) -> Float[Array, "*B P"]:
        """Outputs `pi` with NEVER for every action that has an illegal entry.

        A factor without a legal entry is not masked: a prediction must not forbid everything.
        """
        if self.kind == "box":
            return pi
        stuck = lambda x: jnp.broadcast_to(~jnp.any(x, -1, keepdims=True), x.shape)
        legal = legal | self._per_factor(stuck, legal)
        if self.kind == "discrete" and len(self.factors) > 1:
            legal = (1.0 - legal) @ self.table.T < 0.5
        return jnp.where(legal, pi, NEVER)

    # The policy's actions

    def log_probs(self, pi: Float[Array, "*B P"]) -> Float[Array, "*B P"]:
        """Log probability of every action, or of every value of each factor; not for "box"."""
        return self._per_choice(jax.nn.log_softmax, pi)

    def mode(self, pi: Float[Array, "*B P"]) -> Float[Array, "*B A"]:
        """The most probable action."""
        if self.kind == "box":
            return jnp.clip(self.gaussian(pi)[0], -1.0, 1.0)
        if self.kind == "discrete":
            return jnp.asarray(self.table)[jnp.argmax(pi, -1)]
        best = lambda x: jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1])
        return self._per_choice(best, pi)

    def sample(self, pi: Float[Array, "B P"], key: UInt32[Array, "B 2"]) -> Float[Array, "B A"]:
        """An action of each row, drawn with the row's own raw key."""
        return jax.vmap(lambda k, pi: self._draw(jax.random.wrap_key_data(k), pi))(key, pi)

    def _draw(self, key, pi: Float[Array, " P"]) -> Float[Array, " A"]:
        if self.kind == "box":
            mean, spread = self.gaussian(pi)
            return jnp.clip(mean + spread * jax.random.normal(key, mean.shape), -1.0, 1.0)
        # The mode of logits plus Gumbel noise is a draw from the softmax, in each factor.
        return self.mode(pi + jax.random.gumbel(key, pi.shape))

    def anywhere(self, pi: Float[Array, "B P"], key: UInt32[Array, "B 2"]) -> Float[Array, "B A"]:
        """Uniform draws among the actions whose logits are not NEVER; a raw key per row."""
        if self.kind != "box":
            return self.sample(jnp.where(pi > NEVER / 2, 0.0, NEVER), key)
        draw = lambda k: self.random(jax.random.wrap_key_data(k), ())
        return jax.vmap(draw)(key)

    def gaussian(self, pi: Float[Array, "*B P"]) -> tuple[Any, Any]:
        """(mean [*B, A], spread [*B, A]) of a "box" head."""
        mean, raw = jnp.split(pi, 2, axis=-1)
        unit = (FIRST_SPREAD - LEAST_SPREAD) / math.log(2)
        return mean, LEAST_SPREAD + unit * jax.nn.softplus(raw)

    def log_prob(self, pi: Float[Array, "*B P"], a: Float[Array, "*B A"]) -> Float[Array, "*B"]:
        """Log probability of action features `a` [*B, A]; of "box", the log density."""
        return -self.imitation(self.target(a), pi)

    def random(self, key, shape: tuple[int, ...]) -> Float[Array, "*S A"]:
        """Uniformly random actions; `key` is a typed key."""
        if self.kind == "box":
            return jax.random.uniform(key, (*shape, self.size), minval=-1.0, maxval=1.0)
        if self.kind == "discrete":
            table = jnp.asarray(self.table)
            return table[jax.random.randint(key, shape, 0, self.num_outputs)]
        return self.mode(jax.random.gumbel(key, (*shape, self.size)))

    # Candidates of a search

    def noise(self, key, rows: int) -> Float[Array, "B K A"]:
        """Standard normal noise of the proposals; of size 0 where candidates are enumerated."""
        if self.kind != "box":
            return jnp.zeros((rows, 0, 0))
        noise = jax.random.normal(key, (rows, PROPOSALS, self.size))
        return noise.at[:, 0].set(0.0)  # the mean itself is always proposed

    def basis(self, pi: Float[Array, "B P"]) -> Float[Array, "B X"]:
        """What a tree node stores of a policy, so that `action` can rebuild its candidates."""
        if self.kind == "discrete":
            return jnp.zeros((*pi.shape[:-1], 0))
        return pi if self.kind == "box" else self.mode(pi)

    def action(
        self, basis: Float[Array, "B X"], noise: Float[Array, "B K A"], index: Int[Array, " B"]
    ) -> Float[Array, "B A"]:
        """Features of candidate `index` of each row."""
        if self.kind == "discrete":
            return jnp.asarray(self.table)[index]
        if self.kind == "box":
            return jnp.take_along_axis(self.proposals(basis, noise), index[:, None, None], 1)[:, 0]
        group = np.repeat(np.arange(len(self.factors)), self.factors)
        changed = jnp.asarray(group)[index][:, None] == group[None]
        return jnp.where(changed, jax.nn.one_hot(index, self.size), basis)

    def proposals(self, basis, noise) -> Float[Array, "B K A"]:
        """The sampled candidates of a "box" head: half from the policy, half from a wider one."""
        if self.kind != "box":
            return jnp.zeros((basis.shape[0], 0, 0))
        mean, spread = (x[:, None] for x in self.gaussian(basis))
        wide = (np.arange(PROPOSALS) >= PROPOSALS // 2)[None, :, None]
        scale = jnp.where(wide, spread * WIDER + WIDEST, spread)
        return jnp.clip(mean + scale * noise, -1.0, 1.0)

    def log_prior(self, pi: Float[Array, "B P"], noise, share: float) -> Float[Array, "B K"]:
        """Log prior of the candidates: (1 - `share`) of the policy plus `share` of a broad policy.

        The broad policy is uniform over legal actions; for "box" it is the wide Gaussian, and
        proposals are weighed by prior / proposal density (importance weights), so that a search
        improves the policy and not the distribution of proposals.
        """
        if self.kind == "box":
            a, (mean, spread) = self.proposals(pi, noise), self.gaussian(pi)
            ours = _log_normal(a, mean[:, None], spread[:, None])
            wide = _log_normal(a, mean[:, None], spread[:, None] * WIDER + WIDEST)
            mix = lambda w: jnp.logaddexp(ours + math.log(1 - w), wide + math.log(w + 1e-9))
            return mix(min(share, 0.5)) - mix(0.5)
        logs = self._per_choice(lambda x: _with_uniform(x, share), pi)
        if self.kind == "discrete":
            return logs
        chosen = lambda x: x - jnp.max(x, -1, keepdims=True)  # against the likeliest action
        return jnp.where(logs > NEVER / 2, self._per_choice(chosen, logs), NEVER)

    def improved(self, log_prior: Float[Array, "B K"], score) -> Float[Array, "B K"]:
        """softmax(log prior + score), in every factor separately."""
        return self._per_choice(lambda x: jax.nn.softmax(x), log_prior + score)

    def expectation(self, p: Float[Array, "*B K"], q: Float[Array, "*B K"]) -> Float[Array, "*B"]:
        """Mean of `q` under an improved distribution."""
        return jnp.sum(p * q, -1) / self.num_choices

    def gain(self, p: Float[Array, "B K"], q: Float[Array, "B K"], pi: Float[Array, "B P"]):
        """Expected q of an improved distribution minus the policy's; for "box" minus the mean's."""
        before = (
            q[..., 0] if self.kind == "box" else self.expectation(jnp.exp(self.log_probs(pi)), q)
        )
        return self.expectation(p, q) - before

    # Learning

    def target(self, a: Any) -> Any:
        """The policy target [*B, T] for imitating actions [*B, A]; zeros where `a` is zeros."""
        if self.kind == "discrete" and len(self.factors) > 1:
            return (a @ self.table.T > len(self.factors) - 0.5).astype(jnp.float32)
        return a

    def imitation(self, target: Float[Array, "*B T"], pi: Float[Array, "*B P"]):
        """Cross-entropy of a policy against targets; for "box", -log density of an action."""
        if self.kind == "box":
            return -_log_normal(target, *self.gaussian(pi))
        return -jnp.sum(target * self.log_probs(pi), -1)

    def best(self, q: Float[Array, "*B P"]) -> Float[Array, "*B"]:
        """The highest value if outputs are action values (summed over factors). Not for "box"."""
        ends = np.cumsum(self.factors)[:-1] if self.kind == "factored" else []
        return jnp.sum(jnp.stack([jnp.max(part, -1) for part in jnp.split(q, ends, axis=-1)]), 0)

    def soft_best(self, q: Float[Array, "*B P"]) -> Float[Array, "*B"]:
        """As `best`, with log-sum-exp in place of the maximum."""
        ends = np.cumsum(self.factors)[:-1] if self.kind == "factored" else []
        parts = jnp.split(q, ends, axis=-1)
        return jnp.sum(jnp.stack([jax.nn.logsumexp(part, axis=-1) for part in parts]), 0)

    def divergence(self, p: Float[Array, "*B K"], proposals, pi: Float[Array, "*B P"]):
        """KL(p || policy) over candidates; for "box" up to terms without `pi`."""
        if self.kind == "box":
            mean, spread = (x[..., None, :] for x in self.gaussian(pi))
            return -jnp.sum(p * _log_normal(proposals, mean, spread), -1)
        return jnp.sum(p * (jnp.log(jnp.maximum(p, 1e-9)) - self.log_probs(pi)), -1)

    def kl(self, pi: Float[Array, "*B P"], other: Float[Array, "*B P"]) -> Float[Array, "*B"]:
        """KL(pi || other) of two policies."""
        if self.kind != "box":
            logs = self.log_probs(pi)
            return jnp.sum(jnp.exp(logs) * (logs - self.log_probs(other)), -1)
        (mean, spread), (mean2, spread2) = self.gaussian(pi), self.gaussian(other)
        ratio = (spread**2 + (mean - mean2) ** 2) / (2 * spread2**2)
        return jnp.sum(jnp.log(spread2 / spread) + ratio - 0.5, -1)

    def _per_choice(self, f: Callable, x: Any) -> Any:
        """`f` of the whole of `x`; if "factored", of every factor's part of it."""
        return self._per_factor(f, x) if self.kind == "factored" else f(x)

    def _per_factor(self, f: Callable, x: Any) -> Any:
        ends = np.cumsum(self.factors)[:-1]
        return jnp.concatenate([f(part) for part in jnp.split(x, ends, axis=-1)], axis=-1)


def make_head(factors: tuple[int, ...], size: int) -> ActionHead:
    """The head for actions of one-hot groups `factors`; () = `size` numbers in [-1, 1]."""
    if not factors:
        return ActionHead("box", (), size)
    small = math.prod(factors) <= MOST_COMBINATIONS or len(factors) == 1
    return ActionHead("discrete" if small else "factored", tuple(factors), size)


def _with_uniform(logits, share: float):
    """Log of (1 - share) softmax + share uniform, over logits that are not NEVER."""
    legal = logits > NEVER / 2
    uniform = legal / jnp.sum(legal, -1, keepdims=True)
    mixed = (1 - share) * jax.nn.softmax(logits) + share * uniform
    return jnp.where(legal, jnp.log(mixed + 1e-9), NEVER)


def _log_normal(x, mean, spread) -> Any:
    """Log density of independent normals, summed over the last axis."""
    z = (x - mean) / spread
    return jnp.sum(-0.5 * z * z - jnp.log(spread) - 0.5 * math.log(2 * math.pi), -1)
