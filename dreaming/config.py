"""The knobs of the loop, one comment each with its reason. No JAX here, so that help stays fast.

Nobody writes to a config: those with a hash name the compiled programs that they are part of.
"""

import math
from dataclasses import dataclass, field, replace

FIRST_SEED = 1_000_000  # of gate episodes; those of the report begin at ten times this


@dataclass
class CollectConfig:
    """How real steps and rounds take turns online; env.real_steps says how many in all."""

    first: int = 500  # steps by env.behaviour, before anything is learned
    steps: int = 500  # by the newest student, after every round
    epsilon: float = 0.05  # of them are uniformly random, beside what the student itself draws
    ticks: int = 4  # images: decisions of every environment until it gets newer params
    save_every: int = 2000  # images: real steps between two checkpoints
    traces: bool = False  # images: keep all real episodes, too, as a log in traces/


@dataclass
class JudgeConfig:
    """The second opinion: a model fitted on episodes that the planner never saw."""

    share: float = 0.15  # of the episodes are held out for the judge
    least: int = 10  # episodes of uncommon return that the held-out part must hold; else two folds
    steps: int = 1000  # of its fit
    members: int = 2


@dataclass(unsafe_hash=True)
class SearchConfig:
    """How a teacher looks ahead."""

    teacher: str = "search"  # "search" or "one_step"
    num_simulations: int = 16
    max_considered: int = 16  # actions that sequential halving starts from
    uniform_share: float = 0.02  # of the prior: an action that looked bad early can come back
    c_visit: float = 50.0  # sigma(q) = (c_visit + max visits) * c_scale * q, q in [0, 1]
    c_scale: float = 0.1
    floor: float = 0.01  # least span of the tree's min-max, as a share of the value range
    temperature: float = 0.005  # of the one-step teacher, as a share of the value range
    pessimism: float = 0.0  # kappa: rewards and values enter as mean - kappa * std
    penalty: float = 1.0  # typical rewards that one unit of uncertainty costs (MOPO)


@dataclass(unsafe_hash=True)
class RehearseConfig:
    """How much is rehearsed, and from where."""

    iterations: int = 0  # 0 = 1,000, on frames 500; a plateau before the jump is normal
    dreams: int = 128  # walks per iteration
    horizon: int = 16  # steps per walk; short, because it begins at real states of any time step
    going_on: float = 0.5  # share of the walks that go on, if episodes of the log are long
    # (where a student ends up in the long run is not where the log has been)
    restart: float = 0.125  # least probability that such a walk begins anew
    taught: int = 512  # states per iteration at which the teacher looks ahead
    real: float | None = None  # share of them drawn from the log; null = none, on frames half
    # (a student that sees mostly what was decoded misjudges what is real)
    lam: float = 0.95  # TD(lambda) of the value target
    sampling: str = "mixture"  # physics of a walk: another member at every step
    behaviour_penalty: float = 10.0  # uncertainty per nat less likely to a foreseen behaviour

    def sized(self, kind: str) -> "RehearseConfig":
        """With what a `kind` of observations (`Features.kind`) needs where 0 or None leaves it
        open."""
        iterations, real = (500, 0.5) if kind == "frames" else (1000, 0.0)
        real = real if self.real is None else self.real
        return replace(self, iterations=self.iterations or iterations, real=real)


@dataclass(unsafe_hash=True)
class DistillConfig:
    """How the rehearsed is learned."""

    learning_rate: float = 1e-3  # cosine decay to 5 %: the last student is the one that is taken
    minibatches: int = 4  # gradient steps per rehearsal
    clip_norm: float = 5.0
    target_decay: float = 0.98  # per gradient step, of the slow value that bootstraps
    anchor: float = 1.0  # weight of KL(incumbent || student); there is none in round 0
    width: int = 64  # hidden units of the student


@dataclass
class BaselineConfig:
    """Both baselines are networks of the student's shape, trained on uniformly drawn steps."""

    steps: int = 0  # 0 = 3,000, on frames 1,000
    batch: int = 256
    learning_rate: float = 1e-3
    width: int = 64
    conservatism: float = 1.0  # alpha of CQL(H)
    target_decay: float = 0.995

    def sized(self, kind: str) -> "BaselineConfig":
        """With the budget of a `kind` of observations (`Features.kind`) where it is 0."""
        return replace(self, steps=self.steps or (1000 if kind == "frames" else 3000))


@dataclass
class GateConfig:
    """What the verdict rests on: real episodes, or without a real task three estimates."""

    episodes: int = 32  # paired: candidate and incumbent from the same seeds
    level: float = 0.95  # of the interval of the gain
    min_gain: float = 0.0  # its lower bound must exceed this, in units of return
    members: int = 32  # of the ensemble of fitted Q functions: the bootstrap of its interval
    width: int = 256  # hidden units of each, where observations are not categories
    least_effective: int = 30  # effective episodes that the doubly robust estimate needs

    def seeds(self, rounds: int) -> list[int]:
        """Reset seeds of the gate episodes of a round; no other stage uses them."""
        first = FIRST_SEED + rounds * self.episodes
        return list(range(first, first + self.episodes))

    def level_of(self, rounds: int) -> float:
        """Level of an interval in round 0, 1, ...: 1 - level is spent as 6 / (pi k)^2 of it in
        the k-th round, which adds up to 1 - level however many rounds there are."""
        return 1 - (1 - self.level) * 6 / (math.pi * (rounds + 1)) ** 2


@dataclass
class CertifyConfig:
    """How often each of the policies that a certificate ranks is tried."""

    episodes: int = 32  # real ones, for each of the 7 policies; 0 = no ranking
    dreams: int = 32  # in the planner's dream and in that of every judge


@dataclass
class RoundConfig:
    """The parts of a round that are not physics.

    Without a gate every candidate is deployed, and nothing that only serves a verdict is done: no
    episodes are held out, nobody judges, no baselines are trained.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    rehearse: RehearseConfig = field(default_factory=RehearseConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    gate: GateConfig | None = field(default_factory=GateConfig)

    def sized(self, kind: str) -> "RoundConfig":
        """With what a `kind` of observations (`Features.kind`) needs wherever it is left open."""
        rehearse, baselines = self.rehearse.sized(kind), self.baselines.sized(kind)
        return replace(self, rehearse=rehearse, baselines=baselines)
