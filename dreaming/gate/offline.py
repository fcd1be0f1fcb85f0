"""The gate without a real task: three estimates of the gain from the log alone, and their verdict.

G1 fitted-Q evaluation, G2 weighted doubly robust, G3 the judge's dreams; each of the undiscounted
return of an episode. A candidate is accepted if the lower bound of one of them is above the least
gain asked for at the error probability of the trial, another one agrees (its lower bound is, at the
error probability `agreeing`), and none has an upper bound below zero; else its mixtures with the
incumbent are tried; else nothing changes. No single family of estimators is near an oracle (Fu et
al., 2021), and these three fail in different ways: G1 where the log is thin, G2 where candidate and
behaviour differ, G3 where the model is wrong; so one alone is not believed, however sure it is.
Judges that share episodes with the planner cannot speak for what it planned: G3 then only counts
where it sees harm.

The error: if the estimates err together, accepting errs as often as one of them does; if
independently, at most as often as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Int

from dreaming.config import GateConfig
from dreaming.gate.evidence import Evidence
from dreaming.gate.incumbent import LEAST_EPISODES, Incumbent, blind
from dreaming.gate.logged_steps import input_bytes
from dreaming.gate.verdict import Verdict, improvable, no_evidence
from dreaming.gate.words import number, signed
from dreaming.observe.log import Log
from dreaming.observe.sample import chosen_episodes
from dreaming.student.network import mixture
from dreaming.world.judge import BLOCKS, LEAST_OPINIONS, Judge

SHARES = (1.0, 0.5, 0.25, 0.1)  # of the candidate in its mixtures, tried in this order
SPENT = (0.7, 0.1, 0.1, 0.1)  # of a trial's error probability, by each of them
NAMES = ("fitted Q", "doubly robust", "the judge's dreams")
MOST_ROWS, MOST_BYTES = 1 << 16, 256 << 20  # steps that are asked, and bytes of their inputs


def unknown() -> dict[str, np.ndarray]:
    """Evidence for every share in SHARES, all still NaN, which means unknown.

    `intervals` [share, estimate, (gain, lower, upper)] over the policy (`over` 0) or over the
    process as it ran (1), whichever is harder to beat; `error` probability of each end; `likely`
    lower bounds at the error probability `agreeing`; `effective` episodes of G2; `diverged` members
    of G1; `segments` and `opinions` (members) of the judge. `counts` [estimate]: whether it may
    speak for a candidate. `trial`: its number in the lineage. `clone` (gain, lower, upper) of a
    clone over the log that it was cloned from.
    """
    each = lambda *shape: np.full((len(SHARES), *shape), np.nan)
    names = ("error", "effective", "diverged", "segments", "opinions")
    found = {name: each() for name in names}
    found |= {"intervals": each(len(NAMES), 3), "over": each(len(NAMES))}
    found |= {"likely": each(len(NAMES))}
    one = {"trial": np.array(0), "clone": np.full(3, np.nan)}
    return found | one | {"counts": np.ones(len(NAMES), bool)}


def voices(
    found: Mapping[str, np.ndarray], i: int, min_gain: float
) -> tuple[Bool[np.ndarray, " G"], Bool[np.ndarray, " G"], Bool[np.ndarray, " G"]]:
    """Which estimates speak for share `i` firmly, which agree, and which see harm."""
    intervals, counts = found["intervals"][i], found["counts"]
    firm = (intervals[:, 1] > min_gain) & counts
    return firm, (found["likely"][i] > min_gain) & counts, intervals[:, 2] < 0


def passes(found: Mapping[str, np.ndarray], i: int, min_gain: float) -> bool:
    """Whether one estimate speaks for share `i`, another one agrees, and none sees harm; NaN is
    neither."""
    firm, likely, harm = voices(found, i, min_gain)
    return bool(firm.any() and (firm | likely).sum() >= 2 and not harm.any())


def weigh(
    evidence: Callable[[Any, float], dict],
    candidate: Any,
    incumbent: Any,
    config: GateConfig,
    trial: int = 0,
    counts: Any = (True, True, True),
) -> dict[str, np.ndarray]:
    """The evidence on the candidate, and on its mixtures with the incumbent until one passes.

    `evidence(policy, error)` has the keys of `unknown`. No further mixture is tried once an upper
    bound is below zero: a little harm is harm.
    """
    found = unknown() | {"trial": np.array(trial), "counts": np.array(counts)}
    spent = 1 - config.level_of(trial)
    for i, (share, part) in enumerate(zip(SHARES, SPENT, strict=True)):
        tried = candidate if share == 1 else mixture(incumbent, candidate, share)
        for name, x in evidence(tried, spent * part).items():
            found[name][i] = x
        if passes(found, i, config.min_gain) or voices(found, i, config.min_gain)[2].any():
            break
    return found


def offline_verdict(
    found: dict[str, np.ndarray],
    config: GateConfig,
    names: Sequence[str],
    notes: Sequence[str] = (),
) -> Verdict:
    """The verdict on the first share that passed, else on the candidate alone, with reasons.

    `names` are those of what is to beat: the policy, and the process as it ran. The bounds that
    decide are shown: the highest lower bound that counts and the least upper bound.
    """
    intervals, counts = found["intervals"], found["counts"]
    passed = [i for i in range(len(SHARES)) if passes(found, i, config.min_gain)]
    shown = passed[0] if passed else 0
    is_known = ~np.isnan(intervals[shown, :, 0])
    known = intervals[shown][is_known]
    lowers = intervals[shown][is_known & counts][:, 1]
    words = [in_words(found, shown, k, config, names) for k in range(len(NAMES))]
    if shown:
        alone = (in_words(found, 0, k, config, names) for k in range(len(NAMES)))
        words += [f"of the candidate alone, {told}" for told in alone]
    return Verdict(
        bool(passed),
        lower=float(lowers.max()) if lowers.size else -np.inf,
        upper=float(known[:, 2].min()) if known.size else np.inf,
        gain=float(np.median(known[:, 0])) if known.size else np.nan,
        reasons=(conclusion(found, passed, config.min_gain), *words, *notes),
        share=SHARES[shown],
        trial=int(found["trial"]),
    )


def conclusion(found: dict[str, np.ndarray], passed: list[int], min_gain: float) -> str:
    """The verdict in one sentence."""
    shown = passed[0] if passed else 0
    firm, likely, harm = voices(found, shown, min_gain)
    bar = number(min_gain) if min_gain else "zero"
    count, agree = int(firm.sum()), int((likely & ~firm).sum())
    told = f"{count} of {int(found['counts'].sum())} estimates from the log"
    told += f" {'has' if count == 1 else 'have'} a lower bound above {bar}"
    told += f", {agree} more {'agrees' if agree == 1 else 'agree'}" if agree else ""
    if not passed:
        if harm.any():
            saw = " and ".join(name for name, x in zip(NAMES, harm, strict=True) if x)
            return f"no real environment: {told}, and {saw} saw harm"
        return f"no real environment: {told}; one, and another that agrees, are needed"
    if shown == 0:
        return f"no real environment: {told}, and none sees harm"
    return (
        "no real environment: the candidate alone did not pass; of a mixture that asks it in "
        f"{SHARES[shown]:.0%} of the steps {told}, and none sees harm"
    )


def in_words(
    found: dict[str, np.ndarray], i: int, k: int, config: GateConfig, names: Sequence[str]
) -> str:
    """Estimate `k` at share `i` in words: gain and interval, or why it is ignored."""
    gain, low, high = found["intervals"][i, k]
    if not np.isnan(gain):
        level, over = 1 - 2 * float(found["error"][i]), names[int(found["over"][i, k])]
        ends = f"{signed(gain)} [{signed(low)}, {signed(high)}]"
        told = f"{NAMES[k]}: {ends} per episode over {over} ({level:.1%} interval)"
        return told if found["counts"][k] else f"{told}; {NOT_INDEPENDENT}"
    if k == 0:
        count = int(found["diverged"][i])
        why = f"the values of {count} of {config.members} members left what rewards allow"
    elif k == 1 and np.isnan(found["effective"][i]):
        why = "it needs propensities of all episodes, and actions that are not numbers"
    elif k == 1:
        effective, least = found["effective"][i], config.least_effective
        why = f"too few effective samples, {effective:.1f} episodes where {least} are needed"
    elif not found["opinions"][i]:
        why = "there is no judge"
    elif found["segments"][i] < BLOCKS:
        why = f"{int(found['segments'][i])} held-out segments of the log, {BLOCKS} are needed"
    else:
        many = f"{int(found['opinions'][i])} of {LEAST_OPINIONS} members needed"
        why = f"its models are too few to see how much they differ, {many} (judge.members)"
    return f"{NAMES[k]} is ignored: {why}"


NOT_INDEPENDENT = (
    "not independent, for the log is too short to keep episodes from the planner: it cannot speak "
    "for the candidate"
)


def spread_episodes(log: Log, window: int, newest: Sequence[int]) -> Int[np.ndarray, " n"]:
    """The episodes that are asked: all, or of a long log as many evenly spread ones as the
    estimates have room for, but at least twice LEAST_EPISODES; first those of the newest policy."""
    rows = np.array([len(trace) + 1 for trace in log.traces])
    most = min(MOST_ROWS, MOST_BYTES // input_bytes(log, window))
    return chosen_episodes(rows, max(most, 4 * LEAST_EPISODES * int(rows.max())), newest)


def counted(evidence: Evidence, update: Callable) -> Callable[[Any, float], dict]:
    """`evidence.of`, each call of which is told to `update`."""

    def tried(policy: Any, error: float) -> dict[str, Any]:
        update(1)
        return evidence.of(policy, error)

    return tried


def offline_gate(
    candidate: Any,
    incumbent: Incumbent,
    *,
    log: Log,
    window: int,
    horizon: int,
    judge: Judge,
    trials: Callable[[], int],
    key: jax.Array,
    config: GateConfig,
    once: Callable,
) -> Verdict:
    """The verdict from the log alone. `trials()` is the number of this trial, on disk before the
    gate looks at anything."""
    if (episodes := len(log.traces)) < LEAST_EPISODES:
        few = f"and the log holds {episodes} episodes, fewer than the {LEAST_EPISODES} it takes"
        return no_evidence(few)
    if not improvable(log.traces)[0]:
        return no_evidence("and nothing in the log to ask instead")

    def work(update: Callable) -> dict[str, np.ndarray]:
        trial = trials()
        chosen = spread_episodes(log, window, incumbent.newest)
        evidence = Evidence(
            log=log.only(chosen),
            window=window,
            horizon=horizon,
            incumbent=incumbent.among(chosen),
            judge=judge,
            config=config,
            key=key,
        )
        found = weigh(
            counted(evidence, update), candidate, incumbent.params, config, trial, evidence.counts
        )
        return found | {"clone": evidence.of_clone()}

    found = once("gate", len(SHARES), unknown(), work)
    names = incumbent.name, incumbent.as_it_ran if incumbent.has_run else ""
    gain, _, high = found["clone"]
    notes = incumbent.too_few() + ([blind(number(-gain), window)] if high < 0 else [])
    return offline_verdict(found, config, names, notes)
