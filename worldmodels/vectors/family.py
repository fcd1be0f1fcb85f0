"""The model named `mlp`: a closed-form base under an ensemble of perceptrons."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from worldmodels.actions import ActionHead
from worldmodels.config import FitConfig, ModelConfig
from worldmodels.protocol import LogFacts, ModelError, ModelSettings, RowChunk
from worldmodels.types import Windows
from worldmodels.vectors.losses import model_loss
from worldmodels.vectors.measure import measure_base, measure_scale, measure_share
from worldmodels.vectors.model import VectorModel


@dataclass(frozen=True)
class Mlp(VectorModel):
    """A `VectorModel` that can be fitted; all methods are those of `Trainable`."""

    is_closed_form: ClassVar[bool] = False

    @property
    def student(self) -> Mapping[str, Any]:
        """A student reads a context as one long vector, or step by step, as the model does."""
        return {"recurrent": self.recurrent}

    def loss(self, params, target_params, batch: Windows, config: FitConfig, key: jax.Array):
        """See `losses.py`."""
        return model_loss(params, target_params, self, batch, config, key)

    def prepared(self, params, every: Iterable[RowChunk]):
        """With the closed-form base, under which the networks learn what it leaves over."""
        return measure_base(self, params, every)

    def measured(self, params, every: Iterable[RowChunk]):
        """With the share of the networks in what is dreamed, by their error on hidden episodes."""
        return measure_share(self, params, every)

    def adjusted(self, **ways: float) -> "Mlp":
        """The same model, more careful."""
        return dataclasses.replace(self, **ways)

    def student_start(self, params) -> dict[str, Any]:
        """Nothing: a student of vectors begins from scratch."""
        return {}


def make(facts: LogFacts, settings: ModelSettings) -> tuple[Mlp, dict]:
    """The ensemble for a log; codes of a discrete log are as many as it shows."""
    if facts.kind == "frames":
        raise ModelError(
            "model.name=mlp learns vectors, and the log's observations are frames; "
            "leave model.name=auto"
        )
    config = settings.model
    features = config.features or base_features_of(sum(map(len, facts.r)))
    codes = config.chance_codes or branches(facts)
    config = dataclasses.replace(config, chance_codes=codes, features=features)
    numbers = facts.numbers
    scale = measure_scale(
        np.concatenate(numbers),
        np.concatenate([np.diff(o, axis=0) for o in numbers]),
        facts.r,
        facts.terminated,
        config=config,
        discount=settings.discount,
        is_number=facts.is_number,
    )
    return make_mlp(config, facts.parts, facts.head, scale), scale


def make_mlp(
    config: ModelConfig, parts: tuple[tuple[str, int], ...], head: ActionHead, scale: dict
) -> Mlp:
    """The model of `config` for observations of `parts`, actions of `head`, normalisers `scale`."""
    return Mlp(
        parts=tuple(parts),
        head=head,
        latent=config.latent,
        width=config.width,
        num_members=config.members,
        num_codes=max(1, config.chance_codes),  # 0: nobody counted
        window=config.window,
        reward_bins=scale["reward_support"].size,
        value_bins=scale["value_support"].size,
        recurrent=config.recurrent,
        features=config.features,
    )


def base_features_of(steps: int) -> int:
    """Random features for a log of so many steps: a power of two, about one per 16 of them."""
    return 2 ** round(math.log2(min(max(steps / 16, 64), 1024)))


def branches(facts: LogFacts) -> int:
    """The most different observations that followed one discrete observation and action;
    1 for vectors, where no observation comes twice."""
    if facts.kind != "discrete":
        return 1
    seen = defaultdict(set)
    for o, a in zip(facts.packed, facts.a, strict=True):
        s = o[:, 0].tolist()
        for before, taken, after in zip(s[:-1], map(bytes, a), s[1:], strict=True):
            seen[before, taken].add(after)
    return max(len(after) for after in seen.values())
