"""Containers of the world model: what a latent state and a prediction hold, axis by axis."""

import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num, PyTree, UInt32

Scalar = float | Float[Array, ""]  # one number, known beforehand or traced


class History(struct.PyTreeNode):
    """What of a context stays when its oldest observation leaves; V = W - 1."""

    o: Float[Array, "*B V O"]
    a: Float[Array, "*B U A"]  # U = V - 1 actions between them; V once the newest was chosen
    valid: Bool[Array, "*B V"]


class LatentState(struct.PyTreeNode):
    """Where a model is: one latent, and the member whose physics carries it on."""

    latent: Float[Array, "*B D"]
    member: Int[Array, " *B"]  # -1 = the mean of the members
    o: Float[Array, "*B O"] | None = None  # the observation shown here; None: not yet decoded
    history: History | None = None  # what the next root is encoded with; None for W = 1


class Afterstate(struct.PyTreeNode):
    """A latent and an action, seen by every member, before chance has spoken."""

    latent: Float[Array, "*B D"]
    member: Int[Array, " *B"]
    hidden: Float[Array, "*B E H"]  # rows first, as a search tree stores them
    codes: Int[Array, "*B C"]  # the codes on offer, the likeliest first
    disagreement: Float[Array, " *B"]  # of the members about the codes
    history: History | None = None


class PrefixState(struct.PyTreeNode):
    """Where a model of images is, and what of its value prefix has been earned."""

    latent: Float[Array, "*B h w C"]
    memory: tuple[Float[Array, "*B M"], Float[Array, "*B M"]]  # the LSTM's pair; 0 after a reset
    value_prefix: Float[Array, " *B"]  # sum of rewards since the last reset; 0 after one
    steps: Int[Array, " *B"]  # since the last reset
    member: Int[Array, " *B"]  # there is one; -1


class ImageAfterstate(struct.PyTreeNode):
    """A state of a model of images and the action taken there."""

    z: PrefixState
    a: Float[Array, "*B A"]


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
    v_search: Float[Array, "B L"]
    has_search: Bool[Array, "B L"]  # v_search is the value target here
    member_weights: Float[Array, "B E"]  # bootstrap by episode, mean 1


class ImageWindows(struct.PyTreeNode):
    """K unrolled steps cut from the replay of images, with the targets of every row.

    Rows k in 0..K, steps k in 0..K-1; step k leads from row k to row k + 1. Nothing past the end
    of an episode is real: the masks say what is, as in `Windows`.

    In sequences of T windows, each of which begins a row after the one before it, frames that
    several windows show are held once: G sequences, B = G T, Q = T + K. Else T = 1.
    """

    o: Num[Array, "G Q W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B K A"]
    r: Float[Array, "B K"]
    is_real_step: Bool[Array, "B K"]
    is_real_o: Bool[Array, "B K1"]
    is_absorbing: Bool[Array, "B K1"]  # the episode terminated by this row
    v: Float[Array, "B K1"]  # value target in reward units; 0 where absorbing
    pi: Float[Array, "B K1 A"]  # policy target; none where absorbing or not real
    weight: Float[Array, " B"]  # importance weight of the draw
    shown: Int[Array, "B K1"] | None = (
        None  # which q of its sequence shows row k; None: T = 1, q = k
    )


class ImaginedWindows(struct.PyTreeNode):
    """D steps in the model from real frames, with targets for the states that they lead to."""

    o: Num[Array, "B W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B D A"]
    v: Float[Array, "B D"]
    pi: Float[Array, "B D A"]
    weight: Float[Array, "B D"]


class TrainState(struct.PyTreeNode):
    """All that a fit carries from step to step."""

    params: PyTree
    target_params: PyTree
    opt_state: optax.OptState
    fit_steps: Int[Array, ""]
    key: UInt32[Array, " 2"]
