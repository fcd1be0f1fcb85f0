"""Trajectories of agents (ATIF 1.0 to 1.8, the format of the Harbor framework) as episodes.

A tool call is an action, one of a fixed set of templates; so is an answer without a call. What the
agent sees is told by categories, counts and lengths; no text is understood:

    event    what came last: START, USER, SYSTEM, RESULT, ERROR (a result that says so), NOTHING
    tool     the action before it
    counts   calls, errors and user messages so far
    lengths  log(1 + characters) of what came last, and of everything so far
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from envs.types import Trace, TraceError

VERSIONS = [f"ATIF-v1.{minor}" for minor in range(9)]
FILE_BYTES = 256 << 20
START, USER, SYSTEM, RESULT, ERROR, NOTHING = range(6)
MESSAGE, OTHER = 0, 1  # actions: an answer without a call, and a call that fits no template
Template = tuple[str, str | None, str | None]  # tool, and an argument with its value
TEMPLATE = re.compile(r"(?P<tool>[^()]+)(\((?P<key>\w+)=(?P<value>[^()]*)\))?")
REWARDS = ("extra.reward", "final_metrics.extra.reward")


class AtifSource:
    """Trajectories of agents (ATIF), a JSON file each: `uri` is one, a pattern, or a folder.

    `templates` are the actions: names of tools, or `tool(argument=value)` for calls with this
    argument; the first that fits counts. Not given, they are the names of all tools in the files.
    `reward` is where the outcome stands in a file (such as "extra.score"); steps may have a reward
    of their own in metrics.extra.reward.
    """

    def __init__(self, uri: str, templates: list[str] | None = None, reward: str | None = None):
        self.uri = uri
        if not self._files():
            raise TraceError(f"{self.uri}: no such file; expected trajectories in JSON (ATIF)")
        self.reward = reward
        self._templates: list[Template] | None = None
        if templates is not None:
            if isinstance(templates, str) or not isinstance(templates, Sequence):
                raise TraceError(f"templates is {templates!r}, expected a list of texts")
            self._templates = [_template(text) for text in templates]
        self.given = {} if templates is None else self.schema()

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces, which follow from the templates."""
        actions = Discrete(2 + len(self._known()))
        reach = lambda size: Box(0, np.inf, (size,), np.float32)
        shown = {"event": Discrete(6), "tool": actions, "counts": reach(3), "lengths": reach(2)}
        return {"observation_space": Dict(shown), "action_space": actions}

    @property
    def names(self) -> list[str]:
        """What each action is."""
        label = lambda tool, key, value: f"{tool}({key}={value})" if key else tool
        return ["(message)", "(other)", *(label(*each) for each in self._known())]

    def __iter__(self) -> Iterator[Trace]:
        for file in self._files():
            yield self._trace(file)

    def batches(self, after: Any = None) -> Iterator[tuple[list[Trace], Any]]:
        """The files that arrived since the token `after`, one at a time; a file must be whole."""
        if not self.given:
            raise TraceError(f"{self.uri}: files that arrive may have other tools; give templates")
        seen = {os.path.realpath(name): digest for name, digest in (after or {}).items()}
        for file in self._files():
            digest = hashlib.sha256(_read(file)).hexdigest()
            if seen.get(file, digest) != digest:
                raise TraceError(f"{file}: was changed after it was read; give it a new name")
            if file not in seen:
                seen[file] = digest
                yield [self._trace(file)], dict(seen)

    def _files(self) -> list[str]:
        pattern = glob.escape(self.uri) if Path(self.uri).exists() else self.uri
        if Path(self.uri).is_dir():
            pattern = str(Path(pattern) / "**" / "*.json")
        return sorted({os.path.realpath(name) for name in glob.glob(pattern, recursive=True)})

    def _known(self) -> list[Template]:
        if self._templates is None:
            documents = map(_document, self._files())
            calls = (call for each in documents for step in each["steps"] for call in step["calls"])
            tools = sorted({call["function_name"] for call in calls})
            self._templates = [(tool, None, None) for tool in tools]
        return self._templates

    def _trace(self, file: str) -> Trace:
        document, seen = _document(file), Seen()
        rows, actions, rewards = [], [], []
        for step in document["steps"]:
            if step["source"] != "agent":
                seen.tell(USER if step["source"] == "user" else SYSTEM, step["message"])
                continue
            results, is_lone = dict(step["results"]), len(step["calls"]) == 1
            for call in step["calls"] or [None]:
                rows.append(seen.row())
                actions.append(self._action(call))
                rewards.append(0.0)
                result = results.get(call["tool_call_id"]) if call else None
                if is_lone and len(step["results"]) == 1:  # it need not say what it answers
                    result = result or results.get(None)
                seen.answer(actions[-1], result)
            rewards[-1] += step["reward"] or 0.0
        if not actions:
            raise TraceError(f"{file}: the agent did nothing")
        rows.append(seen.row())
        rewards[-1] += self._outcome(file, document)
        is_whole = document.get("continued_trajectory_ref") is None
        o = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        steps = np.array(actions), np.array(rewards)
        about = {"session": document["session"], "policy": document["policy"]}
        return Trace(o, *steps, is_whole, False, **about)

    def _action(self, call: dict[str, Any] | None) -> int:
        if call is None:
            return MESSAGE
        for number, (tool, key, value) in enumerate(self._known()):
            fits = key is None or str(call["arguments"].get(key)) == value
            if call["function_name"] == tool and fits:
                return OTHER + 1 + number
        return OTHER

    def _outcome(self, file: str, document: dict[str, Any]) -> float:
        """The reward of the whole trajectory."""
        for place in REWARDS if self.reward is None else [self.reward]:
            x: Any = document
            for key in place.split("."):
                x = x.get(key) if isinstance(x, dict) else None
            if (number := _number(x)) is not None:
                return number
        if self.reward is None and any(step["reward"] is not None for step in document["steps"]):
            return 0.0
        where = self.reward or " nor at ".join(REWARDS)
        advice = "name its place with +source.options.reward="
        raise TraceError(f"{file}: there is no reward at {where}; {advice}")


class Seen:
    """What the agent has seen so far."""

    def __init__(self):
        self.event, self.tool = START, MESSAGE
        self.calls = self.errors = self.messages = self.last = self.total = 0

    def tell(self, event: int, text: str | None) -> None:
        """Something came."""
        self.event, self.last = event, len(text or "")
        self.total += self.last
        self.messages += event == USER
        self.errors += event == ERROR

    def answer(self, action: int, result: dict[str, Any] | None) -> None:
        """The agent acted, and this came back."""
        self.tool, self.calls = action, self.calls + (action != MESSAGE)
        if result is None:
            self.tell(NOTHING, None)
        else:
            self.tell(ERROR if result["is_error"] else RESULT, result["content"])

    def row(self) -> dict[str, Any]:
        """One observation."""
        counts = np.array([self.calls, self.errors, self.messages], np.float32)
        lengths = np.log1p(np.array([self.last, self.total], np.float32))
        return {"event": self.event, "tool": self.tool, "counts": counts, "lengths": lengths}


def _template(text: str) -> Template:
    found = TEMPLATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise TraceError(f"template {text!r}: expected a tool, or tool(argument=value)")
    return found["tool"].strip(), found["key"], found["value"]


def _read(file: str) -> bytes:
    path = Path(file)
    try:
        if (size := path.stat().st_size) > FILE_BYTES:
            raise TraceError(f"{file}: has {size} bytes, more than {FILE_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise TraceError(f"{file}: cannot be read: {error.strerror}") from error


def _document(file: str) -> dict[str, Any]:
    """A trajectory with what is used of it in one shape; `TraceError` names the step."""
    try:
        document = json.loads(_read(file))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{file}: is not JSON: {' '.join(str(error).split())}") from error
    _expect(isinstance(document, dict), file, "expected an object")
    version = document.get("schema_version")
    _expect(version in VERSIONS, file, f"schema_version is {version!r}, expected {VERSIONS[-1]}")
    steps, agent = document.get("steps"), document.get("agent")
    _expect(isinstance(steps, list) and isinstance(agent, dict), file, "needs agent and steps")
    kept = [_step(f"{file}: step {i}", i, step) for i, step in enumerate(steps, 1)]
    named = [str(agent[key]) for key in ("name", "version", "model_name") if agent.get(key)]
    session = document.get("session_id")
    about = {"session": None if session is None else str(session), "policy": " ".join(named)}
    return document | about | {"steps": [step for step in kept if step is not None]}


def _step(where: str, number: int, step: Any) -> dict[str, Any] | None:
    """What is used of a step; None for one that was copied from another trajectory."""
    _expect(isinstance(step, dict), where, "is no object")
    source, calls = step.get("source"), step.get("tool_calls") or []
    _expect(step.get("step_id") == number, where, f"step_id is {step.get('step_id')!r}")
    _expect(source in ("system", "user", "agent"), where, f"source is {source!r}")
    _expect(isinstance(calls, list), where, "tool_calls is no list")
    for call in calls:
        fits = isinstance(call, dict) and isinstance(call.get("function_name"), str)
        fits = fits and isinstance(call.get("tool_call_id"), str)
        _expect(fits and isinstance(call.get("arguments"), dict), where, "a tool call is malformed")
    if step.get("is_copied_context"):
        return None
    seen = step.get("observation") or {}
    results: Any = seen.get("results", []) if isinstance(seen, dict) else None
    _expect(isinstance(results, list), where, "observation has no list of results")
    metrics = step.get("metrics")
    extra = metrics.get("extra") if isinstance(metrics, dict) else None
    return {
        "source": source,
        "message": _text(step.get("message"), where),
        "calls": calls,
        "results": [_result(where, result) for result in results],
        "reward": _number(extra.get("reward")) if isinstance(extra, dict) else None,
    }


def _result(where: str, result: Any) -> tuple[str | None, dict[str, Any]]:
    """(the call that it answers, its text and whether it is an error)."""
    _expect(isinstance(result, dict), where, "a result is no object")
    call, extra = result.get("source_call_id"), result.get("extra")
    _expect(call is None or isinstance(call, str), where, "source_call_id is no text")
    is_error = bool(result.get("is_error") or (isinstance(extra, dict) and extra.get("is_error")))
    return call, {"content": _text(result.get("content"), where), "is_error": is_error}


def _text(x: Any, where: str) -> str:
    """A message: text, or parts of which those with text count."""
    parts = x if isinstance(x, list) else [x]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    _expect(all(text is None or isinstance(text, str) for text in texts), where, "has no text")
    return "".join(text for text in texts if text)


def _number(x: Any) -> float | None:
    """`x` if it is a finite number."""
    try:
        return float(x) if isinstance(x, int | float) and math.isfinite(x) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def _expect(is_so: Any, where: str, what: str) -> None:
    if not is_so:
        raise TraceError(f"{where}: {what}")
