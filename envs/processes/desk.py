"""One desk as a Gymnasium task: a day is an episode of 20 decisions.

What a decision was worth is shown with probability `seen` (info["outcome"], an index of
`outcomes`; -1 = not seen). An item that was asked about comes back at the next step, four times in
five with its purchase order. The reward is 1 for the right decision, else 0; with `delayed` it is
paid at the end of the day, all at once, and outcomes are never seen.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from envs.processes.desks import (
    ARRIVES,
    ASK,
    ASKED,
    DESK,
    DESKS,
    LARGE,
    NUM_ACTIONS,
    ORDER,
    OUTCOMES,
    Sizes,
    decide_right,
    desk_rules,
    draw_items,
)

DAY = 20  # decisions
UNSEEN = -1


class Desk(gymnasium.Env):
    """Deployment `number` of the family; the optimum is 1 per decision, 20 a day.

    `reset(options={"skill": "travel"})` begins a day on another desk than that for invoices.
    """

    outcomes, skills = OUTCOMES, DESKS

    def __init__(
        self, number: int, *, sizes: Sizes | None = None, seen: float = 0.7, delayed: bool = False
    ):
        self.number, self.sizes = number, sizes or Sizes()
        self.seen, self.delayed = (0.0 if delayed else seen), delayed
        rules = desk_rules(number, self.sizes)
        own = np.indices(self.sizes.factors[: DESK + 1])  # every item, but for its client code
        self._answers = decide_right(rules, np.moveaxis(own, 0, -1))
        self.observation_space = MultiDiscrete(list(self.sizes.factors))
        self.action_space = Discrete(NUM_ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin a day."""
        super().reset(seed=seed)
        desk = DESKS.index((options or {}).get("skill", DESKS[0]))
        self._fresh = list(draw_items(self.np_random, self.sizes, DAY, desk))
        self._item, self._t, self._earned = self._fresh.pop(), 0, 0.0
        return self._item.copy(), {"outcome": UNSEEN}

    def right_action(self, observation: Any) -> Any:
        """The oracle: the right decision on an item, or on each of a batch [*B, F]."""
        columns = np.moveaxis(np.asarray(observation)[..., : DESK + 1], -1, 0)
        return self._answers[tuple(columns)]

    def step(self, action: Any):
        """Decide on the item."""
        item, action = self._item, int(action)
        answer = int(self.right_action(item))
        r = float(action == answer)
        self._t, self._earned = self._t + 1, self._earned + r
        over = self._t == DAY
        outcome = UNSEEN
        if self.np_random.random() < self.seen:
            outcome = 0 if action == answer else 1 if action < answer else 2
        if action == ASK and not item[ASKED]:
            item = item.copy()
            item[ASKED] = 1
            item[ORDER] |= self.np_random.random() < ARRIVES
            self._item = item
        elif not over:
            self._item = self._fresh.pop()
        if self.delayed:
            r = self._earned if over else 0.0
        return self._item.copy(), r, False, over, {"outcome": outcome}


def make_deployment(number: int) -> Desk:
    """A desk whose rule holds about 22 bits."""
    return Desk(number)


def make_large(number: int) -> Desk:
    """A desk whose rule holds more than 60 bits."""
    return Desk(number, sizes=LARGE)


def make_delayed(number: int) -> Desk:
    """A desk that pays at the end of the day, and never shows an outcome."""
    return Desk(number, delayed=True)
