"""Sessions as users live them: ten lines, everything on disk, and clear refusals."""

import shutil

import numpy as np
import pytest

from dreaming.errors import RegistryError, UserError
from dreaming.sessions.session import UNIT

O = np.array([1, 0, 2, 0, 1, 0, 0, 1])  # an item of the small desks


def test_a_session_is_recorded_as_it_went(registry, worked):
    with registry.session("acme", consent=True) as s:
        worked(s)
        first = s.id
    record = registry.record(first)
    summary = record.summary()
    assert (record.closed, record.decisions, summary["days"]) == (True, 6, 1)
    assert (summary["deployment"], summary["weights"]) == ("acme", registry.head().base)
    assert summary["rewards"] == 6 and summary["consent"] and record.review is None
    assert ((record.propensities > 0) & (record.propensities <= 1)).all()
    assert np.asarray(record.rows.a).sum(-1).tolist() == [1] * 6
    with registry.session("acme") as s:
        assert s.id == "acme-2"
    assert registry.session_ids() == ["acme-1", "acme-2"]


def test_the_same_seed_draws_the_same_action_and_a_mask_is_kept(registry):
    with registry.session("acme") as s:
        actions = [s.act(O, seed=seed) for seed in range(20)]
        masked = [s.act(O, seed=seed, action_mask=[0, 0, 1, 0]) for seed in range(5)]
    assert len(set(actions)) > 1 and masked == [2] * 5
    record = registry.record("acme-1")
    np.testing.assert_allclose(record.propensities[-5:], 1.0)
    with registry.session("acme") as s:
        assert s.act(O, seed=3) == actions[3]  # nothing is known yet, so the same draw


def test_a_policy_reads_the_rows_of_its_session(registry):
    with registry.session("acme") as s:
        s.act(O, seed=0)
        before = s.probabilities(O)
        s.observe(reward=1.0, outcome="right")
        after = s.probabilities(O)
        s.act(O, seed=0)
        s.observe(reward=0.0, outcome="too lax")
        later = s.probabilities(O)
    assert not np.allclose(before, after, atol=1e-7) and not np.allclose(after, later, atol=1e-7)


def test_what_was_not_seen_is_not_there(registry):
    with registry.session("acme") as s:
        s.act(O)
        s.observe(reward=1.0)
        s.act(O)
        s.observe(outcome=1)
        s.act(O)  # and nothing at all
        s.record(O, 2)  # somebody else's decision, with no propensity
    rows = registry.record("acme-1").rows
    assert rows.known.tolist() == [True, False, False, False]
    assert rows.outcome.tolist() == [-1, 1, -1, -1]
    assert np.isnan(registry.record("acme-1").propensities).tolist() == [False] * 3 + [True]


def test_a_session_left_open_goes_on(registry, worked):
    s = registry.session("acme", consent=True)
    worked(s)
    s.leave()
    assert not registry.record("acme-1").closed
    with registry.go_on("acme-1") as s:
        worked(s, steps=4)
    record = registry.record("acme-1")
    assert (record.closed, record.decisions) == (True, 10)
    assert record.rows.day.tolist() == [0] * 6 + [1] * 4
    with pytest.raises(RegistryError, match="acme-1 is closed"):
        registry.go_on("acme-1")


def test_an_error_leaves_the_session_open_with_its_decisions(registry, worked):
    with pytest.raises(ZeroDivisionError), registry.session("acme") as s:
        worked(s, steps=3)
        raise ZeroDivisionError
    record = registry.record("acme-1")
    assert (record.closed, record.decisions) == (False, 3)
    assert registry.close("acme-1").closed
    with pytest.raises(RegistryError, match="closed already"):
        registry.close("acme-1")


def test_long_days_are_saved_on_the_way(registry):
    with registry.session("acme") as s:
        for _ in range(UNIT):
            s.act(O, seed=0)
            s.observe(outcome=0)
        assert registry.record("acme-1").decisions == UNIT


def test_a_session_has_one_writer(registry):
    with registry.session("acme"):
        with pytest.raises(RegistryError, match="session acme-1 is being written by process"):
            registry.go_on("acme-1")


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda s: s.act([1, 2]), "does not fit"),
        (lambda s: s.act("?"), "does not fit"),
        (lambda s: (s.act(O), s.observe(outcome="splendid")), "no outcome 'splendid'"),
        (lambda s: (s.act(O), s.observe(outcome=3)), "known are right, too lax"),
        (lambda s: (s.act(O), s.observe(reward=float("nan"))), "not a finite number"),
        (lambda s: s.observe(reward=1.0), "after act"),
        (lambda s: s.record(O, 1, propensity=1.5), r"does not lie in \(0, 1\]"),
        (lambda s: s.record(O, 7), "lies outside"),
    ],
)
def test_what_is_told_wrongly_is_refused(registry, call, match):
    with registry.session("acme") as s, pytest.raises(UserError, match=match):
        call(s)


def test_reviews_are_given_once_and_of_what_there_is(registry, worked):
    with registry.session("acme") as s:
        worked(s, steps=2)
        with pytest.raises(RegistryError, match="still open"):
            registry.review("acme-1", "up")
    with pytest.raises(RegistryError, match="no session acme-9; sessions are: acme-1"):
        registry.review("acme-9", "up")
    with pytest.raises(RegistryError, match="say up or down"):
        registry.review("acme-1", "splendid")
    review = registry.review("acme-1", "down", score=2.0, note="too strict").review
    assert (review["verdict"], review["score"], review["note"]) == ("down", 2.0, "too strict")
    with pytest.raises(RegistryError, match="reviewed already"):
        registry.review("acme-1", "up")
    assert registry.record("acme-1").review["verdict"] == "down"


def test_a_session_copied_in_half_is_seen(registry, worked):
    s = registry.session("acme")
    worked(s)
    worked(s)
    s.leave()
    shutil.rmtree(registry.path / "sessions" / "acme-1" / "rows" / "000000")
    with pytest.raises(RegistryError, match="000000 is missing; the registry was copied in half"):
        registry.record("acme-1")


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x"])
def test_names_are_names(registry, name):
    with pytest.raises(RegistryError, match="is no name"):
        registry.session(name)


def test_a_session_that_was_left_writes_nothing_more(registry, worked):
    with registry.session("acme") as s:
        worked(s)
    for call in (lambda: s.act(O), lambda: s.record(O, 1), s.observe, s.save):
        with pytest.raises(RegistryError, match=r"acme-1 was left, .*go_on\('acme-1'\)"):
            call()
    s.leave(close=True)  # nothing to do
    assert registry.record("acme-1").decisions == 6
    with registry.session("acme") as s:
        s.leave()
    assert not registry.record("acme-2").closed  # left open on purpose


def test_who_goes_on_reads_under_the_lock(registry, worked, monkeypatch):
    s = registry.session("acme")
    worked(s, steps=2)
    real = registry.session_ids

    def meanwhile(*args):
        found = real(*args)
        if s._lock is not None:
            s.leave(close=True)  # in the instant before the lock is taken
        return found

    monkeypatch.setattr(registry, "session_ids", meanwhile)
    with pytest.raises(RegistryError, match="acme-1 is closed"):
        registry.go_on("acme-1")
    assert s._lock is None


def test_a_day_goes_on_until_it_ended(registry):
    with registry.session("acme") as s:
        s.act(O, seed=0)
        s.leave()
    with registry.go_on("acme-1") as s:
        s.act(O, seed=0)
        s.observe(outcome=0)
        with pytest.raises(UserError, match="once, with all that was seen and ended=True"):
            s.observe(ended=True)
        s.act(O, seed=0)
        s.observe(ended=True)
        s.leave()
    with registry.go_on("acme-1") as s:
        s.act(O, seed=0)
    record = registry.record("acme-1")
    assert record.rows.day.tolist() == [0, 0, 0, 1]
    assert record.ended.tolist() == [False, False, True, False]
