"""The knobs of the online agent for frames, one comment each with its reason. No JAX here."""

from dataclasses import dataclass, field

from dreaming.config import SearchConfig
from worldmodels.config import FrameLossWeights


def _search() -> SearchConfig:
    """EfficientZero V2's budget: 16 simulations from the 4 likeliest actions (with noise).

    V1's is teacher "puct" with 50.
    """
    return SearchConfig(num_simulations=16, max_considered=4, uniform_share=0.0, readout="mean")


@dataclass
class ReplayConfig:
    """Size of the replay ring, and how windows are drawn from it (prioritised replay)."""

    capacity: int = 100_000  # observations in the ring; a multiple of `envs`
    batch: int = 256  # windows per update
    sequence: int = 1  # windows at consecutive rows that share their encodings; 1 = no sharing
    alpha: float = 0.6  # exponent of the priorities; 0 draws uniformly
    beta_first: float = 0.4  # exponent of the importance weights at first; rises linearly
    beta_last: float = 1.0  # the same exponent at the planned end


@dataclass
class TargetConfig:
    """The targets of the value head."""

    kind: str = "mixed"  # "mixed" (V2), "td" (n-step, shorter for old data: V1) or "search"
    td_steps: int = 5  # n of the n-step return
    shorten: float = 0.3  # "td": n falls by 1 per this share of `real_steps` in a row's age
    td_until: float = 0.3  # "mixed": n-step alone until this share of `real_steps`
    td_newest: float = 0.05  # "mixed": later n-step only for rows younger than this share
    every: int = 200  # updates between two refreshes (reanalyses of all that is stored)


@dataclass
class ResetConfig:
    """Periodic partial resets of the params; they allow more updates per real step (BBF)."""

    every: int = 0  # updates between two resets; none within the last `every` updates; 0 = never
    keep: float = 0.5  # share of encoder and dynamics that is kept; all heads are fresh
    anneal: int = 0  # updates after start or reset until n and discount are final; 0 = at once
    td_steps: int = 10  # n that annealing begins with; it ends with that of `target`
    discount: float = 0.97  # that annealing begins with; it ends with the agent's


@dataclass
class ImagineConfig:
    """Rehearsal on top of reanalysis: searches at states that only the model has seen."""

    weight: float = 0.0  # of the policy and value losses at imagined states; 0 = none
    roots: int = 256  # walks after each refresh, each from a stored state
    steps: int = 3  # per walk: act by search, then search at the state reached
    batch: int = 64  # walks learned from in each update


@dataclass
class OptimiserConfig:
    """The optimiser and its learning rate schedule."""

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
    late_from: float = 0.8  # share of all updates after which late_unroll_steps holds
    gradient_scale: float = 0.5  # factor on the gradient into each unrolled latent
    discount: float = 0.988  # 0.997 ** 4: per decision, four frames
    value_span: float = 1.0  # in reward units; search tells values apart that differ by 1 % of it
    envs: int = 8  # E, real environments that step together
    real_steps: int = 100_000  # the planned end: schedules run to it
    learn_after: int = 2000  # real steps before the first update
    updates_per_step: float = 1.0  # replay ratio, counted from `learn_after` on
    updates_per_call: int = 10  # updates in one program on an accelerator; divides `target.every`
    refresh_batch: int = 256  # states that a refresh searches at once; thousands on a GPU
    augment: bool = True  # random shift and brightness of the frames in a batch
    compute: str = "auto"  # "float32", "bfloat16", or auto: bfloat16 where there is an accelerator
    search: SearchConfig = field(default_factory=_search)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    reset: ResetConfig = field(default_factory=ResetConfig)
    imagine: ImagineConfig = field(default_factory=ImagineConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    weights: FrameLossWeights = field(default_factory=FrameLossWeights)

    def is_late(self, updates: int) -> bool:
        """Whether update number `updates` unrolls `late_unroll_steps`."""
        return updates >= self.late_from * self.updates

    @property
    def most_unroll_steps(self) -> int:
        """The larger of `unroll_steps` and `late_unroll_steps`."""
        return max(self.unroll_steps, self.late_unroll_steps)

    @property
    def most_td_steps(self) -> int:
        """The largest n that value targets use during the run."""
        return max(self.target.td_steps, self.reset.td_steps if self.reset.anneal else 0)

    @property
    def updates(self) -> int:
        """Number of updates of a complete run."""
        return max(1, round((self.real_steps - self.learn_after) * self.updates_per_step))
