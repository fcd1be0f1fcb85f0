"""The figures of a log against a log that can be counted by hand, and every warning it deserves."""

import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

from envs.traces import TraceStore
from envs.types import Trace
from experiments.inspect_traces import short
from experiments.logs.inspection import inspect, nearest
from experiments.logs.warnings import taken_legal

LINE, COIN = Box(-9, 9, (1,), np.float32), Discrete(2)


def spaces(observation: Space = LINE, action: Space = COIN) -> dict[str, Space]:
    return {"observation_space": observation, "action_space": action}


def walk(start, actions, reward=1.0, terminated=True, truncated=False, **optional):
    """An episode on a line; its first observation makes it unlike others."""
    steps = np.where(np.array(actions) > 0, 1.0, -1.0)
    o = np.concatenate([[start], start + np.cumsum(steps)]).astype(np.float32)[:, None]
    r = np.full(len(actions), reward)
    return Trace(o, np.array(actions), r, terminated, truncated, **optional)


def good_log(episodes=60):
    """Enough of everything, nothing to complain about."""
    rng = np.random.default_rng(0)
    return [
        walk(0.01 * i, rng.integers(2, size=5 + i % 9), propensities=np.full(5 + i % 9, 0.5))
        for i in range(episodes)
    ]


def warned(traces, word, **changed):
    """Exactly one warning holds the word."""
    found = [text for text in inspect(traces, spaces(**changed))["warnings"] if word in text]
    assert len(found) == 1, (word, inspect(traces, spaces(**changed))["warnings"])
    return found[0]


def test_figures_of_three_episodes_by_hand():
    traces = [walk(0, [1, 1, 0]), walk(5, [1], reward=3), walk(2, [0, 0], terminated=False)]
    found = inspect(traces, spaces())
    count = {"count": 3, "steps": 6, "terminated": 2, "truncated": 0, "open": 1}
    assert found["episodes"] == count | {"sessions": 0, "policies": []}
    returns = found["returns"]  # of the closed ones: 3 and 3
    assert (returns["count"], returns["mean"], returns["min"], returns["max"]) == (2, 3, 3, 3)
    assert returns["histogram"]["counts"] == [2]
    assert (found["lengths"]["mean"], found["lengths"]["max"]) == (2, 3)
    rewards = found["rewards"]
    assert (rewards["min"], rewards["max"], rewards["distinct"]) == (1, 3, 2)
    assert found["actions"] == [{"name": "a", "factors": [{0: 0.5, 1: 0.5}]}]
    [feature] = found["observations"]
    assert (feature["name"], feature["min"], feature["max"]) == ("o[0]", 0, 6)
    assert found["recorded"] == {"propensities": 0, "action_masks": 0, "times": 0}


def test_coverage_counts_pairs_of_discrete_observations_and_actions():
    o = np.array([0, 1, 1, 3])  # pairs (0, 1), (1, 0) and (1, 0) again; nothing was done in 3
    trace = Trace(o, np.array([1, 0, 0]), np.zeros(3), True, False)
    found = inspect([trace, trace], spaces(Discrete(4)))["coverage"]
    assert found == {"pairs": 2, "possible": 8, "of_seen_observations": 0.5}


def test_nearest_neighbours_are_those_of_other_episodes():
    x = np.array([[0.0], [1], [10], [11]])
    spread = x.std()
    # 0 and 1 belong together, as do 10 and 11: the nearest of another lies 10, 9, 9, 10 away.
    found = nearest(x, np.array([0, 0, 1, 1]))
    assert found["nearest_median"] == pytest.approx(9.5 / spread)
    assert nearest(x, np.arange(4))["nearest_median"] == pytest.approx(1 / spread)
    assert nearest(x, np.zeros(4))["nearest_median"] is None


def test_a_good_log_gets_no_warning():
    assert inspect(good_log(), spaces())["warnings"] == []


def test_every_warning_is_given_when_it_is_deserved():
    log = good_log()
    same = [walk(i, [1, 0, 1], terminated=False, truncated=True) for i in range(30)]
    assert "nothing distinguishes good from bad" in warned(same, "not improvable")
    warned(same, "no episode was ended by the task")
    assert "every step earned 1;" in warned(same, "every step earned")
    still = [walk(0.1 * i, [1, 0, 1], reward=0.0) for i in range(30)]
    assert "earned 0" in warned(still, "every step earned")
    clock = [walk(0.1 * i, [1] * (40 if i % 2 else 3 + i % 5)) for i in range(40)]
    assert "20 of 40 terminated episodes last exactly 40" in warned(clock, "clock")
    never = warned(log, "action 2 was never taken", action=Discrete(3))
    assert "1 of 3" in never
    cut = log + [walk(7 + i, [1, 0], terminated=False) for i in range(2)]
    assert "2 of 62 episodes are open" in warned(cut, "are open")
    assert "only 60 of 62" in warned(cut, "propensities")
    assert "2 episodes, 10 steps" in warned(log[:1] + [walk(3, [1, 0, 1, 0, 1])], "tiny")
    copied = log + [log[3]]
    assert "episodes 3 and 60" in warned(copied, "copies")


def test_short_games_on_a_board_are_no_copies():
    trace = Trace(np.array([0, 1]), np.array([1]), np.array([1.0]), True, False)
    found = inspect([trace] * 20, spaces(Discrete(4)))["warnings"]
    assert not any("copies" in text for text in found)


def test_times_that_run_backwards_are_named():
    log = [walk(i, [1, 0], times=np.array([3.0 * i, 3 * i + 1, 3 * i + 2])) for i in range(4)]
    assert not any("time" in text for text in inspect(log, spaces())["warnings"])
    log[2] = walk(2, [1, 0], times=np.array([6.0, 8, 7]))
    assert "episode 2 after step 1" in warned(log, "time goes backwards")
    assert "1 episodes begin before" in warned([log[1], log[0], log[3]], "begin before")


def seen(column, r, terminated=True):
    """A two-step episode whose observation has a harmless and a telling column."""
    o = np.stack([np.arange(3.0) % 2 + r[0], column], axis=-1).astype(np.float32)
    return Trace(o, np.array([0, 1]), np.array(r), terminated, not terminated)


def test_observations_that_know_too_much_are_named():
    draw = np.random.default_rng(0)
    rewards = [draw.normal(size=2).tolist() for _ in range(30)]
    two = {"observation": Box(-9, 9, (2,), np.float32)}
    innocent = [seen(draw.normal(size=3), r, bool(i % 2)) for i, r in enumerate(rewards)]
    assert not any("leave it out" in text for text in inspect(innocent, spaces(**two))["warnings"])
    paid = [seen([*r, 0.0], r) for r in rewards]
    assert warned(paid, "reward of its own step", **two).startswith("o[1] follows")
    ends = [seen([0.0, float(i % 2), 1.0], r, bool(i % 2)) for i, r in enumerate(rewards)]
    assert warned(ends, "at which step an episode ends", **two).startswith("o[1] says")
    total = [seen([sum(r)] * 3, r) for r in rewards]
    assert warned(total, "tells its return", **two).startswith("o[1] never changes")


def test_actions_that_never_vary_or_hardly_do_are_named():
    assert "a never varies" in warned([walk(i, [1, 1, 1]) for i in range(9)], "never varies")
    rare = [walk(i, [1] * 50) for i in range(9)] + [walk(9, [1] * 49 + [0])]
    assert "action a: 0 was taken in less than 1% of the steps" in warned(rare, "support")


@pytest.mark.parametrize(("shape", "count"), [((4, 20, 20), 1), ((20, 20, 4), 0), ((10, 10, 7), 0)])
def test_frames_with_their_channels_first_are_named(shape, count):
    o = np.random.default_rng(0).integers(0, 255, (4, *shape)).astype(np.uint8)
    log = [Trace(o, np.array([0, 1, 0]), np.arange(3.0), True, False)] * 2
    found = inspect(log, spaces(Box(0, 255, shape, np.uint8)))["warnings"]
    assert len([text for text in found if "channels first" in text]) == count


def test_a_table_is_drafted_checked_and_counted(tmp_path, fails, capsys):
    from experiments.command.cli import main

    rows = "".join(f"{i // 4},{i * 0.5},{i % 2},{i % 3},{i % 4 == 3}\n" for i in range(80))
    (tmp_path / "log.csv").write_text("case,x,act,reward,done\n" + rows.replace("\n4,", "\n,", 1))
    table = ["source.name=csv", f"source.uri={tmp_path}/log.csv"]
    mapping = f"source.mapping={tmp_path}/m.yaml"
    assert main(["inspect-traces", *table, mapping, "suggest=true"]) == 0
    assert "correct every guess" in capsys.readouterr().out
    fails("inspect-traces", *table, mapping, "suggest=true", words=["m.yaml: exists"], code=(2,))
    fails("inspect-traces", *table, mapping, words=["row 16: column case is empty"])
    with open(tmp_path / "m.yaml", "a") as file:
        file.write("broken: skip\n")
    assert main(["inspect-traces", *table, mapping, f"json={tmp_path}/log.json"]) == 0
    assert "80 read, 79 used, 1 left out" in capsys.readouterr().out
    found = json.loads((tmp_path / "log.json").read_text())
    assert found["rows"]["skipped"][0]["reason"] == "no episode id"
    assert "1 of 80 rows were left out: no episode id" in found["warnings"][0]


def test_what_a_fit_would_refuse_is_refused(tmp_path, fails):
    """Actions of a space that nothing here learns."""
    (tmp_path / "log.csv").write_text("e,x,a,r\n1,0.5,1,0\n1,0.5,0,1\n")
    space = "{type: Box, shape: [], dtype: int64, low: 0, high: 9}"
    keys = "{episode: e, observation: x, action: a, reward: r, final: repeat, action_space: %s}"
    (tmp_path / "m.yaml").write_text(keys % space)
    table = [
        "source.name=csv",
        f"source.uri={tmp_path}/log.csv",
        f"source.mapping={tmp_path}/m.yaml",
    ]
    fails("inspect-traces", *table, words=["action space", "is not supported"])


def test_masks_are_checked_against_what_was_taken():
    free = np.ones((3, 2), bool)
    good = walk(0, [1, 0], action_masks=free)
    assert taken_legal(good, COIN).tolist() == [True, True]
    no_one = free.copy()
    no_one[0, 1] = False
    assert taken_legal(walk(0, [1, 0], action_masks=no_one), COIN).tolist() == [False, True]
    warned([good, walk(1, [1, 0], action_masks=no_one)], "forbidden by their own mask")
    warned([good, walk(1, [1, 0])], "have no action masks")
    nothing = free.copy()
    nothing[2] = False
    assert "1 action masks forbid everything" in warned(
        [good, walk(1, [1, 0], action_masks=nothing)], "forbid everything"
    )


def test_nested_and_continuous_spaces_are_told_part_by_part():
    rng = np.random.default_rng(0)
    observation = Dict(at=Box(-9, 9, (2,)), kind=Discrete(3))
    action = MultiDiscrete([2, 3])
    traces = []
    for _ in range(12):
        o = {"at": rng.normal(size=(51, 2)), "kind": rng.integers(3, size=51)}
        a = np.stack([rng.integers(2, size=50), rng.integers(2, size=50)], axis=1)
        masks = np.ones((51, 5), bool)
        masks[:, 4] = False
        traces.append(Trace(o, a, rng.normal(size=50), True, False, action_masks=masks))
    found = inspect(traces, spaces(observation, action))
    assert [x["name"] for x in found["observations"]] == ["o.at[0]", "o.at[1]", "o.kind"]
    assert [len(shares) for shares in found["actions"][0]["factors"]] == [2, 3]
    assert "action 2 was never taken (a[1], 1 of 3)" in warned(
        traces, "never taken", observation=observation, action=action
    )
    assert taken_legal(traces[0], action).all()
    push = [Trace(x.observations["at"], x.rewards[:, None], x.rewards, True, False) for x in traces]
    found = inspect(push, spaces(Box(-9, 9, (2,)), Box(-9, 9, (1,))))
    [dimension] = found["actions"][0]["dimensions"]
    assert (dimension["low"], dimension["high"]) == (-9, 9)
    assert dimension["quantiles"] == sorted(dimension["quantiles"])
    assert not any("always" in text for text in found["warnings"])


def test_pixels_are_told_in_one_line():
    rng = np.random.default_rng(0)
    o = rng.integers(256, size=(4, 16, 16)).astype(np.uint8)
    o[:, 0] = 7  # a row of 16 that never changes
    trace = Trace(o, np.array([0, 1, 0]), np.zeros(3), True, False)
    [feature] = inspect([trace], spaces(Box(0, 255, (16, 16), np.uint8)))["observations"]
    assert (feature["name"], feature["constants"]) == ("o[0..255]", 16)


@pytest.fixture
def store(tmp_path):
    store = TraceStore(tmp_path / "log", observation_space=LINE, action_space=Discrete(3))
    store.extend(good_log())
    return store


def test_the_verb_prints_what_it_writes(verb, store, tmp_path):
    code, out, err = verb("inspect-traces", f"path={store.path}", f"json={tmp_path}/log.json")
    assert (code, err) == (0, [])
    found = json.loads((tmp_path / "log.json").read_text())
    assert found["episodes"]["count"] == 60
    for words in ("Box(1,) float32", "Discrete(3)", f"60 ({store.num_steps} steps)", "1 warning"):
        assert words in out, (words, out)
    assert " ".join(found["warnings"][0].split()) in " ".join(out.replace("! ", "").split())
    tables, _, _ = out.partition("1 warning")
    assert max(map(len, tables.splitlines())) <= 80


def test_on_a_terminal_it_is_a_table(store, capsys, monkeypatch):
    from experiments.command.cli import main

    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["inspect-traces", f"path={store.path}"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out and "Discrete(3)" in out and "never taken" in out


def test_what_cannot_be_inspected(fails, store, tmp_path):
    fails("inspect-traces", words=["no log is named", "path="], code=(2,))
    fails("inspect-traces", f"path={tmp_path}/nowhere", words=["nowhere", "does not exist"])
    fails("inspect-traces", f"path={tmp_path}", words=[tmp_path, "empty store"])
    both = [f"path={store.path}", "source.name=parquet", "source.uri=x"]
    fails("inspect-traces", *both, words=["path= and source.name= both name a log"], code=(2,))
    fails("inspect-traces", "source.name=parquet", words=["source.uri"], code=(2,))
    words = ["no such file"]
    fails("inspect-traces", "source.name=parquet", f"source.uri={tmp_path}/*.pq", words=words)
    file = store.path / "segment-000000.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    fails("inspect-traces", f"path={store.path}", words=[file, "cut short"])


def test_the_bounds_of_a_box_are_left_out():
    assert short("Box([-4.8 -inf], [4.8 inf], (2,), float32)") == "Box(2,) float32"
    assert short("Dict('a': Box(0.0, 1.0, (3, 2), uint8))") == "Dict('a': Box(3, 2) uint8)"
    assert short("Discrete(3)") == "Discrete(3)"
