"""Teachers: they look ahead in the model and return an improved policy and value of a state.

`teacher="search"` is Gumbel MuZero (Danihelka et al., 2022) on mctx's tree: sequential halving at
the root, deterministic selection inside, completed values normalised over the whole tree. A model
with C > 1 codes is searched with chance nodes. `teacher="one_step"` enumerates every action and
every outcome once. All of them return the same `SearchResult`.

An edge never samples its outcome: mctx would reuse that one sample in the whole search.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float

from dreaming.config import SearchConfig
from dreaming.errors import ConfigError
from dreaming.search import passes, qtransforms
from dreaming.types import ChanceNode, Node, SearchResult
from worldmodels.actions import NEVER, ActionHead
from worldmodels.types import Scalar


def make_teacher(
    model: Any, head: ActionHead, config: SearchConfig, discount: Scalar, gumbel_scale: float = 1.0
) -> Callable:
    """`teach(params, z, key, value_span, legal=None) -> SearchResult` for states `z` [B].

    `head` describes the actions. Actions that the model predicts to be illegal are never taken;
    where `legal` bool [B, A] is known for the states themselves, it stands for the prediction.
    `key` is one typed key or, for a head without proposals, one key per row: then the result of a
    row does not depend on the states searched with it.

    `gumbel_scale` is 1 to explore in rehearsal, 0 to act greedily.
    `value_span` is the width of the range of values; floors and temperatures are shares of it.
    Raises `ValueError` for a budget, a teacher or a readout that does not exist, and `ConfigError`
    where passes cannot be batched.
    """
    if config.num_simulations < 1:
        raise ValueError(f"search.num_simulations must be at least 1, got {config.num_simulations}")
    if config.teacher == "one_step":
        return OneStep(model, head, config, discount).teach
    if config.teacher != "search":
        raise ValueError(f"search.teacher is {config.teacher!r}; choose search or one_step")
    if config.readout not in qtransforms.READOUTS:
        raise ValueError(f"search.readout is {config.readout!r}; choose greedy or mean")
    if config.batched_passes and (model.num_codes > 1 or head.kind != "discrete"):
        raise ConfigError(
            "search.batched_passes needs discrete actions and a model without chance; leave it off"
        )
    return TreeSearch(model, head, config, discount, gumbel_scale).teach


def model_steps(model: Any, head: ActionHead, config: SearchConfig) -> int:
    """Number of model transitions per state in one call of the teacher."""
    outcomes = model.num_codes + (model.num_codes > 1)
    if config.teacher == "one_step":
        return head.num_candidates * model.num_codes
    return config.num_simulations * outcomes


def penalised(p, penalty: float, discount: Scalar, value_span):
    """Rewards of a prediction minus the cost of its uncertainty (MOPO, Yu et al., 2020, eq. 5).

    `penalty` is in typical rewards, (1 - discount) * `value_span`.
    """
    return p.r - penalty * (1 - discount) * value_span * p.uncertainty


@dataclass(frozen=True, eq=False)
class OneStep:
    """A teacher that enumerates every action and every outcome once."""

    model: Any
    head: ActionHead
    config: SearchConfig
    discount: Scalar

    def teach(self, params, z, key, value_span, legal=None) -> SearchResult:
        """As `make_teacher` says."""
        head, config = self.head, self.config
        v, pi, legal_logits = self.model.predict(params, z)
        rows = v.shape[0]
        pi = head.masked(pi, legal_logits > 0 if legal is None else legal)
        noise, basis = head.noise(key, rows), head.basis(pi)
        # Enumerated actions are weighed by their values alone, sampled ones by the prior as well.
        log_prior = head.log_prior(pi, noise, config.uniform_share if head.kind == "box" else 1.0)
        candidate = lambda index: head.action(basis, noise, jnp.full(rows, index))
        value_of = lambda index: self.value(params, z, candidate(index), value_span)
        q = jax.vmap(value_of, out_axes=-1)(jnp.arange(head.num_candidates))
        pi_search = head.improved(log_prior, q / (config.temperature * value_span))
        action = jnp.argmax(jnp.where(log_prior > NEVER / 2, q, -jnp.inf), -1)
        return SearchResult(
            action=action,
            a=head.action(basis, noise, action),
            pi_search=pi_search,
            proposals=head.proposals(basis, noise),
            v_search=head.expectation(pi_search, q),
            q=q,
            visits=jnp.ones_like(q, jnp.int32),
        )

    def value(self, params, z, a: Float[Array, "B A"], value_span) -> Float[Array, " B"]:
        """Value [B] of actions `a`: the expectation over their outcomes."""
        code_logits, y = self.model.afterstate(params, z, a)
        reward = lambda p: penalised(p, self.config.penalty, self.discount, value_span)
        q_code = outcome_values(self.model, params, y, a.shape[0], self.discount, reward)
        return jnp.sum(jax.nn.softmax(code_logits) * q_code, -1)


def outcome_values(
    model, params, y, rows: int, discount: Scalar, reward: Callable
) -> Float[Array, "B C"]:
    """reward + discount * continuation * v of every chance code of afterstates `y`."""

    def each(c):
        _, p = model.outcome(params, y, jnp.full(rows, c, jnp.int32))
        return reward(p) + discount * p.continuation * p.v

    return jax.vmap(each, out_axes=-1)(jnp.arange(model.num_codes))


@dataclass(frozen=True, eq=False)
class TreeSearch:
    """A teacher that grows a tree: Gumbel at the root, chance nodes where the model has codes.

    An edge of the tree is one of W choices: a candidate action or, from a chance node, a code.
    """

    model: Any
    head: ActionHead
    config: SearchConfig
    discount: Scalar
    gumbel_scale: float

    @property
    def has_chance(self) -> bool:
        """Whether an action leads to a chance node."""
        return self.model.num_codes > 1

    def teach(self, params, z, key, value_span, legal=None) -> SearchResult:
        """As `make_teacher` says."""
        head = self.head
        v, pi, legal_logits = self.model.predict(params, z)
        gumbel_key, noise_key = jax.random.split(key) if head.kind == "box" else (key, key)
        noise = head.noise(noise_key, v.shape[0])
        legal = legal_logits > 0 if legal is None else legal
        prior, basis = self.prior_and_basis(pi, legal, noise)
        node = self.root_node(params, z, basis)
        root = made(mctx.RootFnOutput, prior_logits=prior, value=v, embedding=node)
        gumbel = self.gumbel_scale * _gumbel(gumbel_key, prior.shape)
        tree = self.grow(params, root, gumbel, noise, value_span)
        visits = tree.children_visits[:, 0]
        complete = jax.vmap(qtransforms.completed, in_axes=(0, None, 0))
        mean = jax.vmap(lambda tree: qtransforms.edge_values(tree, self.has_chance))(tree)
        read = qtransforms.READOUTS[self.config.readout]
        q_edges = jax.vmap(lambda tree: read(tree, self.has_chance))(tree)
        q, q_mean = complete(tree, 0, q_edges), complete(tree, 0, mean)
        of_root = lambda tree, q: qtransforms.sigma(tree, 0, q, self.config, value_span)
        sigma = jax.vmap(of_root)(tree, q_edges)
        kept = visits > 0
        if self.config.readout == "mean":  # only what the halving left
            kept = visits == jnp.max(visits, axis=-1, keepdims=True)
        score = jnp.where(kept, tree.extra_data.root_gumbel + prior + sigma, -jnp.inf)
        action = jnp.argmax(score, -1)
        keep = lambda x: x[:, : head.num_candidates]
        pi_search = head.improved(keep(prior), keep(sigma))
        return SearchResult(
            action=action,
            a=head.action(basis, noise, action),
            pi_search=pi_search,
            proposals=head.proposals(basis, noise),
            v_search=head.expectation(pi_search, keep(q_mean)),
            q=keep(q),
            visits=keep(visits),
        )

    def grow(self, params, root, gumbel: Float[Array, "B W"], noise, value_span) -> Any:
        """The finished tree of one batched search; all randomness is in `gumbel` and `noise`."""
        edge: Any = self.decide_or_chance if self.has_chance else self.decide
        reward = lambda p: penalised(p, self.config.penalty, self.discount, value_span)
        if self.config.batched_passes:

            def expand(choice, node, size: int):
                each = jnp.repeat(noise, size, axis=0)
                return edge(params, choice, node, reward, each)

            return passes.grow(root, gumbel, expand, self.config, self.config.floor * value_span)
        sigma = lambda tree, node: qtransforms.sigma(
            tree, node, qtransforms.edge_values(tree, self.has_chance), self.config, value_span
        )
        select = self.select_chance if self.has_chance else self.select
        prior = root.prior_logits
        return mctx.search(
            params=params,
            rng_key=jax.random.key(0),
            root=root,
            recurrent_fn=lambda params, _, choice, node: edge(params, choice, node, reward, noise),
            root_action_selection_fn=lambda key, tree, node: self.select_root(
                key, tree, node, sigma
            ),
            interior_action_selection_fn=lambda key, tree, node, depth: select(
                key, tree, node, depth, sigma
            ),
            num_simulations=self.config.num_simulations,
            invalid_actions=(prior <= NEVER / 2).astype(prior.dtype),
            extra_data=made(mctx.GumbelMuZeroExtraData, root_gumbel=gumbel),
        )

    def select_root(self, key, tree, node, sigma: Callable):
        """Root selection: sequential halving."""
        return mctx.gumbel_muzero_root_action_selection(
            key,
            tree,
            node,
            num_simulations=self.config.num_simulations,
            max_num_considered_actions=self.config.max_considered,
            qtransform=sigma,
        )

    def select(self, key, tree, node, depth, sigma: Callable):
        """Selection below the root: visits in proportion to the improved policy."""
        return mctx.gumbel_muzero_interior_action_selection(
            key, tree, node, depth, qtransform=sigma
        )

    def select_chance(self, key, tree, node, depth, sigma: Callable):
        """As `select`; at a chance node, visits of codes in proportion to their probability."""
        p = jax.nn.softmax(tree.children_prior_logits[node])
        visits = tree.children_visits[node]
        due = jnp.argmax(p - visits / (1 + jnp.sum(visits))).astype(jnp.int32)
        interior = self.select(key, tree, node, depth, sigma)
        return jnp.where(tree.embeddings.is_chance[node], due, interior)

    def prior_and_basis(self, pi, legal, noise):
        """(log prior of the W choices, basis of their actions) of policy outputs `pi`."""
        pi = self.head.masked(pi, legal)
        log_prior = self.head.log_prior(pi, noise, self.config.uniform_share)
        return self.padded(log_prior), self.head.basis(pi)

    def padded(self, logits: Float[Array, "B _"]) -> Float[Array, "B W"]:
        """Logits padded with NEVER to W, the larger number of candidates and codes."""
        width = max(self.head.num_candidates, self.model.num_codes)
        return jnp.pad(logits, ((0, 0), (0, width - logits.shape[-1])), constant_values=NEVER)

    def root_node(self, params, z, basis) -> Node | ChanceNode:
        """The root's embedding: a decision node."""
        if not self.has_chance:
            return Node(z, basis)
        rows = basis.shape[0]
        _, y = self.model.afterstate(params, z, jnp.zeros((rows, self.head.size)))
        blank = jnp.zeros((rows, self.model.num_codes))
        return ChanceNode(jnp.zeros(rows, bool), z, basis, y, blank, blank)

    def decide(self, params, choice, node: Node, reward: Callable, noise):
        """(edge, node) of candidate `choice` from a state, in a tree without chance."""
        a = self.head.action(node.basis, noise, choice)
        _, y = self.model.afterstate(params, node.z, a)
        edge, z, basis = self.arrive(params, y, jnp.zeros_like(choice), reward, noise)
        return edge, Node(z, basis)

    def decide_or_chance(self, params, choice, node: ChanceNode, reward: Callable, noise):
        """(edge, node) in a chance tree: a candidate from a state, or a code from an afterstate."""
        model, head = self.model, self.head
        candidate = jnp.minimum(choice, head.num_candidates - 1)
        a = head.action(node.basis, noise, candidate)
        code_logits, y = model.afterstate(params, node.z, a)
        p_code = jax.nn.softmax(code_logits)
        q_code = outcome_values(model, params, y, choice.shape[0], self.discount, reward)
        expected = jnp.sum(p_code * q_code, -1)
        none, one = jnp.zeros_like(expected), jnp.ones_like(expected)
        to_chance = search_edge(none, one, self.padded(code_logits), expected)
        code = jnp.minimum(choice, model.num_codes - 1)
        to_state, z, basis = self.arrive(params, node.y, code, reward, noise)
        child = ChanceNode(~node.is_chance, z, basis, y, p_code, q_code)
        pick = lambda x, y: jnp.where(_column(node.is_chance, x), x, y)
        return jax.tree.map(pick, to_state, to_chance), child

    def arrive(self, params, y, c, reward: Callable, noise):
        """(edge, state, basis of its actions) after code `c` of afterstates `y`."""
        z, p = self.model.outcome(params, y, c)
        prior, basis = self.prior_and_basis(p.pi_logits, p.legal_logits > 0, noise)
        return search_edge(reward(p), self.discount * p.continuation, prior, p.v), z, basis


def _gumbel(key, shape: tuple[int, ...]) -> Float[Array, "B W"]:
    """Gumbel noise of one key, or of a key for each row."""
    if key.ndim == 0:
        return jax.random.gumbel(key, shape)
    return jax.vmap(lambda k: jax.random.gumbel(k, shape[1:]))(key)


def search_edge(reward, discount, prior, value):
    """mctx's record of an edge: reward, discount [B]; prior logits [B, W], value [B] after it."""
    return made(
        mctx.RecurrentFnOutput, reward=reward, discount=discount, prior_logits=prior, value=value
    )


def made(kind: Any, **fields: Any) -> Any:
    """An mctx struct; its generated constructor is invisible to type checkers."""
    return kind(**fields)


def _column(flag, like):
    return flag.reshape(-1, *(1,) * (like.ndim - 1))
