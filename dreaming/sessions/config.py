"""Settings of sessions: of a base's pretraining, and of a round of self-distillation."""

from dataclasses import dataclass


@dataclass
class PretrainConfig:
    """Sizes of a base and of its pretraining."""

    deployments: int = 2048  # of scripted sessions
    steps: int = 140  # decisions of each session
    updates: int = 900
    own_rounds: int = 3  # sessions of its own, after the scripted ones
    own_deployments: int = 256
    own_updates: int = 100  # per round
    batch: int = 32  # sessions per update
    learning_rate: float = 3e-3
    width: int = 64
    layers: int = 2
    kind: str = "set"  # or linear


@dataclass(unsafe_hash=True)  # names a compiled program; not changed after that
class SelfDistilConfig:
    """One round of self-distillation."""

    teacher: str = "context"  # or one_step, combined
    updates: int = 150
    dreams: int = 16  # dreamed days per update
    horizon: int = 20  # decisions of a dreamed day
    learning_rate: float = 1e-3
    alpha: float = 0.5  # 0 = KL(teacher || student), 1 = KL(student || teacher)
    clip: float = 5.0  # most that an action's term of the divergence counts for
    step: float = 100.0  # most KL(target || student) in one update; small steps are slow and sure
    gap: float = 0.0  # least range of q for full weight; 0 = every state counts alike
    regret: float = 1.0  # of q: after a costlier step advice counts less; 1 = it never does
    trust_decay: float = 0.7
    temperature: float = 0.1  # of q, in teachers that look a step ahead
    retention: float = 1.0  # weight of KL(base || student) on old dreams
    old: int = 8  # old dreams per update
