"""Models by name: built-in ones, and those that installed packages plug in.

Behind a name stands `make(facts, settings) -> (model, scale)`: a `Trainable` for what a log shows,
and its normalisers, or `ModelError` for a log that it cannot learn. A package names its own in the
entry-point group `dreaming.models`.
"""

import difflib
import logging
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from worldmodels.protocol import LogFacts, ModelError, ModelSettings, Trainable, missing

GROUP = "dreaming.models"
BUILT_IN = {
    "mlp": "worldmodels.vectors.family:make",
    "efficientzero": "worldmodels.frames.family:make",
    "counts": "worldmodels.counts:make",
}
Make = Callable[[LogFacts, ModelSettings], tuple[Trainable, dict]]


def model_names() -> list[str]:
    """Names for `model.name`; nothing is imported."""
    return sorted(BUILT_IN.keys() | {entry.name for entry in entry_points(group=GROUP)})


def make_model(facts: LogFacts, settings: ModelSettings) -> tuple[Trainable, dict]:
    """The model that `settings.model.name` names, "auto" = what is usual for the observations.

    Raises `ModelError`, also for a plug-in that breaks its promises.
    """
    name = settings.model.name
    if name == "auto":
        name = "efficientzero" if facts.kind == "frames" else "mlp"
    make = find(name)
    try:
        made = make(facts, settings)
    except ModelError:
        raise
    except Exception as error:
        if name in BUILT_IN:
            raise
        raise ModelError(f"model.name={name}: making it failed ({_told(error)})") from error
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ModelError(f"model.name={name}: what makes it must return (model, scale)")
    model, scale = made
    if lacks := missing(model):
        raise ModelError(f"model.name={name}: {type(model).__name__} lacks {lacks[0]}")
    if type(model).__hash__ is None:
        raise ModelError(
            f"model.name={name}: {type(model).__name__} cannot be hashed, and so cannot name the "
            "programs that it is compiled into; make it a frozen dataclass without arrays"
        )
    return model, scale


def find(name: str) -> Make:
    """What makes the models of a name; plug-ins that fail to import are named and skipped."""
    if name in BUILT_IN:
        return _import(BUILT_IN[name])
    broken = []
    for entry in entry_points(group=GROUP, name=name):
        try:
            make = entry.load()
            if not callable(make):
                raise TypeError(f"{entry.value} is not a function (facts, settings)")
            return cast(Make, make)
        except Exception as error:  # a plug-in's code can fail in any way
            broken.append(
                f"model {name} of the package {_distribution(entry)} is broken ({_told(error)})"
            )
            logging.getLogger(__name__).warning("%s; skipped", broken[-1])
    if broken:
        raise ModelError(f"{'; '.join(broken)}; repair or uninstall it")
    known = model_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ModelError(f"model.name={name} is unknown; known are {', '.join(known)}{hint}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _import(path: str) -> Make:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else f"that provides {entry.value}"
