"""The options of every verb, as dataclasses that the YAML under `conf/` fills in.

The parts of the loop declare their own knobs (`dreaming.config`, `worldmodels.config`). Nothing here
imports JAX, so that help stays fast.
"""

from dataclasses import dataclass, field
from typing import Any

from dreaming.config import (
    BaselineConfig,
    DistillConfig,
    GateConfig,
    JudgeConfig,
    RehearseConfig,
    SearchConfig,
)
from worldmodels.config import FitConfig, ModelConfig


@dataclass
class EnvConfig:
    """The real task: where a log is recorded, and where policies are scored."""

    id: str = "CartPole-v1"  # any Gymnasium id; "none" = there is no real environment
    behaviour: str = "random"  # random, sticky_random, or the path of a saved policy
    real_steps: int = 2000  # recorded, and all that is learned from
    switch: float = 0.1  # sticky_random: probability of a new action at each step
    options: dict[str, Any] = field(default_factory=dict)  # passed to gymnasium.make


@dataclass
class SourceConfig:
    """A log that exists already, read through a built-in or plugged-in source."""

    name: str | None = None  # for example parquet; nothing is recorded then
    uri: str | None = None  # where it lies, for example 'logs/*.parquet'
    mapping: str | None = None  # YAML file that says which column is what
    options: dict[str, Any] = field(default_factory=dict)  # for the source itself


@dataclass
class EvaluationConfig:
    """The report's own real episodes; they influence nothing."""

    episodes: int = 100
    dreams: int = 32  # episodes for the dream return


@dataclass
class DreamConfig:
    """The whole loop on one log."""

    experiment: str = "dream"  # names the run directory
    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    traces: str | None = None  # a recorded trace store to learn from; env only scores then
    source: SourceConfig = field(default_factory=SourceConfig)
    teacher: str = "search"  # search, or one_step: no tree, every action and outcome once
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    rehearse: RehearseConfig = field(default_factory=RehearseConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    devices: int = 0  # virtual CPU devices; 0 = two where the machine has two cores

    def __post_init__(self):
        positive = {
            "env.real_steps": self.env.real_steps,
            "fit.steps": self.fit.steps,
            "fit.batch": self.fit.batch,
            "fit.unroll_steps": self.fit.unroll_steps,
            "fit.td_steps": self.fit.td_steps,
            "search.num_simulations": self.search.num_simulations,
            "rehearse.iterations": self.rehearse.iterations,
            "rehearse.dreams": self.rehearse.dreams,
            "rehearse.horizon": self.rehearse.horizon,
            "model.members": self.model.members,
            "model.chance_codes": self.model.chance_codes,
            "model.window": self.model.window,
            "evaluation.episodes": self.evaluation.episodes,
        }
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.gate.episodes < 2:
            raise ValueError(f"gate.episodes must be at least 2, got {self.gate.episodes}")
        if not 0 < self.fit.discount < 1:
            raise ValueError(f"fit.discount must lie between 0 and 1, got {self.fit.discount}")
        if self.teacher not in ("search", "one_step"):
            raise ValueError(f"teacher={self.teacher} does not exist; choose search or one_step")
        taught = self.rehearse.taught
        states = self.rehearse.dreams * self.rehearse.horizon
        if not 0 < taught <= states or taught % self.distill.minibatches:
            raise ValueError(
                f"rehearse.taught={taught} must be a multiple of distill.minibatches and at most "
                f"rehearse.dreams * rehearse.horizon = {states}"
            )
