"""A run that was stopped anywhere ends as if it had never been stopped."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import dream
from experiments.runs.lineage import read_trials
from experiments.runs.once import Once

ROOT = Path(__file__).parents[2]
STAGES = ("record", "fit", "judge", "clone", "rehearse", "gate", "evaluate", "certify", "life")


def sha256(run_dir):
    return json.loads((run_dir / "result.json").read_text())["state_sha256"]


@pytest.fixture
def copy(tiny_run, tmp_path):
    """A finished run to take apart."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def work_done(monkeypatch):
    """The stages that really worked, in order."""
    done, call = [], Once.__call__

    def spy(desk, stage, total, like, work):
        def noted(update):
            done.append(stage)
            return work(update)

        return call(desk, stage, total, like, noted)

    monkeypatch.setattr(Once, "__call__", spy)
    return done


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_lost_is_worked_out_again_and_nothing_else(
    stage, copy, tiny, tiny_run, work_done
):
    before = json.loads((tiny_run / "result.json").read_text())
    shutil.rmtree(copy / "state" / stage)
    (copy / "result.json").unlink()
    assert dream.main([*tiny, f"hydra.run.dir={copy}"]) == 0
    assert work_done == [stage]
    after = json.loads((copy / "result.json").read_text())
    assert after["seconds"].pop(stage) >= 0 and before["seconds"].pop(stage) >= 0
    assert after == before
    for name in (
        "world.dream",
        "candidate/student.safetensors",
        "candidate/policy.json",
        "trials.json",
        "traces/segment-000000.parquet",
    ):
        assert (copy / name).read_bytes() == (tiny_run / name).read_bytes(), name


def test_a_finished_run_does_no_work_again(copy, tiny, tiny_run, work_done):
    shutil.rmtree(copy / "candidate")
    (copy / "world.dream").unlink()
    assert dream.main([*tiny, f"hydra.run.dir={copy}"]) == 0
    assert work_done == [] and sha256(copy) == sha256(tiny_run)
    for name in ("world.dream", "candidate/student.safetensors", "candidate/policy.json"):
        assert (copy / name).read_bytes() == (tiny_run / name).read_bytes(), name


def test_a_damaged_stage_is_told_and_worked_out_again(copy, tiny, tiny_run, work_done, capsys):
    [unit] = (copy / "state" / "clone").iterdir()
    file = unit / "arrays.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert dream.main([*tiny, f"hydra.run.dir={copy}"]) == 0
    assert work_done == ["clone"] and sha256(copy) == sha256(tiny_run)
    assert "arrays.safetensors" in capsys.readouterr().out


def test_another_candidate_is_another_trial_and_stages_before_a_change_are_kept(
    copy, tiny, tiny_run, work_done
):
    for stage in ("rehearse", "gate", "evaluate", "certify"):
        shutil.rmtree(copy / "state" / stage)
    overrides = [*tiny, "distill.learning_rate=1e-2", f"hydra.run.dir={copy}"]
    assert dream.main(overrides) == 0
    assert work_done == ["rehearse", "gate", "evaluate", "certify"]
    assert sha256(copy) != sha256(tiny_run)
    first, second = (json.loads((x / "result.json").read_text()) for x in (tiny_run, copy))
    assert (first["trial"], second["trial"]) == (0, 1)
    trials = read_trials(copy / "trials.json")
    assert trials[:1] == read_trials(tiny_run / "trials.json") and len(trials) == 2


@pytest.mark.slow
def test_three_kills_at_random_instants_change_nothing(tiny):
    """kill -9 of a real process, restarted; see `kill_runs` for twenty at full size."""
    command = [sys.executable, "-m", "tests.experiments.kill_runs", "kills=3", *tiny]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stdout.splitlines()[-1] == "3 of 3 agree"
