"""A writer that is killed at any of its file operations leaves the old state or the new one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow  # a process for each of some forty operations
def test_killed_writers_leave_a_registry_whole(founded, tmp_path):
    command = [sys.executable, "-m", "tests.dreaming.sessions.kill_writer"]
    command += [str(founded.path), str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    *killed, whole = lines
    # The fault happened: every writer but the last died, in another operation than the others.
    assert len(killed) > 20 and all(each["killed"] for each in killed) and not whole["killed"]
    assert {each["operation"].partition(" ")[0] for each in killed} >= {"write", "fsync", "rename"}
    base = founded.head().base
    causes = [each["after"]["cause"] for each in lines]
    order = {"start": 0, "dream": 1, "rollback": 2}
    assert [order[cause] for cause in causes] == sorted(order[cause] for cause in causes)
    assert set(causes) == set(order)  # killed before, between and after both commits
    for each in lines:
        learned = each["after"]["cause"] == "dream"
        assert (each["after"]["weights"] == base) == (not learned)
        assert each["again"]["weights"] == base and each["again"]["cause"] == "rollback"
        assert each["again"]["drafts"] == []
