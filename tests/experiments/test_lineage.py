"""Rounds on a log that grows: what is deployed, what is kept, what is counted, what is refused."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import dreaming
from dreaming.config import FIRST_SEED, GateConfig
from dreaming.errors import CheckpointError, ConfigError, RejectedError, UserError
from dreaming.gate.real import gate_seeds
from dreaming.student.network import init_student
from dreaming.student.policy import Policy, load_policy, policy_files, save_policy
from envs.traces import TraceStore
from envs.types import Trace
from experiments import dream
from experiments.command.cli import main
from experiments.config import DreamConfig, EnvConfig
from experiments.runs import dream as runs
from experiments.runs.certificate import CERTIFY_SEED
from experiments.runs.directory import RESULT, RESULT_VERSION, finish, read_config
from experiments.runs.dream import round_key
from experiments.runs.lineage import (
    Lineage,
    digest_of,
    files_of,
    next_of,
    read_trials,
    sha256_of,
)
from experiments.runs.once import Once
from experiments.runs.results import REPORT_SEED
from tests.experiments import kill_runs
from tests.experiments.conftest import BECAUSE, as_users_run, deciding

ROOT = Path(__file__).parents[2]


def result_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / RESULT).read_text())


def tree(place: Path, *without: str) -> dict[str, bytes]:
    """All files below a directory, but those whose names begin with one of `without`, and drafts
    of directories."""
    names = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    names = {name: path for name, path in names.items() if "/." not in f"/{name}"}
    return {n: path.read_bytes() for n, path in names.items() if not n.startswith(without)}


def copy_of(run_dir: Path, place: Path) -> Path:
    return Path(shutil.copytree(run_dir, place))


def grow(log: Path, place: Path, *words: str) -> Path:
    """A copy of a log, with more episodes at its end."""
    shutil.copytree(log, place)
    assert main(["record", f"path={place}", "append=true", "env.real_steps=60", *words]) == 0
    return place


def play(root: Path, log: Path, *words: str) -> int:
    """The next round of a run, by the command line; policies are not ranked, to save the time."""
    return dream.main([f"run={root}", f"traces={log}", "certify.episodes=0", *words])


@pytest.fixture(scope="module")
def logs(tiny_run, accepted_run, tmp_path_factory) -> list[Path]:
    """The log of the tiny run, and two that grew from it: by its behaviour, by what is deployed."""
    place, old = tmp_path_factory.mktemp("logs"), tiny_run / "traces"
    with as_users_run():
        more = grow(old, place / "more")
        most = grow(more, place / "most", f"env.behaviour={accepted_run}/policy")
    return [old, more, most]


@pytest.fixture(scope="module")
def lineage(accepted_run, logs, tmp_path_factory) -> tuple[Path, list[dict[str, bytes]]]:
    """A run that was accepted, a round that was rejected and one that was accepted; and what
    policy/ held after each."""
    root = copy_of(accepted_run, tmp_path_factory.mktemp("lineage") / "run")
    deployed = [files_of(root / "policy")]
    for accept, log in ((False, logs[1]), (True, logs[2])):
        with as_users_run(), deciding(accept) as said:
            assert play(root, log) == 0
        assert [verdict.accept for verdict in said] == [accept]  # the gate was asked, and told
        deployed.append(files_of(root / "policy"))
    return root, deployed


# Rounds


def test_a_rejected_round_leaves_what_is_deployed_as_it_was(lineage, logs):
    root, deployed = lineage
    one, result = root / "rounds/1", result_of(root / "rounds/1")
    assert deployed[1] == deployed[0] != {}
    assert files_of(one / "incumbent") == deployed[0]
    assert (one / "candidate").is_dir() and not (one / "policy").exists()
    assert (result["round"], result["verdict"], result["reasons"]) == (1, "reject", [BECAUSE])
    assert result["deployed_sha256"] == sha256_of(deployed[0])
    assert result["deployed_return"] == result["incumbent_return"] != result["candidate_return"]
    assert result["incumbent_return"] == result_of(root)["deployed_return"]  # the same episodes
    assert result["real_steps"] == 260 == TraceStore(one / "traces").num_steps
    assert result["real_episodes"] == len(TraceStore(logs[1]))


def test_an_accepted_round_replaces_what_is_deployed(lineage, accepted_run, logs):
    root, deployed = lineage
    two, result = root / "rounds/2", result_of(root / "rounds/2")
    assert files_of(two / "incumbent") == deployed[1]
    assert deployed[2] == files_of(two / "policy") == files_of(two / "candidate") != deployed[1]
    assert (result["round"], result["verdict"]) == (2, "accept")
    assert result["deployed_sha256"] == sha256_of(deployed[2])
    assert result["deployed_return"] == result["candidate_return"]
    # What was deployed recorded the newest episodes, under its own name.
    names = [trace.policy for trace in TraceStore(logs[2])]
    assert names[-1] == f"student-{str(sha256_of(deployed[1]))[:12]}" != names[0]


def test_the_files_of_round_0_are_those_of_the_run_that_it_was(lineage, accepted_run):
    root, _ = lineage
    later = ("rounds", "policy", "trials.json", "lineage.html")
    assert tree(root, *later) == tree(accepted_run, *later)
    names = {path.name for path in accepted_run.iterdir()}
    assert {path.name for path in root.iterdir()} == names | {"rounds", "lineage.html"}
    assert sorted(path.name for path in (root / "rounds").iterdir()) == ["1", "2"]
    assert not [name for name in tree(root) if ".tmp" in name or "unfinished" in name]
    assert not [path for path in root.rglob(".*")]  # nor a draft of a directory


def test_every_round_is_a_trial_of_its_own(lineage):
    root, _ = lineage
    trials = read_trials(root / "trials.json")
    assert [trial["round"] for trial in trials] == [0, 1, 2]
    assert len({trial["tried"] for trial in trials}) == 3
    results = [result_of(each) for each in (root, root / "rounds/1", root / "rounds/2")]
    assert [result["trial"] for result in results] == [0, 1, 2]
    assert not (root / "rounds/1/trials.json").exists()  # there is one error probability


def test_the_page_of_a_lineage_has_a_row_per_round(lineage):
    root, deployed = lineage
    page = (root / "lineage.html").read_text()
    body = re.findall(r"<tr[ >].*?</tr>", page, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body]
    rows = [row for row in cells if len(row) == 10]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[3] for row in rows] == ["accept", "reject", "accept"]
    assert [row[4] for row in rows] == ["0", "1", "2"]
    assert [row[-1] for row in rows] == [str(sha256_of(files))[:12] for files in deployed]
    assert [row[2] for row in rows] == ["200", "260", "320"]
    links = re.findall(r'href="([^#"]+)"', page)
    assert links == ["report.html", "rounds/1/report.html", "rounds/2/report.html"]
    assert all((root / link).is_file() for link in links)
    assert "the policy of round 2" in page and "3 rounds on a growing log of" in page


def test_the_same_command_again_is_no_new_round(lineage, logs, tmp_path, monkeypatch):
    root = copy_of(lineage[0], tmp_path / "run")
    before, work, call = tree(root, "lineage.html"), [], Once.__call__

    def spy(desk, stage, total, like, done):
        return call(desk, stage, total, like, lambda update: work.append(stage) or done(update))

    monkeypatch.setattr(Once, "__call__", spy)
    (root / "lineage.html").unlink()
    with deciding(True) as said:
        assert play(root, logs[2]) == 0
    assert len(said) == 1 and work == []
    assert tree(root, "lineage.html") == before
    assert (root / "lineage.html").read_bytes() == (lineage[0] / "lineage.html").read_bytes()


@pytest.mark.slow  # one more round
def test_where_nothing_is_deployed_the_process_is_what_is_to_beat(tiny_run, logs, tmp_path):
    """A second round after a rejection: no incumbent/, and a policy/ where there was none."""
    root = copy_of(tiny_run, tmp_path / "run")
    with deciding(True) as said:
        assert play(root, logs[1], "rehearse.iterations=3") == 0
    one = root / "rounds/1"
    assert len(said) == 1 and not (one / "incumbent").exists()
    new = files_of(one / "policy")
    assert files_of(root / "policy") == new == files_of(one / "candidate") != {}
    assert read_config(one, DreamConfig).rehearse.iterations == 3  # what is given anew is read
    assert read_config(one, DreamConfig).fit == read_config(root, DreamConfig).fit  # and the rest
    earned = [x.rewards.sum() for x in TraceStore(logs[1]) if not x.is_open]
    assert result_of(one)["incumbent_return"]["mean"] == pytest.approx(np.mean(earned))
    # The run is what it deployed, whatever its first candidate came to.
    assert result_of(root)["verdict"] == "reject"
    assert dreaming.load_policy(root).name == f"student-{result_of(one)['deployed_sha256'][:12]}"
    page = (root / "lineage.html").read_text()
    assert "the policy of round 1" in page and "2 rounds" in page


# What a rejection leaves


def test_a_rejected_run_is_no_policy(tiny_run, lineage):
    reason = result_of(tiny_run)["reasons"][0]
    for place in (tiny_run, tiny_run / "policy", str(tiny_run)):
        with pytest.raises(RejectedError) as told:
            dreaming.load_policy(place)
        assert reason in str(told.value) and str(tiny_run / "candidate") in str(told.value)
    assert isinstance(told.value, UserError)
    candidate = dreaming.load_policy(tiny_run / "candidate")
    assert candidate.card["verdict"] == "reject" and candidate.card["reasons"][0] == reason
    with pytest.raises(RejectedError, match=BECAUSE):
        dreaming.load_policy(lineage[0] / "rounds/1")
    with pytest.raises(UserError, match="no policy can be read") as told:
        dreaming.load_policy(tiny_run / "nowhere/policy")
    assert not isinstance(told.value, RejectedError)


def test_a_rejection_where_something_is_deployed_does_not_say_that_nothing_is(lineage):
    with pytest.raises(RejectedError) as told:
        dreaming.load_policy(lineage[0] / "rounds/1")
    assert "nothing is deployed" not in str(told.value)


def without_seconds(files: dict[str, bytes]) -> dict[str, bytes]:
    """The clock is in result.json and, of the stage gate, in its manifest, its report, a line."""
    result = json.loads(files[RESULT])
    result["seconds"].pop("gate")
    clocked = ("report.html", "metrics.jsonl", "state/gate")
    rest = {name: data for name, data in files.items() if not name.startswith(clocked)}
    return rest | {RESULT: json.dumps(result).encode()}


def test_an_accepted_run_that_is_rejected_now_loses_its_policy(
    accepted_run, tiny_run, tiny, tmp_path
):
    """Its gate plays again and says what it said of the tiny run; cut where neither the old
    candidate nor the new one is in its place, and started again. (What is cut elsewhere is a matter
    of `Lineage.leave`, below.)"""
    run_dir = copy_of(accepted_run, tmp_path / "run")
    shutil.rmtree(run_dir / "state/gate")
    command = [*tiny, f"hydra.run.dir={run_dir}"]
    with pytest.raises(Cut), cut("rename", at=3) as cuts:
        dream.main(command)
    assert len(cuts.done) == 2  # the unit of the gate, the old candidate
    assert not (run_dir / RESULT).exists() and not (run_dir / "candidate").exists()
    assert files_of(run_dir / "policy") == files_of(accepted_run / "policy")
    assert dream.main(command) == 0
    assert result_of(run_dir)["verdict"] == "reject" and result_of(run_dir)["trial"] == 0
    assert not (run_dir / "policy").exists()
    assert without_seconds(tree(run_dir)) == without_seconds(tree(tiny_run))
    assert not list(run_dir.rglob(".*"))


# Files that are cut anywhere


class Cut(BaseException):
    """The process ended before a change of the disk."""


class Cuts:
    """The changes of the disk that were let through."""

    def __init__(self):
        self.done: list[str] = []


CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "write", "fsync")


@contextlib.contextmanager
def cut(*names: str, at: int | None = None) -> Iterator[Cuts]:
    """Raise `Cut` instead of change number `at` of the disk, and of all that follow."""
    cuts = Cuts()

    def of(name: str, change: Callable) -> Callable:
        def counted(*args, **kwargs):
            if at is not None and len(cuts.done) >= at - 1:
                raise Cut(name)
            cuts.done.append(name)
            return change(*args, **kwargs)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in names or CHANGES:
            patch.setattr(os, name, of(name, getattr(os, name)))
        yield cuts


@pytest.fixture
def unsynced(monkeypatch):
    """Nothing waits for the disk: here nobody pulls the plug. And nothing else writes to it."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for seed in (0, 1):
        for verdict in ("accept", "reject"):
            files_by(seed, verdict)  # compiled, which writes to a cache


CART = gymnasium.make("CartPole-v1")
SPACES: Any = {"observation_space": CART.observation_space, "action_space": CART.action_space}


def student(seed: int) -> Any:
    return init_student(jax.random.key(seed), 4, 2, 8, np.zeros(4), np.ones(4))


@functools.cache
def files_by(seed: int, verdict: str) -> dict[str, bytes]:
    """The files of a policy of CartPole that was drawn."""
    card = {"verdict": verdict, "reasons": [f"seed {seed}"]}
    return policy_files(Policy(student(seed), **SPACES, card=card))


def end(lineage: Lineage, seed: int, accept: bool) -> None:
    """What a round does at its end, with a candidate that was drawn."""
    verdict = "accept" if accept else "reject"
    files, where = files_by(seed, verdict), {"experiment": "dream", "env": "CartPole-v1"}
    lineage.leave(files, files if accept else None)
    result = {
        "schema_version": RESULT_VERSION,
        "verdict": verdict,
        "reasons": [f"seed {seed}"],
        "seed": 0,
    }
    result |= {"round": lineage.number, "trial": lineage.number, "candidate_return": None}
    result |= {"deployed_sha256": sha256_of(files_of(lineage.root / "policy"))}
    finish(lineage.run_dir, EnvConfig("CartPole-v1"), where | result, {})


def check_true(lineage: Lineage) -> None:
    """Where result.json is, it is true of the directories beside it."""
    run_dir = lineage.run_dir
    if not (run_dir / RESULT).exists():
        return
    result = result_of(run_dir)
    candidate = load_policy(run_dir / "candidate")
    assert result["verdict"] == candidate.card["verdict"]
    assert result["reasons"] == candidate.card["reasons"]
    assert (run_dir / "policy").exists() == (result["verdict"] == "accept")
    if lineage.number or not (lineage.root / "rounds").exists():
        assert result["deployed_sha256"] == sha256_of(files_of(lineage.root / "policy"))
    if result["verdict"] == "accept":
        assert files_of(run_dir / "policy") == files_of(run_dir / "candidate")
        load_policy(run_dir / "policy")


def episodes(count: int) -> list[Trace]:
    trace = lambda k: Trace(
        np.full((3, 4), k, np.float32), np.zeros(2, int), np.array([k, 1.0]), True, False
    )
    return [trace(k) for k in range(count)]


@pytest.mark.parametrize(
    ("first", "then"),
    [((0, True), (0, False)), ((0, False), (0, True)), ((0, True), (1, True)),
     ((0, True), (1, False))],
)  # fmt: skip
def test_a_run_that_ends_otherwise_is_true_wherever_it_is_cut(first, then, tmp_path, unsynced):
    """From one verdict to another, cut before each single change of the disk, and started again."""
    old = Lineage(tmp_path / "old")
    old.run_dir.mkdir()
    end(old, *first)
    check_true(old)
    whole = Lineage(copy_of(old.root, tmp_path / "whole"))
    with cut() as cuts:
        end(whole, *then)
    check_true(whole)
    assert not list(whole.root.rglob(".*"))
    expected, count = tree(whole.root), len(cuts.done)
    assert count > 20 and {"rename", "replace", "unlink", "write", "fsync"} <= set(cuts.done)
    absent = 0
    for number in range(1, count + 1):
        lineage = Lineage(copy_of(old.root, tmp_path / f"cut{number}"))
        with pytest.raises(Cut), cut(at=number):
            end(lineage, *then)
        check_true(lineage)
        absent += not (lineage.run_dir / RESULT).exists()
        end(lineage, *then)
        assert tree(lineage.root) == expected, number
    assert absent > 10  # that it was gone meanwhile was not missed


NAMES = ("rename", "replace", "unlink", "rmdir", "mkdir")  # of files, not what is in them


@pytest.fixture(scope="module")
def first_rounds(tmp_path_factory) -> dict[bool, Path]:
    """A round by hand, on a log of two episodes: accepted, and rejected."""
    place = tmp_path_factory.mktemp("first")
    for accept in (True, False):
        run_dir = place / str(accept)
        TraceStore(run_dir / "traces", **SPACES).extend(episodes(2))
        assert Lineage(run_dir).trial("first") == 0
        end(Lineage(run_dir), 0, accept)
    TraceStore(place / "log", **SPACES).extend(episodes(3))
    return {accept: place / str(accept) for accept in (True, False)}


def go(root: Path, deployed: bool, accept: bool) -> None:
    """The next round of one of these, as the verb plays it, without what takes time."""
    lineage = next_of(root, [digest_of(trace, SPACES) for trace in episodes(3)])
    assert lineage.number == 1
    lineage.begin()
    incumbent = lineage.incumbent()
    assert (incumbent is not None) == deployed
    if incumbent is not None:  # never what came after
        assert incumbent.card["reasons"] == ["seed 0"]
    if not (lineage.run_dir / RESULT).exists():
        assert lineage.trial("this") == 1 and lineage.trial("this") == 1
    end(lineage, 1, accept)


@pytest.mark.parametrize(
    ("deployed", "accept"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_a_next_round_goes_on_wherever_it_is_cut(
    deployed, accept, first_rounds, tmp_path, unsynced
):
    """Cut before each change of a name, from its beginning to its end, and started again."""
    old = first_rounds[deployed]
    log = lambda root: shutil.copytree(
        old.parent / "log", root / "rounds/1/traces", dirs_exist_ok=True
    )
    whole = copy_of(old, tmp_path / "whole")
    with cut(*NAMES) as cuts:
        go(whole, deployed, accept)
    log(whole)
    expected, count = tree(whole), len(cuts.done)
    assert not list(whole.rglob(".*")) and count > 15
    kept = "policy" if accept else "incumbent"
    assert files_of(whole / "policy") == files_of(whole / f"rounds/1/{kept}")
    failed = []
    for number in range(1, count + 1):
        root = copy_of(old, tmp_path / f"cut{number}")
        with pytest.raises(Cut), cut(*NAMES, at=number) as cuts:
            go(root, deployed, accept)
        if (root / "rounds/1").exists():
            log(root)
            check_true(Lineage(root, 1))
        try:
            go(root, deployed, accept)
            log(root)
            assert tree(root) == expected
        except (ConfigError, AssertionError) as error:
            failed.append((cuts.done[-1], number, f"{error}"[-120:]))
    assert not failed, failed


def test_what_was_cut_leaves_no_drafts_behind(tmp_path, unsynced):
    """Nor the old directory, where the new one was in its place already."""
    old, left = Lineage(tmp_path / "old"), []
    old.run_dir.mkdir()
    end(old, 0, True)
    whole = Lineage(copy_of(old.root, tmp_path / "whole"))
    with cut(*NAMES) as cuts:
        end(whole, 1, True)
    for number in range(1, len(cuts.done) + 1):
        lineage = Lineage(copy_of(old.root, tmp_path / f"cut{number}"))
        with pytest.raises(Cut), cut(*NAMES, at=number):
            end(lineage, 1, True)
        end(lineage, 1, True)
        left += [path.name for path in lineage.root.rglob(".*")]
    assert not left, set(left)


# Trials


def test_a_trial_is_numbered_once_and_on_disk_before_it_begins(tmp_path):
    lineage = Lineage(tmp_path)
    assert lineage.trial("one") == 0
    before = (tmp_path / "trials.json").read_bytes()
    assert lineage.trial("one") == 0 and (tmp_path / "trials.json").read_bytes() == before
    assert lineage.trial("two") == 1 and lineage.trial("one") == 0
    assert Lineage(tmp_path, 1).trial("one") == 2  # the same, tried again later
    with cut() as cuts:
        lineage.trial("three")
    for number in range(1, len(cuts.done) + 1):
        path = tmp_path / "trials.json"
        path.write_bytes(before)
        with pytest.raises(Cut), cut(at=number):
            lineage.trial("two")
        known = read_trials(path)  # old or new, never half
        assert known in (
            [{"round": 0, "tried": "one"}],
            [{"round": 0, "tried": "one"}, {"round": 0, "tried": "two"}],
        )
        assert lineage.trial("two") == 1


def test_gate_seeds_are_those_of_a_trial_of_a_round_of_a_seed():
    config, count = DreamConfig(env=EnvConfig("CartPole-v1")), GateConfig().looks[-1]
    keys = []
    for seed in (0, 1):
        config.seed = seed
        keys += [round_key(config, Lineage(Path(), number)) for number in (0, 1, 2)]
    drawn = [gate_seeds(key, trial, count) for key in keys for trial in (0, 1, 2)]
    assert drawn == [gate_seeds(key, trial, count) for key in keys for trial in (0, 1, 2)]
    assert len({tuple(seeds) for seeds in drawn}) == len(drawn) == 18
    every = np.array(drawn)
    assert len(np.unique(every)) > 0.99 * every.size  # not shifted ones either
    for seeds in drawn:
        assert len(set(seeds)) == count
    reported = REPORT_SEED, REPORT_SEED + 100, CERTIFY_SEED, CERTIFY_SEED + 32
    assert FIRST_SEED <= every.min() and every.max() < min(reported)


# What is refused


@pytest.fixture
def root(accepted_run, tmp_path) -> Path:
    return copy_of(accepted_run, tmp_path / "run")


@pytest.fixture
def refused(capsys, monkeypatch):
    """A command that must be refused: its one line, which holds all of `words`."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def check(*argv, words=(), code):
        capsys.readouterr()
        argv = [*map(str, argv)]
        assert any(word.startswith(("hydra.run.dir=", "run=")) for word in argv)
        got, err = dream.main(argv), capsys.readouterr().err.splitlines()
        assert len(err) == 1 and err[0].startswith("error: "), err
        assert got == code, err
        for word in words:
            assert str(word) in err[0], (word, err[0])

    return check


@pytest.fixture
def reached(monkeypatch):
    """Stop a round where its work would begin: all that could be refused has been."""

    def stop(config, log, once, lineage):
        raise ConfigError(f"reached round {lineage.number}")

    monkeypatch.setattr(runs, "play_round", stop)
    return lambda number: [f"reached round {number}"]


def some(log: Path, place: Path, keep: Callable[[list[Trace]], list[Trace]]) -> Path:
    """Another log, with episodes of this one."""
    TraceStore(place, **SPACES).extend(keep(list(TraceStore(log))))
    return place


def test_a_log_that_lost_an_episode(root, logs, refused, reached, tmp_path):
    bad = some(logs[1], tmp_path / "bad", lambda traces: traces[:3] + traces[4:])
    count = len(TraceStore(logs[0]))
    words = [f"the log lacks 1 of the {count} episodes", "round 0", root, "a log that grew"]
    refused(f"run={root}", f"traces={bad}", words=words, code=1)
    refused(f"run={root}", f"traces={logs[1]}", words=reached(1), code=2)  # and then a good one


def test_a_log_whose_episode_was_changed(root, logs, refused, tmp_path):
    def change(traces):
        rewards = traces[2].rewards.copy()
        rewards[0] += 1
        one = traces[2]
        ends = bool(one.terminated[-1]), bool(one.truncated[-1])
        return [*traces[:2], Trace(one.observations, one.actions, rewards, *ends), *traces[3:]]

    bad = some(logs[1], tmp_path / "bad", change)
    refused(f"run={root}", f"traces={bad}", words=["the log lacks 1 of the"], code=1)


def test_a_log_that_has_not_grown(root, logs, refused, reached, tmp_path):
    """And the same log later, when it has."""
    log = copy_of(logs[0], tmp_path / "log")
    words = ["the log has not grown since round 0", root, "record more"]
    refused(f"run={root}", f"traces={log}", words=words, code=1)
    shutil.rmtree(log)
    shutil.copytree(logs[1], log)
    refused(f"run={root}", f"traces={log}", words=reached(1), code=2)


def test_a_log_of_another_task(root, refused, reached, logs, tmp_path):
    other = tmp_path / "other"
    assert main(["record", f"path={other}", "env=frozenlake", "env.real_steps=60"]) == 0
    words = ["the log has the observation space Discrete(16)", root, "Box", "same task"]
    refused(f"run={root}", f"traces={other}", words=words, code=2)
    refused(f"run={root}", f"traces={logs[1]}", words=reached(1), code=2)


def test_a_log_is_checked_until_it_is_copied(root, logs, refused, reached, tmp_path):
    """Also where the round was begun already, and stopped before it had a log."""
    Lineage(root, 1).begin()
    bad = some(logs[1], tmp_path / "bad", lambda traces: traces[1:])
    refused(f"run={root}", f"traces={bad}", words=["the log lacks 1 of the"], code=1)
    refused(f"run={root}", f"traces={logs[1]}", words=reached(1), code=2)


def test_a_log_that_is_nowhere(root, refused, reached, logs, tmp_path):
    refused(f"run={root}", f"traces={tmp_path}/no", words=[tmp_path / "no"], code=1)
    assert not (root / "rounds").exists()
    refused(f"run={root}", f"traces={logs[1]}", words=reached(1), code=2)


def test_a_verdict_that_was_edited_by_hand(tiny_run, logs, refused, tmp_path):
    root = copy_of(tiny_run, tmp_path / "run")
    result = result_of(root) | {"verdict": "accept"}
    (root / RESULT).write_text(json.dumps(result))
    words = [root, "result.json says accept", "own card reject", "a verdict is not edited"]
    refused(f"run={root}", f"traces={logs[1]}", words=words, code=2)
    assert not (root / "rounds").exists()


def another(root: Path) -> None:
    shutil.rmtree(root / "policy")
    save_policy(root / "policy", Policy(student(3), **SPACES))


def of_other_spaces(root: Path) -> None:
    params = init_student(jax.random.key(0), 3, 2, 8, np.zeros(3), np.ones(3))
    spaces = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)
    shutil.rmtree(root / "policy")
    save_policy(root / "policy", Policy(params, *spaces))


def other_weights(root: Path) -> None:
    """Its card is left as it was."""
    (root / "policy/student.safetensors").write_bytes(files_by(3, "accept")["student.safetensors"])


def no_card(root: Path) -> None:
    (root / "policy/policy.json").unlink()


def cut_card(root: Path) -> None:
    path = root / "policy/policy.json"
    path.write_bytes(path.read_bytes()[:-20])


def gone(root: Path) -> None:
    shutil.rmtree(root / "policy")


CHANGED = (another, of_other_spaces, other_weights, no_card, cut_card, gone)


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: change.__name__)
def test_a_deployed_policy_that_was_changed(change, root, logs, refused, reached, accepted_run):
    change(root)
    refused(f"run={root}", f"traces={logs[1]}", words=[root / "policy"], code=2)
    assert not (root / "rounds").exists()
    shutil.rmtree(root / "policy", ignore_errors=True)
    shutil.copytree(accepted_run / "policy", root / "policy")  # put back, as the line says
    refused(f"run={root}", f"traces={logs[1]}", words=reached(1), code=2)


def test_a_policy_put_where_none_was_deployed(tiny_run, accepted_run, logs, refused, tmp_path):
    root = copy_of(tiny_run, tmp_path / "run")
    shutil.copytree(accepted_run / "policy", root / "policy")
    words = [root / "policy", "is not what round 0 deployed"]
    refused(f"run={root}", f"traces={logs[1]}", words=words, code=2)


def test_what_is_no_finished_run_of_dream(root, tiny_fit, logs, refused, tmp_path):
    grown = f"traces={logs[1]}"
    words = [tmp_path / "nothing", "holds no config.yaml; name the directory of a run"]
    refused(f"run={tmp_path}/nothing", grown, words=words, code=2)
    words = [tiny_fit, "is no finished run of `dream`"]
    refused(f"run={tiny_fit}", grown, words=words, code=2)
    (root / RESULT).unlink()
    refused(f"run={root}", grown, words=[root, "no finished run", "finish it first"], code=2)
    (root / RESULT).write_text("{")
    refused(f"run={root}", grown, words=[root / RESULT, "cannot be read"], code=2)
    assert not (root / "rounds").exists() and not (tiny_fit / "rounds").exists()


@pytest.mark.parametrize(
    "words",
    ["env.id=Acrobot-v1", "env=mountaincar", "+env.options.max_episode_steps=9", "seed=3",
     "context.window=2", "model.window=2", "context.recurrent=true", "experiment=other"],
)  # fmt: skip
def test_what_cannot_change_in_a_next_round(words, root, logs, refused):
    name = words.partition("=")[0].lstrip("+")
    told = [f"{name} cannot change in a next round", "start another run"]
    refused(f"run={root}", f"traces={logs[1]}", words, words=told, code=2)
    assert not (root / "rounds").exists()


def test_a_next_round_needs_its_log(root, refused):
    words = ["run= needs the log that grew; name it with traces= or source.name="]
    refused(f"run={root}", words=words, code=2)


def test_a_round_lies_in_its_lineage_and_nowhere_else(root, logs, refused, tmp_path):
    words = f"run={root}", f"traces={logs[1]}", f"hydra.run.dir={tmp_path}/elsewhere"
    refused(*words, words=["hydra.run.dir has no effect with run="], code=2)
    assert not (root / "rounds").exists() and not (tmp_path / "elsewhere").exists()


def test_options_that_do_not_fit_those_of_round_0_are_one_line(root, logs, refused):
    """Each alone is allowed: 8 dreams of 4 steps are 32 states, of which 64 cannot be taught."""
    words = ["rehearse.taught=64", "at most"]
    refused(f"run={root}", f"traces={logs[1]}", "rehearse.taught=64", words=words, code=2)


def test_an_option_of_a_model_is_no_internal_error(root, logs, refused):
    words = ["model.options"]
    grown = f"traces={logs[1]}"
    refused(f"run={root}", grown, "+model.options.slack=2", words=words, code=2)


def test_a_tracker_of_a_next_round_is_used(root, logs, refused, reached, monkeypatch):
    from experiments.command import trackers

    asked = []
    opened = lambda config, run_dir: asked.append((config.tracker, run_dir))
    monkeypatch.setattr(trackers, "open_tracker", opened)
    words = f"run={root}", f"traces={logs[1]}", "tracker=tensorboard"
    refused(*words, words=reached(1), code=2)
    assert asked == [("tensorboard", root / "rounds/1")]


DAMAGES = {
    "cut": lambda data: data[:-9],
    "flipped": lambda data: data.replace(b'"round": 0', b'"round": 1'),
    "empty": lambda data: b"",
    "no object": lambda data: b"[]",
    "emptied": lambda data: re.sub(rb'"trials": \[.*?\]', b'"trials": []', data, flags=re.DOTALL),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_trials_are_not_counted(damage, tmp_path):
    """How much error was spent is then not known, so nothing is tried."""
    lineage, path = Lineage(tmp_path), tmp_path / "trials.json"
    lineage.trial("one")
    damaged = DAMAGES[damage](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    for tried in ("one", "two"):
        with pytest.raises(CheckpointError, match="damaged, so how much error probability"):
            lineage.trial(tried)
    assert path.read_bytes() == damaged


def test_a_run_with_damaged_trials_tries_nothing(root, tiny, refused):
    path = root / "trials.json"
    path.write_bytes(path.read_bytes()[:-9])
    shutil.rmtree(root / "state/gate")
    words = [path, "is damaged", "start another run"]
    refused(*tiny, f"hydra.run.dir={root}", words=words, code=1)
    assert not list(root.glob("state/gate/[0-9]*"))


def test_damaged_trials_are_noticed_before_hours_are_spent(root, logs, refused, reached):
    (root / "trials.json").write_text("{}")
    words = [root / "trials.json", "is damaged"]
    refused(f"run={root}", f"traces={logs[1]}", words=words, code=1)


def test_trials_that_are_gone_are_not_trials_that_never_were(root, logs, refused, reached):
    """Round 0 made one, as its result says: forgotten, its share of the error is spent twice."""
    (root / "trials.json").unlink()
    words = [root / "trials.json", "start another run"]
    refused(f"run={root}", f"traces={logs[1]}", words=words, code=1)


def test_a_root_with_rounds_is_not_run_again(lineage, tiny, refused):
    root, _ = lineage
    before = tree(root)
    words = [root, "has rounds on top of it", f"run={root} traces="]
    refused(*tiny, f"hydra.run.dir={root}", words=words, code=2)
    assert tree(root) == before


def test_a_round_is_not_run_by_itself(lineage, tiny, logs, refused, tmp_path):
    """Its stages are those of a lineage."""
    root = copy_of(lineage[0], tmp_path / "run")
    words = [w for w in tiny if not w.startswith("env.real_steps")]
    one, before = root / "rounds/1", tree(root, "rounds/1/metrics.jsonl")
    words = [*words, f"traces={logs[1]}", f"hydra.run.dir={one}"]
    refused(*words, words=[one, "another configuration"], code=1)
    assert tree(root, "rounds/1/metrics.jsonl") == before


def test_a_later_verdict_or_policy_that_was_changed(lineage, logs, refused, tmp_path):
    root = copy_of(lineage[0], tmp_path / "run")
    one = root / "rounds/1"
    (one / RESULT).write_text(json.dumps(result_of(one) | {"verdict": "accept"}))
    refused(f"run={root}", f"traces={logs[2]}", words=[one, "result.json says accept"], code=2)
    shutil.rmtree(root)
    root = copy_of(lineage[0], tmp_path / "run")
    shutil.rmtree(root / "policy")
    shutil.copytree(root / "rounds/2/incumbent", root / "policy")  # back to what was before
    words = [root / "policy", "is not what round 2 deployed"]
    refused(f"run={root}", f"traces={logs[2]}", words=words, code=2)


# Killed


ACCEPTING = """
import importlib, sys
from dataclasses import replace
from experiments.command import runtime
runtime.configure()
gate = importlib.import_module("dreaming.gate.decide")
ask = gate.real_gate
told = lambda *x, **y: replace(ask(*x, **y), accept=True, reasons=("because a test says so",))
gate.real_gate = told
from experiments import dream
sys.exit(dream.main(sys.argv[1:]))
"""


def start(log: Path, root: Path) -> subprocess.Popen:
    """A next round as a process of its own group, whose gate accepts."""
    words = [f"run={root}", f"traces={log}"]
    with open(root.with_suffix(".log"), "a") as out:
        return subprocess.Popen(
            [sys.executable, "-c", ACCEPTING, *words],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def timeless(root: Path) -> dict[str, bytes]:
    """How a lineage ended, without the clock."""
    clocked = ("report.html", "metrics.jsonl", "state/")
    files = tree(root)
    files = {n: x for n, x in files.items() if not any(word in n for word in clocked)}
    for name in [name for name in files if name.endswith(RESULT)]:
        result = json.loads(files[name])
        result.pop("seconds")
        files[name] = json.dumps(result).encode()
    return files


@pytest.mark.slow
def test_a_next_round_that_is_killed_ten_times_ends_as_if_it_had_not_been(
    accepted_run, logs, tmp_path
):
    """At ten instants of its time, each in a run of its own, resumed with the same command."""
    kill_runs.finish(start(logs[1], copy_of(accepted_run, tmp_path / "first")))
    whole = copy_of(accepted_run, tmp_path / "whole")
    begun = time.monotonic()
    kill_runs.finish(start(logs[1], whole))
    seconds, expected = time.monotonic() - begun, timeless(whole)
    assert timeless(tmp_path / "first") == expected
    assert result_of(whole / "rounds/1")["verdict"] == "accept"
    assert files_of(whole / "policy") == files_of(whole / "rounds/1/policy")
    met: Counter[int] = Counter()
    for number in range(10):
        root = copy_of(accepted_run, tmp_path / f"kill{number}")
        kill_runs.kill_after(seconds * (number + 0.5) / 10, root, lambda x: start(logs[1], x))
        met[len(list(root.glob("rounds/1/state/*/[0-9]*")))] += 1
        kill_runs.finish(start(logs[1], root))
        assert timeless(root) == expected, (number, met)
        trials = read_trials(root / "trials.json")
        assert [trial["round"] for trial in trials] == [0, 1]
    assert len(met) >= 4, met  # of what was committed when it was killed there were many states
