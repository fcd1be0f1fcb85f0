"""The gate in the real task: pairs of episodes, at most as many as it takes to know.

Candidate and incumbent play episodes from the same seeds, and the gate looks at them three times
(see `boundary`). It accepts when the candidate earns more, by the least gain asked for, than the
incumbent in the same episodes *and* than the process as it ran in its log; each is tested at the
whole error probability, since both must hold (an intersection-union test). It stops early when
either is out of reach. The logged episodes are the same at all looks; that only makes the looks
more alike than the boundary assumes.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreaming.config import FIRST_SEED, GateConfig
from dreaming.gate.boundary import SHARES, errors_of_looks
from dreaming.gate.incumbent import Incumbent
from dreaming.gate.returns import Gain, paired_gain, separate_gain
from dreaming.gate.verdict import Verdict
from dreaming.gate.words import number

SEEDS = 9 * FIRST_SEED  # that gate episodes are drawn from; those of the report begin after them
Played = dict[str, Any]  # "trial", "returns" [2, n] (NaN = not played), "lengths" [2, n]


def gate_seeds(key: jax.Array, trial: int, count: int) -> list[int]:
    """Reset seeds of the episodes of a trial; no other stage uses them.

    `key` is a typed key of the run. Every trial has other ones, or a candidate that was lucky once
    would be lucky again.
    """
    entropy = np.asarray(jax.random.key_data(key)).ravel().tolist()
    source = np.random.SeedSequence(entropy, spawn_key=(trial,))
    drawn = np.random.default_rng(source).choice(SEEDS, count, replace=False, shuffle=False)
    return (FIRST_SEED + drawn).tolist()


def unplayed(episodes: int) -> Played:
    """The structure of a trial's record."""
    none = np.full((2, episodes), np.nan)
    return {"trial": np.array(0), "returns": none, "lengths": np.zeros((2, episodes), np.int64)}


def real_gate(
    candidate: Any,
    incumbent: Incumbent,
    *,
    real: Callable,
    trials: Callable[[], int],
    window: int,
    key: jax.Array,
    config: GateConfig,
    once: Callable,
) -> Verdict:
    """The verdict from real episodes. `trials()` is the number of this trial, on disk before the
    first episode; `real` and `once` are those of `one_round`, `key` is a typed key."""
    looks = config.looks
    most = looks[-1]

    def play(update: Callable) -> Played:
        played = unplayed(most) | {"trial": np.array(trials())}
        seeds = gate_seeds(key, int(played["trial"]), most)
        done = 0
        for until in looks:
            for who, student in enumerate((candidate, incumbent.params)):
                found = real(student, seeds[done:until], update)
                played["returns"][who, done:until], played["lengths"][who, done:until] = found
            done = until
            if judged(played, incumbent, config)[0] is not None:
                break
        update(2 * (most - done))  # those that were not needed
        return played

    played = once("gate", 2 * most, unplayed(most), play)
    return verdict_of(played, incumbent, config, window)


def judged(
    played: Played, incumbent: Incumbent, config: GateConfig
) -> tuple[bool | None, dict[str, Gain], float]:
    """(whether it is accepted, None = not known yet, by the look after the episodes played so far;
    the gains by what they are over; the one-sided error probability of each of their ends)."""
    ours, theirs = played["returns"][:, ~np.isnan(played["returns"][0])]
    look = config.looks.index(ours.size)
    error = errors_of_looks(1 - config.level_of(int(played["trial"])), SHARES)[look]
    gains = {incumbent.name: paired_gain(ours, theirs, error)}
    if incumbent.has_run:
        gains["the process as it ran"] = separate_gain(ours, incumbent.returns, error)
    if all(gain.lower > config.min_gain for gain in gains.values()):
        return True, gains, error
    if any(gain.upper <= config.min_gain for gain in gains.values()):
        return False, gains, error
    return (False if ours.size == config.looks[-1] else None), gains, error


def verdict_of(played: Played, incumbent: Incumbent, config: GateConfig, window: int) -> Verdict:
    """The verdict on what was played, in words; the gain shown is the one with the lowest bound."""
    accept, gains, error = judged(played, incumbent, config)
    ours, theirs = played["returns"][:, ~np.isnan(played["returns"][0])]
    nearest = min(gains.values(), key=lambda gain: gain.lower)
    names = [f"{incumbent.name} in the same {ours.size} episodes", incumbent.as_it_ran]
    reasons = [
        in_words(gain, over, 1 - 2 * error)
        for over, gain in zip(names, gains.values(), strict=False)
    ]
    bar = f"the least gain asked for, {number(config.min_gain)}" if config.min_gain else "zero"
    for over, gain in gains.items():
        if gain.upper <= config.min_gain and (ours != theirs).any():
            reasons.append(
                f"even the upper bound over {over}, {number(gain.upper)}, is not above {bar}"
            )
        elif not accept and gain.lower <= config.min_gain < gain.upper:
            reasons.append(
                f"the lower bound over {over}, {number(gain.lower)}, is not above {bar}: "
                f"{ours.size} episodes do not tell it from chance"
            )
    reasons += incumbent.too_few() + incumbent.hidden_state(theirs, window)
    return Verdict(
        bool(accept),
        nearest.lower,
        nearest.upper,
        nearest.mean,
        tuple(reasons),
        steps=int(played["lengths"].sum()),
        episodes=ours.size,
        trial=int(played["trial"]),
    )


def in_words(gain: Gain, over: str, level: float) -> str:
    """A gain with its interval."""
    if gain.lower == gain.upper == gain.mean == 0:
        return f"no difference: the candidate earned what {over} did"
    more, amount = ("more", gain.mean) if gain.mean >= 0 else ("less", -gain.mean)
    ends = (gain.lower, gain.upper) if gain.mean >= 0 else (-gain.upper, -gain.lower)
    return (
        f"the candidate earned {number(amount)} [{number(ends[0])}, {number(ends[1])}] {more} per "
        f"episode than {over} ({level:.1%} interval)"
    )
