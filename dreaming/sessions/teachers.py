"""Teachers of a student that will have no context: the same reader, with the session's rows.

    context    pi(a | o, rows)
    one_step   pi(a | o) exp(q / temperature):        a step ahead, without rows as a prior
    combined   pi(a | o, rows) exp(q / temperature):  the context is the prior of the step ahead
q(a) is what the reader expects in context: the probability that a decision has the family's first
outcome. A teacher is frozen for a round, and reads the rows of other days than the one it judges.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreaming.errors import ConfigError
from dreaming.sessions.network import ReaderShape, answer, nothing, remembered
from dreaming.sessions.types import Memory

TEACHERS = ("context", "one_step", "combined")


def check_teacher(kind: str, shape: ReaderShape) -> None:
    """Raise `ConfigError` for an unknown teacher, or one that needs outcomes there are not."""
    if kind not in TEACHERS:
        raise ConfigError(f"teacher={kind} does not exist; choose {' or '.join(TEACHERS)}")
    if kind != "context" and shape.num_outcomes == 0:
        raise ConfigError(
            f"teacher={kind} looks at expected outcomes, and this family shows none; "
            "choose teacher=context"
        )


def advise(
    params: Any,
    shape: ReaderShape,
    memory: Memory,
    o: Float[Array, "B O"],
    *,
    kind: str = "context",
    temperature: float = 0.1,
) -> tuple[Float[Array, "B A"], Float[Array, "B A"]]:
    """(log-probabilities of a teacher, values q of actions) at observations, each with its own
    memory [B, M]."""
    pi, outcome = answer(params, shape, remembered(params, shape, memory), o[:, None])
    pi, outcome = pi[:, 0], outcome[:, 0]
    q = jax.nn.softmax(outcome)[..., 0] if shape.num_outcomes else jnp.zeros_like(pi)
    if kind == "one_step":
        pi = without_rows(params, shape, o)
    if kind != "context":
        pi = tilted(jax.nn.log_softmax(pi), q, temperature)
    return jax.nn.log_softmax(pi), q


def tilted(
    log_pi: Float[Array, "*B A"], q: Float[Array, "*B A"], temperature: float
) -> Float[Array, "*B A"]:
    """The policy proportional to pi exp(q / temperature): of all, it is the best for q less
    `temperature` times its KL to pi, so a round with it is one of soft policy iteration."""
    return jax.nn.log_softmax(log_pi + q / temperature)


def without_rows(params: Any, shape: ReaderShape, o: Float[Array, "*B O"]) -> Float[Array, "*B A"]:
    """Policy logits of a reader by its weights alone."""
    return answer(params, shape, remembered(params, shape, nothing(shape)), o)[0]
