"""One process at a time works in a directory; a dead one's lock is taken over."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from envs.types import UserError
from experiments import record
from experiments.command.alone import LOCK, alone_in

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from experiments.command.alone import alone_in
with alone_in(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(directory: Path) -> subprocess.Popen:
    """Another process that works in the directory until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_taken_directory_says_who_works_there_and_since_when(tmp_path):
    other = hold(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("theirs")
    told = rf"{tmp_path}/run is taken: process {other.pid} on {socket.gethostname()} works in it "
    with pytest.raises(UserError, match=rf"{told}since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait"):
        with alone_in(tmp_path / "run"):
            raise AssertionError("two processes in one directory")
    other.communicate()
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on")
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    other = hold(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert (tmp_path / LOCK).exists()  # it could not tidy up
    with alone_in(tmp_path):
        pass
    assert os.listdir(tmp_path.parent).count(tmp_path.name) == 0  # empty, as it was made


def test_an_error_lets_go_and_a_directory_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(KeyError), alone_in(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a" / "b").exists()


def test_a_file_that_its_owner_removes_is_not_a_lock(tmp_path, monkeypatch):
    """The lock of a file that is gone keeps nobody out: it is asked for again."""
    lock, tries = fcntl.flock, []

    def slow(descriptor, how):
        if not tries:
            (tmp_path / LOCK).unlink()  # by the process before, at its end
        tries.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with alone_in(tmp_path):
        assert len(tries) == 2 and (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("name", ["record", "fit", "dream", "online"])
def test_verbs_keep_out_of_a_taken_directory(name, fails, tmp_path):
    other = hold(tmp_path / "run")
    place = f"{'path' if name == 'record' else 'hydra.run.dir'}={tmp_path}/run"
    more = ["distill.minibatches=1"] if name == "online" else []
    fails(name, place, *more, words=[f"{tmp_path}/run is taken: process {other.pid}"], code=(1,))
    assert os.listdir(tmp_path / "run") == [LOCK]
    other.communicate()


def test_a_next_round_keeps_out_of_a_taken_lineage(fails, tmp_path):
    other = hold(tmp_path / "run")
    words = [f"run={tmp_path}/run", f"traces={tmp_path}/log"]
    fails("dream", *words, words=["is taken: process"], code=(1,))
    other.communicate()


def test_more_is_recorded_after_the_lock_of_a_killed_recording(tmp_path):
    words = ["env.real_steps=20", f"path={tmp_path}/log"]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / LOCK).write_text("process 1")
    assert record.main(words) == 0 and record.main([*words, "append=true"]) == 0
    assert not (tmp_path / "log" / LOCK).exists()
