"""The study of doubt: a run that was really made, and the report on made-up correlations."""

import json
import shutil

from experiments.study.doubt import NAMES, main, report


def test_a_finished_run_is_measured_once(tiny_run, tmp_path, capsys):
    """One of another task, which holds no dream, is no run."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "cartpole" / "seed0")
    (tmp_path / "runs" / "other").mkdir()
    out = tmp_path / "doubt.json"
    told = [f"runs={tmp_path / 'runs'}", "steps=300", f"out={out}"]
    assert main(told) == 0
    (found,) = json.loads(out.read_text()).values()
    assert found["task"] == "cartpole" and {"task", NAMES[0]} <= set(found) <= {"task", *NAMES}
    first = capsys.readouterr().out
    assert main(told) == 0
    assert capsys.readouterr().out == first[first.index("uncertainty_spearman, cartpole") :]
    assert main([f"runs={tmp_path / 'runs' / 'cartpole' / 'seed0'}", *told[1:]]) == 0  # itself


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    assert main([f"runs={tmp_path}"]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert main([f"runs={tmp_path}", "steps=many"]) == 2


def test_the_middle_of_each_task_counts():
    found = {f"a{i}": {"task": "a", NAMES[0]: x} for i, x in enumerate((0.1, 0.6, 0.9))}
    found |= {"b0": {"task": "b"}, "b1": {"task": "b", NAMES[0]: 0.9}}  # one never varies
    words = report(found)
    assert f"{NAMES[0]}, a: middle 0.60 of [0.1, 0.6, 0.9]" in words
    assert f"{NAMES[0]}, b: middle nan" in words
    assert f"{NAMES[0]}: at least 0.5 on 1 of 2 tasks" in words
    assert f"{NAMES[2]}: at least 0.5 on 0 of 2 tasks" in words
