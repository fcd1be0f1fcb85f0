"""What a session may teach: with consent, after a review, what was seen, and if it surely helps."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from dreaming.errors import ConfigError, RegistryError
from dreaming.sessions import learn
from dreaming.sessions.config import SelfDistilConfig
from dreaming.sessions.deltas import LowRank, Masked, sha_of
from dreaming.sessions.teacher_gap import (
    Gap,
    advice_on,
    among,
    compare,
    deployed_on,
    expected_on,
    leave_day_out,
    lower_bound,
    student_gain,
)
from dreaming.sessions.teachers import check_teacher
from dreaming.sessions.types import Memory, Rows, beside, rows_of

QUICK = SelfDistilConfig(updates=10, dreams=2, horizon=3, learning_rate=0.1)
YES = Gap(0.3, 0.1, 50, "surely better")
NO = Gap(0.1, -0.1, 50, "not surely better")


@pytest.fixture
def taught(registry, worked):
    """A registry with one reviewed session."""
    with registry.session("acme", consent=True) as s:
        for number in range(4):
            worked(s, number)
    registry.review("acme-1", "up")
    return registry


@pytest.fixture
def helps(monkeypatch):
    """The gap and the gain are what a test says."""

    def say(gap=YES, gain=YES):
        monkeypatch.setattr(learn, "teacher_gap", lambda *args, **kwargs: gap)
        monkeypatch.setattr(learn, "student_gain", lambda *args, **kwargs: gain)

    return say


def test_a_session_becomes_weights_and_a_head_says_from_what(taught, helps):
    helps()
    before = taught.head()
    learned = learn.dream_session(taught, "acme-1", config=QUICK)
    head = taught.head()
    assert learned.head == head and (head.number, head.cause) == (1, "dream")
    assert head.sessions[0]["id"] == "acme-1" and head.sessions[0]["review"]["verdict"] == "up"
    assert head.weights("acme") != before.base == head.weights("globex")
    assert sha_of(taught.weights(head, "acme")) == head.weights("acme")
    # A second session of the deployment goes on from there, still as a delta on the base.
    with taught.session("acme", consent=True) as s:
        assert taught.record("acme-2").facts["weights"] == head.weights("acme")
        for _ in range(12):
            s.act(np.array([1, 0, 2, 0, 1, 0, 0, 1]))
            s.observe(outcome=0)
    learn.dream_session(taught, "acme-2", config=QUICK)
    after = taught.head()
    assert taught.delta(after.deltas["acme"]).base == before.base
    assert after.weights("acme") != head.weights("acme")
    assert taught.rollback().state == head.state


@pytest.mark.parametrize("gap, gain", [(NO, YES), (YES, NO)])
def test_what_does_not_surely_help_changes_nothing(taught, helps, gap, gain):
    helps(gap, gain)
    learned = learn.dream_session(taught, "acme-1", config=QUICK)
    assert learned.head is None and "not surely better; weights stay" in learned.reason
    assert taught.head().number == 0


def test_who_may_not_teach(registry, worked):
    with registry.session("acme") as s:
        worked(s)
    refused = lambda id, **options: learn.teaching_record(registry, id, **options)
    with pytest.raises(RegistryError, match="acme-1 has no consent"):
        refused("acme-1", least_reviews=0)
    with registry.session("acme", consent=True):
        with pytest.raises(RegistryError, match="acme-2 is still open"):
            refused("acme-2", least_reviews=0)
    with pytest.raises(RegistryError, match="acme-2 holds no decision"):
        refused("acme-2", least_reviews=0)
    with pytest.raises(RegistryError, match="no session acme-7"):
        refused("acme-7", least_reviews=0)
    with registry.session("acme", consent=True) as s:
        worked(s)
    with pytest.raises(RegistryError, match="0 sessions of acme were reviewed, 1 are needed"):
        refused("acme-3", least_reviews=1)
    registry.review("acme-1", "up")
    assert refused("acme-3", least_reviews=1).id == "acme-3"


def test_somebody_who_learned_in_the_meantime_wins(taught, helps, monkeypatch):
    helps()
    real = learn.self_distil

    def meanwhile(*args, **kwargs):
        learn.compact_session(taught, "acme-1", 2)
        return real(*args, **kwargs)

    monkeypatch.setattr(learn, "self_distil", meanwhile)
    with pytest.raises(RegistryError, match=r"head 1 by now \(compact\)"):
        learn.dream_session(taught, "acme-1", config=QUICK)
    assert taught.head().cause == "compact"


def test_a_review_decides_which_rows_teach(registry, worked):
    for _ in range(2):
        with registry.session("acme", consent=True) as s:
            for _ in range(6):
                s.act(np.array([1, 0, 2, 0, 1, 0, 0, 1]))
                s.observe(reward=1.0)
            worked(s)
    registry.review("acme-1", "up")
    registry.review("acme-2", "down")
    up, down = (learn.context_rows(registry.record(f"acme-{i}")).valid for i in (1, 2))
    assert up.tolist() == [True] * 12
    seen = np.asarray(learn.decided(registry.record("acme-2")).outcome) >= 0
    assert not seen[:6].any() and seen.any()
    assert down.tolist() == seen.tolist()  # whose outcome was seen still teaches


def test_compaction_keeps_rows_and_the_next_session_begins_with_them(taught, helps):
    helps()
    head = learn.compact_session(taught, "acme-1", 3).head
    assert head is not None
    assert (head.cause, head.deltas) == ("compact", {})
    kept = taught.context(head.contexts["acme"])
    rows = taught.record("acme-1").rows
    assert kept.valid.tolist() == [True] * 3
    assert all((rows.o == o).all(1).any() for o in kept.o)
    o = np.array([1, 0, 2, 0, 1, 0, 0, 1])
    with taught.session("acme") as s, taught.session("globex") as fresh:
        assert not np.allclose(s.probabilities(o), fresh.probabilities(o), atol=1e-7)


def test_weights_may_change_under_a_mask_or_by_low_rank(taught, helps):
    helps()
    learn.dream_session(taught, "acme-1", config=QUICK, form=Masked(0.1))
    delta = taught.delta(taught.head().deltas["acme"])
    assert 0.02 < delta.share <= 0.1
    taught.rollback()
    learn.dream_session(taught, "acme-1", config=QUICK, form=LowRank(1))
    head = taught.head()
    assert taught.delta(head.deltas["acme"]).kind == "low_rank"
    assert sha_of(taught.weights(head, "acme")) == head.weights("acme")


def rows_of_bandit(count: int, seed: int) -> tuple[Rows, np.ndarray]:
    """A log of two actions: of the second, 70 % have the first outcome, of the other one 40 %."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.2, 0.8, count)
    index = (random.random(count) < p).astype(int)
    good = random.random(count) < np.where(index, 0.7, 0.4)
    rows = rows_of(
        {
            "o": np.zeros((count, 1), np.float32),
            "a": np.eye(2, dtype=np.float32)[index],
            "r": good.astype(np.float32),
            "known": np.ones(count, bool),
            "outcome": np.where(good, 0, 1),
            "day": np.arange(count) // 20,
            "valid": np.ones(count, bool),
        }
    )
    return rows, np.where(index, p, 1 - p)


def test_the_gap_is_unbiased_although_the_expected_outcomes_are_wrong():
    second, first = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    gains, lows = [], []
    for seed in range(200):
        rows, p = rows_of_bandit(100, seed)
        one, other = (np.repeat(x, 100, 0) for x in (second, first))
        gap = compare(one, other, np.full((100, 2), 0.9), rows, p)
        gains.append(gap.gain)
        lows.append(gap.low)
    error = np.std(gains) / np.sqrt(200)
    assert abs(np.mean(gains) - 0.3) < 4 * error
    assert 0.93 < np.mean(np.array(lows) < 0.3)  # one-sided 95 %, or more


def test_a_bound_does_not_take_the_decisions_of_a_day_for_independent():
    random = np.random.default_rng(0)
    draw = lambda size: random.normal(size=size)
    day, count = np.repeat(np.arange(5), 20), 2000
    shared = [0.2 * draw(5)[day] + 0.1 * draw(100) for _ in range(count)]
    wrong = np.mean([lower_bound(gains, day) > 0 for gains in shared])  # the true mean is 0
    assert 0.03 < wrong < 0.07
    naive = [x.mean() - 1.64 * x.std(ddof=1) / 10 > 0 for x in shared]
    assert np.mean(naive) > 0.2
    apart = [lower_bound(0.2 * draw(100), day) > 0 for _ in range(count)]
    assert np.mean(apart) < 0.05


def test_a_gap_that_cannot_be_estimated_says_why():
    rows, p = rows_of_bandit(30, 0)
    pi = np.full((30, 2), 0.5)
    some = np.where(np.arange(30) < 3, np.nan, p)
    gap = compare(pi, pi, pi, rows, some)
    assert not gap.go and gap.low is None and "3 of 30 decisions have no propensity" in gap.reason
    nothing = dataclasses.replace(rows, outcome=np.full(30, -1), known=np.zeros(30, bool))
    assert "something was seen of 0 decisions" in compare(pi, pi, pi, nothing, p).reason
    once = dataclasses.replace(rows, day=np.zeros(30, int))
    assert "one day" in compare(pi, pi, pi, once, p).reason
    paid = dataclasses.replace(rows, outcome=np.full(30, -1))
    assert compare(pi, pi, pi, paid, p).gain == 0  # rewards stand for outcomes


def test_advice_on_a_day_does_not_know_that_day(params, shape):
    random = np.random.default_rng(0)
    rows, _ = rows_of_bandit(60, 0)
    hot = lambda n: np.eye(n, dtype=np.float32)[random.integers(n, size=60)]
    rows = dataclasses.replace(rows, o=hot(shape.o_size), a=hot(4))
    look = jax.jit(advice_on, static_argnums=(1, 3, 4))
    before = look(params, shape, rows, "context", 0.1)[0]
    changed = np.where(rows.day == 1, 2, rows.outcome)
    after = look(params, shape, dataclasses.replace(rows, outcome=changed), "context", 0.1)[0]
    same = np.isclose(before, after, atol=1e-7).all(1)
    assert same[rows.day == 1].all() and not same[rows.day != 1].any()
    worth = jax.jit(expected_on, static_argnums=1)
    flipped = np.where(np.arange(60) == 5, 1 - rows.outcome, rows.outcome)
    told = dataclasses.replace(rows, outcome=flipped)
    same = np.isclose(worth(params, shape, rows), worth(params, shape, told), atol=1e-7).all(1)
    assert same[5] and not same[6:20].any()  # by all rows but its own, of its day too
    blank: Any = np.zeros((60, 1))
    memory = Memory(blank, blank, rows.valid)
    assert leave_day_out(memory, rows.day, rows.day[:1]).valid.sum() == 40


def test_teachers_that_look_ahead_need_outcomes(shape):
    blind = dataclasses.replace(shape, num_outcomes=0)
    with pytest.raises(ConfigError, match="choose context or one_step or combined"):
        check_teacher("oracle", shape)
    with pytest.raises(ConfigError, match="this family shows none"):
        check_teacher("combined", blind)
    check_teacher("context", blind)


def test_a_review_that_is_given_in_the_meantime_stops_what_did_not_know_it(
    registry, worked, helps, monkeypatch
):
    helps()
    for _ in range(2):
        with registry.session("acme", consent=True) as s:
            worked(s)
    registry.review("acme-1", "up")
    real = learn.self_distil

    def meanwhile(*args, **kwargs):
        registry.review("acme-2", "down")
        return real(*args, **kwargs)

    monkeypatch.setattr(learn, "self_distil", meanwhile)
    with pytest.raises(RegistryError, match="acme-2 was reviewed while it was learned from"):
        learn.dream_session(registry, "acme-2", config=QUICK)
    assert registry.head().number == 0


def test_a_teacher_is_checked_before_anything_else(taught, monkeypatch):
    monkeypatch.setattr(learn, "teacher_gap", lambda *args, **kwargs: pytest.fail("too early"))
    with pytest.raises(ConfigError, match="teacher=oracle does not exist"):
        config = dataclasses.replace(QUICK, teacher="oracle")
        learn.dream_session(taught, "acme-1", config=config)


def test_as_many_updates_as_were_asked_for(taught, helps):
    helps()
    sizes = []
    few = dataclasses.replace(QUICK, updates=5)
    learn.dream_session(taught, "acme-1", config=few, update=lambda n, **_: sizes.append(n))
    assert sizes == [5]


def test_rows_are_kept_only_if_they_surely_help(taught, registry, worked, helps):
    learned = learn.compact_session(taught, "acme-1", 3)  # a reader that has learned nothing
    assert learned.head is None and "the context stays" in learned.reason
    seen = int((np.asarray(learn.decided(taught.record("acme-1")).outcome) >= 0).sum())
    assert learned.report["gap"]["decisions"] == seen > 0 and taught.head().number == 0
    with registry.session("acme", consent=True) as s:
        worked(s, outcomes=False)
    registry.review("acme-2", "down")
    helps()
    with pytest.raises(RegistryError, match="thumbs down and shows no outcome: nothing to keep"):
        learn.compact_session(registry, "acme-2", 3)


def test_sessions_with_action_masks_are_not_dreamed(registry):
    with registry.session("acme", consent=True) as s:
        for _ in range(3):
            s.act(np.array([1, 0, 2, 0, 1, 0, 0, 1]), action_mask=[1, 0, 1, 1])
            s.observe(outcome=0)
    assert registry.record("acme-1").legal.tolist() == [[True, False, True, True]] * 3
    with pytest.raises(RegistryError, match="action masks in 3 of 3 decisions, and a dream"):
        learn.dream_session(registry, "acme-1", config=QUICK, least_reviews=0)


def test_policies_are_compared_on_legal_actions_alone():
    rows, _ = rows_of_bandit(100, 0)
    legal = np.eye(2, dtype=bool)[np.asarray(rows.a).argmax(1)]  # one choice each time
    one, other = (np.repeat([x], 100, 0) for x in ([0.9, 0.1], [0.2, 0.8]))
    q, p = np.random.default_rng(0).random((100, 2)), np.ones(100)
    assert abs(compare(one, other, q, rows, p).gain or 0) > 0.1
    assert compare(one, other, q, rows, p, legal=legal).gain == 0  # both had to do the same
    sure = np.repeat([[1.0, 0.0]], 100, 0)
    found = among(legal, sure)
    assert (found == legal).all()  # also where a policy gives nothing to what is legal


def test_what_is_deployed_reads_the_rows_that_are_kept(taught, helps, params, shape, monkeypatch):
    helps()
    learn.compact_session(taught, "acme-1", 3)
    told: list[Any] = []
    for name in ("teacher_gap", "student_gain", "self_distil"):
        real = getattr(learn, name)
        told_by = lambda *args, real=real, **options: (told.append(options), real(*args, **options))
        monkeypatch.setattr(learn, name, lambda *args, f=told_by, **options: f(*args, **options)[1])
    learn.dream_session(taught, "acme-1", config=QUICK)
    assert [each["kept"].valid.sum() for each in told] == [3, 3, 3]
    # On each day the teacher reads them too, and what is deployed answers by them.
    kept, rows = told[0]["kept"], told[0]["rows"]
    reads = beside(rows, kept)
    memory = leave_day_out(Memory(reads.r, reads.r, reads.valid), reads.day, rows.day[:1])
    assert memory.valid[0, -3:].all() and not memory.valid[0, :6].any()
    ask = jax.jit(deployed_on, static_argnums=1)
    assert not np.allclose(ask(params, shape, rows, kept), ask(params, shape, rows), atol=1e-7)
    same = student_gain(params, params, shape, rows, told[0]["propensities"])
    apart = student_gain(params, params, shape, rows, told[0]["propensities"], kept=kept)
    assert same.gain == 0 != apart.gain
