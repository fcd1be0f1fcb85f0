"""A run directory as an item of a queue: one process holds it, and a dead one loses it."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.command.stopping import Stopped
from experiments.runs import queue
from experiments.runs.queue import Held, Lost, Taken, born, file_of, holder, machine, status


def put(run_dir, number=1, *, age=0.0, **told):
    """A holder's file, `age` seconds after its last heartbeat."""
    path = file_of(run_dir, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    here = {"host": "there", "pid": 1, "since": "noon", "state": "running", "machine": "another"}
    path.write_text(json.dumps(here | told))
    beat = time.time() - age
    os.utime(path, (beat, beat))


def ended_process():
    """(pid, birth) of a process that runs no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    birth = born(process.pid)
    process.communicate(b"\n")
    assert birth and born(process.pid) != birth  # it lived, and is dead
    return process.pid, birth


def test_an_item_is_held_until_the_work_is_over(tmp_path):
    assert status(tmp_path) == "waiting"
    with Held(tmp_path) as held:
        assert held.before is None
        assert status(tmp_path).startswith(f"running: process {os.getpid()} on ")
        held.check()
        with pytest.raises(Taken, match=f"held by process {os.getpid()} on .* since 20"):
            Held(tmp_path).__enter__()
    assert status(tmp_path) == "done"
    with Held(tmp_path) as again:
        assert again.number == 2 and again.before is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Stopped("budget_minutes=1 are used up"), "stopped: budget_minutes=1 are used up"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError("a loss\nis nan"), "failed: a loss is nan"),
    ],
)
def test_how_the_work_ended_is_said(error, told, tmp_path):
    with pytest.raises(type(error)), Held(tmp_path):
        raise error
    assert status(tmp_path) == told
    with Held(tmp_path):  # and it can be taken up again
        pass


def test_what_a_dead_process_left_is_taken_over(tmp_path):
    pid, birth = ended_process()
    put(tmp_path, pid=pid, born=birth, machine=machine())
    assert status(tmp_path).startswith(f"dead: process {pid} on there since noon")
    with Held(tmp_path) as held:
        assert held.number == 2 and held.before and held.before.told["pid"] == pid
        assert status(tmp_path).startswith("running")


def test_a_process_that_got_the_number_of_a_dead_one_is_not_it(tmp_path):
    put(tmp_path, pid=os.getpid(), born=born(os.getpid()), machine=machine())
    with pytest.raises(Taken):
        Held(tmp_path).__enter__()
    put(tmp_path, pid=os.getpid(), born="0", machine=machine())
    with Held(tmp_path) as held:
        assert held.before and held.before.told["born"] == "0"


def test_a_process_that_ended_and_was_not_looked_after_is_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    stat = Path(f"/proc/{process.pid}/stat")
    state = lambda: stat.read_text().rpartition(")")[2].split()[0]
    while state() != "Z":
        time.sleep(0.01)
    assert born(process.pid) == ""
    process.wait()


def test_of_another_machine_the_heartbeat_tells(tmp_path):
    put(tmp_path, age=queue.DEAD_AFTER / 2)
    with pytest.raises(Taken, match="held by process 1 on there since noon"):
        Held(tmp_path).__enter__()
    put(tmp_path, age=queue.DEAD_AFTER * 2)
    assert status(tmp_path).startswith("dead")
    with Held(tmp_path) as held:
        assert held.before and held.before.told["host"] == "there"


def test_the_heartbeat_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "BEAT", 0.01)
    with Held(tmp_path) as held:
        os.utime(held.path, (0, 0))
        until = time.monotonic() + 5
        while held.path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert time.time() - held.path.stat().st_mtime < 5


def test_of_many_that_want_what_is_dead_one_gets_it(tmp_path):
    put(tmp_path, age=queue.DEAD_AFTER * 2)
    got, start, over = [], threading.Barrier(8), threading.Event()

    def want():
        start.wait()
        try:
            with Held(tmp_path) as held:
                got.append(held.number)
                over.wait(5)
        except Taken:
            got.append(None)
        if len(got) == 8:
            over.set()

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got, key=str) == [2] + [None] * 7


def test_one_that_was_taken_for_dead_ends_without_a_word(tmp_path):
    with pytest.raises(Lost, match="was taken over by process 1 on there"), Held(tmp_path) as held:
        held.check()
        put(tmp_path, held.number + 1)
        held.check()
    assert json.loads(held.path.read_text())["state"] == "running"  # it wrote nothing any more
    newest = holder(tmp_path)
    assert newest and newest.number == held.number + 1


def test_a_file_that_is_being_written_is_of_a_living_process(tmp_path):
    put(tmp_path)
    file_of(tmp_path, 1).write_text("")
    with pytest.raises(Taken):
        Held(tmp_path).__enter__()
