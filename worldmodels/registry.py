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

    Raises `ModelError`.
    """
    name = settings.model.name
    if name == "auto":
        name = "efficientzero" if facts.kind == "frames" else "mlp"
    model, scale = find(name)(facts, settings)
    if lacks := missing(model):
        raise ModelError(f"model.name={name}: {type(model).__name__} lacks {lacks[0]}")
    return model, scale


def find(name: str) -> Make:
    """What makes the models of a name; plug-ins that fail to import are named and skipped."""
    if name in BUILT_IN:
        return _import(BUILT_IN[name])
    broken = []
    for entry in entry_points(group=GROUP, name=name):
        try:
            return entry.load()
        except Exception as error:  # a plug-in's code can fail in any way
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            broken.append(f"model {name} of the package {_distribution(entry)} is broken ({what})")
            logging.getLogger(__name__).warning("%s; skipped", broken[-1])
    if broken:
        raise ModelError(f"{'; '.join(broken)}; repair or uninstall it")
    known = model_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ModelError(f"model.name={name} is unknown; known are {', '.join(known)}{hint}")


def _import(path: str) -> Make:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else f"that provides {entry.value}"
