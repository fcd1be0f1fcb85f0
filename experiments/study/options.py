"""Options of the study's programs: words like name=value."""

import sys
from collections.abc import Iterable, Mapping, Sequence


def options(argv: Sequence[str] | None, known: Mapping[str, str]) -> dict[str, str] | None:
    """The value of each option, by default that of `known`; None, after a line that names them,
    for what is no option."""
    words = sys.argv[1:] if argv is None else argv
    given = {name: value for name, _, value in (word.partition("=") for word in words)}
    if set(given) - set(known) or not all("=" in word for word in words):
        print(f"options are {', '.join(f'{name}=' for name in known)}", file=sys.stderr)
        return None
    return dict(known) | given


def names_in(text: str, known: Iterable[str]) -> list[str] | None:
    """The tasks "a,b", all of `known` for ""; None, after a line that names these, for others."""
    names = text.split(",") if text else list(known)
    if set(names) - set(known):
        print(f"only={text}: tasks are {', '.join(known)}", file=sys.stderr)
        return None
    return names


def seeds_in(text: str) -> list[int] | None:
    """Seeds of "7" or "100-119"; None, after a line that says so, for anything else."""
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        print(f"seeds={text}: give one seed, or FIRST-LAST", file=sys.stderr)
        return None
    return list(range(int(first), int(last or first) + 1))
