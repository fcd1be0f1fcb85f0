"""A judge: models that did not plan, the returns of policies in their dreams, and their error.

The error is measured on segments of the log that a model was not fitted on: the real reward of a
segment minus the reward of a clone of the log's behaviour in the judge's dream from the same
observation. `systematic_error` bounds its mean, from the means of BLOCKS blocks of
neighbouring segments.

This bounds a systematic error of the judge on states that the behaviour visits. It does not bound
its error on states that only the candidate visits, nor the later cost of a wrong state at the end
of a segment. So the judge is one of several estimates, never the only one.

A conformal quantile of the block errors would bound the error of one further block, chance
included. That is far wider than the error of a policy's mean: with it the gate let 12 of 24 clear
gains pass in a pilot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.statistics import t_interval
from dreaming.student.walks import limited_dreams
from envs.dream import World

SEGMENT = 50  # steps of a segment
MOST_SEGMENTS = 1024  # most segments tested per model
DREAMS = 256  # dreamed episodes per model and policy
COPIES = 4  # dreams per segment
LEAST_OPINIONS = 3  # members of all models together, to see how much they differ
BLOCKS = 20  # of neighbouring segments: their means are nearly independent and nearly normal


class Dreamed(NamedTuple):
    """Dreams of one policy, in the order of the models."""

    returns: Float[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    model: Int[np.ndarray, " n"]  # which one dreamed
    member: Int[np.ndarray, " n"]  # and which of its members


@dataclass(frozen=True)
class Judge:
    """Models, for each a log that it was not fitted on, and a clone of the logs' behaviour.

    `is_independent`: no model was fitted on an episode that the planner saw.
    """

    worlds: Sequence[World]
    held: Sequence[Log]
    clone: Any
    key: jax.Array
    is_independent: bool = True

    @property
    def segment(self) -> int:
        """Steps of a segment."""
        return min([SEGMENT, *(world.horizon for world in self.worlds)])

    def dreams(self, policy: Any) -> Dreamed:
        """A policy in DREAMS dreams of each model.

        All policies get the same first observations, members and keys.
        """
        keys = jax.random.split(jax.random.split(self.key)[0], max(1, len(self.worlds)))
        found = [dream(world, policy, key) for world, key in zip(self.worlds, keys, strict=False)]
        if not found:
            return Dreamed(np.zeros(0), *(np.zeros(0, np.int64) for _ in range(3)))
        returns, lengths, member = (np.concatenate(x) for x in zip(*found, strict=True))
        model = np.repeat(np.arange(len(found)), DREAMS)
        return Dreamed(returns, lengths, model, member)

    def figures(self, candidate: Any, incumbent: Any) -> dict[str, float]:
        """`judge_gain`: mean dreamed return of candidate minus incumbent; {} without a model."""
        new, old = (self.dreams(policy).returns for policy in (candidate, incumbent))
        return {"judge_gain": float((new - old).mean())} if new.size else {}

    def errors(self) -> Float[np.ndarray, " n"]:
        """Real minus dreamed reward of each segment, in the order of the logs."""
        keys = jax.random.split(jax.random.split(self.key)[1], max(1, len(self.worlds)))
        found = [
            segment_errors(world, log, self.clone, key, self.segment)
            for world, log, key in zip(self.worlds, self.held, keys, strict=False)
        ]
        return np.concatenate([np.zeros(0), *found])


def dream(
    world: World, policy: Any, key: jax.Array, dreams: int = DREAMS, limit: int | None = None
):
    """(returns, lengths, members) of dreams from logged starts, of at most `limit` steps, by
    default the horizon."""
    start_key, key = jax.random.split(key)
    drawn = np.asarray(jax.random.choice(start_key, np.flatnonzero(world.initial), (dreams,)))
    context = jax.tree.map(lambda x: jnp.asarray(x[drawn]), world.starts)
    return limited_dreams(world, policy, context, key, np.full(dreams, limit or world.horizon))


def segments(log: Log, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, most dreamed steps, reward) of every segment of at most `length` steps.

    A segment cut by the clock or the recorder is dreamed for its own number of steps. One in which
    the task terminated is dreamed for all `length` steps: a dream that goes on too long counts.
    """
    found, row = [], 0
    for trace in log.traces:
        for t in range(0, len(trace), length):
            rewards = trace.rewards[t : t + length]
            ended = t + length >= len(trace) and trace.terminated[-1]
            found.append((row + t, length if ended else len(rewards), rewards.sum()))
        row += len(trace) + 1
    rows, limits, earned = zip(*found, strict=True)
    return np.array(rows), np.array(limits), np.array(earned)


def segment_errors(world: World, log: Log, clone: Any, key: jax.Array, length: int) -> np.ndarray:
    """Real minus dreamed reward of at most MOST_SEGMENTS evenly spread segments of `log`."""
    rows, limits, earned = segments(log, length)
    kept = np.linspace(0, rows.size - 1, min(rows.size, MOST_SEGMENTS)).astype(int)
    # Padded to one size, so that all logs share a compiled program.
    each = np.repeat(np.resize(kept, MOST_SEGMENTS), COPIES)
    context = contexts(log.replay(), jnp.asarray(rows[each]), world.model.window)
    dreamed = limited_dreams(world, clone, context, key, limits[each])[0]
    dreamed = dreamed.reshape(MOST_SEGMENTS, COPIES).mean(1)[: kept.size]
    return earned[kept] - dreamed


def systematic_error(errors: Float[np.ndarray, " n"], level: float) -> float | None:
    """Bound on |mean error of a segment|; None with fewer than BLOCKS segments.

    The end farther from zero of Student's interval of the mean of BLOCKS block means.
    """
    if errors.size < BLOCKS:
        return None
    blocks = np.array([block.mean() for block in np.array_split(errors, BLOCKS)])
    low, high = t_interval(blocks, level=level)
    return max(-low, high)


def spread_of_models(x: Float[np.ndarray, " n"], dreamed: Dreamed) -> tuple[float, int]:
    """(standard error of the mean of `x`, a value per dream, as an estimate of the truth; its
    degrees of freedom).

    The members of a model are draws from what its log leaves open (a Bayesian bootstrap), so their
    variance is that of the estimate and is not divided by their number; models are fitted on
    different episodes, so it is divided by theirs. It is the variance of the members' means less
    what the chance in their dreams adds to it (a random-effects model, by moments). (NaN, K - 1)
    with K < LEAST_OPINIONS members in all.
    """
    opinions = np.unique(np.stack([dreamed.model, dreamed.member]), axis=1)
    count = opinions.shape[1]
    if count < LEAST_OPINIONS:
        return float("nan"), count - 1
    is_of = [(dreamed.model == i) & (dreamed.member == j) for i, j in opinions.T]
    means = np.array([x[mine].mean() for mine in is_of])
    chance = np.array([x[mine].var(ddof=1) / mine.sum() for mine in is_of if mine.sum() > 1])
    between = max(0.0, means.var(ddof=1) - chance.mean())
    models = np.unique(dreamed.model).size
    return float(np.sqrt(between / models + chance.mean() / count)), count - 1
