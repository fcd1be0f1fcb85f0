"""The clockwork of the benchmark: warm-up is apart, and what is shown is a median."""

from types import SimpleNamespace

import pytest

from experiments.bench import clock as clockwork


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(clockwork, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def calls_that_take(clock, *seconds):
    waiting = list(seconds)

    def call():
        clock.seconds += waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return call


def test_the_first_call_counts_as_compilation_only(clock):
    seconds, first = clockwork.timed(calls_that_take(clock, 5.0, 1.0), repetitions=3)
    assert (seconds, first) == (1.0, 4.0)


def test_the_median_is_not_moved_by_one_slow_repetition(clock):
    call = calls_that_take(clock, 1.0, 1.0, 1.0, 60.0, 1.0)
    assert clockwork.timed(call, repetitions=3)[0] == 1.0


def test_a_loop_that_tells_its_progress_is_timed_chunk_by_chunk(clock):
    def work(update):
        for seconds in (9.0, 2.0, 2.0, 50.0):
            clock.seconds += seconds
            update(4, loss=0.0)
        return "made"

    told = []
    made, seconds, first = clockwork.paced(work, told.append)
    assert (made, seconds, first, told) == ("made", 0.5, 7.0, [4] * 4)
