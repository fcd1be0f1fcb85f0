"""Failures of the world's side that a user can mend, each told in one line."""


class UserError(ValueError):
    """A failure its reader can mend. One line: what, where, what to do."""


class TraceError(UserError):
    """A trace, or a file that stores traces, is not what it claims to be."""


class SpaceError(UserError):
    """A space, or a value that does not lie in it."""


class EnvError(UserError):
    """A real task that cannot be made or stepped."""


class DreamFileError(UserError):
    """A portable dream file that cannot be read or trusted."""
