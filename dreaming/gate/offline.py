"""The gate without a real task: three estimates of the gain from the log alone, and their verdict.

G1 fitted-Q evaluation, G2 weighted doubly robust, G3 the judge's dreams. A candidate is accepted if
two of them have a lower bound above the least gain asked for and none has an upper bound below
zero; else its mixtures with the incumbent are tried; else nothing changes. No single family of
estimators is near an oracle (Fu et al., 2021), and these three fail in different ways: G1 where
the log is thin, G2 where candidate and behaviour differ, G3 where the model is wrong.

G1 and G2 estimate discounted returns, G3 returns to the horizon; all in raw rewards.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreaming.config import GateConfig
from dreaming.gate.evidence import Evidence
from dreaming.gate.verdict import Verdict, improvable, no_evidence, number
from dreaming.observe.log import Log
from dreaming.student.network import mixture
from dreaming.world.judge import BLOCKS, Judge

SHARES = (1.0, 0.5, 0.25, 0.1)  # of the candidate in its mixtures, tried in this order
NAMES = ("fitted Q", "doubly robust", "the judge's dreams")
LEAST_EPISODES = 10  # for a bootstrap over episodes


def unknown() -> dict[str, np.ndarray]:
    """Evidence for every share in SHARES, all still NaN, which means unknown.

    `intervals` [share, estimate, (gain, lower, upper)]; `effective` episodes of G2; `diverged`
    members of G1; `segments` and `dreams` of the judge.
    """
    count = len(SHARES)
    each = lambda *shape: np.full((count, *shape), np.nan)
    return {
        "intervals": each(len(NAMES), 3),
        "effective": each(),
        "diverged": each(),
        "segments": each(),
        "dreams": each(),
    }


def passes(intervals: np.ndarray, min_gain: float) -> bool:
    """Whether two lower bounds exceed `min_gain` and no upper bound is below 0; NaN is neither."""
    return int((intervals[:, 1] > min_gain).sum()) >= 2 and not (intervals[:, 2] < 0).any()


def weigh(evidence: Callable[[Any], dict], candidate: Any, incumbent: Any, min_gain: float) -> dict:
    """The evidence on the candidate, and on its mixtures with the incumbent until one passes.

    No further mixture is tried once an upper bound is below zero: a little harm is harm.
    """
    found = unknown()
    for i, share in enumerate(SHARES):
        tried = candidate if share == 1 else mixture(incumbent, candidate, share)
        for name, x in evidence(tried).items():
            found[name][i] = x
        intervals = found["intervals"][i]
        if passes(intervals, min_gain) or (intervals[:, 2] < 0).any():
            break
    return found


def offline_verdict(found: dict[str, np.ndarray], config: GateConfig, level: float) -> Verdict:
    """The verdict on the first share that passed, else on the candidate alone, with reasons.

    The bounds that decide are shown: the second-highest lower bound and the least upper bound.
    """
    intervals, min_gain = found["intervals"], config.min_gain
    passed = [i for i in range(len(SHARES)) if passes(intervals[i], min_gain)]
    shown = passed[0] if passed else 0
    known = intervals[shown][~np.isnan(intervals[shown, :, 0])]
    lowers = np.sort(known[:, 1])[::-1]
    lower = float(lowers[1]) if lowers.size > 1 else -np.inf
    upper = float(known[:, 2].min()) if known.size else np.inf
    gain = float(np.median(known[:, 0])) if known.size else np.nan
    words = [in_words(found, shown, k, config, level) for k in range(len(NAMES))]
    if shown:
        alone = (in_words(found, 0, k, config, level) for k in range(len(NAMES)))
        words += [f"of the candidate alone, {told}" for told in alone]
    return Verdict(
        bool(passed),
        lower,
        upper,
        gain,
        (conclusion(intervals, passed, min_gain), *words),
        SHARES[shown],
    )


def conclusion(intervals: np.ndarray, passed: list[int], min_gain: float) -> str:
    """The verdict in one sentence."""
    bar = number(min_gain) if min_gain else "zero"
    above = int((intervals[passed[0] if passed else 0, :, 1] > min_gain).sum())
    told = f"{above} of {len(NAMES)} estimates from the log have a lower bound above {bar}"
    if not passed:
        if harm := [x for x, high in zip(NAMES, intervals[0, :, 2], strict=True) if high < 0]:
            return f"no real environment: {told}, and {' and '.join(harm)} saw harm"
        return f"no real environment: {told}, two are needed; no mixture passed either"
    if passed[0] == 0:
        return f"no real environment: {told}, and none sees harm"
    share = SHARES[passed[0]]
    return (
        "no real environment: the candidate alone did not pass; of a mixture that asks it in "
        f"{share:.0%} of the steps {told}, and none sees harm"
    )


def in_words(found: dict, i: int, k: int, config: GateConfig, level: float) -> str:
    """Estimate `k` at share `i` in words: gain and interval, or why it is ignored."""
    gain, low, high = found["intervals"][i, k]
    unit = "" if k == 2 else ", discounted"
    if not np.isnan(gain):
        ends = f"{signed(gain)} [{signed(low)}, {signed(high)}]"
        return f"{NAMES[k]}: {ends} per episode{unit} ({level:.1%} interval)"
    if k == 0:
        count = int(found["diverged"][i])
        why = f"the values of {count} of {config.members} members left what rewards allow"
    elif k == 1 and np.isnan(found["effective"][i]):
        why = "the log has no propensities, or the policy cannot list its actions"
    elif k == 1:
        effective, least = found["effective"][i], config.least_effective
        why = f"too few effective samples, {effective:.1f} episodes where {least} are needed"
    elif not found["dreams"][i]:
        why = "there is no judge"
    else:
        why = f"{int(found['segments'][i])} held-out segments of the log, {BLOCKS} are needed"
    return f"{NAMES[k]} is ignored: {why}"


def signed(x: float) -> str:
    """A number with its sign."""
    return ("+" if x >= 0 else "") + number(x)


def offline_gate(
    candidate: Any,
    incumbent: Any,
    *,
    log: Log,
    window: int,
    discount: float,
    judge: Judge,
    rounds: int,
    key: jax.Array,
    config: GateConfig,
    once: Callable,
) -> Verdict:
    """The verdict from the log alone."""
    if (episodes := len(log.traces)) < LEAST_EPISODES:
        few = f"and the log holds {episodes} episodes, fewer than the {LEAST_EPISODES} it takes"
        return no_evidence(few)
    if not improvable(log.traces)[0]:
        return no_evidence("and nothing in the log to ask instead")
    level = config.level_of(rounds)

    def work(update: Callable) -> dict[str, np.ndarray]:
        evidence = Evidence(
            log=log,
            window=window,
            discount=discount,
            incumbent=incumbent,
            judge=judge,
            config=config,
            level=level,
            key=key,
        )
        tried = lambda policy: update(1) or evidence.of(policy)
        return weigh(tried, candidate, incumbent, config.min_gain)

    found = once("gate", len(SHARES), unknown(), work)
    return offline_verdict(found, config, level)
