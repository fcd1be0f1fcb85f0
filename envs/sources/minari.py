"""Minari data sets: read as a source, and written without loss. Needs the extra `minari`.

What a `Trace` has beyond Minari's own fields stands where Minari keeps such things: masks,
propensities and times in `infos` (`action_mask`, `propensity`, `time`, T + 1 rows each), the
session, policy, review and rights in the metadata of the episode. An open episode has neither flag.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Tuple

from envs.features import Features
from envs.segments import check_trace
from envs.types import SpaceError, Trace, TraceError, UserError, action_features

METADATA = "metadata.json"
INFOS = {"action_masks": "action_mask", "propensities": "propensity", "times": "time"}
FIELDS = ("session", "policy", "review", "consent", "keep_until")


class MinariSource:
    """A Minari data set: `uri` is an id of the local folder, or a directory (extra minari).

    An episode that Minari's collector left unfinished reads as truncated: the collector says so.
    """

    def __init__(self, uri: str):
        self.path = _find(uri)
        self._guard = _Guard(self.path)
        with self._guard:
            self._storage = minari("minari").MinariDataset(self.path).storage
            spaces = self._storage.observation_space, self._storage.action_space
            self.total = int(self._storage.total_episodes)
            is_lossy = self._storage.jpeg_encoding and any(map(_has_images, spaces))
        try:
            Features(spaces[0])
            action_features(spaces[1])
        except SpaceError as error:
            raise SpaceError(f"{self.path}: {error}") from error
        self._spaces = {"observation": spaces[0], "action": spaces[1]}
        if is_lossy:
            what = "its images were stored as JPEG, so pixels differ from those that were seen"
            logging.getLogger(__name__).warning("%s: %s", self.path, what)

    def schema(self) -> dict[str, gymnasium.Space]:
        """The spaces that the data set declares."""
        return {f"{name}_space": space for name, space in self._spaces.items()}

    def __iter__(self) -> Iterator[Trace]:
        for number in range(self.total):
            with self._guard:
                (episode,) = self._storage.get_episodes([number])
                (about,) = self._storage.get_episode_metadata([number])
            try:
                yield check_trace(_trace(episode, about), self._spaces)
            except (UserError, KeyError, TypeError, ValueError) as error:
                line = " ".join(str(error).split())
                raise TraceError(f"{self.path}: episode {number}: {line}") from error


def write_minari(
    traces: Iterable[Trace],
    dataset_id: str,
    *,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    env_id: str | None = None,
) -> Path:
    """Write a new data set into the local Minari folder, whole or not at all; returns where.

    `dataset_id` is like `cartpole/random-v0`; with `env_id` others can recover the task. Images are
    stored as they are, never as JPEG. Raises `TraceError`.
    """
    target = _new_path(dataset_id)
    spaces = {"observation": observation_space, "action": action_space}
    for name, space in spaces.items():
        _check_space(name, space)
    draft = target.with_name(f".{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted attempt
    draft.mkdir(parents=True)
    try:
        _write(draft / "data", traces, spaces, {"dataset_id": dataset_id}, env_id=env_id)
        os.rename(draft, target)
    except OSError as error:
        raise TraceError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _write(
    folder: Path,
    traces: Iterable[Trace],
    spaces: dict[str, gymnasium.Space],
    about: dict[str, str],
    *,
    env_id: str | None,
) -> None:
    storage = minari("minari.dataset.minari_storage").MinariStorage.new(
        folder,
        observation_space=spaces["observation"],
        action_space=spaces["action"],
        env_spec=None if env_id is None else gymnasium.spec(env_id),
        data_format="hdf5",
        jpeg_encoding=False,
    )
    storage.update_metadata(about | {"minari_version": minari("minari").__version__})
    number = -1
    for number, trace in enumerate(traces):
        try:
            trace = check_trace(trace, spaces)
        except TraceError as error:
            raise TraceError(f"episode {number}: {error}") from error
        storage.update_episodes([_buffer(trace)])
        kept = {name: getattr(trace, name) for name in FIELDS}
        kept = {name: value for name, value in kept.items() if value is not None}
        storage.update_episode_metadata([kept], [number])
    if number < 0:
        raise TraceError("there is no episode to write; record one first")


def _buffer(trace: Trace) -> Any:
    """A trace as Minari takes it."""
    infos = {}
    for name, info in INFOS.items():
        if (x := getattr(trace, name)) is not None:
            filler = [np.nan] * (len(trace) + 1 - len(x))  # nothing is taken at the last row
            infos[info] = np.concatenate([x, filler]) if filler else x
    return minari("minari.data_collector").EpisodeBuffer(
        observations=trace.observations,
        actions=trace.actions,
        rewards=trace.rewards,
        terminations=trace.terminated,
        truncations=trace.truncated,
        infos=infos or None,
    )


def _trace(episode: dict[str, Any], about: dict[str, Any]) -> Trace:
    infos, rewards = episode["infos"] or {}, np.asarray(episode["rewards"], np.float64)
    optional: dict[str, Any] = {name: infos.get(info) for name, info in INFOS.items()}
    if optional["propensities"] is not None:
        optional["propensities"] = optional["propensities"][: len(rewards)]
    fields = {name: _plain(about.get(name)) for name in FIELDS}
    terminated = np.asarray(episode["terminations"], bool)
    truncated = np.asarray(episode["truncations"], bool) & ~terminated  # both mean terminated
    steps = episode["observations"], episode["actions"], rewards
    return Trace(*steps, terminated, truncated, **optional, **fields)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _has_images(space: gymnasium.Space) -> bool:
    if isinstance(space, Dict | Tuple):
        inner = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return any(map(_has_images, inner))
    return minari("minari.dataset.minari_storage").is_image_space(space)


def _check_space(name: str, space: gymnasium.Space) -> None:
    """Raise `TraceError` for a space that would come back as another one."""
    text = minari("minari.serialization")
    try:
        back = text.deserialize_space(text.serialize_space(space))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise TraceError(f"Minari cannot hold the {name} space {space}: {error}") from error
    if back != space or back.dtype != space.dtype:
        raise TraceError(f"Minari would give the {name} space {space} back as {back}")
    for key in _keys(space):
        if "/" in key or key in ("", "."):
            raise TraceError(f"Minari cannot hold the key {key!r} of the {name} space; rename it")


def _keys(space: gymnasium.Space) -> Iterator[str]:
    if isinstance(space, Dict):
        yield from space.spaces
    if isinstance(space, Dict | Tuple):
        for inner in space.spaces.values() if isinstance(space, Dict) else space.spaces:
            yield from _keys(inner)


def minari(module: str) -> Any:
    """A module of the package minari, or `TraceError`."""
    try:
        return import_module(module)
    except ImportError as error:
        what = "needs the package minari with hdf5; pip install 'dreaming[minari]'"
        raise TraceError(f"source minari {what} ({error})") from error


def _find(uri: str) -> Path:
    """The directory that holds the metadata of a data set."""
    local = minari("minari.storage.datasets_root_dir").get_dataset_path
    places = [Path(uri), Path(uri) / "data", Path(local(uri)) / "data"]
    for place in places:
        if (place / METADATA).is_file() and _is_data(place / METADATA):
            return place
    raise TraceError(
        f"{uri}: no Minari data set, neither as a directory nor in {local()}; "
        f"`minari download {uri}` fetches a public one"
    )


def _is_data(file: Path) -> bool:
    """Whether this is the metadata of a data set, and not of a namespace."""
    try:
        return "data_format" in json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return True  # damaged: reading it says how


def _new_path(dataset_id: str) -> Path:
    names = minari("minari.namespace")
    try:
        namespace, *_ = minari("minari.dataset.minari_dataset").parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        what = "is no id of a Minari data set; expected something like cartpole/random-v0"
        raise TraceError(f"{dataset_id!r} {what} (a namespace has at least 2 letters)") from error
    target = Path(minari("minari.storage.datasets_root_dir").get_dataset_path(dataset_id))
    if target.exists():
        raise TraceError(f"{target}: exists already; choose another version, or remove it")
    if namespace is not None and namespace not in names.list_local_namespaces():
        names.create_namespace(namespace)
    return target


class _Guard:
    """Errors of Minari and HDF5 about a data set, as `TraceError`."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TraceError(
                f"{self.path}: is not readable as a Minari data set: {what}"
            ) from error
