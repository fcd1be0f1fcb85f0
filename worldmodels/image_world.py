"""EfficientZero's model as the physics of a log: the protocol, and what a round needs beside it.

As in `model.py`, `params` is `{"net": learned weights, "scale": normalisers}`, and a world adds
`"behaviour"`, the policy head that knows what the log does.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from worldmodels.actions import ActionHead
from worldmodels.config import ImageModelConfig
from worldmodels.efficientzero import ImageModel
from worldmodels.images import usual_size
from worldmodels.support import scalar_to_support, squash
from worldmodels.types import ImageAfterstate, PrefixState

VALUE, POLICY = ("value_net", "value_head"), ("policy_net", "policy_head")
SURE = 6.0  # logit by which fresh heads prefer a value of 0


@dataclass(frozen=True)
class ImageWorldModel(ImageModel):
    """An `ImageModel` fitted on a log; it has one member, so it never disagrees with itself.

    `behaviour_penalty` is the uncertainty per nat by which an action is less likely than the
    likeliest to the log's own policy (params["behaviour"]).
    """

    behaviour_penalty: float = 0.0

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

    def outcome(self, params, y: ImageAfterstate, c):
        """Where an action leads, and what is earned on the way."""
        z, prediction = super().outcome(params, y, c)
        if self.behaviour_penalty:
            surprise = self.behaviour_penalty * self._surprise(params, y)
            prediction = prediction.replace(uncertainty=prediction.uncertainty + surprise)
        return z, prediction

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
        """Heads that know nothing: every value 0, no preference (see `WorldModel`)."""
        heads = self.heads(self.init(key))
        output = heads["value"]["value_head"]["output"]
        zero = scalar_to_support(jnp.float32(0), self.support)
        output = output | {"bias": output["bias"] + SURE * zero}
        head = heads["value"]["value_head"] | {"output": output}
        return heads | {"value": heads["value"] | {"value_head": head}}

    def heads_loss(
        self,
        params,
        z: PrefixState,
        v,
        weight,
        taught_z: PrefixState,
        pi,
        proposals,
        taught_weight,
    ):
        """Cross-entropy of the value against `v` at `z`, and KL of the prior from the teacher's
        `pi` at `taught_z`; means weighted by `weight` and `taught_weight`."""
        mean = lambda x, w: jnp.sum(x * w) / (jnp.sum(w) + 1e-6)
        v_logits, _ = self.apply(params, "predict", z.latent)
        target = scalar_to_support(squash(v), self.support)
        value = optax.losses.softmax_cross_entropy(v_logits, target)
        _, outputs = self.apply(params, "predict", taught_z.latent)
        prior = self.head.divergence(pi, proposals, outputs)
        return {"value_loss": mean(value, weight), "prior_loss": mean(prior, taught_weight)}

    def _surprise(self, params, y: ImageAfterstate) -> Float[Array, " B"]:
        """Nats by which the log's policy finds an action less likely than its likeliest one."""
        known = params | {"net": params["net"] | params["behaviour"]}
        _, pi = self.apply(known, "predict", y.z.latent)
        return self.head.imitation(self.head.target(y.a), pi) + self.head.best(
            self.head.log_probs(pi)
        )


def make_image_model(
    config: ImageModelConfig, frame: tuple[int, int, int], window: int, head: ActionHead
) -> ImageWorldModel:
    """The model of `config` for `window` frames [H, V, F] and actions of `head`."""
    return ImageWorldModel(
        head=head,
        frame=frame,
        window=window,
        size=usual_size(*frame[:2]) if config.size == "auto" else config.size,
        prefix_horizon=config.prefix_horizon,
        bins=config.bins,
    )
