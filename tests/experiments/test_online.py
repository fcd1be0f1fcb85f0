"""Real steps and rounds take turns: exactly as many as asked for, stopped anywhere or not."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from dreaming.student.policy import load_policy
from dreaming.world.fitting import compiled_fit
from envs.traces import TraceStore
from envs.types import Trace
from experiments import online
from experiments.command.unread import online_rules
from experiments.config import OnlineConfig
from experiments.runs import online_rounds as rounds
from tests.experiments.conftest import TAKES, as_users_run
from tests.experiments.reading import Reads, reading

SHORT = ("distill.minibatches=4", "env.real_steps=250", "collect.first=100", "collect.steps=60")
STAGES = [f"{stage}-{n}" for n in range(3) for stage in ("collect", "fit", "rehearse")]
STAGES += ["collect-3"]


@pytest.fixture(scope="module")
def short(tiny):
    """Overrides of a run of seconds."""
    words = [word for word in tiny if word.startswith(TAKES["online"])]
    return [word for word in words if not word.startswith("env.real_steps")] + list(SHORT)


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory) -> Path:
    """A finished run. Copy it before you change anything in it."""
    run_dir = tmp_path_factory.mktemp("online") / "run"
    compiled_fit.cache_clear()
    with as_users_run(), reading(lambda config: online_rules(config, "vectors")) as reads:
        assert online.main([*short, f"hydra.run.dir={run_dir}"]) == 0
    reads.save(run_dir.parent / "reads.json")
    assert compiled_fit.cache_info().misses == 1  # one program for all rounds
    return run_dir


def test_every_option_is_read_or_refused(finished):
    reads = Reads.load(finished.parent / "reads.json")
    assert "search.num_simulations" in reads.read
    for_nothing = ("env.switch", "env.epsilon", "fit.noise")
    assert (reads.silent, reads.wronged(*for_nothing)) == (set(), set())


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def test_real_steps_are_shared_out_between_the_rounds():
    config = OnlineConfig()
    config.env.real_steps, config.collect.first, config.collect.steps = 250, 100, 60
    assert rounds.plan(config) == [100, 160, 220]  # 30 steps try the last student
    config.env.real_steps = 100
    assert rounds.plan(config) == [100]
    config.env.real_steps = 30
    assert rounds.plan(config) == [30]


def test_what_a_run_leaves_behind(finished):
    found = result(finished)
    assert found["real_steps"] == 250 and found["rounds"] == 3
    assert found["deployed_return"]["episodes"] == 4
    assert found["dream_steps"] == 3 * 4 * 8 * 4
    traces = list(TraceStore(finished / "traces"))
    assert sum(map(len, traces)) == 250
    ends = np.cumsum([len(trace) for trace in traces])
    names = [trace.policy for trace in traces]
    assert list(dict.fromkeys(names)) == ["random", "student-1", "student-2", "student-3"]
    assert {100, 160, 220, 250} <= set(ends.tolist())
    assert found["verdict"] == "ungated"
    for name in ("policy", "candidate"):  # the best round's student, the last round's
        assert load_policy(finished / name).card["verdict"] == "ungated", name
    for name in ("world.dream", "policy/policy.json", "config.yaml", "report.html"):
        assert (finished / name).exists(), name
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "collect/return" in line]
    closed = [end for end, trace in zip(ends, traces, strict=True) if not trace.is_open]
    assert steps == closed
    earned = [
        [t.rewards.sum() for t in traces if t.policy == name and not t.is_open]
        for name in ("student-1", "student-2", "student-3")
    ]
    assert found["earned_by_round"] == [np.mean(x) if x else None for x in earned]
    assert found["deployed_round"] == rounds.best(found["earned_by_round"])


@pytest.mark.parametrize(
    ("earned", "round_"),
    [
        ([20.0, 500.0, 110.0], 1),  # the last one fell behind
        ([500.0, 110.0, 500.0], 2),  # of equals the last
        ([500.0, 20.0, None], 2),  # its only episode was cut: nothing speaks against it
        ([None, None, -3.0], 2),
        ([None], 0),
    ],
)
def test_the_student_that_earned_most_is_deployed(earned, round_):
    assert rounds.best(earned) == round_


def test_only_what_a_student_finished_counts():
    trace = lambda policy, r, **cut: Trace(
        np.zeros((3, 1)), np.zeros(2, int), np.array([r, 1.0]), policy=policy, **cut
    )
    over, cut = {"terminated": True, "truncated": False}, {"terminated": False, "truncated": False}
    traces = [
        trace("random", 9.0, **over),
        trace("student-1", 1.0, **over),
        trace("student-1", 3.0, **over),
        trace("student-1", 99.0, **cut),
        trace("student-2", 99.0, **cut),
    ]
    assert rounds.earned_by(traces, 3) == [3.0, None, None]


def test_the_deployed_student_is_that_of_its_round(copy, short, finished, monkeypatch):
    other = (result(finished)["deployed_round"] + 1) % 3
    monkeypatch.setattr(rounds, "best", lambda earned: other)
    shutil.rmtree(copy / "state" / "evaluate")
    (copy / "result.json").unlink()
    assert online.main([*short, f"hydra.run.dir={copy}"]) == 0
    weights = lambda run: load_policy(run / "policy").params["layers"][0]["w"]
    assert result(copy)["deployed_round"] == other
    assert not np.array_equal(weights(copy), weights(finished))


@pytest.mark.parametrize("kept", [1, 5, 9])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(kept, copy, finished, short):
    """Only the first stages had been committed; the episodes of the next may have been."""
    for stage in [*STAGES[kept:], "evaluate"]:
        shutil.rmtree(copy / "state" / stage)
    for name in ("result.json", "world.dream"):
        (copy / name).unlink()
    assert online.main([*short, f"hydra.run.dir={copy}"]) == 0
    assert result(copy)["state_sha256"] == result(finished)["state_sha256"]
    assert (copy / "world.dream").read_bytes() == (finished / "world.dream").read_bytes()


def test_sigterm_saves_and_the_same_command_goes_on(short, finished, tmp_path, monkeypatch, capsys):
    play, run_dir = rounds.play_round, tmp_path / "run"

    def told(config, state, number, log, once):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return play(config, state, number, log, once)

    monkeypatch.setattr(rounds, "play_round", told)
    assert online.main([*short, f"hydra.run.dir={run_dir}"]) == 0
    assert "stopped, it was told to; the same command goes on" in capsys.readouterr().out
    assert not (run_dir / "result.json").exists()
    monkeypatch.undo()
    assert online.main([*short, f"hydra.run.dir={run_dir}"]) == 0
    assert result(run_dir)["state_sha256"] == result(finished)["state_sha256"]


def test_another_configuration_is_refused_in_one_line(copy, short, capsys):
    words = [*short, "distill.learning_rate=0.1", f"hydra.run.dir={copy}"]
    assert online.main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "distill.learning_rate was" in line and "hydra.run.dir" in line


def test_a_longer_wait_does_not_make_another_run(copy, short, finished):
    assert online.main([*short, "budget_minutes=60", f"hydra.run.dir={copy}"]) == 0
    assert result(copy) == result(finished)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["env=none"], "nothing to collect"),
        (["env=gym", "env.id=NoSuchTask-v0"], "not registered"),
        (["collect.steps=0"], "collect.steps must be at least 1"),
        (["collect.epsilon=2"], "collect.epsilon must be at least 0 and at most 1"),
        (["colect.steps=9"], "unknown option 'colect.steps'; did you mean 'collect.steps'?"),
    ],
)
def test_bad_input_is_told_in_one_line(words, told, tmp_path, capsys):
    assert online.main([*words, f"hydra.run.dir={tmp_path}/run"]) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and told in line, line
