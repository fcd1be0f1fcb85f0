"""The options of `dreaming atari100k`, and the online run on frames that they stand for."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from omegaconf import MISSING

from dreaming.config import CollectConfig
from dreaming.efficientzero.config import AgentConfig
from experiments.config import EnvConfig, EvaluationConfig, OnlineConfig

ENV = "dreaming/Atari-v0"
REAL_STEPS, EPISODES = 100_000, 100  # of the benchmark
LEAST_EPISODES = 2  # that a dry run evaluates


@dataclass
class ProtocolConfig:
    """The rules that an agent learns under; a report never mixes results of different ones."""

    side: int = 96  # rows and columns of a frame
    grey: bool = False  # luminance alone, rather than red, green and blue
    skip: int = 4  # emulator frames per decision; it shows the maximum of the last two
    no_ops: int = 30  # a game begins with 1 to so many frames without action
    sticky: float = 0.0  # probability that the emulator repeats its last action in a frame
    all_actions: bool = False  # all 18, rather than those that do something in the game
    max_frames: int = 108_000  # emulator frames of a game; then it is truncated
    life_loss: bool = True  # in training a lost life ends an episode; never in an evaluation
    clip_rewards: bool = True  # in training to their sign; never in an evaluation


@dataclass
class TurnsConfig:
    """How acting and learning take turns."""

    ticks: int = 4  # decisions of every environment per turn, with the same params
    save_every: int = 10_000  # decisions between two checkpoints, which hold all frames
    traces: bool = False  # also keep all training episodes, as a log in traces/


@dataclass
class ScoreConfig:
    """The final evaluation: new games with the last weights, rewards and lives as they are."""

    episodes: int | None = None  # games; null = 100, in a dry run as many fewer as it is shorter
    max_frames: int | None = None  # null = protocol.max_frames, in a dry run those it learns from
    sticky: float = 0.25  # as many again with sticky actions of this probability; 0 = none


@dataclass
class AtariConfig:
    """One game of Atari-100k with one seed. With fewer decisions it is a dry run, which is
    shorter in all its parts."""

    game: str = MISSING  # one of the 26, for example Breakout
    seed: int = 0  # everything random follows from it
    size: str = "nano"  # what is learned with, and on what; named beside every score
    real_steps: int = REAL_STEPS  # decisions, those before the first update included
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    evaluation: ScoreConfig = field(default_factory=ScoreConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)  # EfficientZero
    collect: TurnsConfig = field(default_factory=TurnsConfig)
    budget_minutes: float = 0.0  # save and stop after so long, to go on later; 0 = no limit
    platform: str = "auto"  # cpu, gpu or tpu; auto = the best there is
    devices: int = 0  # virtual CPU devices; 0 = one for small networks
    tracker: str = "none"  # tensorboard or wandb: a second place for the metrics
    experiment: str = "atari100k"  # names the run directory

    def __post_init__(self):
        for part, options in (("protocol", self.protocol), ("evaluation", self.evaluation)):
            for name, value in values(options).items():
                if type(value) is int and value < 1:
                    raise ValueError(f"{part}.{name} must be at least 1, got {value}")
            if not 0 <= options.sticky < 1:
                told = f"{part}.sticky={options.sticky}"
                raise ValueError(f"{told} must be at least 0 and less than 1")
        online(self)  # raises `ValueError` for what cannot work

    @property
    def is_dry_run(self) -> bool:
        """Whether this is too short to be a result of the benchmark."""
        return self.real_steps < REAL_STEPS

    @property
    def episodes(self) -> int:
        """Number of games of an evaluation."""
        shorter = EPISODES * self.real_steps // REAL_STEPS
        return self.evaluation.episodes or min(EPISODES, max(LEAST_EPISODES, shorter))

    @property
    def most_frames(self) -> int:
        """The cap of a game in an evaluation."""
        cap = self.protocol.max_frames
        return self.evaluation.max_frames or (
            min(cap, self.protocol.skip * self.real_steps) if self.is_dry_run else cap
        )


def values(options: Any) -> dict[str, Any]:
    """The options of a group by name."""
    return {each.name: getattr(options, each.name) for each in fields(options)}


def online(config: AtariConfig) -> OnlineConfig:
    """The online run of a game: its options by the names that the loop for frames reads."""
    agent, collect = replace(config.agent, real_steps=config.real_steps), config.collect
    if config.is_dry_run:  # a quarter of it passes before the first update, at most
        first = max(agent.replay.batch, config.real_steps // 4)
        enough = agent.envs * (2 * config.real_steps // agent.envs + 2)  # rows, with those of ends
        replay = replace(agent.replay, capacity=min(agent.replay.capacity, enough))
        agent = replace(agent, learn_after=min(agent.learn_after, first), replay=replay)
    return OnlineConfig(
        experiment=config.experiment,
        seed=config.seed,
        env=EnvConfig(
            ENV, real_steps=config.real_steps, options={"game": config.game, **training(config)}
        ),
        collect=CollectConfig(
            ticks=collect.ticks, save_every=collect.save_every, traces=collect.traces
        ),
        agent=agent,
        evaluation=EvaluationConfig(episodes=config.episodes),
        budget_minutes=config.budget_minutes,
        platform=config.platform,
        devices=config.devices,
        tracker=config.tracker,
    )


def training(config: AtariConfig) -> dict[str, Any]:
    """The rules of the games that are learned from."""
    return values(config.protocol)


def scoring(config: AtariConfig, sticky: float) -> dict[str, Any]:
    """The rules of the games of an evaluation: whole games, raw rewards."""
    whole = {"life_loss": False, "clip_rewards": False}
    return training(config) | whole | {"max_frames": config.most_frames, "sticky": sticky}
