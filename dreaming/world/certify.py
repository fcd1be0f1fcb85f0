"""Certification: a world model tested on episodes it was not fitted on; figures and a sentence."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dreaming.observe.log import Log
from dreaming.observe.replay import contexts, cut_windows
from worldmodels import fidelity
from worldmodels.fidelity import STEPS, TRUSTED, VALUE_STEPS, Figures, Happened, OneStep, Table

WINDOWS, LENGTH = 512, max(STEPS) + 1  # number of open-loop dreams, and observations in each
DOUBTED = (5, 15)  # steps over which uncertainty is held against error
CHUNK, CHUNKS = 2048, 4  # one-step predictions per compiled call; at most CHUNKS calls
DOUBT = ("uncertainty", "uncertainty_99")
BYTES = 64 << 20  # of observations held as floats at once, but at least FEWEST rows
FEWEST = 32
GOOD = 0.95  # a region is weak only if its one-step skill is below this
FEW = 10  # a discrete state with fewer logged steps is named as rare
SHOWN = 6  # states listed by name
ODDS = 0.05  # largest difference of given and expected probability for trusted odds


@dataclass(frozen=True)
class HeldOut:
    """The test of one model on one held-out log."""

    figures: Figures
    table: Table  # open-loop error after each k of STEPS
    curve: Table  # and after every k of 1..50 that enough windows reach
    o: Float[np.ndarray, "N O"]  # observation before each tested step
    error: Float[np.ndarray, " N"]  # squared error of that step, in deviations
    still: Float[np.ndarray, " N"]  # the same error for predicting no change


@functools.partial(jax.jit, static_argnums=0, static_argnames=("head", "discount", "window"))
def _unrolled(model, params, replay, rows, key, *, head, discount: float, window: int):
    """(open-loop dreams from `rows`, the windows that happened, value of o[n])."""
    cut_key, dream_key = jax.random.split(key)
    batch = cut_windows(replay, rows, LENGTH, cut_key, head=head, window=window)
    context = contexts(replay, rows, window)
    dreamed = fidelity.open_loop(model, params, context, batch.a, discount, dream_key)
    later = jnp.minimum(rows + VALUE_STEPS, replay.last[rows])
    v, *_ = model.predict(params, model.root(params, contexts(replay, later, window)))
    return dreamed, batch.replace(o=batch.o[:, :, -1:]), v  # only the newest o is compared


@functools.partial(jax.jit, static_argnames=("model", "window"))
def _stepped(model, params, replay, rows, window: int):
    """(predictions of one step from `rows`, what really happened)."""
    step = fidelity.one_step(model, params, contexts(replay, rows, window), replay.a[rows])
    before, after = (replay.observed(i).astype(jnp.float32) for i in (rows, rows + 1))
    return step, Happened(before, after, replay.r[rows], replay.terminated[rows])


def held_out(
    model: Any, params: Any, log: Log, key: jax.Array, *, discount: float, span: float, window: int
) -> HeldOut:
    """Test a model (any with the protocol) on a log; `span` is the width of the range of values.

    Open-loop dreams begin at randomly drawn steps. One-step predictions are made at all steps, or
    at CHUNK * CHUNKS evenly spread ones; at fewer where observations are large (see BYTES).
    """
    replay, unit = log.replay(), units(log)
    discrete = log.observation.kind == "discrete"
    rows = lambda most, each: min(most, max(FEWEST, BYTES // (4 * each * log.observation.size)))

    start_key, dream_key = jax.random.split(key)
    drawn = jax.random.randint(start_key, (rows(WINDOWS, LENGTH),), 0, replay.num_starts)
    at = replay.starts[drawn]
    rules = {"head": log.head, "discount": discount, "window": window}
    unrolled = _unrolled(model, params, replay, at, dream_key, **rules)
    dreamed, batch, v = jax.tree.map(np.asarray, unrolled)

    starts = np.asarray(replay.starts)[: int(replay.num_starts)]
    step, real = _all_steps(model, params, replay, starts, window, rows(CHUNK, 1))
    figures = fidelity.step_figures(step, real, unit, model.num_members, discrete)
    figures |= fidelity.value_equivalence(dreamed.g, batch, v, discount, span)
    figures |= fidelity.doubts(dreamed, batch, unit, DOUBTED)
    table = fidelity.skill_table(dreamed.o, batch, unit)
    enough = min(fidelity.WINDOWS, len(log))
    curve = fidelity.skill_table(dreamed.o, batch, unit, range(1, LENGTH), enough)
    squared = lambda guess: np.square(fidelity.step_error(guess, real.after, unit))
    o = real.before
    return HeldOut(
        figures=figures, table=table, curve=curve, o=o, error=squared(step.o), still=squared(o)
    )


def units(log: Log) -> Float[np.ndarray, " O"]:
    """The unit of each feature's errors: its standard deviation; 1 for discrete observations, 255
    for frames."""
    kind, size = log.observation.kind, log.observation.size
    if kind in ("discrete", "frames"):
        return np.full(size, 1.0 if kind == "discrete" else 255.0, np.float32)
    packed, found, at = np.concatenate(log.packed()), [], 0
    for part, width in log.parts:
        x = packed[:, at : at + (1 if part == "categorical" else width)]
        at += x.shape[1]
        if part == "categorical":
            share = np.bincount(x[:, 0].astype(int), minlength=width) / len(x)
            found.append(np.sqrt(share * (1 - share)))
        else:
            found.append(x.std(0))
    unit = np.concatenate(found).astype(np.float32)
    return np.where(unit > 1e-6, unit, 1.0)


def foreseen(model: Any, params: Any, log: Log, window: int) -> float:
    """How well a model's policy head predicts the actions of a log that it was not fitted on.

    McFadden's pseudo-R^2 against uniform legal actions: 0 for a random behaviour, 1 where every
    action is predicted with certainty. 0 for "box" actions.
    """
    head, replay = log.head, log.replay()
    if head.kind == "box":
        return 0.0

    @jax.jit
    def losses(replay, rows):
        _, pi, _ = model.predict(params, model.root(params, contexts(replay, rows, window)))
        legal, done = replay.legal[rows], head.target(replay.a[rows])
        loss = lambda pi: head.imitation(done, head.masked(pi, legal))
        return loss(pi), loss(jnp.zeros_like(pi))

    starts = np.asarray(replay.starts)[: int(replay.num_starts)]
    rows = starts[np.linspace(0, len(starts) - 1, CHUNK).astype(int)]
    ours, uniform = losses(replay, jnp.asarray(rows))
    return float(np.clip(1 - jnp.sum(ours) / jnp.maximum(jnp.sum(uniform), 1e-9), 0, 1))


def _all_steps(
    model, params, replay, starts, window: int, chunk: int = CHUNK
) -> tuple[OneStep, Happened]:
    """`_stepped` of all `starts`, or of `chunk` * CHUNKS evenly spread ones, in equal chunks."""
    if len(starts) > chunk * CHUNKS:
        starts = starts[np.linspace(0, len(starts) - 1, chunk * CHUNKS).astype(int)]
    parts = []
    for first in range(0, len(starts), chunk):
        rows = starts[first : first + chunk]
        rows = jnp.asarray(np.pad(rows, (0, chunk - len(rows)), mode="edge"))
        parts.append(jax.tree.map(np.asarray, _stepped(model, params, replay, rows, window)))
    return jax.tree.map(lambda *x: np.concatenate(x)[: len(starts)], *parts)


def summarise(tests: Sequence[HeldOut], fitted: Log | None, kind: str) -> tuple[Figures, dict]:
    """(figures, open-loop error by k of STEPS and `regions` in words) over several tests.

    `fitted` is the log that the model was fitted on, None if unknown; `kind` is `Features.kind` of
    its observations. For frames there are no regions (of single pixels), no figures that need
    several members, and none of an uncertainty that is always 0.
    """
    figures = _mean([test.figures for test in tests])
    table = _mean_table([test.table for test in tests])
    figures |= {f"skill_{k}": skill for k, skill in fidelity.skills(table).items()}
    figures |= fidelity.trust(_mean_table([test.curve for test in tests]))
    if kind == "frames":
        unsaid = ("chance",) if figures.get("uncertainty_99", 0) > 0 else ("chance", *DOUBT)
        figures = {name: x for name, x in figures.items() if name not in unsaid}
    shown: dict[str, list] = {**table}
    if kind in ("box", "mixed"):
        join = lambda name: np.concatenate([getattr(test, name) for test in tests])
        shown["regions"] = weak_regions(join("o"), join("error"), join("still"))
    elif kind == "discrete" and fitted is not None:
        shown["regions"] = rare_states(fitted)
    return figures, shown


def _mean(dicts: Sequence[Figures]) -> Figures:
    """Mean of each figure that all tests have."""
    shared = [name for name in dicts[0] if all(name in other for other in dicts)]
    return {name: float(np.mean([other[name] for other in dicts])) for name in shared}


def _mean_table(tables: Sequence[Table]) -> Table:
    """Mean of the rows that all tables have."""
    rows = min(len(table["k"]) for table in tables)
    mean = lambda name: np.mean([table[name][:rows] for table in tables], axis=0).tolist()
    return {name: mean(name) for name in tables[0]}


def weak_regions(
    o: Float[np.ndarray, "N O"], error: Float[np.ndarray, " N"], still: Float[np.ndarray, " N"]
) -> list[str]:
    """At most two outer tenths or fifths of a feature in which the squared error concentrates.

    Such a slice holds at least half of all error, its one-step skill is below GOOD, and at least
    FEW of its errors exceed the mean error.
    """
    found, total = [], error.sum()
    for i, x in enumerate(o.T):
        slices = []
        for share in (0.1, 0.2):
            low, high = np.quantile(x, [share, 1 - share])
            slices += [(x < low, f"o[{i}] below {low:.3g}"), (x > high, f"o[{i}] above {high:.3g}")]
        for inside, words in slices:
            part, size = error[inside].sum(), inside.mean()
            is_weak = part >= total / 2 and part > (1 - GOOD) * still[inside].sum()
            if is_weak and (error[inside] > error.mean()).sum() >= FEW:
                words += f" ({size:.0%} of the steps, {part / total:.0%} of the squared error)"
                found.append((part / size, i, words))
    best: dict[int, str] = {}
    for _, i, words in sorted(found, reverse=True):
        best.setdefault(i, words)
    return list(best.values())[:2]


def rare_states(log: Log) -> list[str]:
    """One line that names the discrete states with 1 to FEW - 1 logged steps; [] without any."""
    start = log.observation.space.start
    left = np.concatenate([np.asarray(trace.observations)[:-1] for trace in log.traces]) - start
    counts = np.bincount(left, minlength=log.observation.size)
    rare = np.flatnonzero((counts > 0) & (counts < FEW)) + start
    if not rare.size:
        return []
    names = ", ".join(map(str, rare[:SHOWN]))
    more = f" and {rare.size - SHOWN} more" if rare.size > SHOWN else ""
    return [f"{'state' if rare.size == 1 else 'states'} {names}{more}, left fewer than {FEW} times"]


def sentence(figures: Mapping[str, float], regions: Sequence[str] | None, chance: bool) -> str:
    """The sentence on how far and where the world can be trusted; `regions` None = unknown."""
    where = "; where it is weak is not known." if regions is None else "; no region stands out."
    if regions:
        where = f"; it was weakest at {' or '.join(regions)}."
    if not {"reward_mae", "trust_tested"} & figures.keys():
        return "How far to trust it is not known: no episode could be held out to test it."
    if "trust_steps" not in figures:
        known = "in too few held-out episodes did anything change"
        return f"How far to trust it is not known, {known}{where}"
    steps, tested = int(figures["trust_steps"]), int(figures["trust_tested"])
    if steps:
        if regions:
            where = f", but not where it was weak: {' or '.join(regions)}."
        count = "1 step" if steps == 1 else f"{steps} steps"
        longest = " (the most that was tested)" if steps == tested else ""
        return f"Trust it up to {count}{longest}{where}"
    skill = f"skill {figures['skill_1']:.2f} after one step, {TRUSTED} is asked for"
    if not chance or "chance_probability" not in figures:
        return f"Do not trust it for a single step ({skill}){where}"
    given, expected = figures["chance_probability"], figures["chance_expected"]
    odds = f"what happened had probability {given:.2f}, expected were {expected:.2f}"
    if abs(given - expected) > ODDS:
        return f"Trust neither its futures ({skill}) nor its odds ({odds}){where}"
    return f"Trust its odds, not single futures, which chance decides ({skill}; {odds}){where}"
