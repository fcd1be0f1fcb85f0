"""What a model is: the functions that dreams, searches and judges call, and what a fit needs.

Everything that uses a model uses these alone, so a dream and a search cannot disagree about it, and
a table's true dynamics, a loaded file or a model of another package can stand in for ours.

Axes: B rows, which never influence each other; W observations of a context; O features of an
observation, A of an action; P outputs of a policy (see `ActionHead`); C chance codes; E members.
Rewards and values are in the log's own units. `params` is a pytree of arrays. States and
afterstates are frozen dataclasses that are pytrees with B rows; a state has a field `member`,
int32 [B]: the member whose physics carries the row on, -1 = the mean of all. A model is hashable:
it names the programs that it is compiled into.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from worldmodels.actions import ActionHead
from worldmodels.config import FitConfig, FrameModelConfig, ModelConfig
from worldmodels.types import HeadTargets, Windows


class ModelError(ValueError):
    """A model that cannot be made, or not of this log. One line: what, why, what to do."""


@runtime_checkable
class WorldModel(Protocol):
    """What dreams and searches ask. `Prediction` has r, continuation, v [B], pi_logits [B, P],
    legal_logits [B, A] and uncertainty [B].

    Three methods are optional. `sample(params, y, c, key)` is `outcome` with what chance leaves
    open within a code drawn from raw keys, uint32 [B, 2]: dreams call it where a model has it,
    searches never do, for they would keep the one draw for ever. `observe(params, z, a, o)` is the
    state after real observations o [B, O] in states that remember more than a context shows: who
    acts by search keeps its state with it instead of calling `root` anew. `redrawn(params)` are
    params whose members are other draws from the same posterior, None where there are none: what a
    policy that rehearsed in the first ones is promised is held against them.
    """

    @property
    def window(self) -> int:
        """W."""
        ...

    @property
    def num_codes(self) -> int:
        """C; 1 = nothing is left to chance."""
        ...

    @property
    def num_members(self) -> int:
        """E."""
        ...

    @property
    def num_actions(self) -> int:
        """P."""
        ...

    @property
    def action_size(self) -> int:
        """A."""
        ...

    def root(self, params: Any, context: Any) -> Any:
        """root(params, context) -> z: the state of contexts of real observations, each with
        o [B, W, O], a [B, W-1, A], elapsed [B, W] and valid [B, W]; member -1."""
        ...

    def afterstate(
        self, params: Any, z: Any, a: Float[Array, "B A"]
    ) -> tuple[Float[Array, "B C"], Any]:
        """afterstate(params, z, a) -> (chance_logits [B, C], y): what action features lead to
        before chance speaks."""
        ...

    def outcome(self, params: Any, y: Any, c: Int[Array, " B"]) -> tuple[Any, Any]:
        """outcome(params, y, c) -> (z', Prediction): where code c, int32 [B], leads, and what is
        earned on the way."""
        ...

    def predict(
        self, params: Any, z: Any
    ) -> tuple[Float[Array, " B"], Float[Array, "B P"], Float[Array, "B A"]]:
        """predict(params, z) -> (v [B], pi_logits [B, P], legal_logits [B, A]): value, prior and
        legality of a state; legal where above 0."""
        ...

    def decode(self, params: Any, z: Any) -> Float[Array, "B O"]:
        """decode(params, z) -> o [B, O]: observation features in real units, categories as
        one-hots."""
        ...

    def value_span(self, params: Any) -> Float[Array, ""]:
        """value_span(params) -> []: width of the range that values usually take, above 0; the unit
        of temperatures, floors and of the price of uncertainty."""
        ...


@runtime_checkable
class Trainable(WorldModel, Protocol):
    """What a fit and a rehearsal need beside it. `params` is {"net": learned, "scale": measured}.

    In a world params also hold "behaviour", the policy part of `heads` that clones the log.
    One method is optional: `prepared(params, every)` works out in closed form, before the first
    gradient step, what `measured` does after the last one.
    """

    convolves: ClassVar[bool]  # gradients are kept out of loops, which are slow on CPUs
    is_closed_form: ClassVar[bool]  # `measured` works everything out: no gradient step is taken

    @property
    def head(self) -> ActionHead:
        """How policies over its actions speak."""
        ...

    @property
    def student(self) -> Mapping[str, Any]:
        """Arguments of `fresh_student` with which a student reads as the model does."""
        ...

    def init(self, key: jax.Array, scale: dict) -> Any:
        """init(key, scale) -> params: fresh ones, from a typed key."""
        ...

    def loss(
        self, params: Any, target_params: Any, batch: Windows, config: FitConfig, key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """loss(params, target_params, batch, config, key) -> (loss [], metrics): of windows cut
        from the log; `target_params` is the slow copy."""
        ...

    def measured(self, params: Any, every: Iterable["RowChunk"]) -> Any:
        """measured(params, every) -> params: with what is worked out from all rows of the log once
        the gradient steps are done; also asked in the middle of them."""
        ...

    def heads(self, params: Any) -> dict[str, Any]:
        """heads(params) -> {"value": ..., "policy": ...}: the part of the net that rehearsal
        improves."""
        ...

    def with_heads(self, params: Any, heads: dict[str, Any]) -> Any:
        """with_heads(params, heads) -> params: with these heads in place of its own."""
        ...

    def fresh_heads(self, params: Any, key: jax.Array) -> dict[str, Any]:
        """fresh_heads(params, key) -> heads: those that a rehearsal begins with."""
        ...

    def heads_loss(self, params: Any, targets: HeadTargets) -> dict[str, Float[Array, ""]]:
        """heads_loss(params, targets) -> {name: []}: how far values and prior are from what a
        rehearsal found; weighted means."""
        ...

    def adjusted(self, **ways: float) -> "Trainable":
        """adjusted(pessimism=, behaviour_penalty=) -> model: as searches see it. `pessimism`: its
        rewards and values are mean - pessimism * std over members; `behaviour_penalty`: uncertainty
        per nat by which an action is less likely than the likeliest to the log's own policy. What
        is not named stays. Raises `ModelError` for what it cannot do."""
        ...

    def student_start(self, params: Any) -> dict[str, Any]:
        """student_start(params) -> {}: parameters that a first student takes from the model."""
        ...


class RowChunk(NamedTuple):
    """Some rows of the log in order, each as a window of two rows; padding behind `count`."""

    windows: Windows
    count: int


@dataclass(frozen=True)
class LogFacts:
    """What a log shows, as NumPy arrays by episode: all that a model is shaped by.

    Of wide categories `o`, worked out episode by episode, is much larger than `packed`.
    """

    o: Sequence[np.ndarray]  # [T + 1, O] observation features; frames as bytes, flat
    packed: Sequence[np.ndarray]  # [T + 1, C] the same, but a category is its number
    a: list[np.ndarray]  # [T, A] action features
    r: list[np.ndarray]  # [T] float64
    terminated: list[bool]  # the task ended the episode
    kind: str  # of observations: "discrete", "box", "frames" or "mixed"
    parts: tuple[tuple[str, int], ...]  # (kind, size) of their features in order
    is_number: Bool[np.ndarray, " O"]
    head: ActionHead
    action_space: str  # for messages
    frame: tuple[int, int, int] | None = None  # H, V, F of frames
    frame_std: float = 1.0  # deviation of their pixels from the mean frame
    has_masks: bool = False

    @property
    def numbers(self) -> list[np.ndarray]:
        """[T + 1, n] the numbers alone."""
        columns = [kind == "box" for kind, size in self.parts for _ in range(_columns(kind, size))]
        return [np.compress(columns, o, axis=1) for o in self.packed]


def _columns(kind: str, size: int) -> int:
    """Packed columns of a part of an observation."""
    return 1 if kind == "categorical" else size


@dataclass(frozen=True)
class ModelSettings:
    """What the user chose."""

    model: ModelConfig = field(default_factory=ModelConfig)
    images: FrameModelConfig = field(default_factory=FrameModelConfig)
    discount: float = 0.99


METHODS = ("root", "afterstate", "outcome", "predict", "decode", "value_span")
TRAINING = ("init", "loss", "measured", "heads", "with_heads", "fresh_heads", "heads_loss")
TRAINING += ("adjusted", "student_start")
ATTRIBUTES = ("window", "num_codes", "num_members", "num_actions", "action_size")
DECLARED = ("head", "convolves", "is_closed_form", "student")


def is_trainable(model: Any) -> bool:
    """Whether a model has heads to improve; an oracle and a loaded file have none."""
    return hasattr(model, "heads_loss")


def missing(model: Any, trainable: bool = True) -> list[str]:
    """What of the protocol a model lacks, each in words that say what shape it must have."""
    methods = [(WorldModel, name) for name in METHODS]
    methods += [(Trainable, name) for name in TRAINING if trainable]
    lacks = []
    for protocol, name in methods:
        if not callable(getattr(model, name, None)):
            told = " ".join((inspect.getdoc(getattr(protocol, name)) or name).split())
            lacks.append(f"`{name}`, which is {told.rstrip('.')}")
    names = ATTRIBUTES + (DECLARED if trainable else ())
    lacks += [f"the attribute `{name}`" for name in names if not hasattr(model, name)]
    return lacks
