"""How long the stages of a run may last, where the whole has a budget of minutes."""

import math
import time

WEIGHTS = {  # seconds of each stage of a run on CartPole, two cores
    "fit": 35,
    "judge": 15,
    "clone": 5,
    "rehearse": 65,
    "gate": 10,
    "evaluate": 10,
    "certify": 10,
    "life": 3,
}


class Pace:
    """Shares out what is left of a budget among the stages to come; 0 minutes = no limit.

    Only stages that learn can leave steps out; others take what they take, and those after them
    have less.
    """

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes or math.inf
        self._began = time.monotonic()
        self._spent = 0.0  # by stages that an earlier attempt finished
        self._to_come = dict(WEIGHTS)

    def finished(self, stage: str, seconds: float) -> None:
        """Count a stage that was done before."""
        self._to_come.pop(stage, None)
        self._spent += seconds

    def limit(self, stage: str) -> float:
        """Seconds that a stage that begins now may last; infinite for stages without a share."""
        if stage not in self._to_come:
            return math.inf
        left = self.seconds - self._spent - (time.monotonic() - self._began)
        share = self._to_come[stage] / sum(self._to_come.values())
        del self._to_come[stage]
        return max(0.0, left) * share
