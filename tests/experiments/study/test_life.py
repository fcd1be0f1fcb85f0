"""The study of lives: its machine, and that it goes on."""

import json

import numpy as np
import pytest

from experiments.study import life


@pytest.mark.parametrize("rate", ["0.01", "wear"])
def test_logs_last_as_long_as_the_machine_does(rate):
    """Of a constant rate the mean is known: (1 - (1 - p) ** LIMIT) / p."""
    true = life.true_mean(rate)
    if rate != "wear":
        assert true == pytest.approx((1 - 0.99**life.LIMIT) / 0.01, rel=0.01)
    traces = [trace for seed in range(3) for trace in life.record(rate, seed)]
    lengths, ended = life.lengths_of(traces)
    assert life.logged_life(lengths, ended, life.LIMIT).mean == pytest.approx(true, rel=0.1)
    assert sum(lengths) >= 3 * life.STEPS and lengths.max() == life.LIMIT
    wear = traces[0].observations[:, 0]
    assert (np.diff(wear) > 0).all()


def test_what_was_studied_is_not_studied_again(tmp_path, monkeypatch, capsys):
    of = lambda rate, seed: {"rate": rate, "seed": seed, "logged": [90, 80, 100]}
    asked = lambda rate, seed: (
        done.append(seed) or of(rate, seed) | {"dreamed": [99.0, 85.0, 120.0]}
    )
    done, out = [], tmp_path / "life.json"
    monkeypatch.setattr(life, "study", asked)
    for seeds in ("0-1", "0-2"):
        assert life.main(["rate=0.01", f"seeds={seeds}", f"out={out}"]) == 0
    assert done == [0, 1, 2] and len(json.loads(out.read_text())) == 3
    said = capsys.readouterr().out.splitlines()[-1]
    assert "within 15% of the log's on 3 of 3" in said and "truth held on 3" in said
