"""The study of broken promises: its scores on made-up outcomes, and how its worlds are shared."""

import numpy as np
import pytest

from experiments.study import alarm
from experiments.study.alarm import CASES, auroc, begin, broken, outcome, report, width_of


def made(dreamed, real, unsupported=0.0, untrusted=0.0, is_alarm=False):
    """The outcome of one run."""
    of = {"dreamed": dreamed, "real": real, "behaviour": 20.0, "alarm": is_alarm}
    return of | {"unsupported": unsupported, "untrusted": untrusted, "unrepeated": 0.0}


def test_the_area_by_hand():
    is_broken = np.array([True, True, False, False])
    assert auroc(np.array([3.0, 2, 1, 0]), is_broken) == 1
    assert auroc(np.array([3.0, 0, 1, 2]), is_broken) == 0.5
    assert auroc(np.array([1.0, 1, 1, 1]), is_broken) == 0.5  # ties
    assert np.isnan(auroc(np.ones(2), np.array([True, True])))


def test_only_what_pays_less_is_broken():
    outcomes = [made(500, 261), made(500, 460), made(100, 500)]
    assert broken(outcomes, 477.3).tolist() == [True, False, False]


def test_the_range_is_that_of_the_table_or_of_the_runs():
    outcomes = [made(0, 300.0), made(0, 120.0)]
    assert width_of(CASES["cartpole"], outcomes) == pytest.approx(477.326, abs=1e-3)
    assert width_of(CASES["lunarlander"], outcomes) == 280


def test_an_outcome_keeps_what_the_certificate_said():
    of = lambda x: {"mean": x}
    result = {
        "dream_return": of(500.0),
        "candidate_return": of(261.0),
        "behaviour_return": of(20.0),
    }
    told = {"promise": 500.0, "promise_judged": 150.0, "promise_error": 5.0, "unsupported": 0.73}
    found = outcome(result, told | {"candidate_coverage": 0.9})
    assert found["alarm"] and found["unsupported"] == 0.73
    assert found["untrusted"] == pytest.approx(0.1)
    silent = outcome(result, {})
    assert not silent["alarm"] and silent["unsupported"] == silent["untrusted"] == 0


def test_the_report_counts_alarms():
    outcomes = [made(500, 261, 0.8, is_alarm=True), made(500, 200, 0.1), made(400, 400, 0.2)]
    words = report({"cartpole": outcomes, "taxi": []})
    assert "cartpole: 2 broken, 1 kept; area by unsupported 0.50" in words
    assert "the alarm as shipped: 1 of 2 broken promises, 0 of 1 kept ones" in words
    assert report({"cartpole": []}) == "no run succeeded"


def test_students_of_a_world_share_its_stages(tmp_path):
    fit = tmp_path / "fit"
    for stage in ("record", "fit", "other"):
        (fit / "state" / stage).mkdir(parents=True)
    (fit / "traces").mkdir()
    (fit / "result.json").write_text("{}")
    begin(fit, tmp_path / "run")
    assert {x.name for x in (tmp_path / "run").iterdir()} == {"state", "traces"}
    assert {x.name for x in (tmp_path / "run" / "state").iterdir()} == {"record", "fit"}


def test_what_does_not_exist_is_one_line(capsys):
    assert alarm.main(["only=chess"]) == 2
    assert "cartpole" in capsys.readouterr().err
