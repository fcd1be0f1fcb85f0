"""EfficientZero V1's search: PUCT over visits, with Dirichlet noise at the root (MuZero)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import mctx

from dreaming.config import SearchConfig
from dreaming.search.qtransforms import min_max
from dreaming.search.teachers import made, search_edge
from dreaming.types import SearchResult
from worldmodels.actions import ActionHead
from worldmodels.types import Scalar

ALPHA, FRACTION = 0.3, 0.25  # Dirichlet parameter of the root's noise; its share in the prior


def make_puct(
    model: Any, head: ActionHead, config: SearchConfig, discount: Scalar, explore: bool = True
) -> Callable:
    """`teach(params, z, keys, value_span) -> SearchResult`, as `make_teacher` makes it, for a model
    without chance and enumerated actions; `keys` are typed keys of each row.

    pi_search is the distribution of visits, v_search the mean of all backups. Without `explore` the
    root has no noise and the action is the most visited one, else it is drawn from the visits.
    """
    if head.kind != "discrete" or model.num_codes > 1:
        raise ValueError("search.teacher=puct needs discrete actions and a model without chance")
    return Puct(model, head, config, discount, explore).teach


@dataclass(frozen=True, eq=False)
class Puct:
    """A teacher that searches by PUCT."""

    model: Any
    head: ActionHead
    config: SearchConfig
    discount: Scalar
    explore: bool

    def teach(self, params, z, keys, value_span) -> SearchResult:
        """As `make_puct` says."""
        v, pi, legal_logits = self.model.predict(params, z)
        prior = jax.nn.softmax(self.head.masked(pi, legal_logits > 0))
        illegal = prior == 0  # noise must not bring these back
        noise_key, action_key = jax.vmap(jax.random.split, out_axes=1)(keys)
        if self.explore:
            alpha = jnp.full(self.head.num_candidates, ALPHA)
            noise = jax.vmap(lambda k: jax.random.dirichlet(k, alpha))(noise_key)
            prior = (1 - FRACTION) * prior + FRACTION * noise
        tree = self.grow(params, z, prior, v, value_span, illegal)
        visits = tree.children_visits[:, 0]
        pi_search = visits / self.config.num_simulations
        drawn = jax.vmap(lambda k: jax.random.gumbel(k, prior.shape[1:]))(action_key)
        score = jnp.log(pi_search) + drawn if self.explore else visits
        action = jnp.argmax(score, -1)
        return SearchResult(
            action=action,
            a=jnp.asarray(self.head.table)[action],
            pi_search=pi_search,
            proposals=self.head.proposals(prior, jnp.zeros(())),
            v_search=tree.node_values[:, 0],
            q=tree.children_rewards[:, 0]
            + tree.children_discounts[:, 0] * tree.children_values[:, 0],
            visits=visits,
        )

    def grow(self, params, z, prior, v, value_span, illegal) -> Any:
        """The finished tree of one batched search."""

        def select(key, tree, node, depth: Any = 0):
            q = tree.children_rewards + tree.children_discounts * tree.children_values
            scaled = lambda tree, node: min_max(tree, node, q, self.config.floor * value_span)
            return mctx.muzero_action_selection(key, tree, node, depth, qtransform=scaled)

        inside: Any = select  # types of mctx: `depth` has a default there
        root = made(mctx.RootFnOutput, prior_logits=jnp.log(prior + 1e-9), value=v, embedding=z)
        return mctx.search(
            params=params,
            rng_key=jax.random.key(0),  # used to break ties only
            root=root,
            recurrent_fn=self.edge,
            root_action_selection_fn=select,
            interior_action_selection_fn=inside,
            num_simulations=self.config.num_simulations,
            invalid_actions=illegal.astype(prior.dtype),
        )

    def edge(self, params, _, action, z):
        """The edge from a state by an action, and the next state (mctx's recurrent function)."""
        _, y = self.model.afterstate(params, z, jnp.asarray(self.head.table)[action])
        z, p = self.model.outcome(params, y, jnp.zeros_like(action))
        prior = self.head.masked(p.pi_logits, p.legal_logits > 0)
        return search_edge(p.r, self.discount * p.continuation, prior, p.v), z
