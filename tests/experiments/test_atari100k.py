"""`dreaming atari100k` from start to end, on an emulator made for it."""

import json
import os
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from envs import atari
from experiments import atari100k, pack, unpack
from experiments.command.unread import atari_rules
from experiments.runs import atari_game, atari_options
from experiments.runs.queue import born, file_of, machine, status
from tests.envs.emulator import Emulator
from tests.experiments.conftest import as_users_run
from tests.experiments.reading import Reads, reading
from tests.experiments.runs.test_online_frames import (
    Killed,
    assert_same_end,
    metrics,
    result,
    stop_after,
    units,
)

STEPS = 160
TINY = [
    "game=Pong",
    f"real_steps={STEPS}",
    "protocol.side=16",
    "agent.envs=4",
    "agent.learn_after=60",
    "agent.updates_per_step=0.3",
    "agent.updates_per_call=5",
    "agent.refresh_batch=64",
    "agent.search.num_simulations=2",
    "agent.window=2",
    "agent.replay.batch=8",
    "agent.target.every=10",
    "collect.save_every=50",
]
made = list[tuple[atari.Rules, Emulator]]()  # emulators, with the rules they were made for


def make_emulator(game, rules):
    assert game == "Pong"
    made.append((rules, Emulator(grey=rules.grey)))
    return made[-1][1]


@pytest.fixture(scope="module", autouse=True)
def emulator():
    """All games of this module are played on the emulator of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atari, "make_emulator", make_emulator)
        patch.setattr(atari_game, "emulator_version", lambda: "1.0")
        yield


def play(run_dir, *words):
    return atari100k.main([*TINY, *words, f"hydra.run.dir={run_dir}"])


@pytest.fixture(scope="module")
def finished(emulator, tmp_path_factory) -> Path:
    """A finished game. Copy it before you change anything in it."""
    run_dir = tmp_path_factory.mktemp("atari") / "run"
    made.clear()
    decided, step = Counter(), atari.Atari.step

    def counted(self, action):
        decided[str(self.rules.life_loss)] += 1
        return step(self, action)

    with (
        as_users_run(),
        pytest.MonkeyPatch.context() as patch,
        reading(atari_rules) as reads,
    ):
        patch.setattr(atari.Atari, "step", counted)
        assert play(run_dir) == 0
    reads.save(run_dir.parent / "reads.json")
    (run_dir.parent / "decided.json").write_text(json.dumps(decided))
    frames = [(rules.__dict__, env.actions) for rules, env in made]
    (run_dir.parent / "made.json").write_text(json.dumps(frames))
    return run_dir


def test_every_option_is_read_or_refused(finished):
    reads = Reads.load(finished.parent / "reads.json")
    assert {"protocol.sticky", "evaluation.sticky", "size"} <= reads.read
    followed = "agent.real_steps"  # it is real_steps, whatever is said of it
    assert (reads.silent, reads.wronged("agent.late_from", followed)) == (set(), set())


def test_what_a_game_leaves_behind(finished):
    found = result(finished)
    assert STEPS - 4 < found["real_steps"] <= STEPS  # of four environments
    assert found["fit_steps"] == 35  # three tenths of 120, after the first quarter, in fives
    assert (found["env"], found["size"], found["experiment"]) == ("Pong", "nano", "atari100k")
    assert found["changed"]["agent.search.num_simulations"] == 2
    assert "agent.discount" not in found["changed"] and "real_steps" not in found["changed"]
    assert found["is_dry_run"] and found["versions"]["ale-py"] == "1.0"
    assert found["protocol"] == {
        "side": 16,
        "grey": True,
        "skip": 4,
        "no_ops": 30,
        "sticky": 0.0,
        "all_actions": False,
        "max_frames": 108_000,
        "life_loss": True,
        "clip_rewards": True,
        "real_steps": STEPS,
        "evaluation.episodes": 2,
        "evaluation.max_frames": 4 * STEPS,
        "evaluation.sticky": 0.25,
    }
    for name in ("deployed_return", "sticky_return"):
        assert found[name]["episodes"] == 2
    assert {"learn", "evaluate", "evaluate_sticky"} == set(found["seconds"])
    assert (finished / "report.html").exists() and (finished / "policy").is_dir()
    assert status(finished) == "done"


def test_games_are_learned_from_by_some_rules_and_scored_by_others(finished):
    rules = [each for each, _ in json.loads((finished.parent / "made.json").read_text())]
    kinds = {(x["life_loss"], x["clip_rewards"], x["sticky"], x["max_frames"]) for x in rules}
    scored = 4 * STEPS
    assert kinds == {
        (True, True, 0.0, 108_000),
        (False, False, 0.0, scored),
        (False, False, 0.25, scored),
    }


def test_a_whole_game_has_the_figures_of_the_benchmark():
    config = atari_options.AtariConfig(game="Pong")
    assert (config.real_steps, config.episodes, config.most_frames) == (100_000, 100, 108_000)
    run = atari_options.online(config)
    assert run.agent.learn_after == 2000 and run.agent.replay.capacity == 100_000
    scored = atari_options.scoring(config, 0.25)
    assert not scored["life_loss"] and not scored["clip_rewards"] and scored["sticky"] == 0.25
    assert scored["max_frames"] == 108_000 and scored["no_ops"] == 30 and scored["skip"] == 4


def test_decisions_are_counted_exactly(finished):
    decided = json.loads((finished.parent / "decided.json").read_text())
    assert decided["True"] == result(finished)["real_steps"]  # those of training lose lives
    assert decided["False"] == result(finished)["evaluation_steps"]


@pytest.mark.slow
def test_a_game_that_a_dead_process_left_is_taken_over_where_it_was_saved(
    finished, tmp_path, monkeypatch, capsys
):
    def kill():
        raise Killed

    stop_after(monkeypatch, 8, kill)
    run_dir = tmp_path / "run"
    with pytest.raises(Killed):
        play(run_dir)
    monkeypatch.undo()
    dead = {"host": "h", "machine": machine(), "pid": os.getpid(), "born": "0", "since": "noon"}
    file_of(run_dir, 1).write_text(json.dumps(dead | {"state": "running"}))
    assert status(run_dir).startswith("dead")
    assert play(run_dir) == 0
    said = capsys.readouterr().out
    assert f"taken over from process {os.getpid()} on h since noon, which is dead" in said
    assert "goes on after" in said  # it had saved after 50 decisions
    assert_same_end(run_dir, finished)


def test_a_game_that_a_living_process_plays_is_refused_and_passed_by_in_a_suite(
    finished, tmp_path, capsys
):
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    (run_dir / "result.json").unlink()
    here = {"host": socket.gethostname(), "machine": machine(), "since": "noon"}
    here |= {"pid": os.getpid(), "born": born(os.getpid()), "state": "running"}
    file_of(run_dir, 2).write_text(json.dumps(here))
    assert play(run_dir) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"is held by process {os.getpid()} on {socket.gethostname()} since noon" in line
    assert play(run_dir, "--multirun") == 0
    assert "passed by: " in capsys.readouterr().out


def test_a_suite_passes_by_what_is_finished_and_refuses_other_options(finished, tmp_path, capsys):
    run_dir = Path(shutil.copytree(finished, tmp_path / "run"))
    assert play(run_dir, "--multirun") == 0
    assert "done before" in capsys.readouterr().out
    assert play(run_dir, "--multirun", "agent.discount=0.9") == 1
    assert "agent.discount was 0.988, is 0.9" in capsys.readouterr().err


def test_a_run_that_was_taken_over_ends_without_writing(tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    other = {"host": "there", "pid": 1, "since": "noon", "state": "running", "machine": "another"}
    stop_after(monkeypatch, 6, lambda: file_of(run_dir, 2).write_text(json.dumps(other)))
    assert play(run_dir) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "was taken over by process 1 on there since noon" in line
    assert not (run_dir / "result.json").exists()
    saved = [path for path in (run_dir / "state" / "learn").iterdir()]
    assert len(saved) == 1  # the one after 50 decisions, before the sixth turn


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(finished, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert play(tmp_path / "run") == 0
    assert status(tmp_path / "run") == "stopped: it was told to"
    monkeypatch.undo()
    assert play(tmp_path / "run") == 0
    assert_same_end(tmp_path / "run", finished)


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory) -> Path:
    """A packed game."""
    target = tmp_path_factory.mktemp("packed") / "pack"
    with as_users_run():
        assert pack.main([f"run={finished}", f"to={target}"]) == 0
    return target


def test_a_packed_game_goes_on_elsewhere(packed, finished, tmp_path, capsys):
    assert unpack.main([f"path={packed}", f"to={tmp_path / 'run'}"]) == 0
    assert "dreaming atari100k <the same options>" in capsys.readouterr().out
    assert metrics(tmp_path / "run") == metrics(finished)
    newest = lambda run_dir: (units(run_dir)[-1] / "arrays.safetensors").read_bytes()
    assert newest(tmp_path / "run") == newest(finished)


def test_an_emulator_that_shows_other_frames_is_refused(packed, tmp_path, monkeypatch, capsys):
    screen = Emulator.screen
    monkeypatch.setattr(Emulator, "screen", lambda self, number: screen(self, number) // 2)
    assert unpack.main([f"path={packed}", f"to={tmp_path / 'run'}"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "show" in line and "frame" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["game=Brekout"], "none of the 26 games of Atari-100k; did you mean 'Breakout'?"),
        (["game=Tennis"], "game=Tennis is none of the 26 games"),
        (["size=huge"], "size=huge does not exist; size is one of base, nano, small"),
        (["protocol.skip=0"], "protocol.skip must be at least 1, got 0"),
        (["protocol.sticky=1"], "protocol.sticky=1.0 must be at least 0 and less than 1"),
        (["evaluation.episodes=0"], "evaluation.episodes must be at least 1, got 0"),
        (["agent.reset.keep=0.3"], "agent.reset.keep has no effect on agent.reset.every=0"),
        (["agent.real_steps=50"], "agent.real_steps has no effect on a game of Atari-100k"),
        (["agent.replay.batch=4000"], "agent.replay.batch=4000 must be at most"),
        (["env.id=CartPole-v1"], "unknown option 'env.id'"),
    ],
)
def test_bad_input_is_told_in_one_line(words, told, tmp_path, capsys):
    names = {word.partition("=")[0] for word in words}
    rest = [word for word in TINY if word.partition("=")[0] not in names]
    assert atari100k.main([*rest, *words, f"hydra.run.dir={tmp_path / 'run'}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and told in line, line
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_says_what_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atari_game, "emulator_version", lambda: None)
    assert play(tmp_path / "run") == 2
    assert "pip install 'dreaming[atari]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
