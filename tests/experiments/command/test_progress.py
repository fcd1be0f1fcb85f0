"""Progress: metrics once per step whatever happens, plain lines at once and then rarely."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.command.progress import Progress, duration


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_flat_numbers_with_stage_step_and_seconds(tmp_path):
    with Progress(tmp_path, stream=io.StringIO()) as progress:
        with progress.stage("fit", total=3) as stage:
            stage.update(1, value_loss=np.float32(0.5), **{"gate/lower_bound": 2})
            stage.update(2)  # no metrics, no line
            stage.update(0, value_loss=float("nan"))
    first, second = lines(tmp_path)
    assert first.pop("seconds") >= 0
    assert first == {"stage": "fit", "step": 1, "fit/value_loss": 0.5, "gate/lower_bound": 2}
    assert (second["step"], second["fit/value_loss"]) == (3, None)
    assert set(progress.seconds) == {"fit"}


def test_a_stage_that_runs_again_replaces_its_lines_and_a_cut_line_goes(tmp_path):
    def attempt(stage_name, start, values):
        with Progress(tmp_path, stream=io.StringIO()) as progress:
            with progress.stage(stage_name, start=start) as stage:
                for value in values:
                    stage.update(1, x=value)

    attempt("collect", 0, [9])
    attempt("fit", 0, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "fit", "st')
    attempt("fit", 2, [30, 40])  # resumed after step 2
    seen = [(line["stage"], line["step"], list(line.values())[-1]) for line in lines(tmp_path)]
    assert seen == [("collect", 1, 9), ("fit", 1, 1), ("fit", 2, 2), ("fit", 3, 30), ("fit", 4, 40)]
    attempt("fit", 0, [5])
    assert [line["step"] for line in lines(tmp_path) if line["stage"] == "fit"] == [1]


def test_plain_lines_come_at_once_and_then_at_most_every_interval():
    out = io.StringIO()
    with Progress(stream=out, interval=3600) as progress, progress.stage("fit", total=500) as stage:
        assert out.getvalue().split() == ["fit", "0/500"]
        for _ in range(500):
            stage.update(1, loss=0.25)
    first, last = out.getvalue().splitlines()
    assert "500/500" in last and "done in 0 s" in last and "loss 0.25" in last


def test_plain_lines_tell_the_time_left(monkeypatch):
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(
        "experiments.command.progress.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    with Progress(stream=out, interval=10) as progress:
        with progress.stage("fit", total=10, start=6) as stage:
            now[0] = 9.0
            stage.update(1)  # too early for a line
            now[0] = 20.0
            stage.update(1)  # two of the four steps took 20 s
    assert [line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()] == [
        "6/10",
        "8/10  20 s left",
        "8/10  done in 20 s",
    ]


def test_a_failed_stage_is_not_reported_as_done():
    out = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=out) as progress, progress.stage("fit"):
        raise KeyError("z")
    assert "done" not in out.getvalue() and progress.seconds == {}


def test_a_terminal_gets_bars_with_the_time_left(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    with Progress(stream=out) as progress, progress.stage("fit", total=2) as stage:
        stage.update(1, loss=0.5)
        progress.log("fitted on [3] episodes")
    assert "fitted on [3] episodes" in out.getvalue() and "1/2" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")],
)
def test_durations_are_for_readers(seconds, text):
    assert duration(seconds) == text


def test_progress_does_not_import_jax():
    code = "import sys, experiments.command.progress\n"
    code += "assert not {'jax', 'dreaming'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def test_a_stage_with_a_limit_asks_to_leave_steps_out_evenly(monkeypatch):
    """Ten of 1,000 steps take a second, after a first call that compiles for 20; of 120 seconds
    there is room for 1,000 of them, of 70 for 500, of 20 for none."""
    clock = [0.0]
    monkeypatch.setattr("experiments.command.progress.time.monotonic", lambda: clock[0])
    for limit, expected in ((120, 1010), (70, 510), (20, 0)):
        clock[0] = 0.0
        stage = Progress(stream=io.StringIO()).stage("fit", total=1000, limit=limit)
        taken, left_out = 0, 0
        with stage:
            while stage.step < 1000:
                clock[0] += 20 if not taken else 1
                taken += 10
                late = stage.update(10 + left_out, left_out=left_out)
                left_out = min(10 * round(late / 10), max(0, 1000 - stage.step - 10))
        assert stage.step == 1000 and taken == 1000 - stage.left_out
        assert abs(taken - min(expected, 1000)) <= 40
