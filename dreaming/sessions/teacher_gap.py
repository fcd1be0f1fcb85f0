"""Is there anything to teach? A policy against another one, on the decisions of a session.

Doubly robust, per decision (Dudik et al., 2011): what the reader expects of a policy's decision,
corrected by what was seen of the logged one, weighed by the ratio of its probabilities,
    value(pi) = sum_a pi(a) q(a) + pi(a_t) / p_t (y_t - q(a_t)),
with y_t = 1 for the family's first outcome, else 0; the reward where no outcome was seen at all.
The teacher reads the rows of other days than that of the decision: one that has read this day's
outcomes overstates its gap. q reads all rows but the decision's own. Where a session has learned
not to do what the teacher would, ratios are large and hardly ever drawn, so q has to know better
than the teacher: if it read the same rows, what one day taught would look right on every other.
Rewards that come later than the next decision are not told apart.

Where a deployment's context keeps rows, both read them: that is what is deployed. Of actions that
were not legal no policy takes one.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from dreaming.sessions.network import ReaderShape, nothing, pi_logits, read
from dreaming.sessions.teachers import advise
from dreaming.sessions.types import Memory, Rows, beside

LEVEL = 0.95  # of the lower bound, one-sided
MOST_RATIO = 20.0
LEAST = 10  # decisions with something seen


@dataclass(frozen=True)
class Gap:
    """How much better per decision; `reason` says why the bound is missing, or what it means."""

    gain: float | None
    low: float | None
    decisions: int
    reason: str

    @property
    def go(self) -> bool:
        """Whether it is surely better."""
        return self.low is not None and self.low > 0

    def said(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def leave_day_out(memory: Memory, day: Any, out: Any) -> Memory:
    """The memory [M] as seen from each of B days, which is left out: [B, M]."""
    valid = memory.valid & (day != out[:, None])
    spread = lambda x: jnp.broadcast_to(x, (out.shape[0], *x.shape))
    return Memory(spread(memory.keys), spread(memory.values), valid)


def advice_on(
    params: Any,
    shape: ReaderShape,
    rows: Rows,
    kind: str,
    temperature: float,
    reads: Rows | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(log-probabilities of a teacher, values q) at the rows' own observations [M, A]; it `reads`
    the same rows, or others."""
    reads = rows if reads is None else reads
    memory = leave_day_out(read(params, shape, reads), reads.day, rows.day)
    return advise(params, shape, memory, rows.o, kind=kind, temperature=temperature)


def expected_on(params: Any, shape: ReaderShape, rows: Rows, kept: Rows | None = None) -> jax.Array:
    """What the actions are worth at the rows' own observations [M, A], by all other rows and those
    that are kept."""
    reads = beside(rows, kept)
    each = jnp.arange(reads.valid.size)
    memory = leave_day_out(read(params, shape, reads), each, each[: rows.valid.size])
    return advise(params, shape, memory, rows.o)[1]


def deployed_on(params: Any, shape: ReaderShape, rows: Rows, kept: Rows | None = None) -> jax.Array:
    """The probabilities [M, A] of a policy that reads what is kept, at the rows' observations."""
    memory = nothing(shape) if kept is None else read(params, shape, kept)
    return jax.nn.softmax(pi_logits(params, shape, memory, rows.o))


_advice_on = jax.jit(advice_on, static_argnums=(1, 3, 4))
_expected_on = jax.jit(expected_on, static_argnums=1)
_deployed_on = jax.jit(deployed_on, static_argnums=1)


def teacher_gap(
    params: Any,
    shape: ReaderShape,
    rows: Rows,
    propensities: Float[np.ndarray, " M"],
    *,
    kept: Rows | None = None,
    reads: Rows | None = None,
    legal: Bool[np.ndarray, "M A"] | None = None,
    kind: str = "context",
    temperature: float = 0.1,
) -> Gap:
    """The gap between a teacher and what is deployed: the same weights with the rows that are
    `kept`, if any. The teacher reads the session's rows beside them; or instead of all those what
    is given as `reads`."""
    reads = beside(rows, kept) if reads is None else reads
    log_pi, _ = _advice_on(params, shape, rows, kind, temperature, reads)
    q = np.asarray(_expected_on(params, shape, rows, kept))
    student = np.asarray(_deployed_on(params, shape, rows, kept))
    return compare(np.exp(log_pi), student, q, rows, propensities, legal=legal)


def student_gain(
    new: Any,
    old: Any,
    shape: ReaderShape,
    rows: Rows,
    propensities: Float[np.ndarray, " M"],
    *,
    kept: Rows | None = None,
) -> Gap:
    """The gap between new weights without rows and what is deployed: old ones with those `kept`.

    The rows are those that were learned from, so this is a check of sanity (nothing was lost on the
    way from the teacher into the weights), and no evidence for days to come.
    """
    q = np.asarray(_expected_on(old, shape, rows, kept))
    better = np.asarray(_deployed_on(new, shape, rows))
    worse = np.asarray(_deployed_on(old, shape, rows, kept))
    return compare(better, worse, q, rows, propensities)


def compare(
    better: Float[np.ndarray, "M A"],
    worse: Float[np.ndarray, "M A"],
    q: Float[np.ndarray, "M A"],
    rows: Rows,
    propensities: Float[np.ndarray, " M"],
    *,
    legal: Bool[np.ndarray, "M A"] | None = None,
) -> Gap:
    """The gap between two policies, given by their probabilities at the rows. They share out among
    `legal` actions what they give to others, as the logged policy did."""
    if legal is not None:
        better, worse = among(legal, better), among(legal, worse)
    p, a = np.asarray(propensities, np.float64), np.asarray(rows.a, np.float64)
    seen, y = _targets(rows)
    if missing := int(np.isnan(p[seen]).sum()):
        why = f"{missing} of {seen.sum()} decisions have no propensity, so no gap can be estimated"
        return Gap(None, None, int(seen.sum()), why)
    if seen.sum() < LEAST:
        why = f"something was seen of {int(seen.sum())} decisions, at least {LEAST} are needed"
        return Gap(None, None, int(seen.sum()), why)
    q_a = (q * a).sum(-1)

    def value(pi):
        ratio = np.minimum((pi * a).sum(-1) / p, MOST_RATIO)
        return (pi * q).sum(-1) + ratio * (y - q_a)

    gains, day = (value(better) - value(worse))[seen], np.asarray(rows.day)[seen]
    if np.unique(day).size < 2:
        return Gap(None, None, int(gains.size), "there is one day, and a gap needs at least 2")
    gain, low = float(gains.mean()), lower_bound(gains, day)
    sure = "surely better" if low > 0 else "not surely better"
    return Gap(gain, low, int(gains.size), f"{sure}: {gain:+.3f} per decision, bound {low:+.3f}")


def among(legal: Bool[np.ndarray, "M A"], pi: Float[np.ndarray, "M A"]) -> np.ndarray:
    """Probabilities of legal actions alone; they are equal where a policy gives nothing to them."""
    some = (pi * legal).sum(-1, keepdims=True)
    share = np.where(some > 0, pi * legal, legal)
    return share / share.sum(-1, keepdims=True)


def lower_bound(gains: Float[np.ndarray, " N"], day: Int[np.ndarray, " N"]) -> float:
    """The lower bound of the mean gain: the lower one of decisions and of days as what is drawn.

    Decisions of a day may share what is peculiar to it. So the sums of days are compared as well,
    by Student's t with a degree of freedom less than there are days (two at least).
    """
    count, mean = gains.size, gains.mean()
    _, index = np.unique(day, return_inverse=True)
    rest = np.bincount(index, gains - mean)
    by_day = math.sqrt(rest.size / (rest.size - 1) * np.square(rest).sum()) / count
    by_decision = gains.std(ddof=1) / math.sqrt(count)
    t = float(stats.t.ppf(LEVEL, rest.size - 1))
    return float(mean - max(t * by_day, stats.norm.ppf(LEVEL) * by_decision))


def _targets(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(of which decisions something was seen, what it is worth)."""
    outcome, valid = np.asarray(rows.outcome), np.asarray(rows.valid)
    if ((outcome >= 0) & valid).any():
        return (outcome >= 0) & valid, (outcome == 0).astype(np.float64)
    return np.asarray(rows.known) & valid, np.asarray(rows.r, np.float64)
