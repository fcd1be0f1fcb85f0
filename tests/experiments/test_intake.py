"""A source is taken into a store once: again, while it grows, and over kills at any instant."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dreaming.observe.collect import record
from envs.sources.csv import CsvSource
from envs.sources.steps import StepsSource
from envs.traces import TraceStore
from envs.types import TraceError
from experiments.config import SourceConfig
from experiments.logs.intake import Intake
from tests.envs.test_steps import episode, last, starts, step
from tests.envs.test_traces import Faults, Killed, all_same

ROOT = Path(__file__).parents[2]


def an_intake(logs, store):
    return Intake(StepsSource(str(logs)), SourceConfig(name="steps", uri=str(logs)), store)


@pytest.fixture
def logs(tmp_path):
    """A folder with two files, of five episodes; the sixth is not finished."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.jsonl").write_text(episode(0) + step(5, 0) + episode(1))
    (folder / "b.jsonl").write_text(episode(2) + "nonsense\n" + episode(3) + episode(4))
    return folder


def test_only_what_is_new_is_added(logs, tmp_path):
    assert an_intake(logs, tmp_path / "store").once() == 5
    assert an_intake(logs, tmp_path / "store").once() == 0
    with open(logs / "a.jsonl", "a") as file:
        file.write(last(5, 1))
    (logs / "c.jsonl").write_text(episode(6))
    intake = an_intake(logs, tmp_path / "store")
    assert intake.once() == 2
    store = TraceStore(tmp_path / "store")
    store.verify()
    assert starts(store) == [0, 1, 2, 3, 4, 5, 6]
    told = intake.told(2).splitlines()
    assert told[0] == f"added 2 episodes: {tmp_path / 'store'} holds 7, 19 steps"
    assert told[1] == "  lines: 27, used 26, waiting 0"
    assert told[2] == f"  skipped 1: a line is not JSON (first in {logs}/b.jsonl: line 5)"


def test_rows_of_a_table_that_are_left_out_are_told(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("id,x,a,r\n1,0.5,0,1\n1,1.5,1,1\n2,0.5,0,1\n2,1.5,1,\n", "utf-8")
    mapping = {"episode": "id", "observation": "x", "action": "a", "reward": "r"}
    source = CsvSource(str(log), mapping | {"final": "repeat", "broken": "skip"})
    intake = Intake(source, SourceConfig(name="csv", uri=str(log)), tmp_path / "store")
    told = intake.told(intake.once()).splitlines()
    assert told[1] == (
        "  2 of 4 rows were left out: reward at step # is empty "
        f"(first: {log}: row 2: the episode that starts here)"
    )


def test_a_kill_at_any_instant_neither_loses_nor_doubles(logs, tmp_path, monkeypatch):
    monkeypatch.setattr("envs.sources.steps.BATCH_LINES", 3)
    at, kept = 0, set()
    while True:
        path = tmp_path / f"store{at}"
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, Killed())
            try:
                an_intake(logs, path).once()
            except Killed:
                assert len(faults.calls) > at
            else:
                break
        if (path / "manifest.json").exists():
            kept.add(len(TraceStore(path)))
        an_intake(logs, path).once()
        store = TraceStore(path)
        store.verify()
        assert starts(store) == [0, 1, 2, 3, 4], at
        at += 13  # meets every kind of call: a commit makes 22
    assert at > 40 and len(kept) >= 3, kept


def test_what_grows_is_followed_until_nothing_comes(logs, tmp_path, verb):
    def grow():
        for number in range(10, 14):
            time.sleep(0.1)
            with open(logs / "a.jsonl", "a") as file:
                file.write(episode(number))

    writer = threading.Thread(target=grow)
    writer.start()
    words = ["source.name=steps", f"source.uri={logs}", f"path={tmp_path}/store"]
    code, out, err = verb("record", *words, "follow=true", "poll=0.05", "idle=1.5")
    writer.join()
    assert code == 0 and not err and "holds 9" in out.replace(",", "")
    assert sorted(starts(TraceStore(tmp_path / "store"))) == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert verb("record", *words)[1].startswith("added 0 episodes")


def test_a_source_without_batches_is_taken_whole_and_once(tmp_path, verb, fails):
    written = list(record("CartPole-v1", "random", 60, 0))
    TraceStore(tmp_path / "log").extend(written)
    words = ["source.name=store", f"source.uri={tmp_path}/log", f"path={tmp_path}/copy"]
    assert verb("record", *words)[0] == 0
    assert all_same(TraceStore(tmp_path / "copy"), written)
    assert verb("record", *words)[1].startswith("added 0 episodes")
    TraceStore(tmp_path / "log").extend(record("CartPole-v1", "random", 60, 1))
    fails("record", *words, words=["has changed since it was added"])
    assert all_same(TraceStore(tmp_path / "copy"), written)
    told = ["cannot be followed: it has no method batches()"]
    fails("record", *words[:2], f"path={tmp_path}/new", "follow=true", words=told, code=(2,))


def test_what_cannot_be_taken_in_is_one_line(logs, tmp_path, fails):
    words = ["source.name=steps", f"source.uri={logs}"]
    fails("record", *words, words=["path is needed"], code=(2,))
    fails("record", *words, f"path={logs}/a.jsonl", words=["is a file"], code=(2,))
    fails("record", *words, f"path={tmp_path}/s", "seed=3", words=["seed has no effect"])
    fails("record", *words, f"path={tmp_path}/s", "idle=3", words=["set follow=true"])
    fails("record", f"path={tmp_path}/s", "follow=true", words=["name one with source.name"])
    (logs / "b.jsonl").write_text("short\n")
    an_intake(logs, tmp_path / "store").once()
    (logs / "b.jsonl").write_text("")
    fails("record", *words, f"path={tmp_path}/store", words=["b.jsonl: has 0 bytes"])


def test_an_episode_that_the_store_cannot_hold_is_skipped_and_the_log_goes_on(logs, tmp_path):
    an_intake(logs, tmp_path / "store").once()
    other = '{"episode": "x", "observation": [1, 2, 3], "action": 0, "reward": 0}\n'
    other += '{"episode": "x", "observation": [1, 2, 3]}\n'
    wrong = step(7, 0) + last(7, 1, session=7)
    (logs / "c.jsonl").write_text(other + wrong + episode(6))
    intake = an_intake(logs, tmp_path / "store")
    assert intake.once() == 1 and an_intake(logs, tmp_path / "store").once() == 0
    assert starts(TraceStore(tmp_path / "store")) == [0, 1, 2, 3, 4, 6]
    told = intake.told(1)
    assert "skipped 2: its episode is not used: observation at row 0 has shape (3,)" in told
    assert "skipped 2: its episode is not used: session is 7, expected text or None" in told


def test_one_place_is_one_source_however_it_is_written(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(logs, tmp_path / "link")
    assert an_intake("logs", tmp_path / "store").once() == 5
    for way in ("logs/", "./logs", logs, "link"):
        assert an_intake(way, tmp_path / "store").once() == 0, way


def test_a_log_with_a_new_name_is_known_again_and_a_copy_is_refused(logs, tmp_path):
    an_intake(logs, tmp_path / "store").once()
    os.rename(logs / "a.jsonl", logs / "a-1.jsonl")
    (logs / "a.jsonl").write_text(episode(6))
    assert an_intake(logs, tmp_path / "store").once() == 1
    with open(logs / "a-1.jsonl", "a") as file:
        file.write(last(5, 1))
    assert an_intake(logs, tmp_path / "store").once() == 1
    assert starts(TraceStore(tmp_path / "store")) == [0, 1, 2, 3, 4, 6, 5]
    (logs / "c.jsonl").write_text((logs / "b.jsonl").read_text() + episode(7))
    with pytest.raises(TraceError, match="c.jsonl: begins as .*b.jsonl does"):
        an_intake(logs, tmp_path / "store").once()
    assert len(TraceStore(tmp_path / "store")) == 7


def test_folders_with_brackets_are_read_and_places_without_files_told(tmp_path):
    (tmp_path / "run[1]").mkdir()
    intake = an_intake(tmp_path / "run[1]", tmp_path / "store")
    assert f"no file is at {tmp_path}/run[1] yet" in intake.told(intake.once())
    (tmp_path / "run[1]" / "a.jsonl").write_text(episode(1))
    assert "no file" not in intake.told(intake.once()) and len(intake.store) == 1


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    """SIGKILL at ten random instants, while a file grows."""
    logs, store, draw = tmp_path / "logs", tmp_path / "store", random.Random(0)
    logs.mkdir()
    words = ["source.name=steps", f"source.uri={logs}", f"path={store}", "poll=0.01"]
    command = [sys.executable, "-m", "experiments.record", *words, "follow=true"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    written, stored = 0, [0]
    for _ in range(10):
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline().startswith(b"added")
        until = time.monotonic() + draw.uniform(0.05, 1.0)
        while time.monotonic() < until:
            with open(logs / "a.jsonl", "a") as file:
                file.write(episode(written))
            written += 1
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        stored.append(len(TraceStore(store)))
    assert np.diff(stored).any() and any(x < y for x, y in zip(stored, [written] * 11, strict=True))
    an_intake(logs, store).once()
    assert starts(TraceStore(store)) == list(range(written))
