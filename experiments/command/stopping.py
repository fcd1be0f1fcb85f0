"""Stopping a run before its end: on SIGTERM, or when its time budget is used up."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Stopped(Exception):
    """Raised to stop a run; the message gives the reason."""


class Stopping:
    """`with Stopping(minutes) as stop:`, then `stop()` wherever a run can stop. It raises `Stopped`
    after SIGTERM or after `minutes` (0 = no limit)."""

    def __init__(self, minutes: float = 0.0):
        self.minutes, self.why = minutes, ""
        self._until = time.monotonic() + 60 * minutes if minutes else float("inf")

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._asked)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.why = "it was told to"

    def __call__(self, *_) -> None:
        """Raise `Stopped` if the run should stop."""
        if not self.why and time.monotonic() > self._until:
            self.why = f"budget_minutes={self.minutes:g} are used up"
        if self.why:
            raise Stopped(self.why)


def stopping(update: Callable, stop: Callable) -> Callable:
    """`update`, followed by `stop()`."""

    def told(*args: Any, **metrics: Any) -> None:
        update(*args, **metrics)
        stop()

    return told
