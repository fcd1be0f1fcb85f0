"""Scores worked out by hand, and tables and intervals whose truth is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from worldmodels import fidelity, scores
from worldmodels.fidelity import (
    WINDOWS,
    Happened,
    OneStep,
    Unrolled,
    doubts,
    skill_table,
    skills,
    step_figures,
    trust,
)
from worldmodels.types import Windows

P = np.array([0.05, 0.15, 0.15, 0.95, 0.55])
HAPPENED = np.array([False, False, True, True, True])


def test_brier_by_hand():
    squares = [0.05**2, 0.15**2, 0.85**2, 0.05**2, 0.45**2]
    assert scores.brier(P, HAPPENED) == pytest.approx(sum(squares) / 5)
    assert scores.brier(P[:0], HAPPENED[:0]) is None


def test_calibration_error_by_hand():
    # Bins 0, 1, 5 and 9: gaps of the sums .05, .3 - 1, .55 - 1, .95 - 1 over 5 cases.
    assert scores.calibration_error(P, HAPPENED) == pytest.approx((0.05 + 0.7 + 0.45 + 0.05) / 5)
    certain = np.array([0.0, 1.0, 1.0])
    assert scores.calibration_error(certain, certain == 1) == 0  # p = 1 has a bin
    assert scores.calibration_error(certain, certain == 0) == 1


def test_auroc_counts_pairs_and_halves_ties():
    # Of the pairs (happened, not): .15 beats .05 and ties .15, .95 and .55 beat both.
    assert scores.auroc(P, HAPPENED) == pytest.approx(5.5 / 6)
    assert scores.auroc(-P, HAPPENED) == pytest.approx(0.5 / 6)
    assert scores.auroc(np.ones(5), HAPPENED) == 0.5
    assert scores.auroc(P, HAPPENED & False) is None and scores.auroc(P, HAPPENED | True) is None


def test_spearman_is_that_of_scipy_with_ties_too():
    random = np.random.default_rng(0)
    for _ in range(20):
        x, y = random.integers(4, size=(2, 15)).astype(float)
        assert scores.spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert scores.spearman(np.arange(4.0), np.array([1.0, 10, 100, 1000])) == pytest.approx(1)
    assert scores.spearman(np.ones(4), np.arange(4.0)) is None
    assert scores.spearman(np.ones(1), np.ones(1)) is None


@pytest.mark.parametrize(("members", "noise"), [(2, 0.0), (5, 0.0), (5, 2.0), (1, 2.0)])
def test_the_interval_covers_what_it_says_when_reality_is_one_more_member(members, noise):
    """Members and reality from one normal; noise that each of them knows is added to reality."""
    random = np.random.default_rng(1)
    size = 40_000
    drawn = random.normal(size=(members, size))
    between = drawn.var(0, ddof=1) if members > 1 else np.zeros(size)
    centre = drawn.mean(0) if members > 1 else np.zeros(size)
    reality = noise * random.normal(size=size) + (random.normal(size=size) if members > 1 else 0)
    wide = scores.half_width(between, np.full(size, noise**2), members, 0.9)
    covered = (np.abs(centre - reality) <= wide).mean()
    assert covered == pytest.approx(0.9, abs=0.02 if noise else 0.01)


def test_one_member_that_knows_no_chance_has_no_interval():
    assert scores.half_width(np.zeros(3), np.zeros(3), 1, 0.9) is None


def test_the_smallest_set_of_outcomes():
    p = np.array([[0.6, 0.35, 0.05], [0.6, 0.35, 0.05], [0.6, 0.35, 0.05], [1.0, 0, 0]])
    # {0, 1} holds 0.95: the third outcome is outside; one never thought of is outside anywhere.
    assert scores.set_coverage(p, np.eye(3)[[0, 1, 2, 1]], 0.9) == 0.5
    assert scores.set_coverage(np.full((3, 3), 1 / 3), np.eye(3), 0.9) == 1


def windows(o, known):
    """Windows [B, L] of observations [B, L, O]; the rest of them is not looked at."""
    rows, length = o.shape[:2]
    fields = dict.fromkeys(Windows.__dataclass_fields__, jnp.zeros((rows, length)))
    return Windows(**fields | {"o": o[:, :, None], "is_real_o": known})


def test_skill_by_hand():
    real = np.array([[[0.0], [2], [4]], [[0], [4], [0]]])
    known = np.array([[True, True, True], [True, True, False]])
    dreamed = np.moveaxis(np.array([[[1.0], [4]], [[4], [9]]]), 1, 0)
    table = skill_table(dreamed, windows(real, known), np.array([2.0]), (1, 2, 3))
    # k = 1: errors 1, 0 and 4, 16 in squares, in units of 2; k = 2: one window; k = 3: none.
    assert table == {"k": [1, 2], "model": [0.125, 0.0], "persistence": [2.5, 4.0]}
    assert skills(table) == {1: 0.95, 2: 1.0}
    fewer = skill_table(dreamed, windows(real, known), np.array([2.0]), (1, 2), least=2)
    assert fewer["k"] == [1]


def test_doubt_over_several_steps_by_hand():
    """The windows that were doubted most erred most after two steps, not after one."""
    count = WINDOWS
    real = np.zeros((count + 1, 3, 1))
    known = np.ones((count + 1, 3), bool)
    known[-1, 2] = False  # the last window is real for one step alone
    at = np.arange(count + 1.0)
    dreamed = Unrolled(
        np.stack([-at[::-1], at])[..., None], np.zeros(count + 1), np.stack([at, 0 * at])
    )
    found = doubts(dreamed, windows(real, known), np.array([2.0]), (1, 2, 3))
    assert found == {
        "uncertainty_spearman_1": pytest.approx(-1),
        "uncertainty_spearman_2": pytest.approx(1),
    }
    known[0, 2] = False  # too few for two steps
    fewer = doubts(dreamed, windows(real, known), np.array([2.0]), (1, 2))
    assert list(fewer) == ["uncertainty_spearman_1"]


@pytest.mark.parametrize(
    ("model", "steps", "tested"),
    [
        ([0.1, 0.2, 0.39], 3, 3),
        ([0.1, 0.5, 0.1], 1, 3),  # what comes after the first miss does not count
        ([0.5, 0.1, 0.1], 0, 3),
    ],
)
def test_trust_ends_where_skill_first_falls_below(model, steps, tested):
    table = {"k": [1.0, 2.0, 3.0], "model": model, "persistence": [1.0] * 3}
    assert trust(table) == {"trust_steps": steps, "trust_tested": tested}
    assert trust({"k": [], "model": [], "persistence": []}) == {}
    assert trust({"k": [1.0], "model": [0.0], "persistence": [0.0]}) == {}  # nothing ever moves


def told(**changes):
    """Figures of 4 steps of a box that two members foresee well; the third ends the task."""
    ends = np.array([False, False, True, False])
    after, r = np.array([[1.0, 7], [2, 7], [3, 7], [5, 7]]), np.array([0.0, 0, 1, 0])
    zeros = np.zeros(4)
    step = {"o": after + [[0.1, 0]], "o_between": np.full((4, 2), 0.01), "o_within": 0 * after}
    step |= {"r": r + 0.1, "r_between": zeros, "r_within": zeros, "p_end": ends * 0.9}
    step |= {"u": np.arange(4.0)} | changes
    before = np.array([[0.0, 7], [1, 7], [2, 7], [4, 7]])
    unit = np.array([1.0, 1.0])
    real = Happened(before, after, r, ends)
    return step_figures(OneStep(**step), real, unit, 2, discrete=False)


def test_figures_of_one_step_by_hand():
    found = told()
    assert found["reward_mae"] == pytest.approx(0.1)
    assert found["reward_error"] == pytest.approx(0.1 / np.sqrt(3 / 16))
    assert found["termination_brier"] == pytest.approx(0.01 / 4)
    assert found["termination_auroc"] == found["termination_recall"] == 1
    assert found["coverage_o"] == 1  # of the feature that moves; 6.3 * .12 > .1
    assert found["coverage_r"] == 0  # members that agree, and are wrong
    # error .01 / 2 less half of the variance .01 * (2 - 1) / 2, over a change of 1 / 2
    assert found["chance"] == pytest.approx(0)
    assert found["uncertainty"] == 1.5
    assert "chance_probability" not in found


def test_what_is_undefined_is_absent():
    found = told(u=np.ones(4), p_end=np.zeros(4), r=np.full(4, np.nan))
    assert "uncertainty_spearman" not in found and "reward_mae" not in found
    assert found["termination_auroc"] == 0.5 and found["termination_recall"] == 0


def test_errors_are_found():
    shifted = told(o=np.array([[3.0, 7], [4, 7], [5, 7], [7, 7]]))
    assert shifted["coverage_o"] == 0 and shifted["chance"] > 1
    blind = told(p_end=np.zeros(4))
    assert blind["termination_ece"] == 0.25 and blind["termination_recall"] == 0
    wide = np.arange(4.0)
    growing = told(u=wide, o=np.array([[1.0, 7], [2.1, 7], [3.2, 7], [5.3, 7]]))
    assert growing["uncertainty_spearman"] == pytest.approx(1)
    assert told(u=-wide, o=np.array([[1.0, 7], [2.1, 7], [3.2, 7], [5.3, 7]]))[
        "uncertainty_spearman"
    ] == pytest.approx(-1)


@pytest.mark.parametrize(("kind", "codes"), [("box", 1), ("box", 2), ("discrete", 2)])
def test_the_expected_step_is_the_mean_over_members_and_codes(tiny, windows, kind, codes):
    """Against a loop in the protocol's own words."""
    model, params = tiny(kind, codes)
    batch = windows(model)
    fields = {"o": batch.o[:, 0], "a": batch.a_past[:, 0], "valid": batch.valid[:, 0]}
    context, a = SimpleNamespace(**fields), batch.a[:, 0]
    step = fidelity.one_step(model, params, context, a)
    o, r, ends = [], [], []
    for member in range(model.num_members):
        z = model.root(params, context)
        z = z.replace(member=jnp.full_like(z.member, member))
        logits, y = model.afterstate(params, z, a)
        p = jax.nn.softmax(logits)
        outcomes = [model.outcome(params, y, jnp.full(3, c)) for c in range(codes)]
        o.append(sum(p[:, [c]] * model.decode(params, z) for c, (z, _) in enumerate(outcomes)))
        r.append(sum(p[:, c] * said.r for c, (_, said) in enumerate(outcomes)))
        ends.append(sum(p[:, c] * (1 - x.continuation) for c, (_, x) in enumerate(outcomes)))
    assert np.allclose(step.o, np.mean(o, axis=0), atol=1e-5)
    assert np.allclose(step.o_between, np.var(o, axis=0, ddof=1), atol=1e-5)
    assert np.allclose(step.r, np.mean(r, axis=0), atol=1e-5)
    assert np.allclose(step.p_end, np.mean(ends, axis=0), atol=1e-5)
    if kind == "box":  # random weights decode any latent to the same discrete observation
        assert (np.asarray(step.o_within) < 1e-9).all() == (codes == 1)
