"""The loss of self-distillation: by hand, by finite differences, and what each option does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreaming.sessions.divergence import (
    alpha_divergence,
    between,
    gap_weight,
    kl,
    limited,
    trust,
)
from dreaming.sessions.teachers import tilted
from envs.tabular import corridor, evaluate, optimum

P, Q = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.log(jnp.array([0.25, 0.25, 0.5]))
ALPHAS = (0.0, 0.3, 0.5, 1.0)


def drawn(seed: int, shape=(5, 4)) -> jax.Array:
    return jax.nn.log_softmax(jax.random.normal(jax.random.key(seed), shape))


def test_kl_by_hand():
    assert kl(P, Q) == pytest.approx(0.5 * np.log(2) - 0.25 * np.log(2))
    assert kl(P, P) == 0


def test_the_ends_are_the_two_kls_and_the_middle_tends_to_them():
    teacher, student = drawn(0), drawn(1)
    forward, reverse = kl(teacher, student), kl(student, teacher)
    np.testing.assert_allclose(alpha_divergence(teacher, student, 0.0), forward, rtol=1e-6)
    np.testing.assert_allclose(alpha_divergence(teacher, student, 1.0), reverse, rtol=1e-6)
    np.testing.assert_allclose(alpha_divergence(teacher, student, 1e-3), forward, rtol=0.02)
    np.testing.assert_allclose(alpha_divergence(teacher, student, 0.999), reverse, rtol=0.02)
    assert not np.allclose(forward, reverse, rtol=0.05)  # so alpha has an effect


def test_the_middle_by_hand():
    m = 0.5 * jnp.exp(P) + 0.5 * jnp.exp(Q)
    expected = (0.5 * kl(Q, jnp.log(m)) + 0.5 * kl(P, jnp.log(m))) / 0.25
    assert alpha_divergence(P, Q, 0.5) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_those_of_finite_differences(alpha):
    teacher, logits = drawn(2, (4,)), 0.7 * jax.random.normal(jax.random.key(3), (4,))
    loss = lambda x: alpha_divergence(teacher, jax.nn.log_softmax(x), alpha)
    gradient, h = jax.grad(loss)(logits), 1e-2
    steps = [loss(logits + h * e) - loss(logits - h * e) for e in jnp.eye(4)]
    np.testing.assert_allclose(gradient, np.array(steps) / (2 * h), atol=2e-4)
    of_teacher = jax.grad(lambda t: alpha_divergence(t, jax.nn.log_softmax(logits), alpha))
    assert not of_teacher(teacher).any()


def test_what_one_action_counts_is_cut_off():
    teacher, student = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.001, 0.999]))
    whole = alpha_divergence(teacher, student, 0.0)
    assert whole > 5 and alpha_divergence(teacher, student, 0.0, clip=1.0) == pytest.approx(
        1.0 + 0.1 * np.log(0.1 / 0.999), rel=1e-5
    )
    loss = lambda x: alpha_divergence(teacher, jax.nn.log_softmax(x), 0.0, clip=1.0)
    assert float(loss(jnp.array([0.0, 0.0]))) < 1  # there nothing is cut


def test_a_limited_target_is_as_far_as_it_may_be():
    student, teacher = drawn(4), 3 * drawn(5)
    teacher = jax.nn.log_softmax(teacher)
    target = limited(student, teacher, 0.05)
    np.testing.assert_allclose(kl(target, student), 0.05, rtol=1e-3)
    np.testing.assert_array_equal(limited(student, teacher, 1e3), teacher)
    np.testing.assert_allclose(between(student, teacher, jnp.zeros(5)), student, atol=1e-6)


def test_states_in_which_no_action_matters_weigh_nothing():
    q = jnp.array([[0.2, 0.2, 0.2], [0.0, 0.1, 0.05], [0.0, 0.9, 0.1]])
    np.testing.assert_allclose(gap_weight(q, 0.2), [0.0, 0.5, 1.0], atol=1e-6)


def test_trust_decays_after_a_costly_step_until_both_agree():
    regret = jnp.array([[0.0], [0.5], [0.5], [0.0], [0.0], [0.0]])
    agrees = jnp.array([[True], [False], [False], [False], [True], [False]])
    weights = trust(regret, agrees, most=0.3, decay=0.5)
    np.testing.assert_allclose(weights[:, 0], [1, 1, 0.5, 0.25, 1, 1])


def soft_step(policy: np.ndarray, q: np.ndarray, temperature: float) -> np.ndarray:
    """Soft policy iteration: the policy that is best for q, less its KL to the old one."""
    new = policy * np.exp((q - q.max(-1, keepdims=True)) / temperature)
    return new / new.sum(-1, keepdims=True)


@pytest.mark.parametrize("alpha", (0.0, 0.5))
def test_one_round_with_the_exact_model_is_soft_policy_iteration(alpha):
    table = corridor(5, slip=0.1)
    policy, discount = np.full((5, 2), 0.5), 0.9
    returns = [evaluate(table, policy, 40)]

    @jax.jit
    def distilled(start, teacher):
        loss = lambda x: alpha_divergence(teacher, jax.nn.log_softmax(x), alpha).sum()
        optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 1500))

        def step(carry, _):
            x, state = carry
            change, state = optimiser.update(jax.grad(loss)(x), state)
            return (optax.apply_updates(x, change), state), None

        return jax.lax.scan(step, (start, optimiser.init(start)), None, length=1500)[0][0]

    for _ in range(3):
        q = values_of(table, policy, discount)
        teacher = tilted(jnp.log(jnp.asarray(policy, jnp.float32)), jnp.asarray(q), 0.2)
        logits = distilled(jnp.log(jnp.asarray(policy, jnp.float32)), teacher)
        expected = soft_step(policy, q, 0.2)
        policy = np.asarray(jax.nn.softmax(logits), np.float64)
        np.testing.assert_allclose(policy, expected, atol=1e-5)
        policy = expected
        returns.append(evaluate(table, policy, 40))
    assert all(after > before for before, after in zip(returns, returns[1:], strict=False))
    assert returns[-1] > 0.9 * optimum(table, 40)


def values_of(table, policy: np.ndarray, discount: float) -> np.ndarray:
    """Exact action values [S, A] of a policy, by a linear system."""
    r = (table.p * table.r).sum(-1)
    go_on = table.p * (1 - table.terminated)
    through = np.einsum("sa,san->sn", policy, go_on)
    v = np.linalg.solve(np.eye(len(policy)) - discount * through, (policy * r).sum(-1))
    return (r + discount * go_on @ v).astype(np.float32)
