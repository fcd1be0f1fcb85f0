"""Teachers: what to do at a state, by looking ahead in the model.

`teacher="search"` is Gumbel MuZero (Danihelka et al., 2022) on mctx's tree: sequential halving at
the root, deterministic selection inside, completed values normalised over the whole tree. A model
with C > 1 codes is searched with chance nodes. `teacher="one_step"` enumerates every action and
every outcome once. All of them return the same `SearchResult`.

A search never samples an outcome inside an edge: mctx would keep the one sample for ever.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float

from dreaming.config import SearchConfig
from dreaming.search.qtransforms import _completed, _edge_values, _greedy_values, _normalised
from dreaming.types import ChanceNode, Node, SearchResult
from worldmodels.actions import NEVER, ActionHead
from worldmodels.types import Scalar


def make_teacher(
    model: Any, head: ActionHead, config: SearchConfig, discount: Scalar, gumbel_scale: float = 1.0
) -> Callable:
    """`teach(params, z, key, value_span) -> SearchResult` for states `z` of the model [B].

    `head` says what actions are; actions that the model holds to be illegal are never taken.
    `key` is one typed key or, for a head without proposals, a key of each row: what a search says
    then does not depend on which states are searched together.

    `gumbel_scale` is 1 to explore in rehearsal, 0 to act as well as the search knows.
    `value_span` is the width of the range of values; floors and temperatures are shares of it.
    Raises `ValueError` for a budget or a teacher that does not exist.
    """
    if config.num_simulations < 1:
        raise ValueError(f"search.num_simulations must be at least 1, got {config.num_simulations}")
    if config.teacher == "one_step":
        return _one_step(model, head, config, discount)
    if config.teacher != "search":
        raise ValueError(f"search.teacher is {config.teacher!r}; choose search or one_step")
    return _tree_search(model, head, config, discount, gumbel_scale)


def model_steps(model: Any, head: ActionHead, config: SearchConfig) -> int:
    """Model transitions that one call of the teacher spends per state."""
    outcomes = model.num_codes + (model.num_codes > 1)
    if config.teacher == "one_step":
        return head.num_candidates * model.num_codes
    return config.num_simulations * outcomes


def penalised(p, penalty: float, discount: Scalar, value_span):
    """Rewards of a prediction less what its uncertainty costs (MOPO, Yu et al., 2020, eq. 5).

    The unit is a typical reward, (1 - discount) of the value range.
    """
    return p.r - penalty * (1 - discount) * value_span * p.uncertainty


def _outcomes(
    model, params, y, rows: int, discount: Scalar, reward: Callable
) -> Float[Array, "B C"]:
    """reward + discount * continuation * v of every code."""

    def each(c):
        _, p = model.outcome(params, y, jnp.full(rows, c, jnp.int32))
        return reward(p) + discount * p.continuation * p.v

    return jax.vmap(each, out_axes=-1)(jnp.arange(model.num_codes))


def _one_step(model, head: ActionHead, config: SearchConfig, discount: Scalar):
    def teach(params, z, key, value_span) -> SearchResult:
        v, pi, legal_logits = model.predict(params, z)
        rows = v.shape[0]
        reward = lambda p: penalised(p, config.penalty, discount, value_span)
        pi = head.masked(pi, legal_logits > 0)
        noise, basis = head.noise(key, rows), head.basis(pi)
        # Enumerated actions are weighed by their values alone, sampled ones by the prior as well.
        log_prior = head.log_prior(pi, noise, config.uniform_share if head.kind == "box" else 1.0)

        def value_of(index):
            a = head.action(basis, noise, jnp.full(rows, index))
            code_logits, y = model.afterstate(params, z, a)
            q_code = _outcomes(model, params, y, rows, discount, reward)
            return jnp.sum(jax.nn.softmax(code_logits) * q_code, -1)

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

    return teach


def _tree_search(
    model, head: ActionHead, config: SearchConfig, discount: Scalar, gumbel_scale: float
):
    has_chance = model.num_codes > 1
    width = max(head.num_candidates, model.num_codes)
    pad = lambda x, value: jnp.pad(x, ((0, 0), (0, width - x.shape[-1])), constant_values=value)

    def prior_and_basis(pi, legal_logits, noise):
        pi = head.masked(pi, legal_logits > 0)
        return pad(head.log_prior(pi, noise, config.uniform_share), NEVER), head.basis(pi)

    def decide(params, choice, node: Node, reward, noise):
        """One deterministic edge: from a state by a candidate to the next state."""
        a = head.action(node.basis, noise, choice)
        _, y = model.afterstate(params, node.z, a)
        z, p = model.outcome(params, y, jnp.zeros_like(choice))
        prior, basis = prior_and_basis(p.pi_logits, p.legal_logits, noise)
        return search_edge(reward(p), discount * p.continuation, prior, p.v), Node(z, basis)

    def decide_or_chance(params, choice, node: ChanceNode, reward, noise):
        """One edge of a chance tree: a candidate from a state, or a code from an afterstate."""
        action = jnp.minimum(choice, head.num_candidates - 1)
        code_logits, y = model.afterstate(params, node.z, head.action(node.basis, noise, action))
        p_code = jax.nn.softmax(code_logits)
        q_code = _outcomes(model, params, y, choice.shape[0], discount, reward)
        expected = jnp.sum(p_code * q_code, -1)
        to_chance = search_edge(
            jnp.zeros_like(expected), jnp.ones_like(expected), pad(code_logits, NEVER), expected
        )
        z, p = model.outcome(params, node.y, jnp.minimum(choice, model.num_codes - 1))
        prior, basis = prior_and_basis(p.pi_logits, p.legal_logits, noise)
        to_state = search_edge(reward(p), discount * p.continuation, prior, p.v)
        child = ChanceNode(~node.is_chance, z, basis, y, p_code, q_code)
        pick = lambda x, y: jnp.where(_column(node.is_chance, x), x, y)
        return jax.tree.map(pick, to_state, to_chance), child

    def teach(params, z, key, value_span) -> SearchResult:
        v, pi, legal_logits = model.predict(params, z)
        gumbel_key, noise_key = jax.random.split(key) if head.kind == "box" else (key, key)
        noise = head.noise(noise_key, v.shape[0])
        prior, basis = prior_and_basis(pi, legal_logits, noise)
        embedding = Node(z, basis)
        if has_chance:
            _, y = model.afterstate(params, z, jnp.zeros((v.shape[0], head.size)))
            blank = jnp.zeros((v.shape[0], model.num_codes))
            no_chance = jnp.zeros(v.shape[0], bool)
            embedding = ChanceNode(no_chance, z, basis, y, blank, blank)
        reward = lambda p: penalised(p, config.penalty, discount, value_span)
        edge = decide_or_chance if has_chance else decide
        step = functools.partial(edge, reward=reward, noise=noise)
        normalise = lambda tree, node: _normalised(
            tree, node, _edge_values(tree, has_chance), config, value_span
        )
        gumbel = gumbel_scale * _gumbel(gumbel_key, prior.shape)
        tree = _run(params, gumbel, v, prior, embedding, step, normalise, config, has_chance)
        visits = tree.children_visits[:, 0]
        v_search, edges = jax.vmap(lambda tree: _greedy_values(tree, has_chance))(tree)
        root_q = jax.vmap(_completed, in_axes=(0, None, 0))(tree, 0, edges)
        sigma = jax.vmap(lambda tree, edges: _normalised(tree, 0, edges, config, value_span))(
            tree, edges
        )
        score = jnp.where(visits > 0, tree.extra_data.root_gumbel + prior + sigma, -jnp.inf)
        action = jnp.argmax(score, -1)
        keep = lambda x: x[:, : head.num_candidates]
        return SearchResult(
            action=action,
            a=head.action(basis, noise, action),
            pi_search=head.improved(keep(prior), keep(sigma)),
            proposals=head.proposals(basis, noise),
            v_search=v_search,
            q=keep(root_q),
            visits=keep(visits),
        )

    return teach


def _gumbel(key, shape: tuple[int, ...]) -> Float[Array, "B W"]:
    """Gumbel noise of one key, or of a key for each row."""
    if key.ndim == 0:
        return jax.random.gumbel(key, shape)
    return jax.vmap(lambda k: jax.random.gumbel(k, shape[1:]))(key)


def _run(params, gumbel, v, prior, embedding, step, normalise, config, has_chance) -> Any:
    """The finished tree of one batched search; apart from `gumbel` it draws nothing."""
    interior = lambda key, tree, node, depth: mctx.gumbel_muzero_interior_action_selection(
        key, tree, node, depth, qtransform=normalise
    )

    def inside(key, tree, node, depth):
        if not has_chance:
            return interior(key, tree, node, depth)
        p = jax.nn.softmax(tree.children_prior_logits[node])
        visits = tree.children_visits[node]
        due = jnp.argmax(p - visits / (1 + jnp.sum(visits)))  # visit codes in proportion to p
        return jnp.where(
            tree.embeddings.is_chance[node], due.astype(jnp.int32), interior(key, tree, node, depth)
        )

    return mctx.search(
        params=params,
        rng_key=jax.random.key(0),
        root=made(mctx.RootFnOutput, prior_logits=prior, value=v, embedding=embedding),
        recurrent_fn=lambda params, key, action, embedding: step(params, action, embedding),
        root_action_selection_fn=lambda key, tree, node: mctx.gumbel_muzero_root_action_selection(
            key,
            tree,
            node,
            num_simulations=config.num_simulations,
            max_num_considered_actions=config.max_considered,
            qtransform=normalise,
        ),
        interior_action_selection_fn=inside,
        num_simulations=config.num_simulations,
        invalid_actions=(prior <= NEVER / 2).astype(prior.dtype),
        extra_data=made(mctx.GumbelMuZeroExtraData, root_gumbel=gumbel),
    )


def search_edge(reward, discount, prior, value):
    """What mctx wants to know of an edge [B] and where it leads: logits [B, A] and value [B]."""
    return made(
        mctx.RecurrentFnOutput, reward=reward, discount=discount, prior_logits=prior, value=value
    )


def made(kind: Any, **fields: Any) -> Any:
    """An mctx struct; its generated constructor is invisible to type checkers."""
    return kind(**fields)


def _column(flag, like):
    return flag.reshape(-1, *(1,) * (like.ndim - 1))
