"""Values of the edges of a search tree: in reward units, completed, and normalised."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreaming.config import SearchConfig
from worldmodels.actions import NEVER


def edge_values(tree, has_chance: bool) -> Float[Array, "N W"]:
    """Value of every edge of an unbatched tree, in reward units, by the mean of its backups."""
    q = tree.children_rewards + tree.children_discounts * tree.children_values
    return _through_chance(tree, q, has_chance)


def _through_chance(tree, q: Float[Array, "N W"], has_chance: bool) -> Float[Array, "N W"]:
    """`q`, where edges into chance nodes get the expectation over codes: by the search's value for
    visited codes, by the model's for the others."""
    if not has_chance:
        return q
    codes = tree.embeddings.p.shape[-1]
    visited = tree.children_visits[:, :codes] > 0
    expected = jnp.sum(tree.embeddings.p * jnp.where(visited, q[:, :codes], tree.embeddings.q), -1)
    return jnp.where(tree.embeddings.is_chance[:, None], q, expected[tree.children_index])


def greedy_values(tree, has_chance: bool) -> Float[Array, "N W"]:
    """Value of every edge of a finished, unbatched tree, if the best action is always taken.

    The mean of the backups also counts bad actions that were only explored. Here, from the leaves
    back, a state has the value of its best visited edge, or the model's own value where that is
    higher and some legal edge was not visited.
    """
    seen = tree.children_visits > 0
    unseen = jnp.any((tree.children_prior_logits > NEVER / 2) & ~seen, axis=-1)
    edges = lambda v: _through_chance(
        tree, tree.children_rewards + tree.children_discounts * v[tree.children_index], has_chance
    )

    def backward(step, v):
        node = v.size - 1 - step
        best = jnp.max(jnp.where(seen[node], edges(v)[node], -jnp.inf))
        raw = tree.raw_values[node]
        own = ~jnp.any(seen[node]) | (unseen[node] & (raw > best))
        return v.at[node].set(jnp.where(own, raw, best))

    return edges(jax.lax.fori_loop(0, tree.raw_values.size, backward, tree.raw_values))


READOUTS = {"mean": edge_values, "greedy": greedy_values}


def completed(tree, node, q_edges: Float[Array, "N W"]) -> Float[Array, " W"]:
    """Edge values of a node; v_mix where unvisited (Danihelka et al., appendix D)."""
    visits, q = tree.children_visits[node], q_edges[node]
    prior = jax.nn.softmax(tree.children_prior_logits[node])
    seen = visits > 0
    weight = jnp.sum(jnp.where(seen, prior, 0.0))
    mean = jnp.sum(jnp.where(seen, prior * q, 0.0)) / jnp.maximum(weight, 1e-9)
    total = jnp.sum(visits)
    v_mix = (tree.raw_values[node] + total * mean) / (1 + total)
    return jnp.where(seen, q, v_mix)


def min_max(tree, node, q_edges: Float[Array, "N W"], floor) -> Float[Array, " W"]:
    """A node's completed values in [0, 1], by the range of all edges of the tree, with a floor."""
    seen = tree.children_visits > 0
    if hasattr(tree.embeddings, "is_chance"):
        seen = seen & ~tree.embeddings.is_chance[:, None]
    q = completed(tree, node, q_edges)
    low = jnp.minimum(jnp.min(jnp.where(seen, q_edges, jnp.inf)), jnp.min(q))
    high = jnp.maximum(jnp.max(jnp.where(seen, q_edges, -jnp.inf)), jnp.max(q))
    return (q - low) / jnp.maximum(high - low, floor)


def sigma(tree, node, q_edges, config: SearchConfig, value_span) -> Float[Array, " W"]:
    """sigma(q) of a node's completed values (Danihelka et al., eq. 8), scaled by `min_max`."""
    scaled = min_max(tree, node, q_edges, config.floor * value_span)
    return (config.c_visit + jnp.max(tree.children_visits[node])) * config.c_scale * scaled
