"""The knobs of the loop, one comment each with its reason. No JAX here, so that help stays fast.

Nobody writes to a config: those with a hash name the compiled programs that they are part of.
"""

import math
from dataclasses import dataclass, field, replace

FIRST_SEED = 1_000_000  # of gate episodes; those of the report begin at ten times this


@dataclass
class LogConfig:
    """How much of a long log is learned from: whole episodes, evenly spread over it."""

    most_steps: int = 1_000_000  # more tell small networks nothing new, and memory stays flat
    most_mib: int = 2048  # of its observations in memory, which bounds logs of frames


@dataclass
class CollectConfig:
    """How real steps and rounds alternate online; env.real_steps is their total."""

    first: int = 500  # steps by env.behaviour, before anything is learned
    steps: int = 500  # by the newest student, after every round
    epsilon: float = 0.05  # share of uniformly random actions, on top of the student's own draws
    ticks: int = 4  # frames only: decisions of every environment per turn, with the same params
    save_every: int = 2000  # frames only: real steps between two checkpoints
    traces: bool = False  # frames only: also keep all real episodes, as a log in traces/


@dataclass
class JudgeConfig:
    """The second opinion: a model fitted on episodes that the planner never saw."""

    share: float = 0.15  # share of the episodes that is held out for the judge
    least: int = 10  # held-out episodes of uncommon return; with fewer it is not independent
    steps: int = 1000  # gradient steps of its fit
    members: int = 0  # 0 = 2; without a real task 8: their differences decide about the verdict
    most: float = 0.5  # without a real task more is held out, if it takes it, but at most so much

    def sized(self, decides: bool) -> "JudgeConfig":
        """A copy with the members filled in. `decides`: the verdict depends on its dreams."""
        return replace(self, members=self.members or (8 if decides else 2))


@dataclass(unsafe_hash=True)
class SearchConfig:
    """How a teacher looks ahead."""

    teacher: str = "search"  # "search" or "one_step"; for `agent` also "puct"
    num_simulations: int = 16
    max_considered: int = 16  # actions that sequential halving starts from
    uniform_share: float = 0.02  # uniform share of the prior: an action that looked bad can return
    c_visit: float = 50.0  # sigma(q) = (c_visit + max visits) * c_scale * q, q in [0, 1]
    c_scale: float = 0.1
    readout: str = "greedy"  # of the tree for the policy: if the best is always taken; or "mean"
    floor: float = 0.01  # least span of the tree's min-max, as a share of the value range
    temperature: float = 0.005  # of the one_step teacher's softmax, as a share of the value range
    pessimism: float = 0.0  # kappa: rewards and values enter as mean - kappa * std
    batched_passes: bool = False  # a call of the model per pass of sequential halving, not per
    # simulation; the min-max of values is held for a pass
    penalty: float = 1.0  # typical rewards that one unit of uncertainty costs (MOPO)


@dataclass(unsafe_hash=True)
class RehearseConfig:
    """How much is rehearsed, and from where."""

    iterations: int = 0  # 0 = 1,000, on frames 500; a plateau before the jump is normal
    dreams: int = 128  # walks per iteration
    horizon: int = 16  # steps per walk; short, because it begins at real states of any time step
    going_on: float = 0.5  # share of walks that continue earlier ones: in the long run a student
    # reaches states that the log does not hold
    restart: float = 0.125  # probability that a continued walk restarts at a logged state
    taught: int = 512  # states per iteration at which the teacher looks ahead
    real: float | None = None  # share of `taught` drawn from the log; null = 0, on frames 0.5
    # (a student that sees mostly decoded frames misjudges real ones)
    greedy: float = 0.5  # share of walks by the most probable actions, as a student is deployed
    lam: float = 0.95  # TD(lambda) of the value target
    sampling: str = "mixture"  # member that predicts a walk: mixture = drawn anew at every step
    behaviour_penalty: float = 10.0  # uncertainty per nat by which the behaviour avoids an action

    def sized(self, kind: str) -> "RehearseConfig":
        """A copy whose 0 and None are replaced by the defaults for a `kind` of observations
        (`Features.kind`)."""
        iterations, real = (500, 0.5) if kind == "frames" else (1000, 0.0)
        real = real if self.real is None else self.real
        return replace(self, iterations=self.iterations or iterations, real=real)


@dataclass(unsafe_hash=True)
class DistillConfig:
    """How the student learns from rehearsals."""

    learning_rate: float = 1e-3  # with cosine decay to 5 %, since the last student is used
    minibatches: int = 4  # gradient steps per rehearsal
    clip_norm: float = 5.0
    target_decay: float = 0.98  # per gradient step, of the slow heads whose values are bootstrapped
    anchor: float = 1.0  # weight of KL(incumbent || student); round 0 has no incumbent
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
        """A copy with the default steps for a `kind` of observations (`Features.kind`)."""
        return replace(self, steps=self.steps or (1000 if kind == "frames" else 3000))


@dataclass
class GateConfig:
    """The evidence for a verdict: real episodes or, without a real task, three estimates."""

    episodes: int = 32  # of candidate and incumbent each, same seeds; at most four times as many
    level: float = 0.95  # that all trials of a run and its rounds accept nothing that is no better
    min_gain: float = 0.0  # the lower bound of the gain must exceed this, in units of return
    members: int = 32  # of the bootstrapped ensemble of fitted Q functions
    width: int = 256  # hidden units of each; discrete observations need none
    least_effective: int = 30  # effective episodes that the doubly robust estimate needs

    @property
    def looks(self) -> tuple[int, int, int]:
        """Episodes after which the gate in the real task looks at them."""
        return self.episodes, 2 * self.episodes, 4 * self.episodes

    def level_of(self, trial: int) -> float:
        """Confidence level of trial 0, 1, ... of a lineage: the k-th one spends 6 / (pi k)^2 of the
        error probability 1 - level, and any number of trials at most all of it."""
        return 1 - (1 - self.level) * 6 / (math.pi * (trial + 1)) ** 2


@dataclass
class CertifyConfig:
    """Episodes of each of the policies that a certificate ranks."""

    episodes: int = 32  # real ones, for each of the 7 policies; 0 = no ranking
    dreams: int = 32  # for each policy in the planner's dream, and in that of every judge


@dataclass
class RoundConfig:
    """The settings of a round, except those of its physics.

    Without a gate (None) every candidate is deployed, no episodes are held out, and there are no
    judges and no baselines.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    rehearse: RehearseConfig = field(default_factory=RehearseConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    baselines: BaselineConfig = field(default_factory=BaselineConfig)
    gate: GateConfig | None = field(default_factory=GateConfig)

    def sized(self, kind: str) -> "RoundConfig":
        """A copy with the defaults for a `kind` of observations (`Features.kind`) filled in."""
        rehearse, baselines = self.rehearse.sized(kind), self.baselines.sized(kind)
        return replace(self, rehearse=rehearse, baselines=baselines)
