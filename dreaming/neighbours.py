"""Whether the packages that lie beside this one are ours: their names are short, and a project may
have its own `envs/` or `worldmodels/`, which then come first on the path."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).parents[1]  # what holds `dreaming` holds the others


def check_neighbours(names: Sequence[str] = ("envs", "worldmodels")) -> None:
    """Raise `ImportError`, in one line, if another file would be imported under one of `names`."""
    for name in names:
        other = found(name)
        if other is not None and other.parent.resolve() != (HOME / name).resolve():
            raise ImportError(
                f"dreaming needs its own package `{name}`, but {other} comes first on the path; "
                "rename that one, or start where it does not lie",
                name=name,
            )


def found(name: str) -> Path | None:
    """The file that `import name` runs; None if there is none."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None) if module else find_spec(name)
    origin = getattr(module, "__file__", None) or (spec and spec.origin)
    return Path(origin) if origin else None
