"""How the episodes of a log are shared out between the planner and its judges."""

import jax
import numpy as np

from dreaming.config import JudgeConfig
from dreaming.observe.log import Log


def split_log(log: Log, config: JudgeConfig, key: jax.Array) -> tuple[Log, list[tuple[Log, Log]]]:
    """(log of the planner, [(log that a judge is fitted on, log that it is tested on), ...]).

    `config.share` of the episodes is held out: the planner sees the rest, one judge is fitted on
    the held-out part, and the planner is tested on it. If fewer than `config.least` held-out
    episodes differ from the commonest return (a log with three successes has none to spare), the
    planner sees everything, and two judges are fitted on one half each and tested on the other.
    """
    order = np.asarray(jax.random.permutation(key, len(log.traces)))
    held, rest = np.split(order, [round(config.share * order.size)])
    returns = np.array([trace.rewards.sum() for trace in log.traces])
    values, counts = np.unique(returns, return_counts=True)
    if np.sum(returns[held] != values[counts.argmax()]) >= config.least:
        unseen = log.only(np.sort(held))
        return log.only(np.sort(rest)), [(unseen, unseen)]
    if order.size < 2:
        return log, [(log, log)]
    one, other = (log.only(np.sort(half)) for half in np.array_split(order, 2))
    return log, [(one, other), (other, one)]
