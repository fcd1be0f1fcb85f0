"""Which options a run really reads: the fields of its config report who asks for them."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.command.options import VerbOptions
from experiments.command.unread import Unread

# Who copies, compares, hashes or stores a config as a whole reads nothing of it.
WHOLE = ("dataclasses", "copy", "omegaconf", "experiments.config", "experiments.runs.directory")
WHOLE_CODE = ("__hash__", "__eq__", "__repr__", "__init__", "__post_init__", "sized")


def recorded(config: Any, read: set[str], prefix: str = "") -> Any:
    """`config`, whose fields from now on add their dotted names to `read` when they are used."""
    kind, names = type(config), {field.name for field in dataclasses.fields(config)}
    nested = {name for name in names if dataclasses.is_dataclass(getattr(config, name))}
    for name in nested:
        recorded(getattr(config, name), read, f"{prefix}{name}.")

    def get(self, name):
        if name in names - nested:
            frame = sys._getframe(1)
            who = frame.f_globals.get("__name__", "")
            if not who.startswith(WHOLE) and frame.f_code.co_name not in WHOLE_CODE:
                read.add(f"{prefix}{name}")
        return object.__getattribute__(self, name)

    config.__class__ = type(kind.__name__, (kind,), {"__getattribute__": get})
    return config


@dataclasses.dataclass
class Reads:
    """What a run read, and what is declared of it."""

    read: set[str] = dataclasses.field(default_factory=set)
    every: set[str] = dataclasses.field(default_factory=set)
    declared: set[str] = dataclasses.field(default_factory=set)  # to be unread

    @property
    def silent(self) -> set[str]:
        """Options that have no effect and that nobody would be told of."""
        passed_on = {name for name, target in PASSED_ON.items() if target in self.read}
        return self.every - self.read - self.declared - passed_on - BY_THE_LOG

    def wronged(self, *for_nothing: str) -> set[str]:
        """Options that are refused although the run reads them; those `for_nothing` it hands to
        what does not use them."""
        return (self.declared & self.read) - set(for_nothing)

    def save(self, path: Path) -> None:
        """For a test that is given the run alone."""
        fields = {name: sorted(x) for name, x in vars(self).items()}
        path.write_text(json.dumps(fields))

    @classmethod
    def load(cls, path: Path) -> "Reads":
        """What `save` wrote."""
        return cls(**{name: set(x) for name, x in json.loads(path.read_text()).items()})


# Options that the YAML hands on to another.
PASSED_ON = {"teacher": "search.teacher", "context.window": "model.window"}
PASSED_ON |= {"context.recurrent": "model.recurrent", "env.real_steps": "agent.real_steps"}
# Read or not as the log has it: enough episodes.
BY_THE_LOG = {"gate.members", "gate.width", "gate.least_effective"}
BY_THE_LOG |= {"search.uniform_share"}  # by one_step, where actions are numbers


@contextmanager
def reading(rules: Callable[[Any], Iterable[Unread]]) -> Iterator[Reads]:
    """Record what the run within reads; `rules(config)` is the part of the table for it."""
    found, compose = Reads(), VerbOptions.compose

    def composed(self, overrides=()):
        config, run_dir = compose(self, overrides)
        found.every |= options_of(config)
        table = list(rules(config))
        found.declared |= {x for x in found.every if any(rule.covers(x) for rule in table)}
        return recorded(config, found.read), run_dir

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VerbOptions, "compose", composed)
        yield found


def options_of(config: Any, prefix: str = "") -> set[str]:
    """The dotted names of all options."""
    found = set()
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        found |= options_of(value, f"{name}.") if dataclasses.is_dataclass(value) else {name}
    return found
