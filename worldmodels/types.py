"""Containers of the world model: what a latent state and a prediction hold, axis by axis."""

from typing import Any

import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num, PyTree, UInt32

Scalar = float | Float[Array, ""]  # one number, known beforehand or traced


class Prediction(struct.PyTreeNode):
    """What the model says of the step just taken; scalars in reward units."""

    r: Float[Array, " *B"]
    continuation: Float[Array, " *B"]  # probability that the task goes on
    v: Float[Array, " *B"]  # of the state reached
    pi_logits: Float[Array, "*B P"]  # outputs of the search prior
    legal_logits: Float[Array, "*B A"]
    uncertainty: Float[Array, " *B"]


class Windows(struct.PyTreeNode):
    """Consecutive rows cut from the log: K unrolled steps and n more to bootstrap from.

    L = K + n + 1 observations, M = L - 1 steps. Nothing past the end of an episode is real:
    the masks say what is. After a termination every position is absorbing: it earns nothing
    and its value is 0. After a truncation nothing is known.
    """

    o: Num[Array, "B L W O"]  # contexts, oldest observation first
    a_past: Float[Array, "B L V A"]  # V = W - 1 actions between them
    valid: Bool[Array, "B L W"]
    is_real_o: Bool[Array, "B L"]  # the observation belongs to the episode of the first row
    is_absorbing: Bool[Array, "B L"]  # the episode terminated before this row
    a: Float[Array, "B M A"]
    r: Float[Array, "B M"]
    terminated: Bool[Array, "B M"]
    is_real_step: Bool[Array, "B M"]  # the action was taken in the episode of the first row
    pi: Float[Array, "B L T"]  # policy target (`ActionHead.target`)
    has_pi: Bool[Array, "B L"]  # there is one
    legal: Bool[Array, "B L A"]
    member_weights: Float[Array, "B E"]  # bootstrap by episode, mean 1
    weight: Float[Array, " B"]  # p / q: how often the log begins one here, by how often it is drawn


class HeadTargets(struct.PyTreeNode):
    """What a rehearsal found out, for a model's own heads: values of N states, and what a teacher
    says of T others (K candidates, J of them sampled; see `ActionHead`)."""

    z: Any  # [N] latent states
    v: Float[Array, " N"]  # in reward units
    weight: Float[Array, " N"]
    taught_z: Any  # [T]
    pi: Float[Array, "T K"]
    proposals: Float[Array, "T J A"]
    taught_weight: Float[Array, " T"]


class TrainState(struct.PyTreeNode):
    """All that a fit carries from step to step."""

    params: PyTree
    target_params: PyTree
    opt_state: optax.OptState
    fit_steps: Int[Array, ""]
    key: UInt32[Array, " 2"]
