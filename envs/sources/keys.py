"""What a mapping of a table may say: one definition, for reading it and for editors.

`python -m envs.sources.keys > docs/mapping.schema.json` publishes it.
"""

from __future__ import annotations

import json
from typing import Any

KINDS = ("number", "category", "count", "time", "flag", "identifier")
LAYOUTS = ("channels_last", "channels_first", "stacked")

COLUMN = {"type": "string", "minLength": 1}
COLUMNS = {"$ref": "#/$defs/columns"}
SEVERAL = {"anyOf": [COLUMN, {"type": "array", "items": COLUMN, "minItems": 1}]}
SPACE = {"type": "object"}
DEFINITIONS = {
    "columns": {
        "anyOf": [*SEVERAL["anyOf"], {"type": "object", "additionalProperties": COLUMNS}],
        "description": "a column, several columns, or names with such, nested at will",
    }
}


def _each(schema: dict) -> dict:
    return {"type": "object", "additionalProperties": schema}


KEYS: dict[str, tuple[dict, str]] = {
    "episode": (COLUMN, "column that tells episodes apart"),
    "observation": (COLUMNS, "columns that are seen before an action"),
    "action": (SEVERAL, "column, or columns, of what we did; empty in a last row without action"),
    "reward": (COLUMN, "column, or an expression over columns such as price * sold - 0.1 * stock"),
    "terminated": (COLUMN, "column that is true where the task itself ended"),
    "truncated": (COLUMN, "column that is true where a clock or the recorder ended the episode"),
    "propensity": (COLUMN, "column with the probability of the action that was taken"),
    "action_mask": (SEVERAL, "columns, or a column of lists: true = the action was legal"),
    "next_observation": (COLUMNS, "columns like observation, seen after the action"),
    "final": ({"enum": ["repeat"]}, "repeat: the last observation of an episode was never logged"),
    "observation_space": (SPACE, "a space that replaces the inferred one"),
    "action_space": (SPACE, "a space that replaces the inferred one"),
    "episode_ids": (
        {"enum": ["per_file", "whole"]},
        "per_file: an id names an episode of its file; whole: the same id is the same episode",
    ),
    "order": (COLUMN, "column that sorts the rows of an episode, which may then lie anywhere"),
    "types": (_each({"enum": list(KINDS)}), "what the values of a column are"),
    "categories": (
        _each({"type": "array", "minItems": 1}),
        "the values of a column of type category; others are unknown",
    ),
    "layout": ({"enum": list(LAYOUTS)}, "how the axes of a frame lie in the table"),
    "event": (COLUMN, "column that is true in rows that happen to us, without an action of ours"),
    "session": (COLUMN, "column with the session of an episode"),
    "policy": (COLUMN, "column with the name of the policy that acted"),
    "review": (COLUMN, "column with a person's grade of the episode"),
    "consent": (COLUMN, "column that must be true throughout, or the episode is left out"),
    "time": (COLUMN, "column with the time of a row, in seconds or as a date"),
    "broken": (
        {"enum": ["refuse", "skip"]},
        "what to do with an episode that cannot be read: refuse the log (default), or skip it",
    ),
}
REQUIRED = ("episode", "observation", "action", "reward")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a mapping file, for editors."""
    properties = {key: schema | {"description": text} for key, (schema, text) in KEYS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A mapping of the columns of a table to episodes",
        "type": "object",
        "properties": properties,
        "required": list(REQUIRED),
        "additionalProperties": False,
        "$defs": DEFINITIONS,
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
