"""Studies of speed: what they refuse, and what counts as the fastest."""

import pytest

from experiments.study import game_minutes, passes


@pytest.mark.parametrize("study", [passes, game_minutes])
def test_an_option_that_does_not_exist_is_told(study, capsys):
    assert study.main(["speed=9"]) == 2
    assert "options are size=" in capsys.readouterr().err


def test_the_fastest_call_counts(monkeypatch):
    slow = {"one": iter([0.0, 5.0, 1.0, 3.0]), "other": iter([9.0, 2.0, 2.0, 2.0])}

    class Time:
        now = 0.0

        @classmethod
        def perf_counter(cls):
            return cls.now

    def call(name):
        Time.now += next(slow[name])

    monkeypatch.setattr(passes, "time", Time)
    calls = [lambda: call("one"), lambda: call("other")]
    assert passes.fastest(calls, count=3) == [1.0, 2.0]  # after a call to warm up
