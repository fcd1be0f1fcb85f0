"""What is learned from the ring: targets by hand, decay of kernels alone, losses by their names."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreaming.efficientzero.config import (
    AgentConfig,
    OptimiserConfig,
    ReplayConfig,
    ResetConfig,
    TargetConfig,
)
from dreaming.efficientzero.learner import agent_optimiser, updated, value_targets, windows
from dreaming.efficientzero.ring import cut, followed, init_ring
from dreaming.efficientzero.types import AgentState
from dreaming.errors import LossError
from dreaming.metrics import check_losses
from worldmodels.frames.losses import of_windows

CONFIG = AgentConfig(
    envs=1,
    window=2,
    unroll_steps=2,
    discount=0.5,
    real_steps=10,
    target=TargetConfig("td", td_steps=2, shorten=0.3, td_until=0.3, td_newest=0.3),
)
NO_RESET = ResetConfig()


@pytest.fixture(scope="module")
def ring():
    """Rows 0..3 are an episode that terminated by step 2, rows 4..9 one that goes on."""
    rows = jnp.arange(12)
    return init_ring(12, 1, (1, 1, 1), 2).replace(
        o=rows.astype(jnp.uint8).reshape(12, 1, 1, 1),
        a=rows % 2,
        r=jnp.where(rows < 10, 1.0 + rows, 0),
        terminated=rows == 2,
        has_step=(rows != 3) & (rows < 10),
        elapsed=jnp.where(rows < 4, rows, rows - 4),
        v=10.0 * rows,
        v_search=100.0 + rows,
        pi_search=jnp.stack([rows / 12, 1 - rows / 12], 1),
        added=jnp.int32(10),
    )


def state_of(ring, real_steps=0, updates=0):
    """An agent of which only the ring and the counters are looked at."""
    nothing: Any = None
    counts = dict(updates=jnp.int32(updates), real_steps=jnp.int32(real_steps))
    rest = {name: nothing for name in AgentState.__dataclass_fields__}
    return AgentState(**rest | counts | {"ring": ring})


def targets(ring, kind, real_steps, slots, updates=0, reset=NO_RESET):
    """Value targets of rows 0..2 of each window."""
    target = dataclasses.replace(CONFIG.target, kind=kind)
    config = dataclasses.replace(CONFIG, target=target, reset=reset)
    rows = cut(ring, jnp.array(slots), 1, 2 + config.most_td_steps + 1)
    return value_targets(state_of(ring, real_steps, updates), rows, config)


def test_targets_by_hand(ring):
    ended = [1 + 0.5 * 2 + 0.25 * 20, 2 + 0.5 * 3, 3]  # r[0..2] = 1, 2, 3; v[2] = 20; then over
    going = [5 + 0.5 * 6 + 0.25 * 60, 6 + 0.5 * 7 + 0.25 * 70, 7 + 0.5 * 8 + 0.25 * 80]
    search = [[100.0, 101, 102], [104.0, 105, 106]]
    # Mixed: n-step early, later for rows younger than 3 alone.
    np.testing.assert_allclose(targets(ring, "mixed", 2, [0, 4]), [ended, going])
    np.testing.assert_allclose(targets(ring, "mixed", 3, [0, 4]), search)
    newest = [8 + 0.5 * 9 + 0.25 * 90, 9 + 0.5 * 90, 90]  # what follows row 9 is not known yet
    np.testing.assert_allclose(targets(ring, "mixed", 9, [7]), [newest])
    np.testing.assert_allclose(targets(ring, "search", 0, [0, 4]), search)
    # A terminal row is worth nothing, and so is all that comes after it.
    np.testing.assert_allclose(targets(ring, "search", 0, [2]), [[102, 0, 0]])
    # By age: row 0 is 9 observations old, row 8 is 1 old.
    shorter = [1 + 0.5 * 10, 2 + 0.5 * 20, 3]
    np.testing.assert_allclose(targets(ring, "td", 0, [0]), [shorter])
    np.testing.assert_allclose(targets(ring, "td", 0, [7]), [newest])


@pytest.mark.parametrize("kind", ["mixed", "td"])
def test_targets_anneal_with_the_updates(ring, kind):
    """n from 3 to 2 and the discount from 0.25 to 0.5 in 10 updates, again after 20."""
    reset = ResetConfig(every=20, anneal=10, td_steps=3, discount=0.25)
    at = lambda updates: targets(ring, kind, 2, [4], updates, reset)[0, 0]
    # The td target is shorter by 1: its row is 5 observations old, and 3 are worth 1.
    own = {"mixed": 5 + 0.5 * 6 + 0.25 * 60, "td": 5 + 0.5 * 50}
    np.testing.assert_allclose(at(10), own[kind])
    np.testing.assert_allclose(at(19), own[kind])
    first = {"mixed": 5 + 0.25 * 6 + 0.0625 * 7 + 70 / 64, "td": 5 + 0.25 * 6 + 0.0625 * 60}
    np.testing.assert_allclose(at(0), first[kind])
    np.testing.assert_allclose(at(20), first[kind])


def test_windows_hold_what_the_ring_holds(ring):
    weight = jnp.array([1.0, 0.5])
    state = state_of(ring)
    found = windows(state, jnp.array([1, 8]), weight, jax.random.key(0), CONFIG)
    frames = found.o.reshape(2, 3, 2)
    assert frames.tolist() == [[[0, 1], [1, 2], [2, 3]], [[7, 8], [8, 9], [8, 9]]]
    assert jnp.argmax(found.a, -1)[0].tolist() == [1, 0] and found.a[1, 0].tolist() == [1, 0]
    assert found.r.tolist() == [[2, 3], [9, 0]]
    assert found.is_absorbing.tolist() == [[False, False, True], [False] * 3]
    assert found.is_real_o.tolist() == [[True] * 3, [True, True, False]]
    np.testing.assert_allclose(found.pi[0, :, 0], np.array([1, 2, 3]) / 12)


def test_windows_in_sequence_are_the_windows_of_their_rows(ring):
    """One sequence runs past an end into the next episode, one past what is known yet."""
    replay = ReplayConfig(capacity=12, batch=8, sequence=4)
    config = dataclasses.replace(CONFIG, replay=replay)
    slots = jnp.array([1, 2, 3, 4, 8, 9, 10, 11])
    both = [
        windows(state_of(ring), slots, jnp.ones(8), jax.random.key(0), c) for c in (CONFIG, config)
    ]
    one, other = both
    assert one.o.shape[:2] == (8, 3) and other.o.shape[:2] == (2, 6) and one.shown is None
    frames = of_windows(other.o, other)
    jax.tree.map(np.testing.assert_array_equal, other.replace(o=frames, shown=None), one)


def test_sequences_weigh_as_what_was_drawn_where_a_window_may_begin(ring):
    found = followed(ring, jnp.array([2, 8]), jnp.array([1.0, 0.5]), 3, envs=1, window=2)
    assert [x.tolist() for x in found] == [[2, 3, 4, 8, 9, 10], [1, 0, 1, 0.5, 0, 0]]


def test_priorities_are_what_was_found_last():
    found = updated(jnp.array([1.0, 2, 3, 4]), jnp.array([2, 0, 2, 3]), jnp.array([0.5, 9, 0.7, 0]))
    np.testing.assert_allclose(found, [9, 2, 0.7, 4])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_kernels_decay_and_steps_are_clipped(name):
    config = OptimiserConfig(
        name, learning_rate=0.1, warm_up=0, weight_decay=0.5, clip_norm=2.0, last=1.0
    )
    optimiser = agent_optimiser(config, 10)
    params = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "scale": jnp.ones(2)}
    state = optimiser.init(params)
    zero, update = jax.tree.map(jnp.zeros_like, params), cast(Any, optimiser.update)
    _, state = update(zero, state, params)  # the rate of the first update is 0
    changes, state = update(zero, state, params)
    decay = {"adamw": 0.5, "sgd": 0.5 + 0.9 * 0.5}[name]  # the momentum of both updates
    np.testing.assert_allclose(changes["Dense_0"]["kernel"], -0.1 * decay, rtol=1e-5)
    assert float(optax.tree.norm([changes["Dense_0"]["bias"], changes["scale"]])) == 0
    if name == "sgd":
        large = zero | {"scale": jnp.array([300.0, 400.0])}
        changes, _ = update(large, state, params)
        np.testing.assert_allclose(changes["scale"], [-0.1 * 1.2, -0.1 * 1.6], rtol=1e-5)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("kernels", {"encoder": (True, False), "value_head": (True, False)}),
        ("encoder", {"encoder": (True, False), "value_head": (False, False)}),
        ("all", {"encoder": (True, True), "value_head": (True, True)}),
        ("none", {"encoder": (False, False), "value_head": (False, False)}),
    ],
)
def test_what_decays_is_chosen(which, expected):
    config = OptimiserConfig("sgd", 1.0, warm_up=0, weight_decay=0.5, decayed=which, last=1.0)
    optimiser = agent_optimiser(config, 10)
    layer = lambda: {"Conv_0": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    params = {"encoder": layer(), "value_head": layer()}
    zero, state = jax.tree.map(jnp.zeros_like, params), optimiser.init(params)
    update = cast(Any, optimiser.update)
    for _ in range(2):  # the rate of the first update is 0
        changes, state = update(zero, state, params)
    moved = jax.tree.map(lambda x: bool(jnp.all(x != 0)), changes)
    of_layer = lambda found: (found["Conv_0"]["kernel"], found["Conv_0"]["bias"])
    assert {name: of_layer(x) for name, x in moved.items()} == expected


def test_a_loss_that_is_not_a_number_is_told_by_its_name():
    good = {"learn/loss": jnp.float32(1), "learn/value_loss": jnp.float32(1)}
    check_losses(good, 10)
    bad = {"learn/loss": jnp.float32(jnp.nan), "learn/value_loss": jnp.float32(jnp.nan)}
    with pytest.raises(LossError, match="^value_loss not finite by update 10; nothing was"):
        check_losses(bad, 10)
