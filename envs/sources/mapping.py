"""The mapping: what each column of a table means, read and checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import yaml

from envs.sources.keys import DEFINITIONS, KEYS, REQUIRED
from envs.sources.names import one_line
from envs.sources.nesting import is_too_deep
from envs.types import TraceError

MOST_BYTES = 1 << 18  # of a mapping file
STAIRS = re.compile(rb"(?:[-?:!&*]\s+){20}")  # lists within lists, one per sign
DEEPEST = 8  # nested keys of an observation


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Which column is what, checked: one attribute for each of `KEYS`.

    `observation` and `next_observation` are lists of columns, or dicts of such; `action` and
    `action_mask` lists. What was not given is None, or an empty dict.
    """

    episode: str
    observation: Any
    action: list[str]
    reward: str | None = None
    terminated: str | None = None
    truncated: str | None = None
    propensity: str | None = None
    action_mask: list[str] | None = None
    next_observation: Any = None
    final: str | None = None
    observation_space: dict | None = None
    action_space: dict | None = None
    episode_ids: str | None = None
    order: str | None = None
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    categories: dict[str, list] = dataclasses.field(default_factory=dict)
    layout: str | None = None
    event: str | None = None
    session: str | None = None
    policy: str | None = None
    review: str | None = None
    consent: str | None = None
    time: str | None = None
    broken: str = "refuse"

    @classmethod
    def read(cls, source: Any, *, has_verifier: bool = False) -> Mapping:
        """From a dict, or the path of a YAML file. `TraceError` says what is wrong in one line.

        With a verifier the reward may be left out. A mapping is returned as it is.
        """
        if isinstance(source, Mapping):
            return source
        data = _from_file(source) if isinstance(source, str) else source
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise TraceError(f"mapping is {_shown(data)}, expected keys with columns")
        data = {str(key): value for key, value in data.items() if value is not None}
        needed = [key for key in REQUIRED if not (key == "reward" and has_verifier)]
        if unknown := [key for key in data if key not in KEYS]:
            what = f"does not know {one_line(', '.join(unknown))}{closest(unknown[0], KEYS)}"
        elif missing := [key for key in needed if key not in data]:
            what = f"lacks {', '.join(missing)}"
        else:
            return cls(**_normal(data))
        raise TraceError(
            f"mapping {what}; its keys are {', '.join(KEYS)}; `dreaming inspect-traces "
            "suggest=true` writes a first draft"
        )

    def leaves(self) -> list[str]:
        """The columns of observations and actions."""
        names = [*flat(self.observation), *flat(self.next_observation), *self.action]
        return list(dict.fromkeys(names))


def closest(name: str, known: Any) -> str:
    """`; did you mean x?` with the known names most like `name`, or nothing."""
    found = get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def flat(columns: Any) -> Iterator[str]:
    """The columns in an entry of the mapping."""
    if isinstance(columns, dict):
        for value in columns.values():
            yield from flat(value)
    elif columns is not None:
        yield from [columns] if isinstance(columns, str) else columns


def _from_file(path: str) -> Any:
    """The YAML in a file. `TraceError` in one line if it is none, whatever its encoding."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise TraceError(f"{path}: is larger than {MOST_BYTES} bytes; is it a mapping?")
        if is_too_deep(data) or STAIRS.search(data):
            raise TraceError(f"{path}: is nested too deeply; is it a mapping?")
        return yaml.safe_load(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        raise TraceError(f"{path}: {what}; save the mapping as UTF-8") from error
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, TraceError):
            raise
        line = " ".join(str(error).split())
        raise TraceError(f"{path}: is not readable as YAML: {line}") from error


def _normal(data: dict[str, Any]) -> dict[str, Any]:
    """The values, each checked against its schema, single columns as lists of one."""
    for key, value in data.items():
        _check(key, value, KEYS[key][0], DEEPEST)
    wide = ("observation", "next_observation", "action", "action_mask")
    out = {key: _listed(value) if key in wide else value for key, value in data.items()}
    leaves = {name for key in wide[:3] for name in flat(out.get(key))}
    for key in ("types", "categories"):
        given = {str(name): value for name, value in data.get(key, {}).items()}
        for name in given:
            if name not in leaves:
                what = f"{key} names {name}, which is no column of observation or action"
                raise TraceError(f"mapping: {what}{closest(name, leaves)}")
        out[key] = given
    for name, values in out["categories"].items():
        if not all(isinstance(value, str | int | float | bool) for value in values):
            raise TraceError(f"mapping: categories of {name} must be text or numbers")
        if len({str(value) for value in values}) != len(values):
            raise TraceError(f"mapping: categories of {name} name a value twice")
        if out["types"].setdefault(name, "category") != "category":
            raise TraceError(f"mapping: categories names {name}, whose type is another")
    dropped = [name for name, kind in out["types"].items() if kind == "identifier"]
    for key in wide[:3]:
        if key in out and not set(flat(out[key])) - set(dropped):
            raise TraceError(f"mapping: {key} holds nothing but identifiers, which are dropped")
    return out


def _listed(columns: Any) -> Any:
    if isinstance(columns, dict):
        return {str(name): _listed(value) for name, value in columns.items()}
    return [columns] if isinstance(columns, str) else list(columns)


def _check(name: str, value: Any, schema: dict, depth: int) -> None:
    """Raise `TraceError` unless `value` fits a schema in the words that `KEYS` uses."""
    if depth < 0:
        raise TraceError(f"mapping: {name} is nested deeper than {DEEPEST} levels")
    schema = DEFINITIONS["columns"] if "$ref" in schema else schema
    if "enum" in schema:
        if not isinstance(value, str) or value not in schema["enum"]:
            hint = closest(str(value), schema["enum"])
            wanted = f"one of {', '.join(schema['enum'])}{hint}"
            raise TraceError(f"mapping: {name} is {_shown(value)}, expected {wanted}")
        return
    options = [each for each in schema.get("anyOf", [schema]) if _has_type(value, each)]
    if not options:
        raise TraceError(f"mapping: {name} is {_shown(value)}, expected {_words(schema)}")
    (option,) = options
    if option["type"] == "string" and not value:
        raise TraceError(f"mapping: {name} is empty, expected {_words(schema)}")
    if option["type"] == "array":
        if not value:
            raise TraceError(f"mapping: {name} is an empty list, expected {_words(schema)}")
        for i, each in enumerate(value):
            if "items" in option:
                _check(f"{name}[{i}]", each, option["items"], depth - 1)
    if option["type"] == "object" and "additionalProperties" in option:
        if not value:
            raise TraceError(f"mapping: {name} has no entries")
        for key, each in value.items():
            _check(f"{name}.{key}", each, option["additionalProperties"], depth - 1)


def _has_type(value: Any, schema: dict) -> bool:
    python: dict[str, Any] = {"string": str, "array": list, "object": dict}
    return isinstance(value, python[schema["type"]])


def _words(schema: dict) -> str:
    """What a schema wants, in words."""
    if "description" in schema:
        return schema["description"]
    words = {"string": "the name of a column", "array": "a list", "object": "keys with values"}
    return " or ".join(words[each["type"]] for each in schema.get("anyOf", [schema]))


def _shown(value: Any) -> str:
    """A short description of a value of the wrong kind."""
    if isinstance(value, Sequence | dict) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(str(value).split())
    return f"{text[:60]!r}" if isinstance(value, str) else f"{text[:60]} (not text; quote it?)"
