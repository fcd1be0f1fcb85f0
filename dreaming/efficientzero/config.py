"""The knobs of the online agent for images, one comment each with its reason. No JAX here."""

from dataclasses import dataclass, field

from dreaming.config import SearchConfig
from worldmodels.config import FrameLossWeights


def _search() -> SearchConfig:
    """EfficientZero V2's budget: 16 simulations from the 4 likeliest actions (with noise).

    V1's is teacher "puct" with 50.
    """
    return SearchConfig(num_simulations=16, max_considered=4, uniform_share=0.0)


@dataclass
class ReplayConfig:
    """What is kept of the past, and which of it is learned from."""

    capacity: int = 100_000  # observations in the ring; a multiple of `envs`
    batch: int = 256  # windows per update
    sequence: int = 1  # windows that begin at rows in a row and share their encodings; 1 = none do
    alpha: float = 0.6  # of the priorities: 0 draws uniformly
    beta_first: float = 0.4  # of the importance weights at first; rises evenly to
    beta_last: float = 1.0  # this at the planned end


@dataclass
class TargetConfig:
    """What values are fitted to."""

    kind: str = "mixed"  # "mixed" (V2), "td" (n-step, shorter for old data: V1) or "search"
    td_steps: int = 5  # n of the n-step return
    shorten: float = 0.3  # "td": n falls by 1 per so much of `real_steps` that a row is old
    td_until: float = 0.3  # "mixed": n-step alone until this share of `real_steps`
    td_newest: float = 0.05  # "mixed": n-step ever after for the newest rows, in `real_steps`
    every: int = 200  # updates between two refreshes, each under the params of its time


@dataclass
class ResetConfig:
    """Starting anew in part while the ring stays, so that more updates per step can be borne."""

    every: int = 0  # updates between two resets; none in the last so many; 0 = never
    keep: float = 0.5  # share of encoder and dynamics that is left; the rest, and heads, are fresh
    anneal: int = 0  # updates from the start, and each reset, till n and discount are their own
    td_steps: int = 10  # n that annealing begins with; it ends with that of `target`
    discount: float = 0.97  # that annealing begins with; it ends with the agent's


@dataclass
class ImagineConfig:
    """Rehearsal in the model on top of reanalysis: what to do at states that were never real."""

    weight: float = 0.0  # of the losses of policy and value there; 0 = nothing is imagined
    roots: int = 256  # stored states that a walk begins at after each refresh
    steps: int = 3  # of a walk, which does what the search says; the search is asked after each
    batch: int = 64  # walks learned from in each update


@dataclass
class OptimiserConfig:
    """How gradients become updates."""

    name: str = "adamw"  # "adamw", or "sgd" with momentum 0.9 (EfficientZero: rate 0.2)
    learning_rate: float = 7e-4
    warm_up: float = 0.01  # share of all updates over which the rate rises from 0
    last: float = 0.1  # share of the rate that is left after a cosine decay
    weight_decay: float = 1e-4
    decayed: str = "kernels"  # "kernels" (no norms, no biases), "encoder" (its own), "all", "none"
    clip_norm: float = 5.0


@dataclass
class AgentConfig:
    """EfficientZero online: collect by search, reanalyze everything, learn from what was stored."""

    size: str = "base"  # of the networks: nano, small or base
    window: int = 4  # frames that a root sees
    bins: int = 601  # atoms of values and value prefixes
    hl_gauss: bool = False  # scalars as Gaussian histograms over the atoms, rather than two-hot
    prefix_horizon: int = 5  # steps between resets of the value prefix; 1 = rewards, no LSTM
    unroll_steps: int = 5  # K
    late_unroll_steps: int = 0  # K in the last part of the run, for longer dreams; 0 = the same
    late_from: float = 0.8  # share of all updates that come before it
    gradient_scale: float = 0.5  # of all that reaches a latent through each unrolled step
    discount: float = 0.988  # 0.997 ** 4: per decision, four frames
    value_span: float = 1.0  # in reward units; the search tells values apart from 1 % of it on
    envs: int = 8  # E, real environments that step together
    real_steps: int = 100_000  # the planned end: schedules run to it
    learn_after: int = 2000  # real steps before the first update
    updates_per_step: float = 1.0  # replay ratio, counted from `learn_after` on
    updates_per_call: int = 10  # of one call, one program on an accelerator; divides `target.every`
    refresh_batch: int = 256  # states that a refresh searches at once; thousands on a GPU
    augment: bool = True  # shift and intensity of what is learned from
    compute: str = "auto"  # "float32", "bfloat16", or auto: bfloat16 where there is an accelerator
    search: SearchConfig = field(default_factory=_search)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    reset: ResetConfig = field(default_factory=ResetConfig)
    imagine: ImagineConfig = field(default_factory=ImagineConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    weights: FrameLossWeights = field(default_factory=FrameLossWeights)

    def is_late(self, updates: int) -> bool:
        """Whether the next update is one of the last part of the run."""
        return updates >= self.late_from * self.updates

    @property
    def most_unroll_steps(self) -> int:
        """The greater K of a run's two."""
        return max(self.unroll_steps, self.late_unroll_steps)

    @property
    def most_td_steps(self) -> int:
        """The greatest n that anneals or stays."""
        return max(self.target.td_steps, self.reset.td_steps if self.reset.anneal else 0)

    @property
    def updates(self) -> int:
        """All updates of a run that is not cut short."""
        return max(1, round((self.real_steps - self.learn_after) * self.updates_per_step))
