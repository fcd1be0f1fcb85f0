"""Small tasks known exactly: their tables, their exact solutions, and the oracle model they make.

Indices throughout: s state in 0..S-1, a action in 0..A-1, n next state in 0..S-1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from envs.types import Context, EnvError, Prediction, Trace, TraceError, container

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

IMPOSSIBLE = -1e9  # logit of an outcome that cannot happen; finite, so no NaN can grow from it


@dataclass(frozen=True)
class Table:
    """A task as arrays: probabilities, mean rewards and ending probabilities per transition."""

    p: Float[np.ndarray, "S A S"]
    r: Float[np.ndarray, "S A S"]
    terminated: Float[np.ndarray, "S A S"]
    start: Float[np.ndarray, " S"]

    def __post_init__(self):
        assert self.p.shape == self.r.shape == self.terminated.shape, self.p.shape
        assert np.allclose(self.p.sum(-1), 1) and np.isclose(self.start.sum(), 1)

    @property
    def num_states(self) -> int:
        """S."""
        return self.p.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.p.shape[1]


def _table(sums: np.ndarray, rewards: np.ndarray, ends: np.ndarray, start: np.ndarray) -> Table:
    """A table of weights [S, A, S] and of sums of rewards and endings under these weights."""
    per_transition = np.where(sums > 0, sums, 1)
    p = sums / sums.sum(-1, keepdims=True)
    return Table(p, rewards / per_transition, ends / per_transition, start / start.sum())


def from_gym(env: gymnasium.Env | str) -> Table:
    """The table of a toy-text task such as FrozenLake, Taxi or CliffWalking, or of its id."""
    task: Any = (gymnasium.make(env) if isinstance(env, str) else env).unwrapped
    if not hasattr(task, "P") or not hasattr(task, "initial_state_distrib"):
        raise EnvError(
            f"{task} has no transition table `P`; use a toy-text task like FrozenLake-v1"
        )
    num_states, num_actions = len(task.P), len(task.P[0])
    sums, rewards, ends = np.zeros((3, num_states, num_actions, num_states))
    for s, actions in task.P.items():
        for a, outcomes in actions.items():
            for p, n, r, terminated in outcomes:
                sums[s, a, n] += p
                rewards[s, a, n] += p * r
                ends[s, a, n] += p * terminated
    return _table(sums, rewards, ends, np.asarray(task.initial_state_distrib, float))


def from_traces(
    traces: Iterable[Trace], num_states: int, num_actions: int, unseen: str = "zero"
) -> Table:
    """The count model of a log whose observations and actions are numbered from 0.

    A pair (s, a) that was never taken ends at once with reward 0 (`unseen="zero"`), or stays
    in s for ever with the lowest logged reward, at most 0, at each step (`unseen="worst"`).
    """
    sums, rewards, ends = np.zeros((3, num_states, num_actions, num_states))
    start, lowest = np.zeros(num_states), np.inf
    for trace in traces:
        o, a = np.asarray(trace.observations), trace.actions
        at = (o[:-1], a, o[1:])
        np.add.at(sums, at, 1)
        np.add.at(rewards, at, trace.rewards)
        np.add.at(ends, at, trace.terminated)
        start[o[0]] += 1
        lowest = min(lowest, trace.rewards.min())
    if not start.any():
        raise TraceError("the log is empty, so it has no count model; record some episodes")
    s, a = np.nonzero(sums.sum(-1) == 0)
    sums[s, a, s] = 1
    rewards[s, a, s] = min(lowest, 0) if unseen == "worst" else 0
    ends[s, a, s] = unseen == "zero"
    return _table(sums, rewards, ends, start)


def corridor(length: int, slip: float = 0.0) -> Table:
    """States 0..length-1 from 0; action 1 goes right, 0 left; reward 1 and end at the right.

    With probability `slip` the opposite move happens.
    """
    sums, rewards, ends = np.zeros((3, length, 2, length))
    for s in range(length):
        for a in (0, 1):
            for move, p in ((2 * a - 1, 1 - slip), (1 - 2 * a, slip)):
                n = int(np.clip(s + move, 0, length - 1))
                sums[s, a, n] += p
                rewards[s, a, n] += p * (n == length - 1)
                ends[s, a, n] += p * (n == length - 1)
    return _table(sums, rewards, ends, np.eye(length)[0])


def _expected(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Expected reward [S, A] and the probability of going on in state n [S, A, S]."""
    return (table.p * table.r).sum(-1), table.p * (1 - table.terminated)


def solve(
    table: Table, discount: float, tolerance: float = 1e-10, max_sweeps: int = 100_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value [S], action value [S, A] and greedy policy [S] of the optimum without a step limit.

    Equal action values (within 1e-9) are settled in favour of the lowest action.
    """
    r, go_on = _expected(table)
    v = np.zeros(table.num_states)
    for _ in range(max_sweeps):
        q = r + discount * go_on @ v
        v, old = q.max(-1), v
        if np.abs(v - old).max() < tolerance:
            break
    return v, q, (q > q.max(-1, keepdims=True) - 1e-9).argmax(-1)


def evaluate(table: Table, policy: np.ndarray, horizon: int, discount: float = 1.0) -> float:
    """Exact expected return in `horizon` steps of a policy, [S] actions or [S, A] probabilities."""
    policy = np.asarray(policy)
    pi = np.eye(table.num_actions)[policy] if policy.ndim == 1 else policy
    r, go_on = _expected(table)
    r_pi, go_on_pi = (pi * r).sum(-1), np.einsum("sa,san->sn", pi, go_on)
    v = np.zeros(table.num_states)
    for _ in range(horizon):
        v = r_pi + discount * go_on_pi @ v
    return float(table.start @ v)


def optimum(table: Table, horizon: int, discount: float = 1.0) -> float:
    """The best expected return in `horizon` steps of any policy, also one that sees the clock.

    It bounds every stationary policy; `evaluate(table, solve(table, ...)[2], ...)` is one.
    """
    r, go_on = _expected(table)
    v = np.zeros(table.num_states)
    for _ in range(horizon):
        v = (r + discount * go_on @ v).max(-1)
    return float(table.start @ v)


@container
class TabularState:
    """Where a tabular dream stands; after an end it stays there, worth nothing."""

    s: Int[Array, " B"]
    ended: Bool[Array, " B"]
    member: Int[Array, " B"]


@container
class TabularAfterstate:
    """A state and the action taken in it, before chance has spoken."""

    z: TabularState
    a: Int[Array, " B"]


class TabularModel:
    """The true dynamics of a table behind the model protocol: `TabularModel(table, discount)`.

    A chance code is one distinct (next state, ended) of the pair (s, a), the likeliest first;
    values are those of the discounted optimum. `params` holds the arrays.
    """

    num_members = 1
    window = 1

    def __init__(self, table: Table, discount: float):
        self.num_states, self.num_actions = table.num_states, table.num_actions
        self.action_size = table.num_actions  # features of an action: one-hot
        ended, going = table.p * table.terminated, table.p * (1 - table.terminated)
        p = np.concatenate([going, ended], -1)  # [S, A, 2 S]
        self.num_codes = int((p > 0).sum(-1).max())
        outcome = np.argsort(-p, axis=-1, kind="stable")[..., : self.num_codes]
        p = np.take_along_axis(p, outcome, -1)
        n = outcome % self.num_states
        with np.errstate(divide="ignore"):
            logits = np.where(p > 0, np.log(p), IMPOSSIBLE)
        self.params = {
            "chance_logits": jnp.asarray(logits, jnp.float32),  # [S, A, C]
            "next": jnp.asarray(n, jnp.int32),
            "r": jnp.asarray(np.take_along_axis(table.r, n, -1), jnp.float32),
            "ended": jnp.asarray(outcome >= self.num_states),
            "v": jnp.asarray(solve(table, discount)[0], jnp.float32),  # [S]
        }

    def root(self, params: Any, context: Context) -> TabularState:
        """The state whose one-hot vector is the newest observation."""
        s = context.o[:, -1].argmax(-1).astype(jnp.int32)
        return TabularState(s, jnp.zeros(s.shape, bool), jnp.full(s.shape, -1, jnp.int32))

    def afterstate(
        self, params: Any, z: TabularState, a: Float[Array, "B A"]
    ) -> tuple[Float[Array, "B C"], TabularAfterstate]:
        """Logits of the codes of (s, a)."""
        a_index = a.argmax(-1).astype(jnp.int32)
        return params["chance_logits"][z.s, a_index], TabularAfterstate(z, a_index)

    def outcome(
        self, params: Any, y: TabularAfterstate, c: Int[Array, " B"]
    ) -> tuple[TabularState, Prediction]:
        """The next state of code `c`; an ended one stays and pays nothing."""
        z, at = y.z, (y.z.s, y.a, c)
        s = jnp.where(z.ended, z.s, params["next"][at])
        ended = z.ended | params["ended"][at]
        r = jnp.where(z.ended, 0.0, params["r"][at])
        z = TabularState(s, ended, z.member)
        v, pi_logits, legal_logits = self.predict(params, z)
        return z, Prediction(
            r=r,
            continuation=1.0 - ended,
            v=v,
            pi_logits=pi_logits,
            legal_logits=legal_logits,
            uncertainty=jnp.zeros(s.shape),
        )

    def predict(
        self, params: Any, z: TabularState
    ) -> tuple[Float[Array, " B"], Float[Array, "B A"], Float[Array, "B A"]]:
        """The optimal value, no preference, and every action legal."""
        v = jnp.where(z.ended, 0.0, params["v"][z.s])
        everything = jnp.ones((*v.shape, self.num_actions))
        return v, 0 * everything, everything

    def decode(self, params: Any, z: TabularState) -> Float[Array, "B O"]:
        """The state as a one-hot vector."""
        return jax.nn.one_hot(z.s, self.num_states)

    def value_span(self, params: Any) -> Float[Array, ""]:
        """Width of the range of the optimal values, at least 1."""
        return jnp.maximum(params["v"].max() - params["v"].min(), 1.0)
