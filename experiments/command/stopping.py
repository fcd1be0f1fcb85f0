"""When a run should stop before its end: on SIGTERM, or when its minutes are used up."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Stopped(Exception):
    """A run that was asked to stop; the message says by whom."""


class Stopping:
    """`with Stopping(minutes) as stop:` and `stop()` where a run can stop: raises `Stopped` when
    it should. 0 minutes are no limit."""

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
        """Raise `Stopped` if it is time."""
        if not self.why and time.monotonic() > self._until:
            self.why = f"budget_minutes={self.minutes:g} are used up"
        if self.why:
            raise Stopped(self.why)


def stopping(update: Callable, stop: Callable) -> Callable:
    """`update`, after which a run can stop."""

    def told(*args: Any, **metrics: Any) -> None:
        update(*args, **metrics)
        stop()

    return told
