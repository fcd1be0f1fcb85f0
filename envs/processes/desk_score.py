"""What a policy is worth on a desk, exactly: an average over all items, and a recursion over a day.

A day is a chain of two kinds of steps. On a fresh item x the policy is right with probability
R(x), and asks with probability q(x); then x comes back, with its order more often than not, and is
decided for good. So with t steps left a fresh step is worth
    V_t = E[R] + E[q R'] + E[q] V_{t-2} + (1 - E[q]) V_{t-1},   V_1 = E[R],   V_0 = 0,
where R'(x) is the probability to be right on the item that came back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.processes.desk import DAY, Desk
from envs.processes.desks import ARRIVES, ASK, ASKED, DESKS, ORDER, all_items

Decides = Callable[[np.ndarray], Any]  # items [N, F] -> probabilities of the decisions [N, 4]


def right_share(task: Desk, decides: Decides, desk: str = DESKS[0], steps: int = DAY) -> float:
    """The expected share of right decisions in a day of `steps`; the oracle's is 1."""
    items, chance = all_items(task.sizes, DESKS.index(desk))
    fresh = np.asarray(decides(items), np.float64)
    q = fresh[:, ASK]
    back = items.copy()
    back[:, ASKED] = 1
    with_order = back.copy()
    with_order[:, ORDER] = 1
    answers = decides(np.concatenate([back, with_order]))
    without, having = np.split(_right(task, np.concatenate([back, with_order]), answers), 2)
    again = (1 - ARRIVES) * without + ARRIVES * having
    first, returned = chance @ _right(task, items, fresh), chance @ (q * again)
    asked = chance @ q
    value = [0.0, first]
    for _ in range(2, steps + 1):
        value.append(first + returned + asked * value[-2] + (1 - asked) * value[-1])
    return float(value[steps] / steps)


def _right(task: Desk, items: np.ndarray, probabilities: Any) -> np.ndarray:
    """The probability [N] that the decision is the right one."""
    answer = task.right_action(items)
    return np.take_along_axis(np.asarray(probabilities, np.float64), answer[:, None], 1)[:, 0]
