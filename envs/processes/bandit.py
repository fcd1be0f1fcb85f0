"""Latent-rule bandits: the smallest family in which something can be learned on the job.

A day is 20 cards, drawn one by one. Which of the answers is right for a card is drawn once per
deployment, independently for each card, so `CARDS` cards of `ANSWERS` answers are a rule of
CARDS log2(ANSWERS) bits. In a `fickle` deployment the rule is drawn anew each day: what one day
teaches is wrong on the next, and the best that a context of other days can do is to guess.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from jaxtyping import Float

CARDS, ANSWERS, DAY = 6, 3, 20
BITS = CARDS * math.log2(ANSWERS)


class Bandit(gymnasium.Env):
    """Deployment `number`; the reward is 1 for the right answer, the optimum 20 a day."""

    outcomes = ("right", "wrong")

    def __init__(self, number: int, *, fickle: bool = False):
        self.number, self.fickle = number, fickle
        self.observation_space, self.action_space = Discrete(CARDS), Discrete(ANSWERS)
        self._rule = np.random.default_rng([number, 3]).integers(ANSWERS, size=CARDS)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin a day."""
        super().reset(seed=seed)
        self._cards = self.np_random.integers(CARDS, size=DAY + 1)
        if self.fickle:
            self._rule = self.np_random.integers(ANSWERS, size=CARDS)
        self._t = 0
        return int(self._cards[0]), {"outcome": -1}

    def right_action(self, observation: Any) -> Any:
        """The oracle: the right answer to a card, or to each of a batch."""
        return self._rule[np.asarray(observation)]

    def step(self, action: Any):
        """Answer the card."""
        r = float(int(action) == self._rule[self._cards[self._t]])
        self._t += 1
        return int(self._cards[self._t]), r, False, self._t == DAY, {"outcome": int(1 - r)}

    def right_share(self, probabilities: Float[np.ndarray, "C A"]) -> float:
        """The expected share of right answers of a policy, exactly: its mean over all cards."""
        return float(np.asarray(probabilities)[np.arange(CARDS), self._rule].mean())


def make_deployment(number: int) -> Bandit:
    """A deployment whose rule stays."""
    return Bandit(number)


def make_fickle(number: int) -> Bandit:
    """A deployment whose rule is another one each day."""
    return Bandit(number, fickle=True)
