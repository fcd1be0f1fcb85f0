"""Sequential halving by passes: every simulation of a pass in one call of the model.

Sequential halving (Karnin et al., 2013; Danihelka et al., 2022, algorithm 2) visits the actions of
the root in passes: one simulation below each action that is left. A simulation changes nothing that
another one of its pass reads, as they lie in different subtrees, but for the root's own statistics
and for the bounds that values are normalised by. The root's choice in a pass is known beforehand:
the best actions of those with fewest visits among the survivors. So if the bounds are held for a
pass, all its simulations can be done at once, and the visits are those of one after the other.

16 simulations over 4 actions are 6 passes (4, 4, 2, 2, 2, 2), over 8 actions 4 (8, 4, 2, 2).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Float, Int

from dreaming.config import SearchConfig
from dreaming.search import qtransforms
from dreaming.types import Leaves, Paths
from worldmodels.actions import NEVER

UNVISITED, NO_PARENT, ROOT = -1, -1, 0
Expand = Callable[[Any, Any, int], tuple[Any, Any]]  # (actions, nodes [B * k], k) -> (edges, nodes)


def pass_sizes(num_considered: int, num_simulations: int) -> list[int]:
    """Number of simulations in each pass; their sum is `num_simulations`."""
    if num_considered < 2:
        return [1] * num_simulations
    phases, sizes, left = math.ceil(math.log2(num_considered)), list[int](), num_simulations
    while left > 0:
        for _ in range(max(1, num_simulations // (phases * num_considered))):
            sizes.append(min(num_considered, left))
            left -= sizes[-1]
            if left == 0:
                break
        num_considered = max(2, num_considered // 2)
    return sizes


def grow(root: Any, gumbel: Any, expand: Expand, config: SearchConfig, floor: Any) -> Any:
    """The finished tree (mctx's) of a search by passes.

    `root` is mctx's record of it, `gumbel` [B, W] the noise of its actions, `floor` the least range
    of values. An action that must not be taken is never visited: its simulations are left out.
    """
    tree, done, passes = planted(root, gumbel, config.num_simulations), 1, 0
    own = jnp.zeros((len(gumbel), *[config.num_simulations + 1] * 2)).at[:, ROOT, ROOT].set(1.0)
    grown = tree, Paths(is_above=own, r=jnp.zeros_like(own), discount=own)
    sizes = pass_sizes(min(config.max_considered, gumbel.shape[1]), config.num_simulations)
    for size, alike in itertools.groupby(sizes):  # one program for all passes of a size
        count, first, before = len(list(alike)), done, passes

        def go(i, grown, size=size, first=first, before=before):
            (tree, paths), added = grown, first + i * size + jnp.arange(size)
            return one_pass(tree, paths, before + i, added, expand, config=config, floor=floor)

        grown = jax.lax.fori_loop(0, count, go, grown)
        done, passes = done + count * size, passes + count
    return grown[0]


def planted(root: Any, gumbel: Float[Array, "B W"], num_simulations: int) -> Any:
    """A tree that holds its root alone."""
    (rows, width), nodes = gumbel.shape, num_simulations + 1
    numbers = lambda *shape: jnp.zeros((rows, nodes, *shape), jnp.float32)
    whole = lambda value, *shape: jnp.full((rows, nodes, *shape), value, jnp.int32)
    empty = lambda x: jnp.zeros((rows, nodes, *x.shape[1:]), x.dtype).at[:, ROOT].set(x)
    kind: Any = mctx.Tree  # generated constructors are invisible to type checkers
    extra: Any = mctx.GumbelMuZeroExtraData
    return kind(
        node_visits=whole(0).at[:, ROOT].set(1),
        raw_values=empty(root.value),
        node_values=empty(root.value),
        parents=whole(NO_PARENT),
        action_from_parent=whole(NO_PARENT),
        children_index=whole(UNVISITED, width),
        children_prior_logits=empty(root.prior_logits),
        children_visits=whole(0, width),
        children_rewards=numbers(width),
        children_discounts=numbers(width),
        children_values=numbers(width),
        embeddings=jax.tree.map(empty, root.embedding),
        root_invalid_actions=(root.prior_logits <= NEVER / 2).astype(jnp.float32),
        extra_data=extra(root_gumbel=gumbel),
    )


def one_pass(
    tree: Any,
    paths: Paths,
    number: Any,
    added: Int[Array, " k"],
    expand: Expand,
    *,
    config: SearchConfig,
    floor: Any,
) -> tuple[Any, Paths]:
    """The tree after one simulation below each of the k best actions with `number` visits each;
    `added` are the nodes that it gets."""
    scaled = jax.vmap(lambda tree: values_held(tree, floor))(tree)
    chosen = jax.vmap(lambda tree, q: at_root(tree, q, number, len(added), config))(tree, scaled)
    inside = jax.vmap(lambda tree, q: below_root(tree, q, config))(tree, scaled)
    at = jax.vmap(leaves)(tree, chosen, inside)
    rows = jnp.arange(len(chosen))[:, None]
    flat = lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
    parents = jax.tree.map(lambda x: flat(x[rows, at.node]), tree.embeddings)
    edges, reached = expand(flat(at.action), parents, len(added))
    split = lambda x: x.reshape(*chosen.shape, *x.shape[1:])
    edges, reached = jax.tree.map(split, (edges, reached))
    each_row = (0, 0, 0, None, 0, 0)
    tree, paths = jax.vmap(attached, each_row)(tree, paths, at, added, edges, reached)
    return jax.vmap(backed_up, each_row[:5])(tree, paths, at, added, edges.value), paths


def values_held(tree: Any, floor: Any) -> Float[Array, "N W"]:
    """Completed values of all nodes in [0, 1]: each by its own range and that of all edges of the
    tree as it stands (see `qtransforms.min_max`)."""
    q = qtransforms.edge_values(tree, has_chance=False)
    scale = lambda node: qtransforms.min_max(tree, node, q, floor)
    return jax.vmap(scale)(jnp.arange(len(q)))


def at_root(
    tree: Any, scaled: Float[Array, "N W"], number: Any, size: int, config: SearchConfig
) -> Int[Array, " k"]:
    """The `size` actions of the root whose turn it is: the best with `number` visits each.

    After the first of them the greatest number of visits has risen by one, and sigma with it.
    """
    prior, visits = tree.children_prior_logits[ROOT], tree.children_visits[ROOT]
    is_due = (visits == number) & (tree.root_invalid_actions == 0)
    sigma = lambda most: (config.c_visit + most) * config.c_scale * scaled[ROOT]
    score = lambda most: jnp.where(
        is_due, tree.extra_data.root_gumbel + prior + sigma(most), -jnp.inf
    )
    is_first = jnp.arange(len(prior)) == jnp.argmax(score(number))
    return jax.lax.top_k(jnp.where(is_first, jnp.inf, score(number + 1)), size)[1]


def below_root(tree: Any, scaled: Float[Array, "N W"], config: SearchConfig) -> Int[Array, " N"]:
    """The action that a simulation takes at every node, should it come there."""
    most = jnp.max(tree.children_visits, axis=-1, keepdims=True)
    sigma = (config.c_visit + most) * config.c_scale * scaled
    improved = jax.nn.softmax(tree.children_prior_logits + sigma)
    visits = tree.children_visits
    share = visits / (1 + jnp.sum(visits, axis=-1, keepdims=True))
    return jnp.argmax(improved - share, axis=-1).astype(jnp.int32)


def leaves(tree: Any, chosen: Int[Array, " k"], inside: Int[Array, " N"]) -> Leaves:
    """Where simulations that begin with the actions `chosen` leave the tree."""
    nodes = jnp.arange(len(inside))
    child = tree.children_index[nodes, inside]
    last = jnp.where(child == UNVISITED, nodes, child)  # one step down, or the end of the way
    for _ in range(math.ceil(math.log2(len(inside)))):  # 1, 2, 4, ... steps
        last = last[last]
    below = tree.children_index[ROOT, chosen]
    is_new = below == UNVISITED
    node = jnp.where(is_new, ROOT, last[below])
    action = jnp.where(is_new, chosen, inside[node])
    return Leaves(node, action, tree.root_invalid_actions[chosen] == 0)


def attached(
    tree: Any, paths: Paths, at: Leaves, added: Int[Array, " k"], edges: Any, reached: Any
) -> tuple[Any, Paths]:
    """The tree with the k nodes `added`."""
    nodes, width = tree.children_index.shape
    put = lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), added[0], 0)
    is_edge = (at.node[:, None, None] == jnp.arange(nodes)[:, None]) & at.is_real[:, None, None]
    is_edge &= at.action[:, None, None] == jnp.arange(width)
    edge = lambda x, y: x + jnp.sum(jnp.where(is_edge, y[:, None, None], 0), 0).astype(x.dtype)
    tree = tree.replace(
        raw_values=put(tree.raw_values, edges.value),
        parents=put(tree.parents, at.node),
        action_from_parent=put(tree.action_from_parent, at.action),
        children_index=edge(tree.children_index, added - UNVISITED),
        children_prior_logits=put(tree.children_prior_logits, edges.prior_logits),
        children_rewards=edge(tree.children_rewards, edges.reward),
        children_discounts=edge(tree.children_discounts, edges.discount),
        embeddings=jax.tree.map(put, tree.embeddings, reached),
    )
    own = (added[:, None] == jnp.arange(nodes)).astype(jnp.float32)
    r, discount = edges.reward[:, None], edges.discount[:, None]
    paths = Paths(
        is_above=put(paths.is_above, paths.is_above[at.node] + own),
        r=put(paths.r, paths.r[at.node] + paths.discount[at.node] * r),
        discount=put(paths.discount, paths.discount[at.node] * discount + own),
    )
    return tree, paths


def backed_up(
    tree: Any, paths: Paths, at: Leaves, added: Int[Array, " k"], value: Float[Array, " k"]
) -> Any:
    """The tree after the values of its k newest nodes have gone up to all their ancestors."""
    real = at.is_real[:, None].astype(jnp.float32)
    visits = tree.node_visits + jnp.sum(paths.is_above[added] * real, 0).astype(jnp.int32)
    worth = paths.r[added] + paths.discount[added] * value[:, None]
    total = tree.node_values * tree.node_visits + jnp.sum(worth * real, 0)
    values = jnp.where(visits > tree.node_visits, total / jnp.maximum(visits, 1), tree.node_values)
    is_there = tree.children_index != UNVISITED
    return tree.replace(
        node_visits=visits,
        node_values=values,
        children_visits=jnp.where(is_there, visits[tree.children_index], 0),
        children_values=jnp.where(is_there, values[tree.children_index], 0.0),
    )
