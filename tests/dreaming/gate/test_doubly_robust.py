"""The doubly robust estimate by hand, and when it must not be believed."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dreaming.gate.doubly_robust import (
    along,
    effective_samples,
    ratios,
    summed,
    weighted_doubly_robust,
)
from dreaming.gate.evidence import make_fitted_q
from dreaming.gate.logged_steps import Valued, make_steps
from dreaming.observe.log import Log
from dreaming.student.network import mixture
from envs import tabular
from envs.types import Features, Trace, action_features
from experiments.study.cases import Task, record
from experiments.study.judges import tabular_log, tabular_student

ROAD = tabular.corridor(5, slip=0.1)
TASK = Task("road", ROAD, ROAD, horizon=12, log_steps=2500)
RANDOM = np.full((5, 2), 0.5)
RIGHT = np.tile([0.1, 0.9], (5, 1))
LOG = tabular_log(record(TASK, RANDOM, 0), ROAD)
ONCE = np.ones((1, 2))


def episode(a, r, ended, p=None):
    """An episode that stays in state 0, ended by the task or cut by the clock."""
    return Trace(np.zeros(len(a) + 1, int), a, r, ended, not ended, propensities=p)


# Two episodes: one of two steps that terminates, one of one step that the clock cuts.
HAND = tabular_log(
    [
        episode([1, 0], [1.0, 2], True, [0.5, 0.5]),
        episode([1], [4.0], False, [0.5]),
    ],
    ROAD,
)
EIGHTY = np.tile([0.2, 0.8], (5, 1))


def valued(q, v, v_next):
    """What a policy is worth at three steps; padded as the log is."""
    pad = lambda x: jnp.pad(jnp.asarray(x, jnp.float32), (0, 2045))[None]
    return Valued(jnp.zeros(1), pad(q), pad(v), pad(v_next))


def weights_of(log, policy):
    """Ratios multiplied along each episode, and the steps."""
    steps = make_steps(log, 1, 2)
    found = ratios(log, steps, policy)
    assert found is not None
    return along(log, found), steps


def found_ratios(log, steps, policy):
    found = ratios(log, steps, tabular_student(policy))
    assert found is not None
    return found


def test_ratios_and_effective_samples_by_hand():
    rho, _ = weights_of(HAND, tabular_student(EIGHTY))
    np.testing.assert_allclose(rho, [1.6, 1.6 * 0.4, 1.6], rtol=1e-6)
    # (0.64 + 1.6)^2 / (0.64^2 + 1.6^2) = 5.0176 / 2.9696
    assert abs(effective_samples(HAND, rho) - 5.0176 / 2.9696) < 1e-6


def test_sums_over_episodes_of_other_lengths_are_those_of_padded_rows():
    """Without room for the longest episode times their number."""
    random = np.random.default_rng(0)
    log = tabular_log([episode([0] * n, [0.0] * n, True) for n in (3, 1, 7, 3)], ROAD)
    parts = [random.normal(size=n) for n in (3, 1, 7, 3)]
    for stays in (True, False):
        fill = lambda x, stays=stays: np.full(7 - len(x), x[-1] if stays else 0.0)
        padded = np.stack([np.append(x, fill(x)) for x in parts])
        found = summed(log, np.concatenate(parts), stays=stays)
        np.testing.assert_allclose(found, padded.sum(0), atol=1e-12)


def test_the_estimate_by_hand():
    """Errors r + V' - Q: 1 + 1 - 1 and (no V after an end) 2 - 1 in the first episode, 4 + 2 - 2 in
    the second, whose V' counts though the clock cut it. Start (0.5 + 3) / 2; step 0 adds
    (1 + 4) / 2; step 1 adds 0.64 / 2.24 * 1."""
    rho, steps = weights_of(HAND, tabular_student(EIGHTY))
    seen = valued(q=[1, 1, 2], v=[0.5, 1, 3], v_next=[1, 7, 2])
    found = weighted_doubly_robust(HAND, steps, seen, rho, ONCE)
    np.testing.assert_allclose(found, 1.75 + 2.5 + 0.64 / 2.24, rtol=1e-6)


def test_on_its_own_log_and_without_values_it_is_the_mean_return():
    rho, steps = weights_of(HAND, tabular_student(RANDOM))
    np.testing.assert_allclose(rho, 1, rtol=1e-6)
    nothing = valued(*np.zeros((3, 3)))
    found = weighted_doubly_robust(HAND, steps, nothing, rho, ONCE)
    np.testing.assert_allclose(found, ((1 + 2) + 4) / 2, rtol=1e-6)


def test_it_mends_values_that_are_wrong():
    """Everything is fitted as worth 1; the log of nearly the same policy knows better."""
    near = np.tile([0.45, 0.55], (5, 1))
    rho, _ = weights_of(LOG, tabular_student(near))
    steps, _, evaluate = make_fitted_q(LOG, 1, TASK.horizon, jax.random.key(0))
    fitted = evaluate(tabular_student(near))
    ones = jnp.ones_like(fitted.q)
    wrong = fitted.replace(q=ones, v=ones, v_next=ones * (steps.left > 1))
    weights = np.ones((len(ones), len(LOG.traces)))
    right, mended = (
        weighted_doubly_robust(LOG, steps, seen, rho, weights).mean() for seen in (fitted, wrong)
    )
    true = TASK.value(near)
    assert effective_samples(LOG, rho) > 30
    assert abs(right - true) < 0.05
    assert 1 - true > 0.4 and abs(mended - true) < 0.08  # the end of an episode is worth nothing


def test_a_greedy_candidate_on_a_random_log_is_found_out():
    """After fourteen coin flips not one of 200 episodes did what it would have done."""
    long = [
        Trace(np.zeros(15, int), a, np.zeros(14), False, True, propensities=np.full(14, 0.5))
        for a in np.random.default_rng(0).integers(2, size=(200, 14))
    ]
    log = tabular_log(long, ROAD)
    greedy = tabular_student(RIGHT) | {"greedy": jnp.array(True)}
    rho, _ = weights_of(log, greedy)
    assert (rho[::14] > 0).sum() > 80  # it is the length that kills
    assert effective_samples(log, rho) < 1
    assert effective_samples(log, weights_of(log, tabular_student(RANDOM))[0]) == 200


def test_a_mixture_has_mixed_ratios():
    one, other = tabular_student(RANDOM), tabular_student(EIGHTY)
    rho, _ = weights_of(HAND, mixture(one, other, 0.25))
    # 0.75 * 0.5 + 0.25 * 0.8 = 0.575 for action 1, 0.425 for action 0, over 0.5.
    np.testing.assert_allclose(rho, [1.15, 1.15 * 0.85, 1.15], rtol=1e-6)


def test_without_propensities_of_all_episodes_and_for_densities_there_are_no_ratios():
    bare = lambda t: Trace(t.observations, t.actions, t.rewards, t.terminated, t.truncated)
    for traces in ([bare(t) for t in HAND.traces], [*HAND.traces, bare(HAND.traces[0])]):
        log = tabular_log(traces, ROAD)  # in the second one only the newest lacks them
        assert ratios(log, make_steps(log, 1, 2), tabular_student(RANDOM)) is None
    box = gymnasium.spaces.Box(-1, 1, (1,))
    numbers = [
        Trace(t.observations, np.zeros((len(t), 1)), t.rewards, t.terminated, t.truncated,
              propensities=t.propensities) for t in HAND.traces
    ]  # fmt: skip
    log = Log(numbers, Features(gymnasium.spaces.Discrete(5)), action_features(box))
    assert ratios(log, make_steps(log, 1, 2), tabular_student(np.full((5, 2), 0.5))) is None


def test_ratios_of_factors_are_products():
    """Two factors drawn one by one: 0.2 * 0.3 and 0.8 * 0.7 over a quarter."""
    pair = gymnasium.spaces.MultiDiscrete([9, 9])  # too many to be single actions
    first, second = np.full(9, 0.1), np.full(9, 0.1)
    first[:2], second[:2] = [0.2, 0.1], [0.1, 0.2]
    traces = [
        Trace(
            np.zeros(2, int),
            np.array([[0, 1]]),
            np.ones(1),
            True,
            False,
            propensities=np.array([0.25]),
        ),
        Trace(
            np.zeros(2, int),
            np.array([[5, 5]]),
            np.ones(1),
            True,
            False,
            propensities=np.array([0.25]),
        ),
    ]
    log = Log(traces, Features(gymnasium.spaces.Discrete(1)), action_features(pair))
    assert log.head.kind == "factored"
    student = tabular_student(np.concatenate([first, second])[None])
    found = ratios(log, make_steps(log, 1, 1), student)
    assert found is not None
    np.testing.assert_allclose(found, [0.2 * 0.2 / 0.25, 0.1 * 0.1 / 0.25], rtol=1e-5)


def test_members_that_saw_different_logs_tell_how_sure_it_is():
    """Over many logs, the intervals of one policy's value hold it about as often as they say."""
    near, held = np.tile([0.45, 0.55], (5, 1)), []
    for seed in range(40):
        log = tabular_log(record(dataclasses.replace(TASK, log_steps=600), RANDOM, seed), ROAD)
        steps, weights, evaluate = make_fitted_q(log, 1, TASK.horizon, jax.random.key(seed))
        rho = along(log, found_ratios(log, steps, near))
        j = weighted_doubly_robust(log, steps, evaluate(tabular_student(near)), rho, weights)
        held.append(abs(j.mean() - TASK.value(near)) < 1.645 * j.std(ddof=1))
    assert 0.75 < np.mean(held) <= 1
