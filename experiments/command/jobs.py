"""Running one job of a verb, with errors in one line."""

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.command.process import INTERRUPTED
from experiments.command.unread import given


class UsageError(ValueError):
    """An invalid command line: one line, exit code 2."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """'; did you mean ...?' with the closest known word; '' if none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def fail(error: BaseException) -> int:
    """Print `error` in one line on stderr; returns its exit code."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    # These modules import JAX. If one is not loaded, `error` cannot be of its classes.
    user_error = getattr(sys.modules.get("envs.types"), "UserError", ())
    config_error = getattr(sys.modules.get("dreaming.errors"), "ConfigError", ())
    line, code = " ".join(str(error).split()), 1
    if isinstance(error, KeyboardInterrupt):
        line, code = "interrupted", INTERRUPTED
    elif isinstance(error, UsageError) or isinstance(error, config_error):
        code = 2
    elif isinstance(error, user_error) or is_neighbour(error):
        pass
    elif isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; make room and run the same command again" if is_full else ""
        line = f"{error.strerror}{where}{advice}"
    else:
        first = str(error).strip().partition("\n")[0]
        what = f"{type(error).__name__}: {first}" if first else type(error).__name__
        line = f"internal error: {what}; set HYDRA_FULL_ERROR=1 for the traceback"
    print(line if line.startswith("internal error") else f"error: {line}", file=sys.stderr)
    return code


def is_neighbour(error: BaseException) -> bool:
    """Whether a package of somebody else has the name of one of ours."""
    return isinstance(error, ImportError) and str(error).startswith("dreaming needs its own")


def run_one(
    run: Callable[[Any, Path], int | None],
    config: Any,
    run_dir: Path,
    overrides: Sequence[str] = (),
) -> int:
    """Run one job; returns its exit code, after printing errors on stderr.

    `overrides` are what the command line sets: what of them the run does not read, it refuses.
    """
    try:
        with given(overrides):
            return run(config, run_dir) or 0
    except (Exception, KeyboardInterrupt) as error:
        return fail(error)
