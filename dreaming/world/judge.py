"""A judge: models that did not plan, what they say of policies, and how wrong they are.

Their error is measured on segments of the log that they were not fitted on: what a segment really
earned, minus what a clone of the log's behaviour earns in the judge's dream from the same
observation. `systematic_error` bounds its mean, from the means of BLOCKS blocks of
neighbouring segments.

What is bounded is how wrong the judge is, segment for segment and all to one side, where the
behaviour goes. What is not: its error where only the candidate goes, and what a wrong state at
the end of a segment costs later. So a judge is one voice of several, never the only one.

A conformal quantile of the block errors would bound the error on one block more, chance included,
which is far wider than a policy's mean: with it the gate let 12 of 24 clear gains pass in a pilot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from dreaming.observe.log import Log
from dreaming.observe.replay import contexts
from dreaming.statistics import t_interval
from dreaming.student.dreams import limited_dreams
from envs.dream import World

SEGMENT = 50  # steps of a segment
MOST_SEGMENTS = 1024  # of one model
DREAMS = 256  # episodes in which a model compares policies
COPIES = 4  # dreams per segment
BLOCKS = 20  # of neighbouring segments: their means are nearly independent and nearly normal


@dataclass(frozen=True)
class Judge:
    """Models with logs that they never saw, and a clone of what recorded these."""

    worlds: Sequence[World]
    held: Sequence[Log]
    clone: Any
    key: jax.Array

    @property
    def segment(self) -> int:
        """Steps of a segment."""
        return min([SEGMENT, *(world.horizon for world in self.worlds)])

    def returns(self, policy: Any) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Returns and lengths of a policy in dreams, of all models in turn.

        Every policy dreams from the same observations under the same keys.
        """
        keys = jax.random.split(jax.random.fold_in(self.key, 0), max(1, len(self.worlds)))
        found = [dream(world, policy, key) for world, key in zip(self.worlds, keys, strict=False)]
        if not found:
            return np.zeros(0), np.zeros(0, np.int64)
        return tuple(np.concatenate(x) for x in zip(*found, strict=True))  # type: ignore

    def figures(self, candidate: Any, incumbent: Any) -> dict[str, float]:
        """`judge_gain`: what the candidate earns more in the dreams; nothing without a model."""
        new, old = (self.returns(policy)[0] for policy in (candidate, incumbent))
        return {"judge_gain": float((new - old).mean())} if new.size else {}

    def errors(self) -> Float[np.ndarray, " n"]:
        """Really earned minus dreamed, of all segments in the order of the log."""
        keys = jax.random.split(jax.random.fold_in(self.key, 1), max(1, len(self.worlds)))
        found = [
            segment_errors(world, log, self.clone, key, self.segment)
            for world, log, key in zip(self.worlds, self.held, keys, strict=False)
        ]
        return np.concatenate([np.zeros(0), *found])


def dream(world: World, policy: Any, key: jax.Array):
    """(returns, lengths) of DREAMS dreams from logged starts to the horizon."""
    start_key, key = jax.random.split(key)
    drawn = np.asarray(jax.random.choice(start_key, np.flatnonzero(world.initial), (DREAMS,)))
    context = jax.tree.map(lambda x: jnp.asarray(x[drawn]), world.starts)
    return limited_dreams(world, policy, context, key, np.full(DREAMS, world.horizon))


def segments(log: Log, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, most steps, reward) of every segment of at most `length` steps.

    One that the clock or the recorder cut is compared over the steps it has; one in which the task
    ended, over all `length`, in which the dream might still earn.
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
    """Really earned minus dreamed, of evenly spread segments of `log`."""
    rows, limits, earned = segments(log, length)
    kept = np.linspace(0, rows.size - 1, min(rows.size, MOST_SEGMENTS)).astype(int)
    # Padded to one size, so that all logs share a compiled program.
    each = np.repeat(np.resize(kept, MOST_SEGMENTS), COPIES)
    context = contexts(log.replay(), jnp.asarray(rows[each]), world.model.window)
    dreamed = limited_dreams(world, clone, context, key, limits[each])[0]
    dreamed = dreamed.reshape(MOST_SEGMENTS, COPIES).mean(1)[: kept.size]
    return earned[kept] - dreamed


def systematic_error(errors: Float[np.ndarray, " n"], level: float) -> float | None:
    """How far from zero the mean error of a segment may lie; None with fewer than BLOCKS of them.

    The farther end of Student's interval of the mean of BLOCKS block means.
    """
    if errors.size < BLOCKS:
        return None
    blocks = np.array([block.mean() for block in np.array_split(errors, BLOCKS)])
    low, high = t_interval(blocks, level=level)
    return max(-low, high)
