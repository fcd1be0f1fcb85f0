"""Where two deployments want different things: two deltas, asked at the same states, without rows.

Weights that learned both would have to be two policies there. The symmetric KL ranks states by how
much they are in conflict; where the likeliest actions differ, they are.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from dreaming.sessions.divergence import kl
from dreaming.sessions.network import ReaderShape
from dreaming.sessions.teachers import without_rows


@dataclass(frozen=True)
class Conflict:
    """Of N states: the symmetric KL of both policies, and whether likeliest actions differ."""

    divergence: Float[np.ndarray, " N"]
    differs: Bool[np.ndarray, " N"]

    @property
    def share(self) -> float:
        """The share of states in conflict."""
        return float(self.differs.mean())

    def worst(self, count: int = 5) -> np.ndarray:
        """The states most in conflict, the worst first."""
        return np.argsort(-self.divergence, kind="stable")[:count]


def conflict(one: Any, other: Any, shape: ReaderShape, o: Float[np.ndarray, "N O"]) -> Conflict:
    """The conflict of two weights at observations."""
    ask = jax.jit(lambda params, o: jax.nn.log_softmax(without_rows(params, shape, o)))
    p, q = (ask(params, jnp.asarray(o)) for params in (one, other))
    both = np.asarray(kl(p, q) + kl(q, p)) / 2
    return Conflict(both, np.asarray(p.argmax(-1) != q.argmax(-1)))


def auroc(score: Float[np.ndarray, " N"], truth: Bool[np.ndarray, " N"]) -> float:
    """The probability that a true state scores above one that is not; ties count half."""
    yes, no = score[truth], score[~truth]
    if not yes.size or not no.size:
        raise ValueError("auroc needs states of both kinds")
    above = (yes[:, None] > no).mean()
    return float(above + (yes[:, None] == no).mean() / 2)
