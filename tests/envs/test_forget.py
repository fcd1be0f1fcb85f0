"""Rights of episodes are kept, and a forgotten session leaves nothing."""

import os
import shutil
from collections import Counter

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import envs.forget
from dreaming.observe.rights import permitted
from envs.forget import forget
from envs.sources import record
from envs.traces import TraceStore
from envs.types import Trace, TraceError
from tests.envs.test_recorder import Bad, journals, left_behind, single
from tests.envs.test_traces import Killed, all_same, an_episode

SESSIONS = ("a", "b", "a", None, "c", "b")


def episodes(*without):
    """Six episodes of sessions, the ones of b with more actions than others."""
    made = []
    for i, session in enumerate(SESSIONS):
        steps = 1 + i % 3
        a = np.full(steps, 4) if session == "b" else np.arange(steps) % 2
        o = np.random.default_rng(i).standard_normal((steps + 1, 2))
        made.append(Trace(o, a, np.ones(steps), True, False, session=session))
    return [trace for trace in made if trace.session not in without]


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if "manifest" not in file.name}


def test_a_forgotten_session_leaves_the_store_that_never_had_it(tmp_path):
    store, never = TraceStore(tmp_path / "store"), TraceStore(tmp_path / "never")
    for trace in episodes():
        store.extend([trace], resume={"files": 7})
    never.extend(episodes("b"))
    assert store.schema()["action_space"] == Discrete(5)
    assert forget(tmp_path / "store", "b") == 2
    after = TraceStore(tmp_path / "store")
    after.verify()
    assert files(tmp_path / "store") == files(tmp_path / "never")
    assert after.digest() == never.digest() and after.schema() == never.schema()
    assert after.schema()["action_space"] == Discrete(2)  # b alone had taken others
    assert after.resume == {"files": 7} and forget(tmp_path / "store", "b") == 0
    after.extend(episodes()[:1])
    assert len(TraceStore(tmp_path / "store")) == 5
    assert sorted(os.listdir(tmp_path)) == ["never", "store"]


def test_declared_spaces_stay_and_the_last_session_can_go(tmp_path):
    given = {"observation_space": Box(-9, 9, (2,), np.float64), "action_space": Discrete(5)}
    TraceStore(tmp_path / "log", **given, provenance={"who": "me"}).extend(episodes("a", None, "c"))
    assert forget(tmp_path / "log", "b") == 2
    store = TraceStore(tmp_path / "log")
    assert len(store) == 0 and store.schema() == given and store.provenance == {"who": "me"}


class Dying:
    """`os` without the strength for more than `limit` calls that change the disk."""

    def __init__(self, patch, limit):
        self.calls, self.limit = list[str](), limit
        for name in ("rename", "replace", "fsync", "unlink", "rmdir"):
            patch.setattr(os, name, self._weak(name, getattr(os, name)))

    def _weak(self, name, real):
        def call(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) > self.limit:
                raise Killed
            return real(*args, **kwargs)

        return call


def test_a_call_that_was_stopped_is_repeated(tmp_path):
    limit, never = 0, tmp_path / "never"
    TraceStore(never).extend(episodes("b"))
    while True:
        path = tmp_path / f"at{limit}" / "store"
        TraceStore(path).extend(episodes())
        with pytest.MonkeyPatch.context() as patch:
            dying = Dying(patch, limit)
            try:
                forget(path, "b")
            except Killed:
                pass
            else:
                break
        TraceStore(path).verify()  # whoever comes first finds one of the two
        assert len(TraceStore(path)) in (4, 6)
        TraceStore(path).extend([])
        forget(path, "b")
        assert all_same(TraceStore(path), episodes("b"))
        assert sorted(os.listdir(path)) == sorted(["manifest.json", *files(never)])
        assert files(path) == files(never) and os.listdir(path.parent) == ["store"]
        limit += 1
    assert dying.calls.count("replace") == 8 and limit > 20


def test_a_log_is_forgotten_through_a_link_and_from_within(tmp_path, monkeypatch):
    TraceStore(tmp_path / "disk").extend(episodes())
    (tmp_path / "disk" / "notes.txt").write_text("not ours")
    os.symlink(tmp_path / "disk", tmp_path / "log")
    assert forget(tmp_path / "log", "b") == 2 and (tmp_path / "log").is_symlink()
    assert all_same(TraceStore(tmp_path / "disk"), episodes("b"))
    monkeypatch.chdir(tmp_path / "disk")
    assert forget(".", "a") == 2
    assert all_same(TraceStore(tmp_path / "disk"), episodes("a", "b"))
    assert (tmp_path / "disk" / "notes.txt").read_text() == "not ours"


def test_what_cannot_be_removed_is_told(tmp_path, monkeypatch):
    TraceStore(tmp_path / "log").extend(episodes())
    TraceStore(tmp_path / "log").extend(episodes("a", None, "c"))

    def refused(path, **more):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        with pytest.raises(TraceError, match="could be removed .Permission denied.; mend that"):
            forget(tmp_path / "log", "b")
    assert forget(tmp_path / "log", "b") == 0 and len(os.listdir(tmp_path / "log")) == 3


def test_an_episode_that_ends_while_the_store_is_rewritten_is_kept(tmp_path, monkeypatch):
    for session in ("x", "keep"):
        env = record(Bad(o=single(0, 1)), tmp_path / "log", session=session)
        env.reset()
        if session == "x":
            env.step(0)
            env.close()
    real = envs.forget._without

    def slowly(*args):
        env.step(1)
        real(*args)

    monkeypatch.setattr(envs.forget, "_without", slowly)
    assert forget(tmp_path / "log", "x") == 1
    env.close()
    assert [trace.session for trace in TraceStore(tmp_path / "log")] == ["keep"]


def test_what_a_recorder_left_is_forgotten_too_and_a_living_one_is_told(tmp_path):
    left_behind(tmp_path / "log")
    env = record(Bad(o=single(0, 1)), tmp_path / "other", session="x")
    env.reset()
    env.step(0)
    with pytest.raises(TraceError, match="a recorder is writing here"):
        forget(tmp_path / "other", "x")
    env._journal.close()
    assert forget(tmp_path / "other", "x") == 1 and not journals(tmp_path / "other")
    with pytest.raises(TraceError, match="is no trace store"):
        forget(tmp_path / "nowhere", "x")


def test_a_writer_that_waited_for_the_old_store_does_not_write_into_it(tmp_path, monkeypatch):
    store = TraceStore(tmp_path / "store")
    store.extend(episodes())
    real = os.open

    def replaced(path, *args, **kwargs):
        descriptor = real(path, *args, **kwargs)
        if path == tmp_path / "store":
            shutil.move(tmp_path / "store", tmp_path / "gone")
            shutil.copytree(tmp_path / "gone", tmp_path / "store")
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", replaced)
        with pytest.raises(TraceError, match="was replaced while it was opened"):
            store.append(episodes()[0])
    assert envs.forget.holds(tmp_path / "store", "b") and len(TraceStore(tmp_path / "gone")) == 6


# --- rights


def test_consent_and_retention_come_back_and_cost_nothing_where_nobody_has_them(tmp_path):
    plain = [an_episode(i) for i in range(3)]
    mixed = [an_episode(3, consent=False), an_episode(4, consent=True, keep_until=5.0)]
    store = TraceStore(tmp_path / "log")
    store.extend(plain)
    assert "consent" not in store.index().column_names
    store.extend(mixed)
    store.verify()
    back = [(trace.consent, trace.keep_until) for trace in TraceStore(tmp_path / "log")]
    assert back == [(None, None)] * 3 + [(False, None), (True, 5.0)]
    assert store.index()["consent"].to_pylist() == [None] * 3 + [False, True]
    with pytest.raises(TraceError, match="consent is 'yes', expected True, False or None"):
        store.append(an_episode(5, consent="yes"))


def test_the_recorder_keeps_rights(tmp_path):
    env = record(Bad(o=single(0, 1)), tmp_path / "log", consent=False, keep_until=9.0)
    env.reset()
    env.step(0)
    env.close()
    (trace,) = TraceStore(tmp_path / "log")
    assert (trace.consent, trace.keep_until) == (False, 9.0)


def test_only_what_may_be_used_is_given(tmp_path):
    traces = [an_episode(i, keep_until=until) for i, until in enumerate((None, 10.0, 20.0))]
    refused = [an_episode(3, consent=False), an_episode(4, consent=True)]
    withheld = Counter[str]()
    used = list(permitted([*traces, *refused], 10.0, withheld))
    assert all_same(used, [traces[0], traces[2], refused[1]])
    assert withheld == {"without consent": 1, "kept too long (keep_until)": 1}
    with pytest.raises(TraceError, match="no episode may be learned from: 2 without consent"):
        list(permitted([refused[0]] * 2, 10.0, Counter()))
    assert list(permitted([], 10.0, Counter())) == []
