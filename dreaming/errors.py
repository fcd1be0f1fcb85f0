"""Errors that a user can fix, each in one line: what, where, what was expected, what to do."""

from envs.types import DreamFileError, EnvError, SpaceError, TraceError, UserError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DreamFileError",
    "EnvError",
    "LossError",
    "RegistryError",
    "RejectedError",
    "SpaceError",
    "TraceError",
    "UserError",
]


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work; exit code 2."""


class CheckpointError(UserError):
    """Saved state that is damaged, or that belongs to another configuration."""


class RejectedError(UserError):
    """There is no deployed policy: the gate rejected the only candidate."""


class LossError(UserError):
    """A loss or a gradient that is not a finite number."""


class RegistryError(UserError):
    """A registry of sessions that is damaged, locked or stale, or a request that it refuses."""
