"""The model named `counts`: what a log of one discrete observation counts, and nothing more.

p(c | s, a) are counts of what followed; every member counts episodes with weights of its own (the
Bayesian bootstrap, Rubin, 1981), which are draws from the Dirichlet posterior without a prior. All
tables have E + 1 slices, one per member and last the counts of all, so that member -1 is the log
itself. Values are solved, not learned. Of a pair that was never taken the worst is assumed: it
stays where it is for ever, at the lowest reward of the log or at 0, whichever is less.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from worldmodels.actions import ActionHead
from worldmodels.config import FitConfig
from worldmodels.protocol import LogFacts, ModelError, ModelSettings, RowChunk
from worldmodels.support import value_bounds
from worldmodels.types import HeadTargets, Prediction, Windows

MOST = 50_000_000  # entries of a table
SWEEPS, TOLERANCE = 20_000, 1e-6  # of value iteration; the latter as a share of the value span
IMPOSSIBLE = -1e9  # logit of a code that was never seen


class CountState(struct.PyTreeNode):
    """An observation by its number."""

    s: Int[Array, " B"]
    member: Int[Array, " B"]


class CountAfterstate(struct.PyTreeNode):
    """A state and the action taken there, by its number."""

    z: CountState
    a: Int[Array, " B"]


@dataclass(frozen=True)
class Counts:
    """Static shape; the methods are those of `Trainable`. S observations, P actions, C codes."""

    head: ActionHead
    num_states: int
    num_codes: int
    num_members: int
    discount: float
    pessimism: float = 0.0
    behaviour_penalty: float = 0.0
    window: ClassVar[int] = 1
    convolves: ClassVar[bool] = False
    is_closed_form: ClassVar[bool] = True

    @property
    def num_actions(self) -> int:
        """P."""
        return self.head.num_outputs

    @property
    def action_size(self) -> int:
        """A."""
        return self.head.size

    @property
    def student(self) -> Mapping[str, Any]:
        """Any student will do."""
        return {}

    def root(self, params, context) -> CountState:
        """The newest observation."""
        s = jnp.argmax(context.o[:, -1], -1).astype(jnp.int32)
        return CountState(s, jnp.full(s.shape, -1, jnp.int32))

    def afterstate(self, params, z: CountState, a: Float[Array, "B A"]):
        """What followed the pair, as logits of its codes."""
        taken = jnp.argmax(a @ self.head.table.T, -1).astype(jnp.int32)
        p = params["net"]["p"][z.member, z.s, taken]
        return jnp.where(p > 0, jnp.log(jnp.maximum(p, 1e-9)), IMPOSSIBLE), CountAfterstate(
            z, taken
        )

    def outcome(self, params, y: CountAfterstate, c: Int[Array, " B"]):
        """The c-th observation that ever followed the pair."""
        net, z, pair = params["net"], y.z, (y.z.s, y.a)
        at = (z.member, *pair, c)
        z = CountState(params["scale"]["next"][(*pair, c)], z.member)
        v, pi_logits, legal_logits = self.predict(params, z)
        every = net["r"][(slice(None), *pair, c)]  # [E + 1, B]
        uncertainty = net["uncertainty"][pair]
        if self.behaviour_penalty:
            uncertainty += self.behaviour_penalty * self._surprise(params, y)
        return z, Prediction(
            r=self._lower(net["r"][at], every, z.member),
            continuation=1.0 - net["ends"][at],
            v=v,
            pi_logits=pi_logits,
            legal_logits=legal_logits,
            uncertainty=uncertainty,
        )

    def predict(self, params, z: CountState):
        """The member's optimal value, the prior, and what was legal in most rows of the state."""
        net = params["net"]
        v = self._lower(net["value"][z.member, z.s], net["value"][:, z.s], z.member)
        return v, net["policy"][z.s], net["legal"][z.s]

    def decode(self, params, z: CountState) -> Float[Array, "B S"]:
        """The observation as a one-hot vector."""
        return jax.nn.one_hot(z.s, self.num_states)

    def value_span(self, params) -> Float[Array, ""]:
        """Width of the range that values usually take, in reward units."""
        return params["scale"]["v_range"]

    def init(self, key: jax.Array, scale: dict):
        """Nothing was counted: every pair stays in place."""
        S, P, C, E = self.num_states, self.num_actions, self.num_codes, self.num_members
        table = lambda *axes: jnp.zeros((E + 1, S, *axes))
        net = {"p": table(P, C).at[..., 0].set(1.0), "r": table(P, C), "ends": table(P, C)}
        net |= {"value": table(), "policy": jnp.zeros((S, P)), "uncertainty": jnp.ones((S, P))}
        return {"net": net | {"legal": jnp.ones((S, self.action_size))}, "scale": scale}

    def loss(self, params, target_params, batch: Windows, config: FitConfig, key: jax.Array):
        """0: nothing is learned by gradients."""
        return jnp.float32(0), {}

    def measured(self, params, every: Iterable[RowChunk]):
        """All counts of the log, and the values that follow from them."""
        scale = jax.tree.map(np.asarray, params["scale"])
        slices, *pairs = params["net"]["p"].shape
        tables = np.zeros((slices, 3, *pairs))  # numbers of transitions, sums of rewards, endings
        legal = np.zeros((2, self.num_states, self.action_size))
        for windows, count in every:
            rows = jax.tree.map(lambda x, n=count: np.asarray(x)[:n], windows)
            s, after = (rows.o[:, i, -1].argmax(-1) for i in (0, 1))
            for table, x in zip(legal, (rows.legal[:, 0], ~rows.legal[:, 0]), strict=True):
                np.add.at(table, s, x)
            real = rows.is_real_step[:, 0]
            a = (rows.a[:, 0] @ self.head.table.T).argmax(-1)
            code = (scale["next"][s, a] == after[:, None]).argmax(-1)
            at = tuple(x[real] for x in (s, a, code))
            r, ended = rows.r[real, 0], rows.terminated[real, 0]
            for sums, weight in zip(tables, (*rows.member_weights[real].T, 1.0), strict=True):
                for table, x in zip(sums, (1.0, r, ended), strict=True):  # [S, P, C] of a member
                    np.add.at(table, at, weight * x)
        n, r, ends = np.moveaxis(tables, 1, 0)
        taken = n.sum(-1, keepdims=True)
        first, seen = np.eye(self.num_codes)[0], n > 0
        p = np.where(taken > 0, n / np.maximum(taken, 1e-9), first)
        r = np.where(seen, r / np.maximum(n, 1e-9), np.where(taken > 0, 0, scale["lowest"]))
        ends = np.where(seen, ends / np.maximum(n, 1e-9), 0.0)
        spread = p[:-1].std(0).sum(-1) + (p * r)[:-1].sum(-1).std(0) / scale["r_range"]
        spread = np.where(taken[-1, ..., 0] > 0, spread, 1.0)
        legal = np.where(legal[0] >= legal[1], 1.0, -1.0)
        net = {"p": p, "r": r, "ends": ends, "uncertainty": spread, "legal": legal}
        net = params["net"] | {name: jnp.asarray(x, jnp.float32) for name, x in net.items()}
        return params | {"net": net | {"value": self._solved(net, params["scale"])}}

    def heads(self, params):
        """Values and prior."""
        return {name: params["net"][name] for name in ("value", "policy")}

    def with_heads(self, params, heads):
        """With these values and this prior."""
        return params | {"net": params["net"] | heads}

    def fresh_heads(self, params, key: jax.Array):
        """The optimal values, and no preference."""
        return self.heads(params) | {"policy": jnp.zeros_like(params["net"]["policy"])}

    def heads_loss(self, params, targets: HeadTargets):
        """KL of the prior from what the teacher says; values are solved already."""
        pi, weight = params["net"]["policy"][targets.taught_z.s], targets.taught_weight
        prior = self.head.divergence(targets.pi, targets.proposals, pi)
        return {"prior_loss": jnp.sum(prior * weight) / (jnp.sum(weight) + 1e-6)}

    def adjusted(self, **ways: float) -> "Counts":
        """The same model, more careful."""
        return dataclasses.replace(self, **ways)

    def student_start(self, params) -> dict[str, Any]:
        """Nothing."""
        return {}

    def _lower(self, x: Float[Array, " B"], every: Float[Array, "E1 B"], member):
        """`x`, but mean - pessimism * std where the mean is asked for."""
        if self.pessimism == 0:
            return x
        return jnp.where(member < 0, x - self.pessimism * jnp.std(every[:-1], axis=0), x)

    def _surprise(self, params, y: CountAfterstate) -> Float[Array, " B"]:
        """Nats by which the log's policy finds an action less likely than its likeliest one."""
        log_p = jax.nn.log_softmax(params["behaviour"][y.z.s])
        return jnp.max(log_p, -1) - jnp.take_along_axis(log_p, y.a[:, None], -1)[:, 0]

    def _solved(self, net, scale) -> Float[Array, "E1 S"]:
        """Optimal values of every slice, by value iteration over legal actions."""
        earned = jnp.sum(net["p"] * net["r"], -1)
        onward = self.discount * net["p"] * (1 - net["ends"])
        can = self.head.masked(jnp.zeros((self.num_states, self.num_actions)), net["legal"] > 0)

        def sweep(carry):
            v, _, i = carry
            q = earned + jnp.sum(onward * v[:, scale["next"]], -1)
            new = jnp.max(jnp.where(can < 0, -jnp.inf, q), -1)
            small = TOLERANCE * jnp.maximum(jnp.ptp(new), 1e-9)
            return new, jnp.max(jnp.abs(new - v)) <= small, i + 1

        go_on = lambda carry: ~carry[1] & (carry[2] < SWEEPS)
        return jax.lax.while_loop(go_on, sweep, (net["value"], jnp.bool_(False), 0))[0]


def make(facts: LogFacts, settings: ModelSettings) -> tuple[Counts, dict]:
    """Counts for a log. Raises `ModelError` for one that cannot be counted."""
    config, head = settings.model, facts.head
    if facts.kind != "discrete" or head.kind != "discrete" or config.window > 1:
        raise ModelError(
            "model.name=counts needs one Discrete observation, Discrete actions of at most 64 "
            f"combinations and a window of 1; here are {facts.kind} observations, the action space "
            f"{facts.action_space} and a window of {config.window}; leave model.name=auto"
        )
    follow: dict[tuple[int, int], dict[int, int]] = {}
    for o, a in zip(facts.packed, facts.a, strict=True):
        s, taken = o[:, 0].astype(int).tolist(), (a @ head.table.T).argmax(-1).tolist()
        for before, i, after in zip(s[:-1], taken, s[1:], strict=True):
            follow.setdefault((before, i), {}).setdefault(after, 0)
    S, P, C = len(facts.is_number), head.num_outputs, max(map(len, follow.values()))
    if (entries := S * P * C * (config.members + 1)) > MOST:
        raise ModelError(
            f"model.name=counts would hold {entries:,} counts ({S} observations, {P} actions, {C} "
            f"outcomes, {config.members} members), more than {MOST:,}; leave model.name=auto"
        )
    nexts = np.broadcast_to(np.arange(S)[:, None, None], (S, P, C)).copy()
    for pair, found in follow.items():
        nexts[pair][: len(found)] = list(found)
    r, steps = np.concatenate(facts.r), round(1 / (1 - settings.discount))
    low, high = value_bounds(facts.r, facts.terminated, settings.discount, window=steps)
    scale = {"next": jnp.asarray(nexts, jnp.int32), "v_range": jnp.float32(high - low)}
    scale |= {"lowest": jnp.float32(min(r.min(), 0.0)), "r_range": jnp.float32(np.ptp(r) or 1.0)}
    return Counts(head, S, C, config.members, settings.discount), scale
