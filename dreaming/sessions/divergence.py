"""What a student is asked to come near, and how far it is: of whole distributions over actions.

All functions take log-probabilities [*B, A] and give values per state [*B].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BISECTIONS = 30


def kl(p: Float[Array, "*B A"], q: Float[Array, "*B A"]) -> Float[Array, "*B"]:
    """KL(p || q)."""
    return jnp.sum(jnp.exp(p) * (p - q), -1)


def alpha_divergence(
    teacher: Float[Array, "*B A"],
    student: Float[Array, "*B A"],
    alpha: float,
    clip: float = float("inf"),
) -> Float[Array, "*B"]:
    """KL(teacher || student) for alpha = 0, KL(student || teacher) for 1, and between them
    ((1 - alpha) KL(student || M) + alpha KL(teacher || M)) / (alpha (1 - alpha)),
    M = (1 - alpha) student + alpha teacher. The term of each action counts for `clip` at most:
    a few decisions would else be all that is learned. No gradient goes into the teacher.
    """
    teacher = jax.lax.stop_gradient(teacher)
    if alpha == 0:
        terms = jnp.exp(teacher) * (teacher - student)
    elif alpha == 1:
        terms = jnp.exp(student) * (student - teacher)
    else:
        middle = jnp.logaddexp(jnp.log1p(-alpha) + student, jnp.log(alpha) + teacher)
        of_student = (1 - alpha) * jnp.exp(student) * (student - middle)
        of_teacher = alpha * jnp.exp(teacher) * (teacher - middle)
        terms = (of_student + of_teacher) / (alpha * (1 - alpha))
    return jnp.sum(jnp.minimum(terms, clip), -1)


def between(
    student: Float[Array, "*B A"], teacher: Float[Array, "*B A"], beta: Float[Array, "*B"]
) -> Float[Array, "*B A"]:
    """The policy proportional to student^(1 - beta) teacher^beta."""
    beta = beta[..., None]
    return jax.nn.log_softmax((1 - beta) * student + beta * teacher)


def limited(
    student: Float[Array, "*B A"], teacher: Float[Array, "*B A"], most: float
) -> Float[Array, "*B A"]:
    """The policy `between` both that is nearest to the teacher with KL(it || student) <= `most`.

    That KL grows with beta, so beta is found by bisection.
    """

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        fits = kl(between(student, teacher, middle), student) <= most
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    ends = jnp.zeros(student.shape[:-1]), jnp.ones(student.shape[:-1])
    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    whole = kl(teacher, student) <= most
    return jnp.where(whole[..., None], teacher, between(student, teacher, low))


def gap_weight(q: Float[Array, "*B A"], least: float) -> Float[Array, "*B"]:
    """How much an action matters: the range of its values over `least`, 1 at most. Where no
    action matters there is nothing to teach."""
    return jnp.clip((q.max(-1) - q.min(-1)) / least, 0, 1)


def trust(
    regret: Float[Array, "T B"], agrees: Bool[Array, "T B"], *, most: float, decay: float
) -> Float[Array, "T B"]:
    """How far a teacher's advice still holds at each step of a day.

    It decays by `decay` after each step whose regret, best value less that of what was done,
    exceeds `most`: from there on the day is one the teacher would not have. It is whole again
    where student and teacher agree.
    """

    def step(before, now):
        regret, agrees = now
        here = jnp.where(agrees, 1.0, before)
        return jnp.where(regret > most, here * decay, here), here

    return jax.lax.scan(step, jnp.ones(regret.shape[1]), (regret, agrees))[1]
