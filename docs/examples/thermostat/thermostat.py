"""Logs of a thermostat: a file per day, a line per reading, as a source for `dreaming`.

18.5 on        temperature in degrees, and what the heater did until the next reading
19.1 off
19.0 end       the last reading; without it the day is still going on
"""

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.types import Trace, TraceError

ACTIONS = {"off": 0, "on": 1}


class ThermostatSource:
    """The days of a thermostat. A step costs how far the next reading is from `wanted` degrees."""

    def __init__(self, uri: str, wanted: float = 20.0):
        self.files = [Path(name) for name in sorted(glob.glob(uri))]
        self.wanted = wanted
        if not self.files:
            raise TraceError(f"{uri}: no such file; expected logs of a thermostat")

    def schema(self) -> dict[str, gymnasium.Space]:
        """Temperature in, heater out."""
        return {
            "observation_space": Box(-50, 100, (1,), np.float32),
            "action_space": Discrete(len(ACTIONS)),
        }

    def __iter__(self) -> Iterator[Trace]:
        for file in self.files:
            readings = [
                self._reading(file, number, line)
                for number, line in enumerate(file.read_text().splitlines(), 1)
            ]
            temperatures = np.array([[degrees] for degrees, _ in readings], np.float32)
            ended = readings[-1][1] == "end"
            actions = [ACTIONS[word] for _, word in readings[:-1]]
            rewards = -np.abs(temperatures[1:, 0] - self.wanted)
            # The clock ends a day, not the task: truncated. A day that still goes on is open.
            yield Trace(temperatures, np.array(actions), rewards, False, ended, session=file.stem)

    def fingerprint(self) -> str:
        """Another text when a file is added or changed."""
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest()

    def _reading(self, file: Path, number: int, line: str) -> tuple[float, str]:
        try:
            degrees, word = line.split()
            if word not in (*ACTIONS, "end"):
                raise ValueError(word)
            return float(degrees), word
        except ValueError as error:
            what = "expected a temperature, and on, off or end"
            raise TraceError(f"{file}: line {number} is {line!r}; {what}") from error
