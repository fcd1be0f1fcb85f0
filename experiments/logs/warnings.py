"""Warnings about a log: what makes it hard to learn from, and what to do."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete

from dreaming.gate.verdict import improvable
from envs.types import Trace
from experiments.logs.leakage import askew, leakage

FEW_EPISODES, FEW_STEPS = 10, 500
THIN = 0.01  # of all steps: an action taken less often is hardly known


def warnings(
    traces: Sequence[Trace], action: gymnasium.Space, o: list, figures: dict[str, Any]
) -> Iterator[str]:
    """One sentence per warning; `o` and `figures` are those of `inspection.inspect`."""
    can_improve, why_not = improvable(traces)
    if not can_improve:
        yield why_not
    yield from _endings(traces, figures["episodes"])
    episodes, steps = figures["episodes"]["count"], figures["episodes"]["steps"]
    if episodes < FEW_EPISODES or steps < FEW_STEPS:
        yield (
            f"a tiny log: {episodes} episodes, {steps} steps; a judge needs {FEW_EPISODES} "
            "episodes it can hold back, so record more"
        )
    yield from _rewards(figures)
    for leaf in figures["actions"]:
        yield from _actions(leaf)
    yield from _optional(traces, action, figures["recorded"])
    if any(not isinstance(space, Discrete | MultiDiscrete | MultiBinary) for _, space, _ in o):
        yield from _duplicates(traces)
    yield from _times(traces)
    yield from leakage(traces, o)
    yield from askew(o)


def _endings(traces: Sequence[Trace], episodes: dict[str, Any]) -> Iterator[str]:
    if not episodes["terminated"]:
        yield (
            "no episode was ended by the task (terminated), so the dream will not end one either; "
            "if the task does end, log it"
        )
    longest = max(len(trace) for trace in traces)
    ended = [len(trace) for trace in traces if trace.terminated[-1]]
    if ended.count(longest) >= max(3, len(ended) / 4):
        yield (
            f"{ended.count(longest)} of {len(ended)} terminated episodes last exactly {longest} "
            "steps, as long as the longest; if that is a clock, log them as truncated"
        )
    if episodes["open"] > 1:
        yield (
            f"{episodes['open']} of {episodes['count']} episodes are open (neither terminated nor "
            "truncated): their returns do not count; if they had ended, log how"
        )


def _rewards(figures: dict[str, Any]) -> Iterator[str]:
    rewards, ended = figures["rewards"], figures["episodes"]["terminated"]
    if rewards["distinct"] == 1 and (rewards["min"] == 0 or not ended):
        yield (
            f"every step earned {rewards['min']:g}; look whether the reward was logged in the "
            "right column, and at the right step"
        )


def _actions(leaf: dict[str, Any]) -> Iterator[str]:
    many = len(leaf.get("factors", ())) > 1
    for i, shares in enumerate(leaf.get("factors", ())):
        yield from _balance(f"{leaf['name']}[{i}]" if many else leaf["name"], shares)
        never = [value for value, share in shares.items() if not share]
        name = f"{leaf['name']}[{i}]" if many else leaf["name"]
        if never:
            shown = ", ".join(map(str, never[:8])) + (", ..." if len(never) > 8 else "")
            which = f"action {shown} was" if len(never) == 1 else f"actions {shown} were"
            yield (
                f"{which} never taken ({name}, {len(never)} of {len(shares)}); nothing is known of "
                "what they do: record some exploration"
            )
    for i, dimension in enumerate(leaf.get("dimensions", ())):
        low, high = dimension["quantiles"][0], dimension["quantiles"][-1]
        if low == high:
            yield f"{leaf['name']}[{i}] was always {low:g}; vary it, or take it out of the actions"


def _balance(name: str, shares: dict[Any, float]) -> Iterator[str]:
    """Warnings for a factor that never varies, or hardly."""
    taken = {value: share for value, share in shares.items() if share}
    if len(taken) == 1:
        yield (
            f"action {name} never varies: nothing shows what another would have done, so nothing "
            "can be learned; record some exploration"
        )
    elif thin := [value for value, share in taken.items() if share < THIN]:
        shown = ", ".join(map(str, thin[:8])) + (", ..." if len(thin) > 8 else "")
        yield (
            f"action {name}: {shown} was taken in less than {THIN:.0%} of the steps, a thin "
            "support; expect little of it"
        )


def _optional(
    traces: Sequence[Trace], action: gymnasium.Space, recorded: dict[str, int]
) -> Iterator[str]:
    if (known := recorded["propensities"]) < len(traces):
        which = "no episode has" if not known else f"only {known} of {len(traces)} episodes have"
        yield (
            f"{which} propensities, so a gate that weighs by importance is impossible; log the "
            "probability of each action that was taken"
        )
    if 0 < recorded["action_masks"] < len(traces):
        without = len(traces) - recorded["action_masks"]
        yield f"{without} of {len(traces)} episodes have no action masks; log them in all or none"
    broken, shut = 0, 0
    for trace in traces:
        if trace.action_masks is not None:
            shut += int((~trace.action_masks.any(axis=1)).sum())
            broken += int((~taken_legal(trace, action)).sum())
    if shut:
        yield f"{shut} action masks forbid everything; log at least one legal action, or no mask"
    if broken:
        yield f"{broken} actions were forbidden by their own mask; look at the order of its entries"


def taken_legal(trace: Trace, action: gymnasium.Space) -> np.ndarray:
    """bool[T]: whether the masks allow every entry of the action that was taken."""
    masks, a = np.asarray(trace.action_masks)[:-1], trace.actions.reshape(len(trace), -1)
    if isinstance(action, Discrete):
        columns = a - int(action.start)
    elif isinstance(action, MultiDiscrete):
        sizes = np.ravel(action.nvec)
        columns = a - np.ravel(action.start) + np.cumsum(sizes) - sizes
    else:
        return np.ones(len(trace), bool)
    if columns.max() >= masks.shape[1]:
        return np.zeros(len(trace), bool)
    return np.asarray(np.take_along_axis(masks, columns.astype(int), axis=1).all(axis=1))


def _duplicates(traces: Sequence[Trace]) -> Iterator[str]:
    seen: dict[str, list[int]] = {}
    for i, trace in enumerate(traces):
        digest = hashlib.sha256()
        for x in (*_arrays(trace.observations), trace.actions, trace.rewards):
            digest.update(np.ascontiguousarray(x).tobytes())
        seen.setdefault(digest.hexdigest(), []).append(i)
    copies = [numbers for numbers in seen.values() if len(numbers) > 1]
    if copies:
        first = " and ".join(map(str, copies[0][:2]))
        yield (
            f"{sum(len(numbers) - 1 for numbers in copies)} episodes are copies of others, step "
            f"for step (such as episodes {first}): intervals would be too narrow; drop the copies"
        )


def _arrays(x: Any) -> Iterator[Any]:
    if isinstance(x, dict | list | tuple):
        for inner in x.values() if isinstance(x, dict) else x:
            yield from _arrays(inner)
    else:
        yield x


def _times(traces: Sequence[Trace]) -> Iterator[str]:
    timed = [(i, trace.times) for i, trace in enumerate(traces) if trace.times is not None]
    back = [(i, int(np.argmax(np.diff(t) < 0))) for i, t in timed if (np.diff(t) < 0).any()]
    if back:
        episode, step = back[0]
        yield (
            f"time goes backwards in {len(back)} episodes (first in episode {episode} after step "
            f"{step}); sort the steps by time"
        )
    starts = [t[0] for _, t in timed]
    late = Counter(later < earlier for earlier, later in zip(starts, starts[1:], strict=False))
    if late[True]:
        yield (
            f"{late[True]} episodes begin before the one that was logged before them; sort "
            "episodes by time, so that the newest can be held back"
        )
