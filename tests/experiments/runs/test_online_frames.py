"""Online from images: stopped anywhere, damaged or not, a run ends as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dreaming.efficientzero import turns
from dreaming.efficientzero.actors import episode_seed
from dreaming.stages import Stages
from envs.traces import TraceStore
from experiments import evaluate, inspect_traces, online
from experiments.command.unread import online_rules
from experiments.runs import online_frames as frames
from tests.experiments.conftest import as_users_run
from tests.experiments.reading import Reads, reading

ROOT = Path(__file__).parents[3]
TINY = [
    "env=catch",
    "env.real_steps=160",
    "agent.envs=4",
    "agent.learn_after=60",
    "agent.updates_per_call=5",
    "agent.refresh_batch=64",
    "agent.search.num_simulations=2",
    "agent.replay.capacity=80",
    "agent.replay.batch=8",
    "agent.target.every=10",
    "collect.save_every=50",
    "evaluation.episodes=4",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run. Copy it before you change anything in it."""
    run_dir = tmp_path_factory.mktemp("images") / "run"
    with as_users_run(), reading(lambda config: online_rules(config, "frames")) as reads:
        assert online.main([*TINY, f"hydra.run.dir={run_dir}"]) == 0
    reads.save(run_dir.parent / "reads.json")
    return run_dir


def test_every_option_is_read_or_refused(finished):
    reads = Reads.load(finished.parent / "reads.json")
    assert "agent.search.num_simulations" in reads.read
    assert (reads.silent, reads.wronged("agent.late_from")) == (set(), set())


def go_on(run_dir, *words):
    return online.main([*TINY, *words, f"hydra.run.dir={run_dir}"])


def result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def metrics(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name != "seconds"} for line in lines]


def assert_same_end(run_dir, finished):
    assert result(run_dir)["state_sha256"] == result(finished)["state_sha256"]
    assert result(run_dir)["deployed_return"] == result(finished)["deployed_return"]
    assert metrics(run_dir) == metrics(finished)


def units(run_dir):
    return sorted((run_dir / "state" / "learn").iterdir())


def test_what_a_run_leaves_behind(finished):
    found = result(finished)
    assert 156 < found["real_steps"] <= 160
    assert found["fit_steps"] == 30  # three tenths of 100, in calls of 5
    assert found["deployed_return"]["episodes"] == 4 and found["evaluation_steps"] == 36
    assert (finished / "report.html").exists() and (finished / "config.yaml").exists()
    assert len(units(finished)) == 2  # the newest, and the one before it
    told = metrics(finished)
    assert any("learn/value_loss" in line for line in told)
    assert any("collect/return" in line for line in told)


def stop_after(monkeypatch, turns, how):
    """`how()` after so many turns."""
    take, taken = frames.take_turn, []

    def counted(*args):
        taken.append(0)
        found = take(*args)
        if len(taken) == turns:
            how()
        return found

    monkeypatch.setattr(frames, "take_turn", counted)


class Killed(BaseException):
    """Nothing is saved on the way out."""


@pytest.mark.parametrize("turns", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_it_had_not_been(turns, finished, tmp_path, monkeypatch):
    def kill():
        raise Killed

    stop_after(monkeypatch, turns, kill)
    with pytest.raises(Killed):
        go_on(tmp_path / "run")
    monkeypatch.undo()
    assert go_on(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", finished)


def test_sigterm_saves_at_once_and_the_same_command_goes_on(
    finished, tmp_path, monkeypatch, capsys
):
    stop_after(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert go_on(tmp_path / "run") == 0
    assert "stopped, it was told to" in capsys.readouterr().out
    monkeypatch.undo()
    assert go_on(tmp_path / "run") == 0
    assert "goes on after" in capsys.readouterr().out
    assert_same_end(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["environments", "learner"])
def test_a_slow_part_changes_nothing(slow, finished, tmp_path, monkeypatch):
    class Slow(gymnasium.Wrapper):
        def step(self, action):
            time.sleep(0.002)
            return self.env.step(action)

    make, learn = frames.make_real, turns.learn_due
    if slow == "environments":
        monkeypatch.setattr(frames, "make_real", lambda *a, **k: Slow(make(*a, **k)))
    else:
        monkeypatch.setattr(turns, "learn_due", lambda *a: (time.sleep(0.05), learn(*a))[1])
    assert go_on(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", finished)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(finished, tmp_path, capsys):
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run_dir / "state" / "evaluate")
    file = units(run_dir)[-1] / "arrays.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert go_on(run_dir) == 0
    out = capsys.readouterr().out
    assert "arrays.safetensors" in out and "earlier state" in out
    assert_same_end(run_dir, finished)


def test_another_configuration_is_refused_in_one_line(finished, tmp_path, capsys):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    assert go_on(run_dir, "agent.discount=0.9") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "agent.discount was 0.99, is 0.9" in line


def test_a_loss_that_is_no_number_stops_in_one_line_and_keeps_the_last_good_state(
    tmp_path, monkeypatch, capsys
):
    class Poisoned(gymnasium.Wrapper):
        def step(self, action):
            o, _, *rest = self.env.step(action)
            return o, 3e38, *rest

    make = frames.make_real
    monkeypatch.setattr(frames, "make_real", lambda *a, **k: Poisoned(make(*a, **k)))
    assert go_on(tmp_path / "run") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "not finite by update" in line
    assert units(tmp_path / "run")  # what was saved before it


def test_too_little_memory_names_the_knob_that_lowers_it(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise MemoryError("could not allocate 1.0 MB")

    monkeypatch.setattr(frames.AgentRun, "resume", full)
    assert go_on(tmp_path / "run") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "out of memory" in said and "agent." in said and "frees about" in said


@pytest.mark.slow
def test_kills_at_random_instants_change_nothing():
    """kill -9 of a real process, restarted; see `kill_runs` for twenty."""
    command = [sys.executable, "-m", "tests.experiments.kill_runs", "verb=online", "kills=2", *TINY]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert ran.stdout.splitlines()[-1] == "2 of 2 agree"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["agent.learn_after=4"], "agent.replay.batch=8 must be at most agent.learn_after=4"),
        (["agent.search.teacher=pcut"], "agent.search.teacher=pcut does not exist; choose search"),
        (["agent.replay.capacity=81"], "agent.replay.capacity=81 must be a multiple"),
        (["agent.target.every=11"], "agent.target.every=11 must be a multiple"),
        (["agent.reset.every=15"], "agent.reset.every=15 must be a multiple of agent.target.every"),
        (["agent.replay.sequence=3"], "agent.replay.batch=8 must be a multiple"),
        (
            ["agent.imagine.weight=1"],
            "agent.imagine.roots=256 must be at most agent.learn_after=60",
        ),
        (["agent.imagine.batch=257"], "agent.imagine.batch=257 must be at most"),
        (["agent.optimiser.decayed=biases"], "agent.optimiser.decayed=biases does not exist"),
        (["platform=tpu"], "platform=tpu was asked for, but JAX finds only cpu"),
        (["platform=abacus"], "platform=abacus does not exist"),
    ],
)
def test_bad_input_is_told_in_one_line(words, told, tmp_path, capsys):
    assert go_on(tmp_path / "run", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and told in line, line


def test_the_policy_of_a_run_repeats_its_report_and_can_act_without_search(
    finished, tmp_path, capsys
):
    words = [f"policy={finished / 'policy'}", "env=catch", "evaluation.episodes=4"]
    assert evaluate.main([*words, f"json={tmp_path / 'out.json'}"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["real_return"] == result(finished)["deployed_return"]
    assert found["real_steps"] == result(finished)["evaluation_steps"]
    assert evaluate.main([*words, "search=false", f"json={tmp_path / 'out.json'}"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["real_return"]["episodes"] == 4
    capsys.readouterr()
    assert evaluate.main([words[0], "env=cartpole"]) == 2
    assert "CartPole-v1 has the observation space" in capsys.readouterr().err


def traces_of(run_dir):
    store = TraceStore(run_dir / "traces")
    store.verify()
    return list(store)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A finished run that kept its episodes."""
    run_dir = tmp_path_factory.mktemp("images") / "recorded"
    with as_users_run():
        assert online.main([*TINY, "collect.traces=true", f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


def test_episodes_are_kept_when_asked_and_change_nothing(recorded, finished, capsys):
    assert_same_end(recorded, finished)
    assert not (finished / "traces").exists()
    traces = traces_of(recorded)
    assert sum(map(len, traces)) == result(recorded)["real_steps"]
    whole = [trace for trace in traces if not trace.is_open]
    assert len(whole) == 16 and {len(trace) for trace in whole} == {9}  # four of each environment
    assert all(trace.terminated[-1] for trace in whole)
    env, trace = gymnasium.make("dreaming/Catch-v0"), whole[5]
    row, episode = map(int, re.findall(r"\d+", str(trace.session)))
    o, _ = env.reset(seed=episode_seed(0, row, episode))
    for t, a in enumerate(trace.actions):
        np.testing.assert_array_equal(trace.observations[t], o)
        o, r, *_ = env.step(a)
        assert trace.rewards[t] == r
    np.testing.assert_array_equal(trace.observations[-1], o)
    assert inspect_traces.main([f"path={recorded / 'traces'}"]) == 0
    out = capsys.readouterr().out
    assert "Box(40, 40, 1) uint8" in out and "20 (160 steps)" in out


def test_a_killed_run_keeps_every_episode_once(recorded, tmp_path, monkeypatch):
    """Killed after the episodes were written and before the state was."""
    commit, done = Stages.commit, []

    def cut(*args):
        done.append(0)
        if len(done) > 2:
            raise Killed
        return commit(*args)

    monkeypatch.setattr(Stages, "commit", cut)
    with pytest.raises(Killed):
        go_on(tmp_path / "run", "collect.traces=true")
    monkeypatch.undo()
    assert go_on(tmp_path / "run", "collect.traces=true") == 0
    ours, theirs = traces_of(tmp_path / "run"), traces_of(recorded)
    assert [trace.session for trace in ours] == [trace.session for trace in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)
