"""Containers of the frame model: what each field holds, axis by axis."""

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Num


class PrefixState(struct.PyTreeNode):
    """State of a frame model: the latent, and the value prefix up to it."""

    latent: Float[Array, "*B h w C"]
    memory: tuple[Float[Array, "*B M"], Float[Array, "*B M"]]  # the LSTM's pair; 0 after a reset
    value_prefix: Float[Array, " *B"]  # sum of rewards since the last reset; 0 after one
    steps: Int[Array, " *B"]  # since the last reset
    member: Int[Array, " *B"]  # always -1: a frame model has one member


class FrameAfterstate(struct.PyTreeNode):
    """A state of a frame model and the action taken there."""

    z: PrefixState
    a: Float[Array, "*B A"]


class FrameWindows(struct.PyTreeNode):
    """Windows of K unrolled steps from a replay of frames, with the targets of every row.

    Rows k in 0..K, steps k in 0..K-1; step k leads from row k to row k + 1. Nothing past the end
    of an episode is real: the masks say what is, as in `Windows`.

    Windows come in G sequences of T windows that begin at consecutive rows; stacks that several
    windows of a sequence show are held once: B = G T, Q = T + K. T = 1: no sharing.
    """

    o: Num[Array, "G Q W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B K A"]
    r: Float[Array, "B K"]
    is_real_step: Bool[Array, "B K"]
    is_real_o: Bool[Array, "B K1"]
    is_absorbing: Bool[Array, "B K1"]  # the episode terminated by this row
    v: Float[Array, "B K1"]  # value target in reward units; 0 where absorbing
    pi: Float[Array, "B K1 A"]  # policy target; not used where absorbing or not real
    weight: Float[Array, " B"]  # importance weight of the draw
    shown: Int[Array, "B K1"] | None = (
        None  # index q of row k's stack in its sequence; None: T = 1, q = k
    )


class ImaginedWindows(struct.PyTreeNode):
    """Walks of D steps in the model from real frames, with targets for the states reached."""

    o: Num[Array, "B W H V F"]  # stacks of W frames, 0 to 255, oldest first
    a: Float[Array, "B D A"]
    v: Float[Array, "B D"]
    pi: Float[Array, "B D A"]
    weight: Float[Array, "B D"]
