"""What policy outputs mean, by hand: enumerated, factor by factor, and sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.actions import MOST_COMBINATIONS, NEVER, PROPOSALS, make_head

KEY = jax.random.key(0)
FLAT, PRODUCT, MANY, BOX = (
    make_head(*spec) for spec in (((3,), 3), ((2, 3), 5), ((40, 40), 80), ((), 2))
)
HEADS = [FLAT, PRODUCT, MANY, BOX]
each_head = pytest.mark.parametrize("head", HEADS, ids=["flat", "product", "many", "box"])


def rows(head, count=6, seed=0):
    """Random outputs [B, P] of a policy."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, head.num_outputs)), "f")


def raw_keys(count):
    return jax.random.key_data(jax.random.split(KEY, count))


def test_small_products_are_enumerated_and_large_ones_are_not():
    assert [head.kind for head in HEADS] == ["discrete", "discrete", "factored", "box"]
    assert [head.num_outputs for head in HEADS] == [3, 6, 80, 4]
    assert [head.num_candidates for head in HEADS] == [3, 6, 80, PROPOSALS]
    assert make_head((8, 8), 16).kind == "discrete" and 8 * 8 == MOST_COMBINATIONS
    assert make_head((500,), 500).kind == "discrete"  # one factor cannot be split


def test_a_product_names_every_combination_once():
    assert len(np.unique(PRODUCT.table, axis=0)) == 6
    np.testing.assert_array_equal(PRODUCT.table[:, :2].sum(1), 1)
    np.testing.assert_array_equal(PRODUCT.table[:, 2:].sum(1), 1)
    np.testing.assert_array_equal(PRODUCT.target(PRODUCT.table), np.eye(6))
    np.testing.assert_array_equal(PRODUCT.target(np.zeros((1, 5))), np.zeros((1, 6)))


@each_head
def test_what_is_illegal_is_never_drawn_proposed_or_preferred(head):
    if head.kind == "box":
        np.testing.assert_array_equal(head.masked(rows(head), jnp.zeros((6, 2), bool)), rows(head))
        return
    legal = np.ones((6, head.size), bool)
    legal[:, 1] = False
    pi = rows(head).at[:].add(0.0)
    pi = head.masked(pi, jnp.asarray(legal))
    drawn = head.sample(jnp.tile(pi, (50, 1)), raw_keys(300))
    assert (np.asarray(drawn)[:, 1] == 0).all() and (np.asarray(head.mode(pi))[:, 1] == 0).all()
    noise, basis = head.noise(KEY, 6), head.basis(pi)
    prior = np.asarray(head.log_prior(pi, noise, 0.5))
    for k in range(head.num_candidates):
        a = np.asarray(head.action(basis, noise, jnp.full(6, k)))
        assert ((prior[:, k] <= NEVER / 2) == (a[:, 1] > 0)).all()
    p = head.improved(jnp.asarray(prior), 100.0 * jnp.asarray(prior <= NEVER / 2))
    assert np.asarray(p)[prior <= NEVER / 2].max() == 0  # whatever a search finds there


@each_head
def test_a_mask_cannot_forbid_everything(head):
    pi = rows(head)
    np.testing.assert_array_equal(head.masked(pi, jnp.zeros((6, head.size), bool)), pi)


def test_a_factor_without_a_legal_entry_is_free_and_the_others_are_not():
    legal = jnp.asarray([[False, False, True, False, True]])
    pi = np.asarray(PRODUCT.masked(jnp.zeros((1, 6)), legal))[0]
    np.testing.assert_array_equal(pi > NEVER / 2, [True, False, True, True, False, True])


@pytest.mark.parametrize("head", [FLAT, PRODUCT, MANY])
def test_probabilities_are_those_of_the_draws(head):
    pi = rows(head, 1)
    drawn = np.asarray(head.sample(jnp.tile(pi, (4000, 1)), raw_keys(4000)))
    own = np.exp(np.asarray(head.log_prob(jnp.tile(pi, (4000, 1)), jnp.asarray(drawn))))
    if head.kind == "factored":
        marginal = np.exp(np.asarray(head.log_probs(pi))[0])
        np.testing.assert_allclose(drawn.mean(0), marginal, atol=0.03)
        product = np.prod(np.where(drawn > 0, marginal, 1.0), axis=1)
        np.testing.assert_allclose(own, product, rtol=1e-4)
        return
    p = np.asarray(jax.nn.softmax(pi))[0]
    each = (drawn[:, None] == head.table[None]).all(-1)
    np.testing.assert_allclose(each.mean(0), p, atol=0.03)
    np.testing.assert_allclose(own, each @ p, rtol=1e-5)


def test_a_gaussian_draws_by_its_mean_and_spread_inside_the_box():
    pi = jnp.asarray([[0.2, 3.0, -1.0, 0.0]])
    mean, spread = BOX.gaussian(pi)
    np.testing.assert_allclose(mean, [[0.2, 3.0]])
    assert 0.05 < spread[0, 0] < 0.6 and np.isclose(spread[0, 1], 0.6)
    drawn = np.asarray(BOX.sample(jnp.tile(pi, (4000, 1)), raw_keys(4000)))
    np.testing.assert_allclose(drawn[:, 0].mean(), 0.2, atol=0.03)
    np.testing.assert_allclose(drawn[:, 0].std(), spread[0, 0], atol=0.03)
    assert drawn.max() == 1.0
    np.testing.assert_allclose(BOX.mode(pi), [[0.2, 1.0]])


def test_the_improved_gaussian_is_pulled_to_where_q_is_high():
    """Weighted samples of prior / proposal stand for prior * exp(q): here N(0.5, .) by hand."""
    pi, q_slope = jnp.zeros((4000, 4)), 2.0  # spread 0.6: exp(2 a) moves the mean by 2 * 0.36
    noise = BOX.noise(KEY, 4000) * 0.4  # stay away from the edges, where samples are clipped
    a = BOX.proposals(pi, noise)
    assert (np.asarray(a)[:, 0] == 0).all()  # the mean is always proposed
    p = BOX.improved(BOX.log_prior(pi, noise, 0.0), q_slope * a[..., 0])
    assert 0.02 < float(jnp.mean(jnp.sum(p * a[..., 0], -1))) < 0.72
    np.testing.assert_allclose(jnp.mean(jnp.sum(p * a[..., 1], -1)), 0, atol=0.02)


@each_head
def test_the_divergence_is_least_where_the_policy_is_the_teacher(head):
    """Its gradient vanishes there, and points back from elsewhere."""
    if head.kind == "box":
        a = jnp.asarray([[[-0.5, 0.1], [0.5, 0.3]]])
        p = jnp.asarray([[0.5, 0.5]])
        loss = lambda pi: head.divergence(p, a, pi).sum()
        mean = jnp.asarray([[0.0, 0.2, 0.0, 0.0]])  # the mean of the samples
        gradient = jax.grad(loss)(mean)
        np.testing.assert_allclose(gradient[0, :2], 0, atol=1e-6)
        assert loss(mean) < loss(mean.at[0, 0].set(0.3))
        return
    pi = rows(head)
    p = jnp.exp(head.log_probs(pi))
    loss = lambda pi: head.divergence(p, None, pi).sum()
    np.testing.assert_allclose(loss(pi), 0, atol=1e-4)
    np.testing.assert_allclose(jax.grad(loss)(pi), 0, atol=1e-6)
    assert loss(rows(head, seed=1)) > 0.1


def test_factor_by_factor_each_candidate_changes_one_factor():
    head = make_head((9, 9), 18)
    pi = rows(head, 1)
    basis, noise = head.basis(pi), head.noise(KEY, 1)
    prior = np.asarray(head.log_prior(pi, noise, 0.0))[0]
    best = np.asarray(head.mode(pi))[0]
    logs = np.asarray(head.log_probs(pi))[0]
    for k in range(18):
        a = np.asarray(head.action(basis, noise, jnp.array([k])))[0]
        assert a.sum() == 2 and a[k] == 1 and np.abs(a - best)[9:].sum() * (k < 9) == 0
        expected = (logs * a).sum() - (logs * best).sum()  # log pi(a) against the likeliest
        np.testing.assert_allclose(prior[k], expected, atol=1e-4)
    improved = head.improved(jnp.asarray(prior[None]), jnp.zeros((1, 18)))
    np.testing.assert_allclose(improved[0], np.exp(logs), rtol=1e-4)


def test_a_share_of_the_uniform_by_hand():
    pi = jnp.asarray([[0.0, -1e6, NEVER]])
    prior = FLAT.log_prior(pi, FLAT.noise(KEY, 1), 0.02)
    np.testing.assert_allclose(np.exp(prior[0, :2]), [0.99, 0.01], rtol=1e-5)
    assert prior[0, 2] <= NEVER / 2


def test_values_of_factors_add_up():
    q = jnp.asarray([[1.0, 3.0, 2.0, 0.0, -1.0, 5.0]])
    two = make_head((70, 2), 72)
    many = jnp.concatenate([jnp.full((1, 70), -9.0).at[0, 4].set(3.0), jnp.array([[1.0, 2.0]])], 1)
    np.testing.assert_allclose(two.best(many), [5.0])
    np.testing.assert_allclose(PRODUCT.best(q), [5.0])
    assert two.soft_best(many)[0] > 5.0


@each_head
def test_kl_is_zero_at_itself_only(head):
    pi, other = rows(head), rows(head, seed=1)
    np.testing.assert_allclose(head.kl(pi, pi), 0, atol=1e-5)
    assert (np.asarray(head.kl(pi, other)) > 0.01).all()
