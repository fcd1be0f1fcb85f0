"""Sweeps: every job in its own directory, one after the other or through a launcher."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from envs.traces import TraceStore
from experiments.command.cli import check_apart
from experiments.command.jobs import UsageError

ROOT = Path(__file__).parents[3]
IS_INSTALLED = find_spec("joblib") is not None and find_spec("submitit") is not None
needs_launchers = pytest.mark.skipif(not IS_INSTALLED, reason="needs the extra sweep")


def test_jobs_that_would_share_a_directory_are_refused():
    check_apart([Path("a"), Path("b")])
    with pytest.raises(UsageError, match="jobs 1 and 3 .* both write to a.*hydra.run.dir"):
        check_apart([Path("a"), Path("b"), Path("a")])


def test_a_sweep_over_teachers_names_its_directories(verb, fails):
    words = ["both write to runs/dream/CartPole-v1/seed0", "${teacher}"]
    fails("dream", "--multirun", "teacher=search,one_step", words=words, code=(2,))


@pytest.mark.skipif(IS_INSTALLED, reason="the extra sweep is installed")
@pytest.mark.parametrize("launcher", ["processes", "slurm", "joblib"])
def test_a_launcher_that_is_missing_names_the_extra(launcher, fails, tmp_path):
    words = ["pip install 'dreaming[sweep]'"]
    fails("record", "--multirun", f"hydra/launcher={launcher}", words=words, code=(2,))


def test_an_unknown_launcher_is_one_line(fails):
    fails("record", "--multirun", "hydra/launcher=proceses", words=["processes, slurm"], code=(2,))


@needs_launchers
@pytest.mark.parametrize("launcher", ["processes", "submitit_local"])
def test_a_launcher_runs_every_job_and_one_failure_does_not_stop_the_rest(launcher, tmp_path):
    (tmp_path / "log1").write_text("in the way")
    words = ["--multirun", "seed=0,1,2", f"path={tmp_path}/log${{seed}}", "env.real_steps=40"]
    words += [f"hydra/launcher={launcher}"]
    if launcher == "submitit_local":
        words += [f"hydra.launcher.submitit_folder={tmp_path}/%j"]
    command = [sys.executable, "-m", "experiments.record", *words]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2, ran.stderr + ran.stdout  # of the job that failed
    assert "2 of 3 jobs are done" in ran.stdout
    assert [TraceStore(tmp_path / f"log{i}").num_steps for i in (0, 2)] == [40, 40]
    assert "recorded" in (tmp_path / "log0.log").read_text()
    if launcher == "processes":
        assert "[1/3] seed=0: done" in ran.stdout and "[2/3] seed=1: failed" in ran.stdout
        assert "log1 is a file" in ran.stderr


@needs_launchers
def test_a_launcher_that_cannot_start_is_one_line(fails, tmp_path):
    words = ["hydra/launcher=slurm failed", "srun"]
    fails("record", "--multirun", "hydra/launcher=slurm", f"path={tmp_path}/x", words=words)
