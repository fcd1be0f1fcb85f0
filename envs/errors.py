"""Errors of traces, spaces, tasks and dream files that a user can fix, each in one line."""


class UserError(ValueError):
    """An error that a user can fix. One line: what, where, what to do."""


class TraceError(UserError):
    """A trace, or a file that stores traces, is not what it claims to be."""


class SpaceError(UserError):
    """A space, or a value that does not lie in it."""


class EnvError(UserError):
    """A real task that cannot be made or stepped."""


class OptionError(EnvError, TypeError):
    """A keyword argument that a dream does not take; a TypeError, as tools expect it."""


class DreamFileError(UserError):
    """A portable dream file that cannot be read or trusted."""
