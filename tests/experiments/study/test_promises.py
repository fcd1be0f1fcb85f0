"""The study of promises: its claims on made-up results, its logs, and that it goes on."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.study import promises
from experiments.study.promises import CLAIMS, TASKS, kept, means, report, seeds_of


def result(deployed, candidate=None, dreamed=None, q=20.0, **skill):
    """What the study reads of a result.json."""
    summary = lambda x: {"mean": x, "ci": [x - 5, x + 5]}
    found = {"deployed_return": None if deployed is None else summary(deployed)}
    found["candidate_return"] = summary(deployed if candidate is None else candidate)
    found["dream_return"] = summary(500.0 if dreamed is None else dreamed)
    return found | {"baselines": {"conservative_q": summary(q)}, "fidelity": skill}


def test_claims_count_what_is_deployed():
    few, many = [result(500.0)] * 18, [result(500.0)] * 19
    claim, _ = CLAIMS["cartpole_2000"]
    assert claim([*many, result(400.0)])[1]
    assert not claim([*few, result(489.0), result(489.0)])[1]  # one too few
    assert not claim([*many, result(399.0)])[1]  # one too low
    iqm = CLAIMS["mountaincar"][0]
    assert not claim([*many, None])[1]  # a run that failed is a miss
    assert iqm([result(-107.0)] * 9 + [result(-120.0)])[1]
    assert not iqm([result(-107.0)] * 9 + [result(-121.0)])[1]
    assert not iqm([result(-108.0)] * 10)[1]


def test_a_run_may_be_below_its_conservative_q_by_the_interval_of_that():
    _, below = CLAIMS["cartpole_2000"]
    assert below([result(91.0, q=100.0)])[1] and not below([result(89.0, q=100.0)])[1]


def test_where_nothing_is_deployed_the_candidate_counts():
    np.testing.assert_array_equal(means([result(3.0), result(None, candidate=2.0)]), [3, 2])


def test_promises_are_measured_in_ranges_of_the_task():
    """CartPole's is 477.3; tasks without a known range, or a dream, say nothing."""
    runs = {"cartpole_500": [result(260.0, dreamed=500.0), result(490.0, dreamed=450.0)]}
    runs |= {"lunarlander": [result(0.0)], "catch_online": [result(1.0)]}
    np.testing.assert_allclose(kept(runs, TASKS), [240 / 477.326, 40 / 477.326], rtol=1e-4)
    words = report(runs, TASKS)
    assert "promises kept to 0.1 of the range: 50% of 2" in words
    assert "missed: 1 of 2 at least 475 (asked 18), worst 260.0 (asked 300)" in words


def test_skill_is_told_where_it_was_measured():
    runs = {"acrobot": [result(-85.0, skill_15=0.9), result(-85.0, skill_15=0.8, skill_50=0.7)]}
    words = report(runs, TASKS)
    assert "15 steps: mean 0.8500, least 0.8000" in words and "50 steps: mean 0.7000" in words


def test_logs_without_a_success_are_passed_over():
    found = seeds_of(dataclasses.replace(TASKS["mountaincar"], logs=2), 100)
    succeeds = lambda seed: promises.has_success(promises.MOUNTAIN_CAR, seed)
    assert [seed for seed in range(100, found[-1] + 1) if succeeds(seed)] == found


def test_what_is_finished_is_not_done_again(tmp_path, capsys):
    run = tmp_path / "cartpole_500" / "seed7"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(result(123.0)))
    assert promises.main([f"out={tmp_path}", "only=cartpole_500", "seeds=7-7"]) == 0
    assert "cartpole_500: deployed 123.0" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == [run.parent, run, run / "result.json"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("only=chess", "cartpole_500"),
        ("seed=3", "seeds="),
        ("now", "seeds="),
        ("seeds=x", "FIRST-LAST"),
    ],
)
def test_what_does_not_exist_is_one_line(given, said, capsys):
    assert promises.main([given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run_that_fails_is_named_and_a_miss(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TASKS, "nowhere", promises.Task(("env=nowhere",), 1, "Nowhere-v0"))
    assert promises.main([f"out={tmp_path}", "only=nowhere", "seeds=0"]) == 1
    said = capsys.readouterr()
    assert "exit code 2; see" in said.out and "1 runs failed" in said.err
    assert "nowhere" in (tmp_path / "nowhere" / "seed0.log").read_text()
