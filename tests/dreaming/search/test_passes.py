"""Search by passes: as many visits as one simulation after the other, in fewer calls."""

from typing import Any

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from flax import struct
from mctx._src import seq_halving

from dreaming.config import SearchConfig
from dreaming.errors import ConfigError
from dreaming.search import qtransforms
from dreaming.search.passes import UNVISITED, pass_sizes
from dreaming.search.teachers import TreeSearch, made, make_teacher
from envs.types import Prediction
from worldmodels.actions import NEVER, make_head

STATES, DISCOUNT, ROWS = 97, 0.9, 24
KEY = jax.random.key(0)


class Maze:
    """Random rewards, values and priors of `STATES` states, between which `A` actions lead."""

    num_codes = 1

    def __init__(self, actions: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.actions, self.calls = actions, list[int]()
        self.params = {
            "next": jnp.asarray(rng.integers(STATES, size=(STATES, actions))),
            "r": jnp.asarray(rng.normal(size=(STATES, actions)), jnp.float32),
            "v": jnp.asarray(3 * rng.normal(size=STATES), jnp.float32),
            "pi": jnp.asarray(rng.normal(size=(STATES, actions)), jnp.float32),
            "legal": jnp.ones((STATES, actions)),
        }

    def predict(self, params, z):
        return params["v"][z], params["pi"][z], params["legal"][z]

    def afterstate(self, params, z, a):
        self.calls.append(len(z))
        return jnp.zeros((len(z), 1)), (z, jnp.argmax(a, -1))

    def outcome(self, params, y, c):
        z = params["next"][y]
        v, pi, legal = self.predict(params, z)
        none = jnp.zeros_like(v)
        return z, Prediction(params["r"][y], none + 1, v, pi, legal, none)


def teacher(model, simulations, considered, batched=True, gumbel_scale=1.0):
    config = SearchConfig(
        num_simulations=simulations,
        max_considered=considered,
        batched_passes=batched,
        uniform_share=0.0,
        readout="mean",
    )
    head = make_head((model.actions,), model.actions)
    return TreeSearch(model, head, config, DISCOUNT, gumbel_scale)


class Held(struct.PyTreeNode):
    """The noise at the root, and the bounds (low, high) that hold in each pass: of all edges of the
    tree, and of the root's own values with them."""

    root_gumbel: Any  # [B, A]
    bounds: Any  # [B, P, 4]


def one_after_the_other(search: TreeSearch, root, gumbel, edge, simulations, bounds, pass_of):
    """mctx's tree after `simulations`, with values normalised by the bounds of their pass."""
    config = search.config

    def sigma(tree, node):
        number = jnp.asarray(pass_of)[jnp.sum(tree.children_visits[0])]
        q = qtransforms.completed(tree, node, qtransforms.edge_values(tree, False))
        low, high, of_root = *tree.extra_data.bounds[number, :2], tree.extra_data.bounds[number, 2:]
        own = jnp.stack([jnp.minimum(low, jnp.min(q)), jnp.maximum(high, jnp.max(q))])
        low, high = jnp.where(node == 0, of_root, own)
        scaled = (q - low) / jnp.maximum(high - low, config.floor)
        return (config.c_visit + jnp.max(tree.children_visits[node])) * config.c_scale * scaled

    inside: Any = mctx.gumbel_muzero_interior_action_selection
    return mctx.search(
        params=search.model.params,
        rng_key=KEY,
        root=root,
        recurrent_fn=edge,
        root_action_selection_fn=lambda key, tree, node: search.select_root(key, tree, node, sigma),
        interior_action_selection_fn=lambda *at: inside(*at, qtransform=sigma),
        num_simulations=simulations,
        extra_data=Held(gumbel, bounds),
    )


def bounds_of(tree):
    """[B, 4]: least and greatest value of all edges of each tree, and with those of its root."""
    q = jax.vmap(lambda tree: qtransforms.edge_values(tree, False))(tree)
    seen, root = tree.children_visits > 0, jax.vmap(qtransforms.completed, (0, None, 0))(tree, 0, q)
    low = jnp.min(jnp.where(seen, q, jnp.inf), axis=(1, 2))
    high = jnp.max(jnp.where(seen, q, -jnp.inf), axis=(1, 2))
    with_root = jnp.minimum(low, root.min(-1)), jnp.maximum(high, root.max(-1))
    return jnp.stack([low, high, *with_root], -1)


LONG = [pytest.param(*each, marks=pytest.mark.slow) for each in [(4, 16, 4), (9, 16, 8)]]
SEARCHES = [(4, 6, 4), *LONG]  # mctx is compiled for every pass


@pytest.mark.parametrize(("actions", "simulations", "considered"), SEARCHES)
def test_visits_are_those_of_mctx_when_bounds_are_held_for_a_pass(actions, simulations, considered):
    model = Maze(actions)
    search = teacher(model, simulations, considered)
    z = jnp.arange(ROWS) * 3
    gumbel = jax.random.gumbel(KEY, (ROWS, actions))
    noise = jnp.zeros((ROWS, 0, 0))
    v, pi, _ = model.predict(model.params, z)
    prior, basis = search.prior_and_basis(pi, jnp.ones((ROWS, actions), bool), noise)
    node = search.root_node(model.params, z, basis)
    root = made(mctx.RootFnOutput, prior_logits=prior, value=v, embedding=node)
    reward = lambda p: p.r
    edge = lambda params, _, choice, node: search.decide(params, choice, node, reward, noise)

    sizes = pass_sizes(considered, simulations)
    pass_of = np.repeat(np.arange(len(sizes)), sizes)
    none = jnp.full(ROWS, jnp.inf)
    nothing = jnp.stack([none, -none, v, v], -1)
    bounds = [nothing] * len(sizes)
    tree: Any = None
    for number in range(len(sizes)):  # the bounds of a pass are those of the tree before it
        so_far = sum(sizes[: number + 1])
        held = jnp.stack(bounds, axis=1)
        tree = one_after_the_other(search, root, gumbel, edge, so_far, held, pass_of)
        if number + 1 < len(sizes):
            bounds[number + 1] = bounds_of(tree)
    ours: Any = jax.jit(search.grow)(model.params, root, gumbel, noise, 1.0)
    np.testing.assert_array_equal(ours.children_visits[:, 0], tree.children_visits[:, 0])
    np.testing.assert_allclose(ours.node_values[:, 0], tree.node_values[:, 0], rtol=1e-5)
    for mine, other in zip(ours.node_visits, tree.node_visits, strict=True):
        np.testing.assert_array_equal(np.sort(mine), np.sort(other))  # numbered in another order
    assert int(ours.node_visits.max(initial=0, axis=1).min()) == simulations + 1


@pytest.mark.parametrize("simulations", [1, 2, 5, 8, 16, 50])
@pytest.mark.parametrize("considered", [1, 2, 3, 4, 8, 16])
def test_passes_are_the_runs_of_equal_visits_of_sequential_halving(considered, simulations):
    visits = seq_halving.get_sequence_of_considered_visits(considered, simulations)
    changes = 1 + np.flatnonzero(np.diff(visits))
    sizes = np.diff(np.array([0, *changes, simulations])).tolist()
    assert pass_sizes(considered, simulations) == sizes


def test_calls_of_the_model_by_hand():
    assert pass_sizes(4, 16) == [4, 4, 2, 2, 2, 2] and pass_sizes(8, 16) == [8, 4, 2, 2]
    model = Maze(4)
    teach = teacher(model, 16, 4).teach
    jax.eval_shape(teach, model.params, jnp.arange(3), jax.random.split(KEY, 3), 1.0)
    assert model.calls == [3 * 4, 3 * 2]  # one program of two passes, and one of four


def test_every_number_of_the_tree_follows_from_its_leaves():
    model = Maze(4)
    search = teacher(model, 16, 4)
    z = jnp.arange(8)
    tree = grown(search, z)
    for row in range(8):
        visits, index = np.asarray(tree.node_visits[row]), np.asarray(tree.children_index[row])
        q = np.asarray(tree.children_rewards[row] + DISCOUNT * tree.children_values[row])
        for node in range(17):
            children = index[node][index[node] != UNVISITED]
            assert visits[node] == 1 + visits[children].sum()
            n = np.asarray(tree.children_visits[row, node])
            mean = (tree.raw_values[row, node] + (n * q[node]).sum()) / visits[node]
            np.testing.assert_allclose(tree.node_values[row, node], mean, rtol=1e-4, atol=1e-5)


def grown(search, z):
    """The tree of a search without noise."""
    model, rows = search.model, len(z)
    noise = jnp.zeros((rows, 0, 0))
    v, pi, legal = model.predict(model.params, z)
    prior, basis = search.prior_and_basis(pi, legal > 0, noise)
    node = search.root_node(model.params, z, basis)
    root = made(mctx.RootFnOutput, prior_logits=prior, value=v, embedding=node)
    return jax.jit(search.grow)(model.params, root, jnp.zeros_like(prior), noise, 1.0)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    search = teacher(Maze(4), 16, 4)
    together, alone = grown(search, jnp.arange(8)), grown(search, jnp.full(8, 4))
    for mine, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(mine[4], other[0])


def test_an_illegal_action_is_never_visited():
    model = Maze(4)
    model.params["legal"] = model.params["legal"].at[:, 1:3].set(-1)
    tree = grown(teacher(model, 16, 4), jnp.arange(8))
    assert (tree.children_visits[:, :, 1:3] == 0).all()
    assert (tree.children_prior_logits[:, 0, 1] <= NEVER / 2).all()
    assert (tree.node_visits[:, 0] >= 13).all()  # of the first two passes half is left out


def test_what_cannot_be_batched_is_refused():
    config = SearchConfig(batched_passes=True)
    chance = Maze(4)
    chance.num_codes = 2
    with pytest.raises(ConfigError, match="search.batched_passes needs discrete actions"):
        make_teacher(chance, make_head((4,), 4), config, DISCOUNT)
