"""A run stops when it is told to, or when its minutes are used up, and only where it can."""

import os
import signal
import time

import pytest

from experiments.command.stopping import Stopped, Stopping


def test_without_a_limit_nothing_stops():
    with Stopping() as stop:
        stop()


def test_sigterm_is_noted_and_stops_at_the_next_place():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="told to"):
            stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_minutes_that_are_used_up_stop():
    with Stopping(1e-5) as stop:
        time.sleep(0.001)
        with pytest.raises(Stopped, match="budget_minutes=1e-05 are used up"):
            stop()
