"""The closed-form base: what it recovers, what it leaves open, and whose word counts beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.vectors import regression, robust
from worldmodels.vectors.base import (
    base_changes,
    base_features,
    cosine,
    init_base,
    left_by,
    products_of,
    shown_to,
)
from worldmodels.vectors.margins import margins
from worldmodels.vectors.measure import share_of
from worldmodels.vectors.regression import LoggedRows, fit_base

SCALE = {"o_mean": np.zeros(2), "o_std": np.ones(2), "o_step": np.full(2, 0.5)}
SCALE |= {"o_low": np.full(2, -9.0), "o_high": np.full(2, 9.0), "margin": np.ones((2, 2))}
SCALE = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), SCALE)
NUMBERS = np.array([True, True])


def swing(o, a, random, noise):
    """A damped pendulum that an action pushes: smooth, and not linear."""
    speed = 0.9 * o[1] - 0.4 * np.sin(o[0]) + 0.3 * (a[1] - a[0])
    return np.array([o[0] + 0.3 * speed, speed]) + noise * random.normal(size=2)


def logged(law=swing, episodes=15, length=20, noise=0.0, seed=0):
    """Episodes of a law under random actions, as `LoggedRows` of W = 1 and two members."""
    random, parts = np.random.default_rng(seed), []
    for _ in range(episodes):
        o, a = [random.normal(size=2)], np.eye(2)[random.integers(2, size=length)]
        for now in a:
            o.append(law(o[-1], now, random, noise))
        o, last = np.array(o), np.zeros((1, 2))
        after = np.concatenate([o[1:], o[-1:]])
        parts.append((o[:, None], np.concatenate([a, last]), after, np.arange(length + 1) < length))
    o, a, after, has_step = (np.concatenate(x) for x in zip(*parts, strict=True))
    n = len(a)
    blank, valid = np.zeros((n, 0, 2), np.float32), np.ones((n, 1), bool)
    f32 = lambda x: x.astype(np.float32)
    return LoggedRows(f32(o), blank, valid, f32(a), f32(after), has_step)


def fitted(rows, features=64, members=2, seed=0):
    """The base of these rows."""
    blank = init_base(jax.random.key(seed), features, 2, 2, members, 2)
    return fit_base(blank, SCALE, rows, NUMBERS)


def told(base, x, a):
    """What its members say, NumPy [E, B, O]."""
    return np.asarray(base_changes(base, jnp.asarray(x, jnp.float32), jnp.asarray(a, jnp.float32)))


def test_features_are_one_all_numbers_their_products_and_waves():
    base = {"omega": jnp.array([[1.0, 0], [0, 2], [3, 0], [0, 0]]), "phase": jnp.array([0.0, 0.5])}
    x, a = jnp.array([[0.3, -0.2]]), jnp.array([[0.0, 1.0]])
    waves = [np.cos(0.3), np.cos(-0.4 + 0.5)]  # sqrt(2 / F) = 1
    expected = [1, 0.3, -0.2, 0, 1, *waves, 0, 0.3, 0, -0.2]
    np.testing.assert_allclose(base_features(base, x, a)[0], expected, rtol=1e-5)


def test_the_cosine_is_one():
    x = np.linspace(-50, 50, 100_001, dtype=np.float32)
    np.testing.assert_allclose(cosine(jnp.asarray(x)), np.cos(x.astype(float)), atol=1e-5)


def test_changes_are_a_linear_map_of_the_features_for_each_member():
    base = init_base(jax.random.key(0), 4, 3, 2, 5, 3)
    x, a = (
        jax.random.normal(jax.random.key(1), (7, 3)),
        jax.random.normal(jax.random.key(2), (7, 2)),
    )
    expected = jnp.einsum("bg,ego->ebo", base_features(base, x, a), base["weights"])
    np.testing.assert_allclose(base_changes(base, x, a), expected, rtol=1e-4, atol=1e-5)


def test_a_smooth_law_is_learned_from_three_hundred_steps():
    base, other = fitted(logged()), logged(seed=1)
    x, change = other.o[:, 0], (other.after - other.o[:, 0]) / 0.5
    error = np.square(told(base, x, other.a).mean(0) - change)[other.has_step].mean()
    assert error < 1e-3 * np.square(change)[other.has_step].mean()


def test_what_is_no_number_does_not_change():
    rows = logged()
    blank = init_base(jax.random.key(0), 16, 2, 2, 2, 2)
    base = fit_base(blank, SCALE, rows, np.array([True, False]))
    changes = told(base, rows.o[:, 0], rows.a)
    assert np.abs(changes[..., 0]).max() > 0.1 and np.abs(changes[..., 1]).max() < 1e-6


def test_the_mean_of_the_draws_is_the_posterior_mean_and_their_spread_its_spread():
    random = np.random.default_rng(0)
    phi, w = random.normal(size=(50, 3)), random.normal(size=(3, 2))
    noise, ridge = np.array([0.1, 0.5]), 0.2
    gram, moment = phi.T @ phi, phi.T @ (phi @ w)
    draws = robust.posterior(gram, moment, ridge, noise, random.normal(size=(100_000, 3, 2)))
    covariance = np.linalg.inv(gram + ridge * np.eye(3))
    np.testing.assert_allclose(draws.mean(0), covariance @ moment, atol=1e-5)
    for k in range(2):
        found = np.cov(np.asarray(draws[:, :, k]).T)
        np.testing.assert_allclose(found, noise[k] ** 2 * covariance, rtol=0.05, atol=1e-4)


def test_where_no_row_speaks_draws_lie_as_wide_as_the_weights_that_are_known():
    """Two weights are known, 3 and 4, a third feature is never seen: a prior of sqrt(25 / 2)."""
    gram, noise = np.diag([1e6, 1e6, 0.0]), np.array([0.1])
    moment = gram @ np.array([[3.0], [4.0], [0.0]])
    normal = np.random.default_rng(0).normal(size=(100_000, 3, 1))
    draws = np.asarray(robust.posterior(gram, moment, 1e-3, noise, normal))[:, :, 0]
    np.testing.assert_allclose(draws.mean(0), [3, 4, 0], atol=1e-4)
    np.testing.assert_allclose(draws.std(0), [1e-4, 1e-4, np.sqrt(25 / 2)], rtol=0.02)


def bumps(o, a, random, noise):
    """`swing`, between walls that throw back what comes too fast: three of a hundred steps."""
    after = swing(o, a, random, noise)
    return np.array([after[0], -1.0]) if o[1] > 1.5 else after


def test_walls_do_not_bend_the_law_elsewhere(monkeypatch):
    rows, other = logged(bumps, episodes=40), logged(seed=1)
    hits = (rows.o[:, 0, 1] > 1.5) & rows.has_step
    assert 0.01 < hits.sum() / rows.has_step.sum() < 0.1
    x, change = other.o[:, 0], (other.after - other.o[:, 0]) / 0.5
    free = other.has_step & (np.abs(x) < 1.2).all(1)

    def error():
        return np.abs(told(fitted(rows), x, other.a).mean(0) - change)[free].mean()

    firm = error()
    monkeypatch.setattr(robust, "row_weights", lambda error, *rest: np.ones((len(error), 1)))
    assert firm < 0.02 and error() > 5 * firm  # least squares


def car(o, a, random, noise):
    """A car on a slope, pushed left or right, between -1 and a wall at 1 that stops it."""
    speed = o[1] + 0.1 * (a[1] - a[0]) - 0.05 * np.cos(2 * o[0])
    place = o[0] + 0.3 * speed
    return np.array([1.0, 0.0]) if place > 1 else np.array([max(place, -1.0), speed])


def test_the_base_of_a_log_knows_its_walls():
    rows = logged(car, episodes=60)
    place = rows.after[rows.has_step, 0]
    assert min((place == 1).sum(), (place == -1).sum()) >= 5
    contacts = fitted(rows)["contacts"]
    np.testing.assert_array_equal(contacts["bound"][:, 0], [-1, 1])
    np.testing.assert_array_equal(contacts["sets"], [np.zeros((2, 2)), [[0, 1], [0, 0]]])
    assert contacts["value"][1, 0, 1] == 0


def test_weights_of_rows_by_hand():
    """(1 + O) / (1 + squared distance), 1 at most; only numbers count."""
    far = np.array([[0.0, 0.0], [2.0, -6.0], [0.5, 0.0]])
    weigh = lambda numbers: robust.row_weights(far, np.array([1.0, 2.0]), np.array(numbers))[:, 0]
    np.testing.assert_allclose(weigh([True, True]), [1, 3 / 14, 1])
    np.testing.assert_allclose(weigh([True, False]), [1, 2 / 5, 1])


def test_what_seldom_changes_is_not_taken_for_certain():
    error = np.zeros((100, 2))
    error[:5, 0], error[:, 1] = 1, np.linspace(-1, 1, 100)
    noise = robust.noise_of(error, np.array([True, True]))
    assert 1e-3 < noise[0] < 0.1 and noise[1] == pytest.approx(0.74, abs=0.02)


def test_of_a_handful_of_steps_nothing_changes():
    rows = logged(episodes=1, length=5)
    assert not told(fitted(rows), rows.o[:, 0], rows.a).any()


def test_many_products_are_left_out():
    assert products_of(30, 17) == 510 and products_of(30, 18) == 0
    base = init_base(jax.random.key(0), 4, 30, 18, 1, 30)
    features = base_features(base, jnp.ones((2, 30)), jnp.ones((2, 18)))
    assert features.shape == (2, 1 + 30 + 18 + 4) and base["weights"].shape == (1, 53, 30)


def test_networks_that_say_too_much_are_cut():
    """Also where their share is 0: 0 times infinity would be no number."""
    base = {"noise": jnp.array([1e-5])}
    assert np.isfinite(left_by(base, jnp.array([[1e4], [-1e4]]))).all()
    np.testing.assert_allclose(left_by(base, jnp.array([2.0])), 1e-5 * np.sinh(2), rtol=1e-5)


def test_a_single_member_is_the_posterior_mean():
    one, five = fitted(logged(noise=0.1), members=1), fitted(logged(noise=0.1), members=5)
    np.testing.assert_allclose(one["weights"][0], five["weights"].mean(0), atol=1e-4)


def test_members_differ_by_what_the_log_leaves_open():
    """Of a noisy law; more where there are no data, less the longer the log."""
    x, a = np.array([[0.0, 0.0], [4.0, 4.0]]), np.eye(2)[[0, 0]]
    free = {"low": jnp.full(2, -1e9), "high": jnp.full(2, 1e9)}  # or all would be cut alike
    spread = lambda rows: told(fitted(rows, members=20) | free, x, a).std(0).mean(-1)
    short, long = spread(logged(noise=0.2)), spread(logged(noise=0.2, episodes=150))
    assert short[1] > 3 * short[0] and long[0] < 0.6 * short[0]


def test_the_truth_lies_within_the_spread_of_the_draws():
    """Calibrated on a law of the base's own kind: about 95 % within two deviations."""
    law = lambda o, a, random, noise: 0.9 * o + 0.2 * (a[1] - a[0]) + noise * random.normal(size=2)
    inside, x, a = [], np.random.default_rng(9).normal(size=(40, 2)), np.eye(2)[np.arange(40) % 2]
    truth = (-0.1 * x + 0.2 * (a[:, 1:] - a[:, :1])) / 0.5
    for seed in range(10):
        said = told(fitted(logged(law, noise=0.3, seed=seed), members=30), x, a)
        inside.append(np.abs(said.mean(0) - truth) < 2 * said.std(0, ddof=1))
    assert np.mean(inside) > 0.85


def test_dreams_of_held_out_episodes_stop_where_these_end():
    rows = logged(episodes=7, length=12)
    held, *others = regression._held_out(rows)
    assert (
        set(rows.episode[held]) == {0, 5} and np.sum([held, *others], axis=0).tolist() == [1] * 91
    )
    dreams = regression._dreams(rows, held)
    assert dreams.is_real[:12].any() and not dreams.is_real[12:].any()
    steps = dreams.is_real.sum(0)
    assert steps.max() == 12 and steps.min() == 1
    first = np.argmax(steps == 12)  # it begins an episode
    np.testing.assert_array_equal(dreams.after[:12, first], rows.after[:12])


def test_of_a_few_episodes_the_last_fifth_is_held_out():
    rows = logged(episodes=2, length=20)
    (held,) = regression._held_out(rows)
    assert held.sum() == 8 and held[-8:].all()


def test_networks_count_by_what_they_explain_of_episodes_hidden_from_them():
    random = np.random.default_rng(0)
    left, weights = random.normal(size=(400, 3)), np.ones((400, 2))
    weights[:200, 0] = 0.1  # member 0 does not see the first half, member 1 sees all
    noise = random.normal(size=(200, 1))
    guess = np.stack([np.tile(noise, (2, 3)), left])
    guess[0, :200] = np.stack([2 * left[:200, 0], noise[:, 0], -left[:200, 2]], 1)
    # Twice what is left: a half of it; noise: next to nothing; its opposite: nothing.
    share = share_of(left, guess, weights)
    assert share[0] == pytest.approx(0.5) and share[1] < 0.2 and share[2] == 0


def test_networks_of_which_nothing_was_hidden_are_not_relied_on_unless_alone():
    left = np.ones((20, 2))
    assert not share_of(left, np.ones((3, 20, 2)), np.ones((20, 3))).any()
    np.testing.assert_allclose(share_of(left, np.ones((1, 20, 2)), np.ones((20, 1))), 1)


def test_a_member_that_never_learned_does_not_vouch():
    """All is hidden from member 1; of member 0 too little is."""
    left, weights = np.ones((20, 1)), np.tile([1.0, 0.0], (20, 1))
    weights[:5, 0] = 0
    assert not share_of(left, np.ones((2, 20, 1)), weights).any()


def test_a_member_is_not_shown_what_it_hardly_weighs():
    np.testing.assert_array_equal(shown_to(jnp.array([0.0, 0.19, 0.2, 3.0])), [0, 0, 1, 1])


def cart(o, a, random, noise):
    """Linear; its place says nothing of what comes next."""
    speed = 0.8 * o[1] + 0.3 * (a[1] - a[0])
    return np.array([o[0] + 0.1 * speed, speed])


@pytest.mark.parametrize("law", [cart, swing])
def test_a_dream_leaves_the_log_as_far_as_its_law_is_known(law):
    """A linear law holds anywhere, as far as any place is tried; one of waves does not."""
    rows = logged(law, episodes=40)
    o = rows.o[:, -1]
    scale = SCALE | {"o_low": o.min(0), "o_high": o.max(0), "o_std": o.std(0)}
    scale |= {"base": fitted(rows), "margin": jnp.array([[0.5, 1.0], [1.0, 1.0]])}
    found = margins(scale, rows, NUMBERS)
    if law is cart:
        np.testing.assert_array_equal(found, 8 * scale["margin"])
    else:
        assert (found < 8 * scale["margin"]).all() and (found >= scale["margin"]).all()
    still = margins(scale, rows, np.array([False, True]))
    np.testing.assert_array_equal(still[:, 0], [0.5, 1.0])  # a bit has no bound


def test_the_reserve_holds_other_draws_from_the_same_posterior():
    """Their mean is that of the members (both are centred), their spread is as wide."""
    base = fitted(logged(episodes=4, noise=0.05), members=40)
    one, other = (np.asarray(base[name]) for name in ("weights", "reserve"))
    np.testing.assert_allclose(one.mean(0), other.mean(0), atol=1e-4)
    correlation = np.corrcoef((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())
    assert abs(correlation[0, 1]) < 0.1
    assert np.median(other.std(0) / one.std(0)) == pytest.approx(1, abs=0.1)
