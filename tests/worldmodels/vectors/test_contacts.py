"""Contacts: what is found in logged steps that a law does not explain, and where steps then end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.vectors.contacts import find_contacts, no_contacts, stopped

NUMBERS = np.array([True, True])
NOISE = np.full(2, 0.01)
f32 = np.float32


def walled(random, n=400, high=1.0):
    """(led to, ended at) of positions and speeds: at the wall the car stands still."""
    leads = random.uniform(-1.5, 1.5, (n, 2)).astype(f32)
    ends = leads.copy()
    hit = leads[:, 0] > high
    ends[hit] = high, 0.0
    return leads, ends


def test_a_wall_is_found_with_what_it_does_to_the_speed():
    found = find_contacts(*walled(np.random.default_rng(0)), NOISE, NUMBERS)
    np.testing.assert_array_equal(found["bound"], [[-np.inf, -np.inf], [1, np.inf]])
    np.testing.assert_array_equal(found["sets"], [[[0, 0], [0, 0]], [[0, 1], [0, 0]]])
    o = jnp.array([[0.9, 0.3], [1.2, 0.3], [-4.0, 0.3]])
    np.testing.assert_allclose(stopped(found, o), [[0.9, 0.3], [1.0, 0.0], [-4.0, 0.3]])


def test_what_others_do_at_a_wall_is_left_to_the_law():
    """They differ from hit to hit, or the law knows what they are."""
    leads, ends = walled(np.random.default_rng(0))
    ends[:, 1] = leads[:, 1]
    found = find_contacts(leads, ends, NOISE, NUMBERS)
    assert found["bound"][1, 0] == 1 and not found["sets"].any()
    leads[:, 1], ends[:, 1] = 0.495, 0.5
    assert not find_contacts(leads, ends, NOISE, NUMBERS)["sets"].any()
    assert find_contacts(leads, ends, NOISE / 10, NUMBERS)["sets"].any()


@pytest.mark.parametrize("hits, missed, is_one", [(2, 0, False), (3, 1, True), (3, 2, False)])
def test_a_bound_is_hit_thrice_and_seldom_missed(hits, missed, is_one):
    leads = np.zeros((50, 2), f32)
    ends = leads.copy()
    leads[: hits + missed, 0] = 2.0
    ends[:hits, 0], ends[hits : hits + missed, 0] = 1.0, 0.7
    found = find_contacts(leads, ends, NOISE, NUMBERS)
    assert (found["bound"][1, 0] == 1) == is_one
    assert find_contacts(leads, ends, NOISE, ~NUMBERS)["bound"][1, 0] > 1  # no number


def test_what_only_hard_hits_do_is_not_done_to_what_rests_at_the_wall():
    """A dream cannot tell them apart: both cross the bound."""
    leads, ends = walled(np.random.default_rng(0))
    leads[:20], ends[:20] = (1.005, 0.3), (1.0, 0.3)  # within the law's error
    found = find_contacts(leads, ends, NOISE, NUMBERS)
    assert found["bound"][1, 0] == 1 and not found["sets"].any()


def test_numbers_have_no_bound_but_those_that_are_found():
    o = jnp.array([[1.7e9, -3e9]])
    np.testing.assert_array_equal(stopped(no_contacts(2), o), o)


def test_where_the_log_ends_nothing_stops():
    """The greatest value of a law that is always right is no wall."""
    leads = np.random.default_rng(0).normal(size=(300, 2)).astype(f32)
    leads[:5] = leads.max(0)
    found = find_contacts(leads, leads, NOISE, NUMBERS)
    np.testing.assert_array_equal(found["bound"], no_contacts(2)["bound"])
    o = jnp.asarray(3 * leads)
    np.testing.assert_array_equal(stopped(found, o), o)


def test_walls_that_meet_set_the_mean():
    contacts = jax.tree.map(np.copy, no_contacts(3))
    contacts["bound"][1, :2] = 1.0
    contacts["sets"][1, :2, 2], contacts["value"][1, :2, 2] = 1.0, (4.0, 6.0)
    o = jnp.array([[2.0, 0, 0], [2.0, 2.0, 0], [0, 0, 0]])
    np.testing.assert_allclose(stopped(contacts, o), [[1, 0, 4], [1, 1, 5], [0, 0, 0]])
