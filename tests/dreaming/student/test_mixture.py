"""A mixture of students is a student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from dreaming.student.network import (
    act,
    action_probabilities,
    mixture,
    network,
    student_logits,
)
from dreaming.student.policy import Policy, load_policy, save_policy
from envs.dream import start_context
from experiments.study.judges import tabular_student
from worldmodels.actions import make_head

OLD, NEW = tabular_student(np.array([[0.9, 0.1], [0.5, 0.5]])), tabular_student(np.eye(2))
CONTEXT, HEAD = start_context(np.eye(2), 2), make_head((2,), 2)


def probabilities(params):
    return np.asarray(action_probabilities(params, CONTEXT, HEAD, jnp.ones((2, 2), bool)))


def test_probabilities_are_mixed_by_hand():
    mixed = mixture(OLD, NEW, 0.25)
    np.testing.assert_allclose(probabilities(mixed), [[0.925, 0.075], [0.375, 0.625]], atol=1e-6)
    nested = mixture(mixed, OLD, 0.5)
    np.testing.assert_allclose(
        probabilities(nested), [[0.9125, 0.0875], [0.4375, 0.5625]], atol=1e-6
    )


def test_a_greedy_part_stays_greedy_inside():
    greedy = OLD | {"greedy": jnp.array(True)}
    np.testing.assert_allclose(
        probabilities(mixture(greedy, NEW, 0.5)), [[1, 0], [0.5, 0.5]], atol=1e-6
    )


def test_its_logits_are_those_of_the_mixed_probabilities():
    p = jax.nn.softmax(student_logits(mixture(OLD, NEW, 0.25), CONTEXT))
    np.testing.assert_allclose(np.asarray(p), [[0.925, 0.075], [0.375, 0.625]], atol=1e-5)


def test_it_acts_as_often_as_it_says():
    many = start_context(np.tile(np.eye(2)[:1], (4000, 1)), 2)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 4000))
    drawn = np.asarray(act(mixture(OLD, NEW, 0.25), many, keys, HEAD)).argmax(-1)
    assert abs((drawn == 0).mean() - 0.925) < 3 * np.sqrt(0.925 * 0.075 / 4000)
    again = np.asarray(act(mixture(OLD, NEW, 0.25), many, keys, HEAD)).argmax(-1)
    assert (drawn == again).all()


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_it_is_saved_and_loaded(tmp_path, share):
    mixed = mixture(mixture(OLD, NEW, 0.25), OLD | {"greedy": jnp.array(True)}, share)
    spaces = Discrete(2), Discrete(2)
    policy = Policy(mixed, *spaces)
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    np.testing.assert_array_equal(probabilities(loaded.params), probabilities(mixed))
    draw = lambda policy: [policy.act(0, seed=i) for i in range(20)]
    assert draw(loaded) == draw(policy)


def test_training_goes_on_from_its_newest_part():
    assert network(OLD) is OLD
    assert network(mixture(OLD, mixture(OLD, NEW, 0.5), 0.1)) is NEW
