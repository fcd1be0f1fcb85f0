"""CartPole through every format: the same episodes, and a fit with the same hash."""

import importlib.util
import json
from typing import Any

import gymnasium
import pytest

from envs.sources import open_source, record
from envs.traces import TraceStore
from envs.types import space_to_json
from tests.envs.test_lerobot import write
from tests.envs.test_recorder import live
from tests.envs.test_traces import all_same

CART = gymnasium.make("CartPole-v1")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Recorded CartPole, with an episode that the clock ended and one that is open."""
    path = tmp_path_factory.mktemp("formats") / "log"
    env = record(gymnasium.make("CartPole-v1", max_episode_steps=40), path)
    live(env, 12)
    live(env, 1, limit=5)
    env.close()
    traces = list(TraceStore(path))
    assert traces[-1].is_open and any(trace.truncated[-1] for trace in traces)
    return path


def as_lines(trace, number):
    """An episode as lines of steps."""
    o, a, r = (x.tolist() for x in (trace.observations, trace.actions, trace.rewards))
    names = ("observation", "action", "reward")
    steps = [dict(zip(names, each, strict=True)) for each in zip(o, a, r, strict=False)]
    rows = [{"episode": number} | step for step in steps]
    flags = {"terminated": bool(trace.terminated[-1]), "truncated": bool(trace.truncated[-1])}
    rows.append({"episode": number, "observation": o[-1]} | flags)
    return "".join(json.dumps(row) + "\n" for row in rows)


def options(**spaces):
    """The spaces as words of the command line, and as options of a source."""
    return [f"+source.options.{name}={hydra(space_to_json(x))}" for name, x in spaces.items()]


def hydra(x):
    """A value in the grammar of overrides, whose keys have no quotes."""
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key}: {hydra(value)}" for key, value in x.items()) + "}"
    return "[" + ", ".join(map(hydra, x)) + "]" if isinstance(x, list) else json.dumps(x)


SPACES: Any = {"observation_space": CART.observation_space, "action_space": CART.action_space}


def sources(log, folder):
    """name -> words that name the log in this format, everything written to `folder`."""
    traces, given = list(TraceStore(log)), options(**SPACES)
    (folder / "steps.jsonl").write_text("".join(as_lines(t, i) for i, t in enumerate(traces)))
    write(folder / "lerobot", traces)
    found = {"store": [f"source.uri={log}"]}
    found["steps"] = [f"source.uri={folder}/steps.jsonl", *given]
    found["lerobot"] = [f"source.uri={folder}/lerobot", *given]
    return found


def test_all_formats_give_the_same_episodes(log, tmp_path):
    words = sources(log, tmp_path)
    given = {name: space_to_json(space) for name, space in SPACES.items()}
    for name in ("steps", "lerobot"):
        uri = words[name][0].partition("=")[2]
        back = list(open_source(name, uri, **given))
        store = TraceStore(tmp_path / name / "store", **SPACES)
        store.extend(back)
        assert all_same(store, TraceStore(log)), name


@pytest.mark.slow
def test_a_fit_on_any_format_has_the_same_hash(log, tmp_path, verb, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    words = sources(log, tmp_path)
    if importlib.util.find_spec("minari") and importlib.util.find_spec("h5py"):
        assert verb("export", f"traces={log}", "to=minari:cartpole/mine-v0")[0] == 0
        words["minari"] = ["source.uri=cartpole/mine-v0"]
    ends = {}
    for name, named in words.items():
        run = tmp_path / "runs" / name
        code, _, err = verb(
            "fit", f"source.name={name}", *named, "env=none", f"hydra.run.dir={run}"
        )
        assert code == 0, err
        result = json.loads((run / "result.json").read_text())
        ends[name] = result["state_sha256"], TraceStore(run / "traces").digest()
    assert len(ends) >= 3 and len(set(ends.values())) == 1, ends
