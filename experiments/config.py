"""The options of every verb, as dataclasses that the YAML under `conf/` fills in.

The parts of the loop declare their own knobs (`dreaming.config`, `worldmodels.config`). Nothing
here imports JAX, so that help stays fast.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

from dreaming.config import (
    BaselineConfig,
    CertifyConfig,
    CollectConfig,
    DistillConfig,
    GateConfig,
    JudgeConfig,
    LogConfig,
    RehearseConfig,
    SearchConfig,
)
from dreaming.efficientzero.config import AgentConfig
from worldmodels.config import FitConfig, FrameModelConfig, ModelConfig


@dataclass
class EnvConfig:
    """The real task: where a log is recorded, and where policies are scored."""

    id: str = MISSING  # any Gymnasium id; "none" = there is no real environment
    behaviour: str = "random"  # random, sticky_random, half_random, or a saved policy's path
    real_steps: int = 2000  # recorded, and all that is learned from
    switch: float = 0.1  # sticky_random: probability of a new action at each step
    epsilon: float = 0.5  # half_random: probability of a random action instead of the heuristic's
    options: dict[str, Any] = field(default_factory=dict)  # passed to gymnasium.make


@dataclass
class SourceConfig:
    """A log that exists already, read through a built-in or plugged-in source."""

    name: str | None = None  # for example parquet; nothing is recorded then
    uri: str | None = None  # where it lies, for example 'logs/*.parquet'
    mapping: str | None = None  # YAML file that says which column is what
    options: dict[str, Any] = field(default_factory=dict)  # for the source itself


@dataclass
class ContextConfig:
    """What the model and the student see of a running episode."""

    window: int = 1  # newest observations; more where one does not tell the state
    recurrent: bool = False  # read them step by step (GRU), rather than as one long vector


@dataclass
class EvaluationConfig:
    """The report's own real episodes; they influence nothing."""

    episodes: int = 100
    dreams: int = 32  # episodes for the dream return


@dataclass
class WorldConfig:
    """A world fitted on one log."""

    experiment: str = "fit"  # names the run directory
    seed: int = 0  # everything random follows from it
    env: EnvConfig = field(default_factory=EnvConfig)
    traces: str | None = None  # a recorded trace store to learn from; env only scores then
    source: SourceConfig = field(default_factory=SourceConfig)
    log: LogConfig = field(default_factory=LogConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    images: FrameModelConfig = field(default_factory=FrameModelConfig)  # frames: in place of model
    fit: FitConfig = field(default_factory=FitConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    devices: int = 0  # virtual CPU devices; 0 = two where the machine has two cores
    tracker: str = "none"  # tensorboard or wandb: a second place for the metrics

    def __post_init__(self):
        check_options(self)


@dataclass
class DreamConfig(WorldConfig):
    """The whole loop on one log."""

    run: str | None = None  # a finished run: play its next round, on its log that grew (traces)
    experiment: str = "dream"  # names the run directory
    teacher: str = "search"  # search, or one_step: no tree, every action and outcome once
    search: SearchConfig = field(default_factory=SearchConfig)
    rehearse: RehearseConfig = field(default_factory=RehearseConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    certify: CertifyConfig = field(default_factory=CertifyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    budget_minutes: float = 0.0  # what learns is shortened so that all takes so long; 0 = in full

    def __post_init__(self):
        super().__post_init__()
        _check_rehearsal(self.rehearse, self.distill)


@dataclass
class OnlineConfig:
    """Learning while collecting: real steps and rounds take turns."""

    experiment: str = "online"  # names the run directory
    seed: int = 0  # everything random follows from it
    env: EnvConfig = field(default_factory=EnvConfig)
    teacher: str = "search"  # search, or one_step: no tree, every action and outcome once
    collect: CollectConfig = field(default_factory=CollectConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    rehearse: RehearseConfig = field(default_factory=RehearseConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)  # of frames: in place of the rest
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    budget_minutes: float = 0.0  # save and stop after so long, to go on later; 0 = no limit
    platform: str = "auto"  # cpu, gpu or tpu; auto = the best there is
    devices: int = 0  # virtual CPU devices; 0 = one for small networks on frames, else up to two
    tracker: str = "none"  # tensorboard or wandb: a second place for the metrics

    def __post_init__(self):
        check_options(self)
        _check_rehearsal(self.rehearse, self.distill)
        _check_agent(self.agent)


@dataclass
class RecordConfig:
    """A log of real episodes."""

    seed: int = 0
    env: EnvConfig = field(default_factory=EnvConfig)
    path: str = MISSING  # directory of the trace store
    append: bool = False  # add to the store if it holds episodes already
    source: SourceConfig = field(default_factory=SourceConfig)  # in place of env: a log
    follow: bool = False  # wait for more of the source, until interrupted
    poll: float = 1.0  # seconds between two looks at it
    idle: float | None = None  # stop after so many seconds in which nothing came; null = never

    def __post_init__(self):
        check_options(self)


@dataclass
class InspectConfig:
    """What a log holds."""

    path: str | None = None  # directory of a trace store
    source: SourceConfig = field(default_factory=SourceConfig)
    suggest: bool = False  # write a first draft of source.mapping for a table instead
    json: str | None = None  # file to write the same to, as JSON

    def __post_init__(self):
        check_options(self)


@dataclass
class SourcesConfig:
    """Which sources are listed."""

    name: str | None = None  # this one alone
    json: str | None = None  # file to write the same to, as JSON

    def __post_init__(self):
        check_options(self)


@dataclass
class ForgetConfig:
    """A session that is to be forgotten."""

    path: str = MISSING  # directory of the trace store
    session: str = MISSING  # the session of its episodes (`Trace.session`)
    runs: str | None = None  # a directory: runs below it that learned from the session are named
    remove: bool = False  # remove those runs

    def __post_init__(self):
        check_options(self)


@dataclass
class EvaluateConfig:
    """Returns of a saved policy."""

    policy: str = MISSING  # directory of a saved policy, such as runs/.../policy
    search: bool = True  # an agent for frames looks ahead; false = by its policy head alone
    seed: int = 0  # 0 = the very episodes of a run's report
    env: EnvConfig = field(default_factory=EnvConfig)
    world: str | None = None  # a .dream file to score it in, instead or as well
    trust: bool = False  # run the programs of a .dream file that somebody else signed
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    json: str | None = None  # file to write the same to, as JSON
    devices: int = 0  # virtual CPU devices; 0 = two where the machine has two cores

    def __post_init__(self):
        check_options(self)


@dataclass
class CertifyVerbConfig:
    """How far a world can be trusted: a finished run, or a dream file on a log."""

    run: str | None = None  # directory of a finished run of `dream`
    world: str | None = None  # a dream file; needs traces= or source.name=
    traces: str | None = None  # a trace store that the world has not seen
    source: SourceConfig = field(default_factory=SourceConfig)
    policy: str | None = None  # directory of a saved policy: the candidate that is ranked
    env: EnvConfig = field(default_factory=EnvConfig)
    episodes: int = 32  # real ones for each ranked policy; 0 = no ranking
    dreams: int = 32  # dreamed ones for each ranked policy
    seed: int = 0
    trust: bool = False  # also run the programs of a dream file that another user wrote
    path: str | None = None  # JSON file to write; a run gets its certificate.json
    devices: int = 0  # virtual CPU devices; 0 = two where the machine has two cores

    def __post_init__(self):
        check_options(self)


@dataclass
class ExportConfig:
    """What is taken out of a run directory, or a log in another format."""

    run: str | None = None  # a run directory of `dream` or `fit`
    traces: str | None = None  # in place of run: a trace store
    source: SourceConfig = field(default_factory=SourceConfig)  # in place of run: another log
    to: str = MISSING  # a new directory, a new file.dream; of a log minari:ID

    def __post_init__(self):
        check_options(self)


@dataclass
class PackConfig:
    """What of an online run on frames goes to another machine."""

    run: str = MISSING  # a run directory of `online`, finished or not
    to: str = MISSING  # a new directory for the parts and their manifest
    optimiser: str = "float32"  # bfloat16: its moments in half the bytes, not exactly

    def __post_init__(self):
        check_options(self)


@dataclass
class UnpackConfig:
    """Where a packed run goes on."""

    path: str = MISSING  # the directory that was packed
    to: str = MISSING  # a new run directory

    def __post_init__(self):
        check_options(self)


@dataclass
class ReportConfig:
    """One run, or all runs below a directory."""

    run: str | None = None  # draw the report of this run directory again
    runs: str | None = None  # compare all runs below this directory

    def __post_init__(self):
        check_options(self)


@dataclass
class BenchmarkConfig:
    """How fast the parts are on this machine. In brackets what null means: on a CPU; elsewhere."""

    part: str = "all"  # all, vectors (the main job on CartPole) or images (EfficientZero online)
    seed: int = 0
    repetitions: int = 5  # the median of so many is shown
    path: str | None = None  # JSON file to write the figures to
    devices: int = 0  # virtual CPU devices; 0 = two where the machine has two cores
    size: str | None = None  # networks for frames: nano, small or base (small; base)
    batch: int | None = None  # windows per update (32; 256)
    searches: int | None = None  # states searched at once (64; 2048)
    num_simulations: int = 16  # of each search
    refresh_batch: int | None = None  # states searched at once in a refresh (64; 2048)
    capacity: int | None = None  # observations in the ring (256; 100,000)
    dreams: int | None = None  # dreams of frames stepped at once (64; 4096)
    updates_per_call: int | None = None  # updates in one program (2; 10)
    unroll_steps: int = 5  # of every window
    prefix_horizon: int = 5  # of the value prefix; 1 = rewards, no LSTM
    envs: int = 8  # real environments that step together
    frame: list[int] = field(default_factory=lambda: [96, 96, 3])  # height, width, channels
    window: int = 4  # frames that a root sees
    num_actions: int = 18
    bins: int = 601  # atoms of values and value prefixes
    compute: str = "auto"  # float32 or bfloat16; auto = bfloat16 where there is an accelerator
    real_steps: int = 100_000  # of the game whose minutes are predicted

    def __post_init__(self):
        check_options(self)
        if len(self.frame) != 3 or min(self.frame) < 1:
            raise ValueError(f"frame={self.frame} must be [height, width, channels]")


UNDRAWN = ": nothing else can be drawn by then"
# Of the agent: (option, the one it must not exceed, why).
AT_MOST = (
    ("replay.batch", "learn_after", UNDRAWN),
    ("imagine.roots", "learn_after", UNDRAWN),
    ("imagine.batch", "imagine.roots", ""),
)
# Of the agent: (option, the one it must be a multiple of, why).
MULTIPLES = (
    ("replay.capacity", "envs", ""),
    ("target.every", "updates_per_call", ""),
    ("replay.batch", "replay.sequence", ""),
    ("reset.every", "target.every", ": fresh heads learn from a fresh search"),
)
# The least value of whole numbers; what is not named here must be at least 1.
LEAST = {
    "seed": None,
    "devices": 0,
    "model.chance_codes": 0,
    "model.features": 0,
    "judge.least": 0,
    "gate.episodes": 2,
}
LEAST |= {"model.reward_bins": 2, "model.value_bins": 5, "certify.episodes": 0, "episodes": 0}
LEAST |= {"judge.members": 0, "fit.steps": 0, "agent.reset.every": 0, "agent.reset.anneal": 0}
LEAST |= {"agent.late_unroll_steps": 0}
LEAST |= {"rank": 0, "reviews": 0, "steps": 0, "pretrain.own_rounds": 0}
LEAST |= {"images.bins": 5, "rehearse.iterations": 0, "baselines.steps": 0}
CHOICES = {
    "teacher": ("search", "one_step"),
    "search.teacher": ("search", "one_step"),
    "platform": ("auto", "cpu", "gpu", "tpu"),
    "agent.size": ("nano", "small", "base"),
    "images.size": ("auto", "nano", "small", "base"),
    "agent.compute": ("auto", "float32", "bfloat16"),
    "images.compute": ("auto", "float32", "bfloat16"),
    "agent.search.teacher": ("search", "puct"),
    "search.readout": ("greedy", "mean"),
    "agent.search.readout": ("greedy", "mean"),
    "agent.target.kind": ("mixed", "td", "search"),
    "agent.optimiser.name": ("adamw", "sgd"),
    "agent.optimiser.decayed": ("kernels", "encoder", "all", "none"),
    "rehearse.sampling": ("member", "mixture", "mean"),
    "pretrain.kind": ("set", "linear"),
    "self_distil.teacher": ("context", "one_step", "combined"),
    "review": ("up", "down"),
    "tracker": ("none", "tensorboard", "wandb"),
    "optimiser": ("float32", "bfloat16"),
    "part": ("all", "vectors", "images"),
    "size": ("nano", "small", "base"),
    "compute": ("auto", "float32", "bfloat16"),
}
POSITIVE = ("fit.learning_rate", "distill.learning_rate", "baselines.learning_rate")
POSITIVE += ("pretrain.learning_rate", "self_distil.learning_rate", "self_distil.clip")
POSITIVE += ("self_distil.step", "self_distil.temperature", "share")
POSITIVE += ("fit.clip_norm", "distill.clip_norm", "search.temperature", "search.floor")
SHARES = (
    "fit.discount",
    "gate.level",
    "judge.share",
    "judge.most",
    "env.switch",
)  # between 0 and 1
SHARES += ("agent.reset.discount",)
ANY = ("score",)  # of either sign
CLOSED = (
    "self_distil.alpha",
    "self_distil.trust_decay",
    "env.epsilon",
    "collect.epsilon",
    "search.uniform_share",
    "rehearse.lam",
    "rehearse.real",
    "rehearse.greedy",
    "fit.target_decay",
    "distill.target_decay",
    "baselines.target_decay",
    "agent.reset.keep",
    "agent.late_from",
)


def check_options(config: Any) -> None:
    """Raise `ValueError` for the first option that lies where no run can work."""
    for name, value in _flat(config):
        if name in CHOICES and value is not None and value not in CHOICES[name]:
            choices = " or ".join(CHOICES[name])
            raise ValueError(f"{name}={value} does not exist; choose {choices}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, float):
            _check_real(name, value)
        elif (least := LEAST.get(name, 1)) is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _check_rehearsal(rehearse: RehearseConfig, distill: DistillConfig) -> None:
    """Raise `ValueError` when what was rehearsed cannot be shared out."""
    states = rehearse.dreams * rehearse.horizon
    if rehearse.taught > states or rehearse.taught % distill.minibatches:
        raise ValueError(
            f"rehearse.taught={rehearse.taught} must be a multiple of distill.minibatches and at "
            f"most rehearse.dreams * rehearse.horizon = {states}"
        )
    if states % distill.minibatches:
        raise ValueError(
            f"distill.minibatches={distill.minibatches} must divide "
            f"rehearse.dreams * rehearse.horizon = {states}"
        )


def _check_agent(agent: AgentConfig) -> None:
    """Raise `ValueError` for the first two of its options that do not fit each other."""
    of = lambda name: operator.attrgetter(name)(agent)
    told = lambda name: f"agent.{name}={of(name)}"
    for few, many, reason in AT_MOST:
        if of(few) > of(many) and (few != "imagine.roots" or agent.imagine.weight > 0):
            raise ValueError(f"{told(few)} must be at most {told(many)}{reason}")
    for whole, part, reason in MULTIPLES:
        if of(whole) % of(part):
            raise ValueError(f"{told(whole)} must be a multiple of {told(part)}{reason}")
    if agent.replay.capacity < 2 * agent.envs:
        raise ValueError(f"{told('replay.capacity')} must be at least twice {told('envs')}")


def _check_real(name: str, value: float) -> None:
    if name in ANY and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if name in ANY:
        return
    ends = 0 < value < 1 or (name, value) in (("env.switch", 1), ("fit.discount", 0))
    if name in SHARES and not ends:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    if name in CLOSED and not 0 <= value <= 1:
        raise ValueError(f"{name} must be at least 0 and at most 1, got {value}")
    if name in POSITIVE and not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value}")


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every option, through nested dataclasses."""
    for each in fields(config):
        value, name = getattr(config, each.name), f"{prefix}{each.name}"
        if is_dataclass(value):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value
