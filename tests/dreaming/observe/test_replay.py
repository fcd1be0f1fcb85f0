"""Windows of a tiny log, number by number: what is real, what is over, what was never known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import dreaming.observe.replay
from dreaming.observe.replay import ENDING_SHARE, make_replay
from envs.types import Features, Trace, TraceError
from worldmodels.actions import make_head

OBSERVATION, ACTION = Features(Box(-99, 99, (1,))), Features(Discrete(2))
KEY = jax.random.key(0)
HEAD = make_head((2,), 2)
contexts = jax.jit(dreaming.observe.replay.contexts, static_argnums=2)
cut_windows = jax.jit(
    dreaming.observe.replay.cut_windows, static_argnums=2, static_argnames=("head", "window")
)
sample_windows = jax.jit(
    dreaming.observe.replay.sample_windows, static_argnums=(2, 3), static_argnames="head"
)


def trace(o, a, r, terminated=False, truncated=False, **fields):
    """An episode with one number per observation."""
    o = np.array(o, float)[:, None]
    return Trace(o, np.array(a), np.array(r, float), terminated, truncated, **fields)


def log():
    """Rows 0-2: an episode that terminates. 3-5: one that is truncated. 6-7: one still open."""
    return [
        trace([0, 1, 2], [0, 1], [1, 2], terminated=True),
        trace([10, 11, 12], [1, 0], [3, 4], truncated=True),
        trace([20, 21], [1], [5]),
    ]


def make(traces, **options):
    """The replay of `traces`."""
    return make_replay(traces, OBSERVATION, ACTION, HEAD, **options)


def cut(replay, starts, length=4, window=1):
    """Windows from the rows `starts`."""
    return cut_windows(replay, jnp.array(starts), length, KEY, head=HEAD, window=window)


def test_the_log_lies_flat():
    replay = make(log())
    np.testing.assert_array_equal(replay.o[:, 0], [0, 1, 2, 10, 11, 12, 20, 21])
    np.testing.assert_array_equal(replay.r, [1, 2, 0, 3, 4, 0, 5, 0])
    np.testing.assert_array_equal(replay.starts, [0, 1, 3, 4, 6])
    np.testing.assert_array_equal(replay.first, [0, 0, 0, 3, 3, 3, 6, 6])
    np.testing.assert_array_equal(replay.last, [2, 2, 2, 5, 5, 5, 7, 7])
    np.testing.assert_array_equal(np.flatnonzero(replay.terminated), [1])
    np.testing.assert_array_equal(replay.a.argmax(-1)[replay.starts], [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(replay.a.sum(-1), replay.has_step)  # no action leaves the last


def test_windows_number_by_number():
    batch = cut(make(log()), [0, 1, 3, 4, 6])
    T, F = True, False
    o = [[0, 1, 2, 2], [1, 2, 2, 2], [10, 11, 12, 12], [11, 12, 12, 12], [20, 21, 21, 21]]
    np.testing.assert_array_equal(batch.o[..., 0, 0], o)
    real_o = [[T, T, T, F], [T, T, F, F], [T, T, T, F], [T, T, F, F], [T, T, F, F]]
    np.testing.assert_array_equal(batch.is_real_o, real_o)
    np.testing.assert_array_equal(batch.is_real_step, np.array(real_o)[:, 1:])
    over = [[F, F, T, T], [F, T, T, T], [F] * 4, [F] * 4, [F] * 4]  # only a termination absorbs
    np.testing.assert_array_equal(batch.is_absorbing, over)
    np.testing.assert_array_equal(batch.terminated, [[F, T, F], [T, F, F], *[[F] * 3] * 3])
    r = [[1, 2, 0], [2, 0, 0], [3, 4, 0], [4, 0, 0], [5, 0, 0]]
    np.testing.assert_array_equal(batch.r, r)
    a = np.array([[0, 1], [1, -1], [1, 0], [0, -1], [1, -1]])
    taken = np.where(batch.is_real_step[:, :2], batch.a[:, :2].argmax(-1), -1)
    np.testing.assert_array_equal(taken, a)
    np.testing.assert_array_equal(batch.a.sum(-1), 1)  # past the end: some action
    pi = np.zeros((5, 4, 2))
    row, k = np.nonzero(a >= 0)
    pi[row, k, a[row, k]] = 1  # nothing is imitated where nothing was done
    np.testing.assert_array_equal(batch.pi, pi)
    assert batch.legal.all() and batch.valid.all() and (batch.weight == 1).all()


def test_a_truncation_is_no_end():
    """To the model a cut episode looks as one whose recorder was stopped."""
    episode = lambda **end: trace([10, 11, 12], [1, 0], [3, 4], **end)
    for x, y in zip(
        jax.tree.leaves(cut(make([episode(truncated=True)]), [0, 1])),
        jax.tree.leaves(cut(make([episode()]), [0, 1])),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("window", [1, 3])
def test_nothing_comes_from_another_episode(window):
    first, second, third = log()
    others = [
        trace([-7, -8, -9], [0, 0], [-7, -8], terminated=True),
        second,
        trace([70, 71], [0], [-9], terminated=True),
    ]
    starts = [3, 4]
    before, after = (cut(make(x), starts, 6, window) for x in ([first, second, third], others))
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(cut(make(log()), [0]).o, cut(make(others), [0]).o)


def test_contexts_of_one_observation():
    context = contexts(make(log()), jnp.array([0, 2, 4]), 1)
    np.testing.assert_array_equal(context.o[..., 0], [[0], [2], [11]])
    assert context.a.shape == (3, 0, 2) and context.valid.all()
    np.testing.assert_array_equal(context.elapsed, [[0], [2], [1]])


def test_contexts_of_three_observations_repeat_the_first():
    context = contexts(make(log()), jnp.array([3, 4, 5]), 3)
    np.testing.assert_array_equal(context.o[..., 0], [[10, 10, 10], [10, 10, 11], [10, 11, 12]])
    T, F = True, False
    np.testing.assert_array_equal(context.valid, [[F, F, T], [F, T, T], [T, T, T]])
    np.testing.assert_array_equal(context.elapsed, [[0, 0, 0], [0, 0, 1], [0, 1, 2]])
    nothing, left, right = [0, 0], [1, 0], [0, 1]
    a = [[nothing, nothing], [nothing, right], [right, left]]
    np.testing.assert_array_equal(context.a, a)


def test_windows_carry_the_contexts_of_their_rows():
    replay = make(log())
    batch = cut(replay, [1, 3], length=3, window=3)
    context = contexts(replay, jnp.array([[1, 2, 2], [3, 4, 5]]), 3)
    np.testing.assert_array_equal(batch.o, context.o)
    np.testing.assert_array_equal(batch.a_past, context.a)
    np.testing.assert_array_equal(batch.valid, context.valid)


def test_legal_actions_are_carried():
    masks = np.array([[True, False], [True, True], [False, True]])
    replay = make([trace([0, 1, 2], [0, 1], [1, 2], terminated=True, action_masks=masks)])
    np.testing.assert_array_equal(cut(replay, [0], 3).legal[0], masks)


def test_weights_undo_that_endings_are_drawn_more_often():
    """Drawn 40 times as often as they are: their weighted share is their share of the log."""
    going = [trace(list(range(200)), [0] * 199, [0] * 199) for _ in range(10)]
    replay = make([*going, trace([0, 1, 2], [0, 1], [0, 1], terminated=True)])
    batch = sample_windows(replay, jax.random.key(0), 20_000, 2, head=HEAD)
    ends, weight = np.asarray(batch.terminated[:, 0]), np.asarray(batch.weight)
    assert ends.mean() > 20 / 1992  # half of a tenth
    np.testing.assert_allclose(weight.mean(), 1, rtol=0.02)
    np.testing.assert_allclose((weight * ends).mean(), 1 / 1992, rtol=0.1)
    assert len(set(weight.tolist())) == 2


def test_without_rare_endings_all_windows_weigh_the_same():
    for traces in (log(), [trace([0, 1, 2], [0, 1], [0, 1])]):
        batch = sample_windows(make(traces), jax.random.key(0), 50, 2, head=HEAD)
        np.testing.assert_allclose(batch.weight, 1, rtol=1e-6)


def test_each_member_weighs_each_episode():
    traces = [trace([0, i], [0], [1]) for i in range(400)]
    replay = make(traces, members=3, key=KEY)
    weights = np.asarray(replay.member_weights)
    assert weights.shape == (400, 3) and weights.min() > 0  # no episode is hidden altogether
    np.testing.assert_allclose(weights.mean(1), 1, rtol=1e-5)  # together the log, as it is
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(weights.std(0), 0.5**0.5, atol=0.1)  # of 3 Dirichlet(1, 1, 1)
    np.testing.assert_allclose(np.corrcoef(weights.T)[np.triu_indices(3, 1)], -0.5, atol=0.1)
    np.testing.assert_array_equal(make(traces, members=1, key=KEY).member_weights, 1)
    starts = np.array([0, 2, 200])
    np.testing.assert_array_equal(cut(replay, starts).member_weights, weights[starts // 2])
    np.testing.assert_array_equal(make(traces, members=3).member_weights, np.ones((400, 3)))


def drawn(traces, rows=4000):
    """How often a window begins at each first observation."""
    batch = sample_windows(make(traces), KEY, rows, 2, head=HEAD)
    values, counts = np.unique(np.asarray(batch.o[:, 0, 0, 0]), return_counts=True)
    return dict(zip(values.tolist(), counts / rows, strict=True))


def test_rare_terminations_are_drawn_more_often():
    long = lambda first, **end: trace(first + np.arange(101), [0] * 100, [0] * 100, **end)
    share = drawn([long(-99, truncated=True), long(0, terminated=True)])
    near_the_end = sum(share.get(float(o), 0) for o in range(95, 100))
    expected = ENDING_SHARE - 5 / 200 + (1 - ENDING_SHARE + 5 / 200) * 5 / 200
    assert near_the_end == pytest.approx(expected, abs=0.015)
    assert 100.0 not in share  # nothing begins where there is no step


def test_otherwise_every_step_is_as_likely():
    for share in (drawn(log()), drawn(log()[1:])):  # ends are common; there is none at all
        assert set(share) >= {10.0, 11.0, 20.0}
        np.testing.assert_allclose(list(share.values()), 1 / len(share), atol=0.03)


def test_an_empty_log_is_told():
    with pytest.raises(TraceError, match="empty"):
        make([])
