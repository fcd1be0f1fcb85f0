"""How the episodes of a log are shared out between the planner and its judges."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dreaming.config import JudgeConfig
from dreaming.observe.log import Log


@dataclass(frozen=True)
class Split:
    """Who may learn from what.

    Planner, rehearsal and baselines learn from `seen`. Each of `judged` is (log that a judge is
    fitted on, log that it is tested on). `is_independent`: judges and planner share no episode.
    """

    seen: Log
    judged: Sequence[tuple[Log, Log]] = ()
    is_independent: bool = False


def split_log(log: Log, config: JudgeConfig, key: jax.Array, decides: bool = False) -> Split:
    """`config.share` of the episodes is held out: the planner sees the rest, one judge is fitted on
    the held-out part, and the planner is tested on it.

    The held-out part needs `config.least` episodes that differ from the commonest return (a log
    with three successes has none to spare). Where the verdict depends on the judge (`decides`) it
    grows until it has them, up to `config.most`. Without them the planner sees everything, two
    judges are fitted on one half each and tested on the other, and what they say is not
    independent. A single episode is judged by nobody.
    """
    order = np.asarray(jax.random.permutation(key, len(log.traces)))
    if order.size < 2:
        return Split(log)
    returns = np.array([trace.rewards.sum() for trace in log.traces])
    values, counts = np.unique(returns, return_counts=True)
    uncommon = np.cumsum(returns[order] != values[counts.argmax()])
    count = max(1, round(config.share * order.size))
    if decides:
        most = max(count, int(config.most * order.size))
        count = min(most, max(count, 1 + int(np.searchsorted(uncommon, config.least))))
    if uncommon[count - 1] >= config.least and count < order.size:
        unseen, seen = log.only(np.sort(order[:count])), log.only(np.sort(order[count:]))
        return Split(seen, [(unseen, unseen)], True)
    one, other = (log.only(np.sort(half)) for half in np.array_split(order, 2))
    return Split(log, [(one, other), (other, one)])
