"""Which episodes of a log may be learned from."""

from collections import Counter
from collections.abc import Iterable, Iterator

from envs.types import Trace, TraceError

REFUSED, EXPIRED = "without consent", "kept too long (keep_until)"


def permitted(traces: Iterable[Trace], now: float, withheld: Counter[str]) -> Iterator[Trace]:
    """The episodes that may be used at the time `now` (seconds since 1970); counts the others.

    Raises `TraceError` if there are only others.
    """
    used = False
    for trace in traces:
        if trace.may_be_used(now):
            used = True
            yield trace
        else:
            withheld[REFUSED if trace.consent is False else EXPIRED] += 1
    if withheld and not used:
        raise TraceError(f"no episode may be learned from: {told(withheld)}")


def told(withheld: Counter[str]) -> str:
    """What was left out, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in withheld.items())
