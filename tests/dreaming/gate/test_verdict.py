"""The gate decides on the interval, says why in words, and is rarely fooled."""

import numpy as np
import pytest

from dreaming.gate.verdict import gate, improvable, no_evidence
from envs.types import Trace


def test_a_clear_gain_is_accepted_with_its_numbers_in_words():
    # Differences 409..416: mean 412.5; Student's: 412.5 -+ 2.3646 * 2.4495 / sqrt(8).
    candidate, incumbent = np.full(8, 500.0), 500 - np.arange(409, 417)
    verdict = gate(candidate, incumbent)
    assert verdict.accept and verdict.word == "accept"
    assert 410.2 < verdict.lower < 410.4522 and 414.5478 < verdict.upper < 414.8  # or wider
    assert verdict.gain == 412.5
    assert verdict.reasons == (
        f"the candidate earned 412.5 [{verdict.lower:.1f}, {verdict.upper:.1f}] per episode more "
        "than behaviour cloning over 8 paired episodes (95% interval)",
    )


def test_the_mean_alone_is_not_enough():
    verdict = gate([10.0, 0, 0, 0], [0.0, 0, 0, 0])
    assert verdict.gain == 2.5 and verdict.lower < 0 and not verdict.accept
    assert "do not tell it from chance" in verdict.reasons[1]


def test_a_worse_candidate_is_told_as_less():
    verdict = gate([1.0, 2, 3], [101.0, 102, 104], incumbent="the deployed policy")
    assert not verdict.accept and verdict.upper < 0
    text = " ".join(verdict.reasons)
    assert "earned 100.3 [98.9, 101.8] per episode less than the deployed policy" in text
    assert "even the upper bound, -98.9, is not above zero" in text


def test_pairing_removes_what_the_seeds_have_in_common():
    luck = np.random.default_rng(0).normal(0, 100, 20)
    gain = np.random.default_rng(1).normal(3, 1, 20)
    assert gate(luck + gain, luck).accept
    assert not gate(np.sort(luck + gain), np.sort(luck)[::-1]).accept


def test_without_variation_the_difference_itself_decides():
    same = gate([9.0] * 5, [9.0] * 5)
    assert not same.accept and same.reasons[0].startswith("no difference over 5 paired episodes")
    better = gate([10.0] * 5, [9.0] * 5)
    assert better.accept and (better.lower, better.gain, better.upper) == (1, 1, 1)
    assert not gate([8.0] * 5, [9.0] * 5).accept


def test_the_least_gain_asked_for_must_be_passed():
    candidate, incumbent = np.arange(10.0, 20), np.arange(9.0, 19)
    assert gate(candidate, incumbent, min_gain=0.5).accept
    verdict = gate(candidate, incumbent, min_gain=1)
    assert not verdict.accept and "the least gain asked for, 1" in verdict.reasons[1]


def test_one_episode_is_no_evidence_and_neither_is_none():
    assert not gate([500.0], [9.0]).accept
    verdict = no_evidence("and the log is short")
    assert not verdict.accept
    reason = "no evidence: there is no real environment to test in, and the log is short"
    assert verdict.reasons == (reason,)


@pytest.mark.parametrize("returns", [([1.0], [1.0, 2]), ([], []), ([np.nan, 1], [1.0, 1])])
def test_what_cannot_be_paired_is_refused(returns):
    with pytest.raises(ValueError, match="paired|finite"):
        gate(*returns)


def false_acceptances(draw, episodes: int) -> float:
    rng = np.random.default_rng(0)
    zeros = np.zeros(episodes)
    return float(np.mean([gate(draw(rng, episodes), zeros).accept for _ in range(300)]))


@pytest.mark.parametrize("episodes", [10, 20])
def test_a_candidate_without_merit_rarely_passes(episodes):
    assert false_acceptances(lambda rng, n: rng.normal(size=n), episodes) <= 0.05
    # Mean 0, skewed to the right: most episodes a little worse, some much better.
    assert false_acceptances(lambda rng, n: rng.exponential(size=n) - 1, episodes) <= 0.05
    # Skewed to the left: a little better in most episodes, much worse in some.
    assert false_acceptances(lambda rng, n: 1 - rng.exponential(size=n), episodes) <= 0.08


def test_a_candidate_of_merit_passes():
    rng = np.random.default_rng(0)
    passed = [gate(rng.normal(1, 1, 20), np.zeros(20)).accept for _ in range(100)]
    assert np.mean(passed) >= 0.9


def episode(rewards, terminated=False, truncated=True) -> Trace:
    steps = len(rewards)
    return Trace(np.zeros((steps + 1, 2)), np.zeros(steps, int), rewards, terminated, truncated)


def test_a_log_without_a_success_is_not_improvable():
    failures = [episode([-1.0] * 200) for _ in range(12)]
    ok, reason = improvable(failures)
    assert not ok
    assert "all 12 closed episodes of the log returned -200.0" in reason
    assert "nothing distinguishes good from bad" in reason
    cut = episode([-1.0] * 50, truncated=False)
    assert not improvable([*failures, cut])[0]  # an open episode has no return yet
    success = episode([-1.0] * 150, terminated=True, truncated=False)
    assert improvable([*failures, success]) == (True, "")


def test_any_variation_in_return_is_enough():
    assert improvable([episode([0.0, 1.0]), episode([0.0, 0.0])])[0]
    assert not improvable([episode([0.0, 1.0]), episode([1.0, 0.0])])[0]
    assert improvable([episode([0.0, 1.0], truncated=False)])[0]
    assert not improvable([episode([1.0, 1.0], truncated=False)])[0]
    assert improvable([]) == (False, "not improvable: the log holds no episode")


def test_a_candidate_that_wins_every_episode_is_accepted_however_uneven_its_gains():
    # Steps that a student needed in 32 real episodes of MountainCar; the incumbent needed all 200.
    steps = [110, 110, 110, 111, 109, 113, 109, 112, 112, 111, 183, 109, 113, 110, 111, 111]
    steps += [111, 110, 111, 110, 110, 112, 110, 110, 110, 113, 110, 111, 111, 182, 110, 181]
    verdict = gate(-np.array(steps, float), np.full(32, -200.0))
    assert verdict.accept and 200 - 183 <= verdict.lower < verdict.gain < verdict.upper


def test_one_tie_among_wins_does_not_hide_a_gain():
    # 31 episodes gain about 77, one nothing: 74.6 -+ 2.04 * 2.4 by Student.
    difference = np.append(77 + 3 * np.sin(np.arange(31)), 0.0)
    verdict = gate(difference, np.zeros(32))
    assert verdict.accept and 50 < verdict.lower < 74.6 - 2.04 * 2.4 + 0.2
