"""Seconds of calls: the median after warm-up, and the extra seconds of the first call."""

import statistics
import time
from collections.abc import Callable
from typing import Any

SHORTEST = 0.2  # least seconds of a repetition; shorter calls are repeated


def timed(call: Callable[[], Any], repetitions: int) -> tuple[float, float]:
    """(median seconds of a call, extra seconds of the first call)."""
    clock = time.perf_counter
    begun = clock()
    call()
    first, begun = clock() - begun, clock()
    call()
    times = max(1, round(SHORTEST / max(clock() - begun, 1e-6)))
    seconds = []
    for _ in range(repetitions):
        begun = clock()
        for _ in range(times):
            call()
        seconds.append((clock() - begun) / times)
    median = statistics.median(seconds)
    return median, max(first - median, 0.0)


def each(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """(median, longest) seconds of single calls, after one to warm up."""
    call()
    seconds = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), max(seconds)


def paced(work: Callable[[Callable], Any], update: Callable) -> tuple[Any, float, float]:
    """(result of `work`, median seconds per unit, extra seconds of the first chunk).

    `work(update)` calls `update(n)` whenever `n` more units are done.
    """
    pace: list[tuple[float, float]] = []  # (seconds, units) of every chunk
    begun = time.perf_counter()

    def heard(n: float = 1, **_: Any) -> None:
        nonlocal begun
        now = time.perf_counter()
        pace.append((now - begun, n))
        begun = now
        update(n)

    made = work(heard)
    (first, units), *rest = pace
    median = statistics.median(seconds / n for seconds, n in rest)
    return made, median, max(first - median * units, 0.0)
