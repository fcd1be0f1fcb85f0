"""Rows of a session, what a reader keeps of them, and what is learned from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from envs.types import container


@container
class Rows:
    """Decisions of a session, oldest first; `valid` marks those that a reader may see."""

    o: Float[Array, "*B M O"]  # observation features
    a: Float[Array, "*B M A"]  # action features
    r: Float[Array, "*B M"]  # reward, 0 where it is not known
    known: Bool[Array, "*B M"]  # whether the reward is known
    outcome: Int[Array, "*B M"]  # index of what was seen of its outcome, -1 = nothing
    day: Int[Array, "*B M"]  # number of the episode in the session
    valid: Bool[Array, "*B M"]


@container
class Memory:
    """Rows as a reader looks them up, computed once per row: keys and values of each layer."""

    keys: Float[Array, "*B M L H D"]
    values: Float[Array, "*B M L H D"]
    valid: Bool[Array, "*B M"]


@container
class Sums:
    """All that linear attention keeps of rows, whatever their number: it adds up.

    The sums of two sets of rows are their sum; to leave a day out, or to forget a session, is to
    subtract its sums.
    """

    outer: Float[Array, "*B L H F D"]  # sum over rows of features of keys times values
    total: Float[Array, "*B L H F"]  # sum over rows of features of keys


@container
class Pool:
    """Sessions to learn from, with the oracle's answers."""

    rows: Rows  # [N, S]
    right: Int[Array, "N S"]
    others_o: Float[Array, "N K O"]  # observations of the other skills
    others_right: Int[Array, "N K"]


@container
class Walk:
    """Dreamed days of the student, [T, B]."""

    o: Float[Array, "T B O"]
    a: Float[Array, "T B A"]
    advice: Float[Array, "T B A"]  # log-probabilities of the teacher
    q: Float[Array, "T B A"]


@container
class OldDreams:
    """N contexts, with Q observations each and the log-probabilities of the base there."""

    rows: Rows  # [N, M]
    o: Float[Array, "N Q O"]
    log_pi: Float[Array, "N Q A"]
    weight: Float[Array, "N Q"]


@container
class Lesson:
    """What stays as it is in a round of self-distillation."""

    base: Any  # weights of the teacher, and of the student at the start
    frozen: Any  # what a form of change keeps beside what is learned
    tables: Any  # of the dream
    rows: Rows  # of the session, [M]
    reads: Rows  # of the teacher: these, and those that are kept
    old: OldDreams | None


KEPT = -1  # the day of rows that a context keeps: no session has it


def beside(rows: Rows, kept: Rows | None) -> Rows:
    """Rows [M], and behind them those that a deployment's context keeps [K], as a day of their own:
    whoever leaves out a day of the session still reads them."""
    if kept is None:
        return rows
    kept = dataclasses.replace(kept, day=jnp.full_like(kept.day, KEPT))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rows, kept)


def named_rows(rows: Rows) -> dict[str, np.ndarray]:
    """Rows as arrays by name."""
    names = [each.name for each in dataclasses.fields(Rows)]
    return {name: np.asarray(getattr(rows, name)) for name in names}


def rows_of(arrays: Mapping[str, Any]) -> Rows:
    """The inverse of `named_rows`; other names are left out."""
    return Rows(**{each.name: arrays[each.name] for each in dataclasses.fields(Rows)})
