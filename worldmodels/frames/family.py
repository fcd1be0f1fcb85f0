"""The model named `efficientzero`: EfficientZero's own, fitted on a log of frames."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from worldmodels.config import FitConfig, FrameLossWeights
from worldmodels.frames.losses import log_loss
from worldmodels.frames.model import FrameModel, compute_of
from worldmodels.frames.networks import usual_size
from worldmodels.frames.types import FrameAfterstate
from worldmodels.protocol import LogFacts, ModelError, ModelSettings, RowChunk
from worldmodels.support import scalar_to_support, squash, value_bounds
from worldmodels.types import HeadTargets, Windows

VALUE, POLICY = ("value_net", "value_head"), ("policy_net", "policy_head")
SURE = 6.0  # logit by which fresh heads prefer a value of 0


@dataclass(frozen=True)
class EfficientZero(FrameModel):
    """A `FrameModel` fitted on a log; it has one member, so its uncertainty is not a disagreement,
    but the error that its heads expect of the decoded frame, in deviations of the log's frames: one
    deviation above their mean, both of logarithms: where heads differ, more.

    `behaviour_penalty` is the uncertainty per nat by which an action is less likely than the
    likeliest to the log's own policy (params["behaviour"]).
    """

    behaviour_penalty: float = 0.0
    weights: FrameLossWeights = FrameLossWeights()
    is_closed_form: ClassVar[bool] = False

    @property
    def student(self) -> Mapping[str, Any]:
        """A student has an encoder of the same size."""
        return {"size": self.size}

    @property
    def num_actions(self) -> int:
        """P, outputs of the policy."""
        return self.head.num_outputs

    @property
    def action_size(self) -> int:
        """A, features of an action."""
        return self.head.size

    def apply(self, params, method: str, *args) -> Any:
        """One method of the networks under `params`."""
        return super().apply(params["net"], method, *args)

    def init(self, key: jax.Array, scale: dict | None = None):
        """Fresh params with the given normalisers."""
        return {"net": super().init(key), "scale": scale or {}}

    def outcome(self, params, y: FrameAfterstate, c):
        """Where an action leads, and what is earned on the way."""
        z, prediction = super().outcome(params, y, c)
        if self.error_heads:
            prediction = prediction.replace(uncertainty=self.expected_error(params, z.latent))
        if self.behaviour_penalty:
            surprise = self.behaviour_penalty * self._surprise(params, y)
            prediction = prediction.replace(uncertainty=prediction.uncertainty + surprise)
        return z, prediction

    def loss(self, params, target_params, batch: Windows, config: FitConfig, key: jax.Array):
        """See `log_loss`."""
        return log_loss(params, target_params, self, batch, config, key, weights=self.weights)

    def measured(self, params, every: Iterable[RowChunk]):
        """As they are: nothing is left to measure."""
        return params

    def adjusted(self, **ways: float) -> "EfficientZero":
        """The same model, more careful. Raises `ModelError` for what asks for an ensemble."""
        if pessimism := ways.pop("pessimism", 0.0):
            raise ModelError(
                f"search.pessimism={pessimism} weighs the disagreement of members, and the model "
                "of frames has one; leave it at 0"
            )
        return dataclasses.replace(self, **ways)

    def student_start(self, params) -> dict[str, Any]:
        """The encoder, with which a student's eyes begin."""
        return {"encoder": params["net"]["encoder"]}

    def value_span(self, params) -> Float[Array, ""]:
        """Width of the range that values usually take, in reward units."""
        return params["scale"]["v_range"]

    def heads(self, params):
        """The part of `params` that rehearsal improves: the value, and the prior."""
        part = lambda names: {name: params["net"][name] for name in names}
        return {"value": part(VALUE), "policy": part(POLICY)}

    def with_heads(self, params, heads):
        """`params` with these heads in place of its own."""
        return params | {"net": params["net"] | heads["value"] | heads["policy"]}

    def fresh_heads(self, params, key):
        """Heads that know nothing: every value 0, no preference (see `VectorModel`)."""
        heads = self.heads(self.init(key))
        output = heads["value"]["value_head"]["output"]
        zero = scalar_to_support(jnp.float32(0), self.support)
        output = output | {"bias": output["bias"] + SURE * zero}
        head = heads["value"]["value_head"] | {"output": output}
        return heads | {"value": heads["value"] | {"value_head": head}}

    def heads_loss(self, params, targets: HeadTargets) -> dict[str, Float[Array, ""]]:
        """Cross-entropy of the value, and KL of the prior from what the teacher says; weighted
        means."""
        mean = lambda x, w: jnp.sum(x * w) / (jnp.sum(w) + 1e-6)
        v_logits, _ = self.apply(params, "predict", targets.z.latent)
        target = scalar_to_support(squash(targets.v), self.support)
        value = optax.losses.softmax_cross_entropy(v_logits, target)
        _, outputs = self.apply(params, "predict", targets.taught_z.latent)
        prior = self.head.divergence(targets.pi, targets.proposals, outputs)
        return {
            "value_loss": mean(value, targets.weight),
            "prior_loss": mean(prior, targets.taught_weight),
        }

    def expected_error(self, params, latent: Float[Array, "B h w C"]) -> Float[Array, " B"]:
        """How much decoded frames err, root mean square, in deviations of the log's frames."""
        told = self.apply(params, "log_errors", latent)
        return jnp.exp(told.mean(0) + told.std(0)) * 255 / params["scale"]["frame_std"]

    def _surprise(self, params, y: FrameAfterstate) -> Float[Array, " B"]:
        """Nats by which the log's policy finds an action less likely than its likeliest one."""
        known = params | {"net": params["net"] | params["behaviour"]}
        _, pi = self.apply(known, "predict", y.z.latent)
        return self.head.imitation(self.head.target(y.a), pi) + self.head.best(
            self.head.log_probs(pi)
        )


def make(facts: LogFacts, settings: ModelSettings) -> tuple[EfficientZero, dict]:
    """The model for a log of frames. Raises `ModelError` for what it cannot learn."""
    if facts.frame is None:
        raise ModelError(
            f"efficientzero learns frames, and the log's observations are {facts.kind}; "
            "leave model.name=auto"
        )
    if facts.head.kind != "discrete" or len(facts.head.factors) != 1:
        raise ModelError(
            f"frames with the action space {facts.action_space}: the model of frames takes "
            "Discrete actions; wrap the task so that its actions are one number"
        )
    if facts.has_masks:
        raise ModelError(
            "the log has action masks, and the model of frames does not learn what is legal; "
            "record without masks, and let illegal actions do nothing"
        )
    earned, config = (facts.r, facts.terminated, settings.discount), settings.images
    _check_bins(facts.r, value_bounds(*earned), config.prefix_horizon, config.bins)
    low, high = value_bounds(*earned, window=round(1 / (1 - settings.discount)))
    model = EfficientZero(
        head=facts.head,
        frame=facts.frame,
        window=settings.model.window,
        size=usual_size(*facts.frame[:2]) if config.size == "auto" else config.size,
        prefix_horizon=config.prefix_horizon,
        bins=config.bins,
        compute=compute_of(config.compute),
        error_heads=config.error_heads if config.weights.decode > 0 else 0,  # they need its errors
        weights=config.weights,
    )
    return model, {"v_range": jnp.float32(high - low), "frame_std": jnp.float32(facts.frame_std)}


def _check_bins(
    rewards: list[np.ndarray], possible: tuple[float, float], prefix_horizon: int, bins: int
) -> None:
    """Raise `ModelError` when the atoms of values do not reach what may be earned."""
    most = max(abs(r).max() for r in rewards) * prefix_horizon
    most = float(max(most, *map(abs, possible)))
    if squash(jnp.float32(most)) > bins // 2:
        raise ModelError(
            f"values may reach {most:g} and images.bins={bins} is too few for "
            f"them; give {2 * int(np.ceil(squash(jnp.float32(most)))) + 1} or more"
        )
