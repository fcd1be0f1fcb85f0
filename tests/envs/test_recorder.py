"""The recorder keeps every finished episode exactly once, whatever happens to its process."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import dreaming  # noqa: F401  registers the small tasks
from envs import journal
from envs.journal import PATTERN, Journal, pack, recover
from envs.sources import open_source, record, recorder
from envs.traces import TraceStore
from envs.types import SpaceError, Trace, TraceError
from tests.envs.test_traces import all_same

ROOT = Path(__file__).parents[2]
CART = gymnasium.make("CartPole-v1")
SPACES = {"observation": CART.observation_space, "action": CART.action_space}


def live(env, episodes, limit=None):
    """Step through episodes with drawn actions; what was seen, as traces."""
    draw, seen = np.random.default_rng(0), []
    for number in range(episodes):
        o, _ = env.reset(seed=number)
        rows, actions, rewards = [np.array(o)], [], []
        terminated = truncated = False
        while not (terminated or truncated) and len(actions) != limit:
            a = int(draw.integers(2))
            o, r, terminated, truncated, _ = env.step(a)
            rows.append(np.array(o))
            actions.append(a)
            rewards.append(r)
        steps = np.array(actions), np.array(rewards)
        seen.append(Trace(np.array(rows), *steps, terminated, truncated))
    return seen


def journals(path):
    return sorted(path.glob(PATTERN))


def test_what_was_lived_through_is_in_the_store_bit_for_bit(tmp_path):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    seen = live(env, 12)
    assert len(journals(tmp_path / "log")) == 1 and len(TraceStore(tmp_path / "log")) == 0
    env.close()
    store = TraceStore(tmp_path / "log")
    store.verify()
    assert all_same(store, seen) and not journals(tmp_path / "log")
    assert store.schema()["observation_space"] == CART.observation_space
    assert store.provenance == {"recorder": "CartPole-v1"}


def test_the_recorded_task_is_the_task(tmp_path):
    plain = live(gymnasium.make("CartPole-v1"), 3)
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    assert all_same(live(env, 3), plain)
    env.close()


def test_an_episode_that_is_left_is_open_and_one_without_steps_is_none(tmp_path):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    left = live(env, 2, limit=3)
    env.reset()
    env.reset()
    env.close()
    env.close()
    traces = list(TraceStore(tmp_path / "log"))
    assert all_same(traces, left) and all(trace.is_open for trace in traces)


def test_a_step_after_the_end_is_refused(tmp_path):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    live(env, 1)
    with pytest.raises(TraceError, match="call reset"):
        env.step(0)
    env.close()


class Changing(gymnasium.Env):
    """Shows and takes arrays that it changes afterwards; a dict with a mask."""

    observation_space = Dict(x=Box(-1, 9, (2,), np.float32), k=Discrete(5, start=-1))
    action_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.mask = np.zeros(2, np.float32), np.array([1, 1, 0], np.int8)
        return {"x": self.x, "k": -1}, {"action_mask": self.mask}

    def step(self, action):
        self.x += 1
        self.mask[2] = 1
        a = int(action)
        action *= 0
        ended = bool(self.x[0] == 3)
        return {"x": self.x, "k": a}, float(a), False, ended, {"action_mask": self.mask}


def test_structure_masks_propensities_and_times_are_kept_as_they_were(tmp_path):
    ticks = iter(range(100))
    fields = {"session": "s1", "policy": "me", "clock": lambda: float(next(ticks))}
    env = record(Changing(), tmp_path / "log", **fields)
    env.reset()
    for a, p in ((1, 0.5), (0, 0.25), (2, 1.0)):
        env.propensity = p
        env.step(np.array(a))
    env.reset()
    for a in (1, 0, 2):  # the second one does not know its probability
        env.propensity = None if a == 0 else 0.5
        env.step(np.array(a))
    env.close()
    first, second = map(as_lists, TraceStore(tmp_path / "log"))
    assert first["x"] == [[0, 0], [1, 1], [2, 2], [3, 3]] and first["k"] == [-1, 1, 0, 2]
    assert first["actions"] == [1, 0, 2] and first["rewards"] == [1, 0, 2]
    assert first["propensities"] == [0.5, 0.25, 1.0] and "propensities" not in second
    assert first["action_masks"] == [[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert first["times"] == [0, 1, 2, 3] and second["times"] == [4, 5, 6, 7]
    assert (first["session"], first["policy"]) == ("s1", "me") and first["truncated"][-1]


def as_lists(trace):
    """Every field of a trace that is not None, and every leaf of its observations."""
    fields = {name: x for name, x in vars(trace).items() if name != "observations"}
    found = trace.observations | {name: x for name, x in fields.items() if x is not None}
    return {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in found.items()}


def single(*numbers):
    return np.array(numbers, np.float32)


class Bad(gymnasium.Env):
    """One step, of which one thing is wrong."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, o=(0, 0), r=0.0, mask=None):
        self.o, self.r, self.mask = np.array(o), r, mask

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        info = {} if self.mask is None else {"action_mask": self.mask}
        return self.o, self.r, True, False, info


@pytest.mark.parametrize(
    ("wrong", "action", "words"),
    [
        ({"r": np.nan}, 0, "reward at step 0 is not finite"),
        ({"o": single(0, 1), "r": np.array([1.0, 101.0])}, 0, "rewards"),
        ({"o": single(0, np.inf)}, 0, "observation at step 1 is not finite"),
        ({"o": np.array([0, 0.1])}, 0, r"observation at row 1 is \[0. 0.1\] \(float64\)"),
        ({"o": np.zeros(3, np.float32)}, 0, r"observation: rows of the shapes \[\(2,\), \(3,\)\]"),
        ({"o": single(0, 1)}, 2, r"action at row 0 is 2 .*Discrete\(2\)"),
        ({"mask": [1, 1]}, 0, "some observations of the episode have an action mask, others none"),
    ],
)
def test_what_cannot_be_stored_is_told_at_the_end_of_its_episode(tmp_path, wrong, action, words):
    good = record(Bad(o=single(0, 1)), tmp_path / "log")
    good.reset()
    good.step(1)
    env = record(Bad(**wrong), tmp_path / "log")
    env.reset()
    with pytest.raises(TraceError, match=words) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    env.close()
    good.close()
    assert [trace.actions.tolist() for trace in TraceStore(tmp_path / "log")] == [[1]]


def test_values_are_widened_but_never_changed(tmp_path):
    """float64 numbers that float32 can hold are stored as float32."""
    env = record(Bad(o=np.array([0, 0.5])), tmp_path / "log")
    env.reset()
    env.step(0)
    env.close()
    (trace,) = TraceStore(tmp_path / "log")
    assert trace.observations.dtype == np.float32 and trace.observations[1].tolist() == [0, 0.5]


def test_what_cannot_be_recorded_is_refused_at_once(tmp_path):
    many: Any = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(TraceError, match="vector env.*record the envs that it is made of"):
        record(many, tmp_path / "log")
    record(gymnasium.make("CartPole-v1"), tmp_path / "log").close()
    with pytest.raises(TraceError, match="keep each task in a store of its own"):
        record(gymnasium.make("MountainCar-v0"), tmp_path / "log")
    text = gymnasium.spaces.Text(5)
    with pytest.raises(SpaceError):
        record(gymnasium.wrappers.TransformObservation(CART, str, text), tmp_path / "other")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TraceError, match="cannot"):
        record(gymnasium.make("CartPole-v1"), tmp_path / "file")


def test_recorders_in_turns_share_a_store(tmp_path):
    first, second = (record(gymnasium.make("CartPole-v1"), tmp_path / "log") for _ in range(2))
    seen = [live(env, 2) for env in (first, second)]
    assert recover(tmp_path / "log") == 0, "both are alive"
    second.close()
    first.close()
    assert all_same(TraceStore(tmp_path / "log"), [*seen[1], *seen[0]])


def test_a_long_recording_moves_into_the_store_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "JOURNAL_BYTES", 5000)
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    seen = live(env, 20)
    stored = len(TraceStore(tmp_path / "log"))
    assert 5 < stored < 20
    env.close()
    store = TraceStore(tmp_path / "log")
    assert all_same(store, seen) and len(store.resume["recordings"]) <= 2


def test_a_failed_fold_is_told_and_the_recorder_goes_on(tmp_path, monkeypatch):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    seen = live(env, 1)
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "JOURNAL_BYTES", 1)
        patch.setattr(recorder, "fold", full)
        with pytest.raises(OSError, match="No space"):
            live(env, 1)
    more = live(env, 2)
    env.close()
    assert recover(tmp_path / "log") == 1, "what the failed fold left"
    assert all_same(TraceStore(tmp_path / "log"), [*more, *seen])


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("episodes", [0, 2])
def test_a_full_disk_costs_one_episode(tmp_path, monkeypatch, episodes):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    seen, real, calls = live(env, episodes), os.write, list[int]()

    def torn(descriptor, data):
        calls.append(len(data))
        return real(descriptor, bytes(data)[:40]) if len(calls) == 1 else full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        with pytest.raises(TraceError, match="No space left on device.*this episode is lost"):
            live(env, 1)
    assert len(calls) == 2 and len(journals(tmp_path / "log")) == (episodes > 0)
    seen += live(env, 2)
    env.close()
    assert all_same(TraceStore(tmp_path / "log"), seen)


def test_a_journal_that_went_away_is_told(tmp_path):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    live(env, 1)
    os.rename(tmp_path / "log", tmp_path / "elsewhere")
    with pytest.raises(TraceError, match="is gone, with the episodes in it; was the store moved"):
        env.close()
    assert recover(tmp_path / "elsewhere") == 1


def test_folds_at_once_keep_each_other_s_counts(tmp_path, monkeypatch):
    """The second journal is folded by another process just before the first one's commit."""
    left_behind(tmp_path / "log", 2)
    (first,) = journals(tmp_path / "log")
    other = Journal(tmp_path / "log", SPACES, {"session": None, "policy": None})
    leaves, ends = [np.zeros((2, 4), np.float32)], {"terminated": True, "truncated": False}
    other.write(pack(leaves, np.zeros(1, int), np.zeros(1), **ends))
    other.close()
    real = TraceStore.extend

    def late(store, traces, *, resume=None):
        with monkeypatch.context() as patch:
            patch.setattr(TraceStore, "extend", real)
            patch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # and is stopped there
            if other.path.exists():
                journal.fold(other.path)
        real(store, traces, resume=resume)

    monkeypatch.setattr(TraceStore, "extend", late)
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    assert journal.fold(first) == 2
    monkeypatch.undo()
    stored = TraceStore(tmp_path / "log").resume["recordings"]
    assert stored == {first.name: 2, other.path.name: 1}
    assert recover(tmp_path / "log") == 0 and len(TraceStore(tmp_path / "log")) == 3


def test_no_journal_is_seen_before_it_is_locked(tmp_path, monkeypatch):
    env = record(gymnasium.make("CartPole-v1"), tmp_path / "log")
    real, looks = journal.fcntl.flock, list[int]()

    def slowly(file, how):
        looks.append(recover(tmp_path / "log") if not looks else 0)
        real(file, how)

    monkeypatch.setattr(journal.fcntl, "flock", slowly)
    seen = live(env, 1)
    monkeypatch.undo()
    env.close()
    assert looks and all_same(TraceStore(tmp_path / "log"), seen)


def test_an_episode_of_more_bytes_than_it_says_is_told():
    leaves, ends = [np.zeros((3, 4), np.float32)], {"terminated": True, "truncated": False}
    body = b"".join(pack(leaves, np.zeros(2, int), np.zeros((2, 2)), **ends))
    with pytest.raises(TraceError, match=r"has 105 bytes, expected 89"):
        journal.unpack(body, SPACES, {})


# --- a kill


KILLED = """
import sys, gymnasium
from envs.sources import record
from tests.envs.test_recorder import live
env = record(gymnasium.make("CartPole-v1"), sys.argv[1])
live(env, 30)
env.reset(seed=30)
env.step(0)
print("lived", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_only_the_episode_it_was_in(tmp_path):
    path = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdin and process.stdout and process.stdout.readline() == b"lived\n"
    assert recover(path) == 0, "its recorder is alive"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()
    assert len(TraceStore(path)) == 0 and len(journals(path)) == 1
    expected = live(gymnasium.make("CartPole-v1"), 30)
    assert all_same(open_source("store", str(path)), expected)
    assert all_same(open_source("store", str(path)), expected) and not journals(path)


def left_behind(path, episodes=5):
    """The journal of a recorder that died, and what it had seen."""
    env = record(gymnasium.make("CartPole-v1"), path)
    seen = live(env, episodes)
    env._journal.close()
    (file,) = journals(path)
    return file, seen


class Killed(BaseException):
    """The process died here."""


def test_a_kill_while_episodes_are_moved_neither_loses_nor_doubles(tmp_path, monkeypatch):
    for when in ("before the commit", "after the commit"):
        path = tmp_path / when
        _, seen = left_behind(path)

        def die(*args, **kwargs):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(*((journal, "TraceStore") if "before" in when else (Path, "unlink")), die)
            with pytest.raises(Killed):
                recover(path)
        assert len(TraceStore(path)) == (5 if "after" in when else 0) and len(journals(path)) == 1
        assert recover(path) == (0 if "after" in when else 5)
        assert all_same(TraceStore(path), seen) and not journals(path)


def test_of_a_torn_journal_the_whole_episodes_are_kept(tmp_path):
    file, seen = left_behind(tmp_path / "log", episodes=3)
    data = file.read_bytes()
    begins = [i for i in range(len(data)) if data.startswith(journal.MAGIC, i)]
    assert len(begins) == 4
    for cut in (
        0,
        10,
        begins[0],
        begins[0] + 3,
        begins[1] - 1,
        begins[2] - 1,
        begins[3] + 20,
        len(data) - 1,
    ):
        path = tmp_path / f"cut{cut}"
        record(gymnasium.make("CartPole-v1"), path)
        (path / file.name).write_bytes(data[:cut])
        whole = sum(cut >= end for end in [*begins[2:], len(data)])
        assert recover(path) == whole and all_same(TraceStore(path), seen[:whole])


def test_no_flipped_bit_is_silent(tmp_path):
    file, _ = left_behind(tmp_path / "log", episodes=3)
    data, draw = file.read_bytes(), np.random.default_rng(0)
    for at in [*range(20), *draw.integers(len(data), size=80)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << draw.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(TraceError, match="record . is damaged") as caught:
            recover(tmp_path / "log")
        assert file.name in str(caught.value) and "\n" not in str(caught.value)
    assert len(TraceStore(tmp_path / "log")) == 0
    file.write_bytes(data)
    assert recover(tmp_path / "log") == 3


def test_a_journal_of_another_version_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "VERSION", 2)
    made = Journal(tmp_path, SPACES, {"session": None, "policy": None})
    leaves, ends = [np.zeros((2, 4), np.float32)], {"terminated": True, "truncated": False}
    made.write(pack(leaves, np.zeros(1, int), np.zeros(1), **ends))
    made.close()
    monkeypatch.undo()
    with pytest.raises(TraceError, match="version 2, expected 1"):
        recover(tmp_path)
