"""What a world model is made of, and how it is fitted. One comment per knob, with its reason.

Nobody writes to a config: the hash of a `FitConfig` names the program that it is compiled to.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """Which world model, and the shape of the one for vector observations."""

    name: str = "auto"  # mlp, efficientzero, counts or a plug-in's; auto = by the observations
    latent: int = 32  # learned features of a state; 1,024 dreams of 5 members stay fast on a CPU
    width: int = 64  # hidden units of every network
    members: int = 5  # each with its own dynamics, reward, continuation and value
    chance_codes: int = 0  # outcomes per afterstate; 0 = as many as a discrete log shows, else 1
    window: int = 1  # observations a root sees; more for tasks that show only a part
    recurrent: bool = False  # read the window step by step, rather than as one long vector
    reward_bins: int = 51  # at most; fewer when the log holds fewer distinct rewards
    value_bins: int = 51
    features: int = 0  # random features of the closed-form base; 0 = by the log, 64 to 1,024
    clip_margin: float = 1.0  # deviations that dreams may leave the logged range by, at least
    options: dict[str, Any] = field(default_factory=dict)  # for the model of a plug-in


@dataclass(unsafe_hash=True)
class LossWeights:
    """Weights of the terms of the loss of vectors."""

    reward: float = 1.0
    value: float = 0.1  # the heads of a random log are noise to the dynamics: keep them small
    policy: float = 0.1
    continuation: float = 1.0
    observation: float = 1.0
    legality: float = 1.0


@dataclass(unsafe_hash=True)
class FitConfig:
    """One fit of one world model on one log."""

    steps: int = 0  # 0 = 3,000, or 0.3 per step of the log where that is more, up to 12,000
    batch: int = 64  # windows per step; of logs of over 80,000 steps up to four times as many
    unroll_steps: int = 5  # K, steps of a window; frames are unrolled over them
    td_steps: int = 1  # n of the value target; 1, for the log is off-policy
    discount: float = 0.0  # 0 = 0.99, more where what tells a log's returns apart comes late
    learning_rate: float = 2e-3  # cosine decay to 5 % of it
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    target_decay: float = 0.99  # of the slow copy that bootstraps values
    noise: float = 0.03  # in what windows of 2 and more show, in typical one-step changes
    gradient_scale: float = 1.0  # of the gradient entering each earlier unroll step; MuZero 0.5
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(unsafe_hash=True)
class FrameLossWeights:
    """Weights of the terms of the loss for frames, as in EfficientZero; the last two are ours."""

    value_prefix: float = 1.0
    value: float = 0.25
    policy: float = 1.0
    consistency: float = 2.0
    continuation: float = 1.0
    decode: float = 0.0  # of the newest frame, from latents it cannot change; 0 = not computed


def _decoding() -> FrameLossWeights:
    """A dream must show frames; a random log's policy is noise to the latents."""
    return FrameLossWeights(policy=0.1, decode=1.0)


@dataclass(unsafe_hash=True)
class FrameModelConfig:
    """The shape of a world model for frames. `fit` fits it too, but for its noise, its
    weights and its slow copy: values bootstrap on what the newest params say of real frames."""

    size: str = "auto"  # of the networks: nano, small, base; auto = by frames of 48 or 64 pixels
    bins: int = 101  # atoms of values and value prefixes: squashed they reach (bins - 1) / 2
    prefix_horizon: int = 5  # steps between resets of the value prefix; 1 = rewards, no LSTM
    compute: str = "auto"  # float32, bfloat16, or auto: bfloat16 where there is an accelerator
    error_heads: int = 5  # tell how much a dreamed frame errs: its uncertainty; 0 = none
    weights: FrameLossWeights = field(default_factory=_decoding)
