"""The student's walks through a dream whose truth is known: a corridor, walked to its end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from dreaming.config import RehearseConfig, SearchConfig
from dreaming.observe.replay import contexts, make_replay
from dreaming.search.teachers import make_teacher
from dreaming.student.rehearse import evenly, make_rehearse, rehearsal_mesh
from dreaming.types import Walks
from envs.tabular import TabularModel, corridor, solve
from envs.types import Features, Trace
from worldmodels.actions import make_head

SIZE, DISCOUNT = 5, 0.9
WALKS, STEPS, TAUGHT = 16, 6, 32
HEAD = make_head((2,), 2)
ORACLE = TabularModel(corridor(SIZE), DISCOUNT)
V, Q, _ = solve(corridor(SIZE), DISCOUNT)


def rehearsing(**settings):
    """Rehearsing in the true corridor from states 1 and 2, with returns that look to the end."""
    log = [Trace(np.array([1, 2, 1]), np.array([1, 0]), np.zeros(2), False, False)]
    replay = make_replay(log, Features(Discrete(SIZE)), Features(Discrete(2)), HEAD)
    config = RehearseConfig(dreams=WALKS, horizon=STEPS, taught=TAUGHT, lam=1.0, restart=0.0)
    config = dataclasses.replace(config, **settings)
    teach = make_teacher(ORACLE, HEAD, SearchConfig(teacher="one_step"), DISCOUNT)
    free = make_rehearse(ORACLE, HEAD, teach, config, discount=DISCOUNT, penalty=0.0)
    function = jax.jit(free)

    def run(go_right, seed=0, walks=None, bias=50.0, **slow):
        """A rehearsal of a student that goes right with certainty, or never; `walks` before it."""
        bias = jnp.array([-bias, bias]) * (1 if go_right else -1)
        layers = [{"w": jnp.zeros((SIZE, 2)), "b": bias}]
        student = {"layers": layers, "scale": {"o_mean": jnp.zeros(SIZE), "o_std": jnp.ones(SIZE)}}
        with jax.numpy_rank_promotion("allow"):
            nowhere = contexts(replay, jnp.zeros(WALKS, int), 1), jnp.zeros(WALKS, bool)
            last, goes_on = walks or nowhere
            before = Walks(last, goes_on)
            args = student, replay, before, jax.random.key(seed)
            return function(ORACLE.params, ORACLE.params | slow, *args)

    return run


@pytest.fixture(scope="module")
def rehearse():
    return rehearsing()


def test_walks_begin_at_logged_states_and_follow_the_student(rehearse):
    """Walks lie step by step in parts of rows, so only sums over all of them are told here."""
    walked = rehearse(go_right=True)
    s, ended = np.asarray(walked.z.s), np.asarray(walked.z.ended)
    assert s.shape == (WALKS * STEPS,) and set(s) <= {1, 2, 3, 4}
    visits = {state: int((s[~ended] == state).sum()) for state in range(SIZE)}
    assert visits[3] == WALKS and visits[2] == WALKS  # each walk passes both once
    assert 0 < visits[1] < WALKS and visits[0] == visits[4] == 0  # some began at 2
    np.testing.assert_array_equal(walked.weight, 1.0 - ended)  # after the end nothing counts
    back = rehearse(go_right=False)
    assert set(np.asarray(back.z.s)) == {0, 1, 2} and not back.z.ended.any()
    np.testing.assert_array_equal(back.weight, 1)


def test_a_share_of_the_walks_takes_the_most_probable_actions(rehearse):
    """Of a student that goes right with probability 0.55."""
    sure = np.asarray(rehearse(go_right=True).z.s)
    paths = {share: rehearsing(greedy=share)(go_right=True, bias=0.1).z.s for share in (0, 0.5, 1)}
    np.testing.assert_array_equal(paths[1], sure)
    same = {share: np.mean(np.asarray(path) == sure) for share, path in paths.items()}
    assert same[0] < 0.6 and same[0] + 0.1 < same[0.5] < 0.9


def test_a_share_is_spread_evenly():
    np.testing.assert_array_equal(evenly(0.5, 4), [False, True, False, True])
    np.testing.assert_array_equal(evenly(0.25, 8).nonzero()[0], [3, 7])
    assert evenly(1.0, 3).all() and not evenly(0.0, 3).any()


def test_value_targets_are_the_returns_of_the_walk(rehearse):
    """Going right is optimal: its full returns are the optimal values, whatever is bootstrapped."""
    walked = rehearse(go_right=True)
    alive = ~np.asarray(walked.z.ended)
    np.testing.assert_allclose(walked.v_target[alive], V[walked.z.s[alive]], rtol=1e-5)
    np.testing.assert_array_equal(walked.v_target[~alive], 0)
    other = rehearse(go_right=True, v=ORACLE.params["v"] + 7)
    np.testing.assert_allclose(other.v_target, walked.v_target, rtol=1e-5)


def test_the_slow_values_stand_at_the_end_of_an_unfinished_walk(rehearse):
    """Going left never ends: only the last state's value is left, discounted."""
    walked = rehearse(go_right=False, v=jnp.full(SIZE, 2.0))
    left = np.round(np.log(np.asarray(walked.v_target) / 2) / np.log(DISCOUNT), 3)
    steps, counts = np.unique(left, return_counts=True)
    np.testing.assert_array_equal(steps, np.arange(1, STEPS + 1))
    np.testing.assert_array_equal(counts, WALKS)


def test_the_teacher_speaks_of_the_states_the_student_saw(rehearse):
    walked = rehearse(go_right=True)
    s, ended = np.asarray(walked.taught_z.s), np.asarray(walked.taught_z.ended)
    assert s.shape == (TAUGHT,)
    np.testing.assert_array_equal(walked.taught_context.o[:, -1].argmax(-1), s)
    np.testing.assert_allclose(walked.taught.q[~ended], Q[s[~ended]], atol=1e-5)
    np.testing.assert_array_equal(walked.taught_weight, 1.0 - ended)


def test_a_rehearsal_repeats_itself_and_seeds_differ(rehearse):
    one, again, other = (np.asarray(rehearse(True, seed).z.s) for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
    picked = [np.asarray(rehearse(True, seed).taught_z.s) for seed in (1, 2)]
    assert (picked[0] != picked[1]).any()


def test_half_of_the_walks_go_on_where_the_last_ones_got_to(rehearse):
    """Going left from 1 or 2 they are all at 0 in the end, where no logged state is."""
    before = rehearse(go_right=False)
    np.testing.assert_array_equal(before.last.o[:, -1].argmax(-1), 0)
    assert before.goes_on.all()
    after = rehearse(go_right=True, walks=(before.last, before.goes_on))
    s, ended = np.asarray(after.z.s), np.asarray(after.z.ended)
    assert (s[~ended] == 0).sum() == WALKS // 2  # each of them leaves it once
    assert (s[~ended] == 3).sum() == WALKS


def test_a_walk_restarts_as_often_as_is_asked():
    """Walks that could go on begin at 0, all others at logged states."""
    rehearse = rehearsing(restart=0.5)
    before = rehearse(go_right=False)
    after = rehearse(go_right=True, walks=(before.last, before.goes_on))
    count = (np.asarray(after.z.s)[~np.asarray(after.z.ended)] == 0).sum()
    assert WALKS / 8 < count < WALKS * 3 / 8  # a quarter on average


def test_a_walk_that_ended_is_not_gone_on_with(rehearse):
    """Going right all walks end; the next ones begin at logged states, none of which is 0."""
    before = rehearse(go_right=True)
    assert not before.goes_on.any()
    after = rehearse(go_right=False, walks=(before.last, before.goes_on))
    assert set(np.asarray(after.z.s)) == {0, 1, 2} and not after.z.ended.any()
    starts = rehearse(go_right=True, walks=(before.last, before.goes_on))
    assert 0 not in set(np.asarray(starts.z.s))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_real_states_have_their_share_of_what_is_taught(share):
    """Walks go left to 0, where no logged state is; each device's logged states come first."""
    rehearse = rehearsing(real=share)
    before = rehearse(go_right=False)
    walked = rehearse(go_right=False, walks=(before.last, before.goes_on))
    s = np.asarray(walked.taught_z.s)
    assert s.shape == (TAUGHT,)
    np.testing.assert_array_equal(walked.taught_context.o[:, -1].argmax(-1), s)
    np.testing.assert_allclose(walked.taught.q, Q[s], atol=1e-5)
    np.testing.assert_array_equal(walked.taught_weight, 1)
    real = s.reshape(rehearsal_mesh(RehearseConfig(dreams=WALKS, taught=TAUGHT)).size, -1)
    real = real[:, : round(share * real.shape[1])]
    assert set(real.ravel()) == {1, 2} and real.size == share * TAUGHT
    assert (s == 0).any() == (share < 1)


def test_logged_states_are_drawn_anew_each_time():
    rehearse = rehearsing(real=1.0)
    one, again, other = (np.asarray(rehearse(True, seed).taught_z.s) for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


def test_students_of_frames_rehearse_on_one_cpu():
    config = RehearseConfig()
    assert rehearsal_mesh(config, convolves=True).size == 1
    assert rehearsal_mesh(config, convolves=False).size == jax.device_count() == 2
