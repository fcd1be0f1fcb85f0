"""The options of the verbs of sessions. Nothing here imports JAX, so that help stays fast."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from dreaming.sessions.config import PretrainConfig, SelfDistilConfig
from experiments.config import check_options

FAMILY = "envs.processes.desk:make_deployment"


@dataclass
class RegistryConfig:
    """Where the registry lies."""

    registry: str = "registry"  # directory

    def __post_init__(self):
        check_options(self)


@dataclass
class PretrainVerbConfig(RegistryConfig):
    """A base that learns in context."""

    family: str = FAMILY  # package.module:function that makes a task of a number; is imported
    seed: int = 0
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


@dataclass
class SessionStartConfig(RegistryConfig):
    """A new session."""

    deployment: str = MISSING  # its name; with a family its number
    consent: bool = False  # whether anything may be learned from the session
    family: str | None = None  # package.module:function; works `steps` decisions in its task
    steps: int = 0  # decisions to work at once; 0 = the session waits for a program of yours
    seed: int = 0


@dataclass
class SessionConfig(RegistryConfig):
    """One session."""

    session: str = MISSING  # its name, such as 3-1


@dataclass
class SessionReviewConfig(SessionConfig):
    """What somebody says of a session, once."""

    review: str = MISSING  # up or down
    score: float | None = None  # any number, kept beside it
    note: str = ""


@dataclass
class SessionStatusConfig(RegistryConfig):
    """What there is of sessions."""

    session: str | None = None  # one of them; else all
    json: str | None = None  # file to write the same to, as JSON


@dataclass
class CompactConfig(SessionConfig):
    """A summary of a session as context."""

    rows: int = 16  # decisions that are kept
    reviews: int = 1  # sessions of the deployment that must have been reviewed


@dataclass
class HistoryConfig(RegistryConfig):
    """What was deployed, and why."""

    json: str | None = None  # file to write the same to, as JSON
    picture: str | None = None  # file to draw it to, such as history.svg


@dataclass
class RollbackConfig(RegistryConfig):
    """An earlier state."""

    to: str | None = None  # first digits of the hash of its weights, or of its state
    steps: int = 1  # else: so many changes back


@dataclass
class DreamSessionConfig(SessionConfig):
    """Learning from a session."""

    seed: int = 0
    reviews: int = 1  # sessions of the deployment that must have been reviewed
    share: float = 1.0  # of all weights that may change
    rank: int = 0  # > 0: add products of so low a rank instead
    self_distil: SelfDistilConfig = field(default_factory=SelfDistilConfig)
