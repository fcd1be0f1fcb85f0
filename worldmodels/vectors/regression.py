"""How the closed-form base of a log is found (`base.py` says what it is).

The kernel's lengths and the ridge are those whose open-loop dreams of held-out episodes err least:
by errors of one step alone, weights win that explode where a dream leaves the data's manifold.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from worldmodels.protocol import RowChunk
from worldmodels.vectors.base import base_changes, flat_rows, posterior_mean
from worldmodels.vectors.contacts import find_contacts
from worldmodels.vectors.robust import (
    CHUNK,
    MOST_KNOWN,
    evenly,
    moments,
    noise_of,
    posterior,
    robust,
    rows_of,
)

LENGTHS = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)  # of the kernel, in deviations of the observation
ACTIONS = (0.1, 1.0)  # by how many lengths actions differ
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
STEPS = (1, 5, 15, 50)  # of the open-loop dreams by which they are chosen
FEW = 256  # features with which lengths are tried; the ridge is chosen with all of them
WINDOWS = 128  # most dreams of each choice
LEAST_ERROR = 1e-12  # of a dream, squared deviations of the observation
LEAST_STEPS = 10
MOST_BYTES = 1 << 30  # of a log's rows that are held at once
FOLDS = 5  # a fifth of the episodes is held out


_changes = jax.jit(base_changes)


class LoggedRows(NamedTuple):
    """All rows of a log in order, NumPy; `has_step` where an action was taken from them."""

    o: Any  # [N, W, O] contexts
    a_past: Any  # [N, W - 1, A]
    valid: Any  # [N, W]
    a: Any  # [N, A]
    after: Any  # [N, O] the next observation
    has_step: Any  # [N]

    @property
    def episode(self) -> np.ndarray:
        """Number of each row's episode [N]; its last row has no step."""
        over = ~self.has_step
        return np.cumsum(over) - over


def logged_rows(every: Iterable[RowChunk]) -> LoggedRows:
    """The rows of `every`, joined; of evenly spread parts where there are too many (`spaced`), each
    of which then ends an episode."""

    def rows(windows, count: int) -> tuple[np.ndarray, ...]:
        first = lambda x: x[:, 0]
        arrays = (first(windows.o), first(windows.a_past), first(windows.valid), first(windows.a))
        arrays += (windows.o[:, 1, -1], first(windows.is_real_step))
        return tuple(np.array(x[:count]) for x in arrays)

    parts, stride = spaced(every, rows)
    if stride > 1:
        for *_, has_step in parts:
            has_step[-1] = False
    return LoggedRows(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def spaced(every: Iterable[RowChunk], make: Callable) -> tuple[list[tuple], int]:
    """(`make(windows, count)`, a tuple of arrays, of every part; 1), or of every second, fourth ...
    part where all of them would take more than MOST_BYTES."""
    kept, stride = [], 1
    for i, rows in enumerate(every):
        if i % stride == 0:
            kept.append(make(*rows))
            if len(kept) > 2 and sum(x.nbytes for part in kept for x in part) > MOST_BYTES:
                kept, stride = kept[::2], 2 * stride
    return kept, stride


def fit_base(
    base: dict, scale: dict, rows: LoggedRows, is_number: Bool[np.ndarray, " O"]
) -> dict[str, Any]:
    """The base of a log, from what `init_base` drew; features that are no numbers do not change.

    Of less than LEAST_STEPS steps, nothing changes.
    """
    if rows.has_step.sum() < LEAST_STEPS:
        nothing = jnp.zeros_like(base["weights"])
        return base | {"weights": nothing, "reserve": nothing}
    names = ("o_mean", "o_std", "o_step", "o_low", "o_high", "margin")
    scale = {name: scale[name] for name in names}
    x = np.asarray(jax.jit(flat_rows)(rows.o, rows.a_past, rows.valid, scale))
    change = (rows.after - rows.o[:, -1]) / np.asarray(scale["o_step"]) * is_number
    steps = np.flatnonzero(rows.has_step)
    drawn = jax.tree.map(np.asarray, base)
    drawn |= {"low": change[steps].min(0), "high": change[steps].max(0)}
    folds = [_Fold.of(rows, held, x, change, scale, is_number) for held in _held_out(rows)]
    base, ridge, noise = _chosen(drawn, folds, is_number)
    some = evenly(steps)
    law, _ = robust(rows_of(base, x[some], rows.a[some]), change[some], is_number)
    known = evenly(steps, MOST_KNOWN)
    gram, moment = moments(base, x[known], rows.a[known], change[known], law)
    for name in ("weights", "reserve"):
        base[name] = posterior(gram, moment, ridge, noise * is_number, drawn[name])
    base["noise"] = noise.astype(np.float32)
    now, after, step = rows.o[steps, -1], rows.after[steps], np.asarray(scale["o_step"])
    expected = now + step * _expected(base, x[steps], rows.a[steps])
    return base | {"contacts": find_contacts(expected, after, noise * step, is_number)}


def _chosen(drawn: dict, folds: list["_Fold"], is_number) -> tuple[dict, float, np.ndarray]:
    """(`drawn` with the lengths of its kernel, the ridge, what it leaves over in all folds)."""
    kernel = functools.partial(_with_lengths, context=folds[0].fitted[0].shape[1])
    few = drawn | {"omega": drawn["omega"][:, :FEW], "phase": drawn["phase"][:FEW]}
    lengths = list(itertools.product(LENGTHS, ACTIONS))
    tried = [folds[0].losses(kernel(few, *each))[0].min() for each in lengths]
    base = kernel(drawn, *lengths[int(np.argmin(tried))])
    losses, weights = zip(*(fold.losses(base) for fold in folds), strict=True)
    best = int(np.argmin(np.mean(losses, axis=0)))
    error = np.concatenate(
        [fold.errors(base, w[best]) for fold, w in zip(folds, weights, strict=True)]
    )
    return base, RIDGES[best], np.where(is_number, noise_of(error, is_number), 1.0)


def _expected(base: dict, x, a) -> Float[np.ndarray, "N O"]:
    """Changes that the base expects of many rows."""
    mean, parts = posterior_mean(base), range(0, len(x), CHUNK)
    return np.concatenate([_changes(mean, x[k : k + CHUNK], a[k : k + CHUNK])[0] for k in parts])


class _Fold(NamedTuple):
    """What a base is fitted on, and the dreams and steps of other episodes that it is tried on."""

    fitted: tuple[Any, Any, Any]  # x [N, D], a [N, A], change [N, O]
    held: tuple[Any, Any, Any]
    dreams: "Dreams"
    scale: dict
    is_number: Any

    @classmethod
    def of(cls, rows: LoggedRows, held, x, change, scale: dict, is_number) -> "_Fold":
        """Where `held` [N] are the rows that are held out; of the others at most MOST_ROWS."""
        steps = np.flatnonzero(rows.has_step)
        inside, outside = steps[~held[steps]], steps[held[steps]]
        of = lambda at: (x[at], rows.a[at], change[at])
        dreams = _dreams(rows, held)
        return cls(of(evenly(inside)), of(evenly(outside)), dreams, scale, is_number)

    def losses(self, base: dict) -> tuple[np.ndarray, np.ndarray]:
        """(open-loop loss of each of RIDGES [L], infinite where there is none; weights
        [L, G, O])."""
        x, a, change = self.fitted
        phi = rows_of(base, x, a)
        _, weigh = robust(phi, change, self.is_number)
        weights = _ridge_paths(phi.T @ (weigh * phi), phi.T @ (weigh * change))
        losses = _open_loop_losses(base, weights, self.scale, self.dreams, self.is_number)
        return np.where(np.isfinite(losses), losses, np.inf), weights

    def errors(self, base: dict, weights) -> np.ndarray:
        """Errors [N, O] of one step, held out."""
        x, a, change = self.held
        return change - rows_of(base, x, a) @ weights


def _held_out(rows: LoggedRows) -> list[np.ndarray]:
    """Rows [N] that are held out, five times: a fifth of the episodes; of fewer than five episodes
    once, the last fifth of all rows."""
    episode = rows.episode
    if episode[-1] + 1 >= FOLDS:
        return [episode % FOLDS == fold for fold in range(FOLDS)]
    return [np.arange(len(episode)) >= len(episode) - max(2, len(episode) // FOLDS)]


def _with_lengths(drawn: dict, length: float, apart: float, context: int) -> dict:
    """The base with the lengths of its kernel."""
    by = np.where(np.arange(len(drawn["omega"])) < context, 1 / length, apart)
    return drawn | {"omega": drawn["omega"] * by[:, None]}


def _ridge_paths(gram, moment) -> Float[np.ndarray, "L G O"]:
    """The weights of each of RIDGES."""
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ moment
    shrunk = [turned / (np.maximum(values, 0) + ridge)[:, None] for ridge in RIDGES]
    return np.stack([vectors @ each for each in shrunk])


class Dreams(NamedTuple):
    """Held-out windows of max(STEPS) steps."""

    o: Any  # [B, W, O]
    a_past: Any
    valid: Any
    a: Any  # [M, B, A]
    after: Any  # [M, B, O]
    is_real: Any  # [M, B]


def _dreams(rows: LoggedRows, held: Bool[np.ndarray, " N"]) -> Dreams:
    """At most WINDOWS of them, evenly spread over the held-out rows that have a step; padded to
    WINDOWS, so that all logs share a program."""
    starts = np.flatnonzero(held & rows.has_step)
    count = min(starts.size, WINDOWS)
    starts = starts[np.linspace(0, starts.size - 1, count).astype(int)]
    starts = np.resize(starts, WINDOWS)
    ahead = np.minimum(starts + np.arange(max(STEPS))[:, None], len(held) - 1)
    real = np.cumprod(rows.has_step[ahead], axis=0).astype(bool)
    return Dreams(
        o=rows.o[starts],
        a_past=rows.a_past[starts],
        valid=rows.valid[starts],
        a=rows.a[ahead],
        after=rows.after[ahead],
        is_real=real,
    )


@jax.jit
def _open_loop_losses(base, weights, scale, dreams: Dreams, is_number) -> Float[Array, " L"]:
    """Mean over dreams and STEPS of the log error, for each of the `weights` [L, G, O]: what most
    of them are worth, whatever a few of them run into."""

    def loss(weights):
        mean = base | {"weights": weights[None]}

        def step(context, now):
            o, a_past, valid = context
            a, after = now
            x = flat_rows(o, a_past, valid, scale)
            guess = o[:, -1] + scale["o_step"] * base_changes(mean, x, a)[0]
            low, high = (scale[name] for name in ("o_low", "o_high"))
            below, above = scale["margin"] * scale["o_std"]
            guess = jnp.clip(guess, low - below, high + above)
            guess = jnp.where(is_number, guess, after)
            push = lambda old, new: jnp.concatenate([old, new[:, None]], axis=1)[:, 1:]
            valid = push(valid, jnp.ones_like(valid[:, 0]))
            a_past = push(a_past, a) if a_past.shape[1] else a_past
            return (push(o, guess), a_past, valid), guess

        begin = dreams.o, dreams.a_past, dreams.valid
        _, guesses = jax.lax.scan(step, begin, (dreams.a, dreams.after))
        errors = jnp.square((guesses - dreams.after) / scale["o_std"]).mean(-1)
        at = np.array(STEPS) - 1
        real = dreams.is_real[at]
        each = (jnp.log(errors[at] + LEAST_ERROR) * real).sum(1) / jnp.maximum(1, real.sum(1))
        return each.sum() / jnp.maximum(1, real.any(1).sum())

    return jax.lax.map(loss, weights.astype(jnp.float32))
