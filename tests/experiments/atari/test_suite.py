"""A suite of games: what is in its table, what is missing, and what does not go together."""

import csv
import json
import os

import pytest
import yaml

from envs.atari import GAMES
from experiments.atari.published import methods, table
from experiments.atari.suite import summarise
from experiments.atari.tables import markdown, tables
from experiments.runs.atari_options import AtariConfig


def write(root, game="Pong", seed=0, score=14.6, *, size="nano", sims=8, done=True, **rules):
    """A run directory of a game with made-up numbers."""
    run = root / f"{size}-{sims}-{game}-{seed}"
    run.mkdir(parents=True)
    config = {"game": game, "seed": seed, "size": size, "agent": {"simulations": sims}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summed = lambda x: {"mean": x, "iqm": x, "ci": [x - 1, x + 1], "episodes": 100}
    protocol = {"skip": 4, "real_steps": 100_000, "side": 64, "grey": True} | rules
    result = {
        "schema_version": 3,
        "experiment": "atari100k",
        "env": game,
        "seed": seed,
        "size": size,
        "protocol": protocol,
        "changed": {"agent.simulations": sims} if sims != 8 else {},
        "is_dry_run": protocol["real_steps"] < 100_000,
        "verdict": "ungated",
        "rounds": 1,
        "real_steps": protocol["real_steps"],
        "fit_steps": 9_800,
        "updates_per_step": 0.1,
        "deployed_return": summed(score),
        "sticky_return": summed(score - 2),
        "seconds": {"learn": 600.0, "evaluate": 120.0, "evaluate_sticky": 60.0},
        "device": "cpu, 2 cores",
    }
    if done:
        (run / "result.json").write_text(json.dumps(result))
    return run


def held(run, **told):
    """The newest holder of a run directory, of another machine and long silent."""
    (run / "queue").mkdir()
    path = run / "queue" / "000001.json"
    path.write_text(json.dumps({"pid": 7, "host": "there", "since": "noon", **told}))
    os.utime(path, (1, 1))


def test_the_scores_of_a_suite_by_hand(tmp_path):
    write(tmp_path, "Pong", 0, 14.6)  # a human's score: 1
    write(tmp_path, "Pong", 1, -20.7)  # 0
    write(tmp_path, "Boxing", 0, 24.1)  # twice a human's: 2
    summary = summarise(tmp_path)
    [ours] = summary["ours"]
    assert ours["name"] == "nano" and not ours["is_complete"]
    found = ours["aggregates"]
    assert found["mean"] == pytest.approx(1.25) and found["above_human"] == 1
    assert found["optimality_gap"] == pytest.approx(1 / 3)  # one run of three lies below, by 1
    assert ours["intervals"]["mean"] is None  # Boxing has one run
    first = ours["games"]["Pong"][0]
    assert first["sticky_score"] == 12.6 and first["training_minutes"] == 10
    assert first["evaluation_minutes"] == 3
    assert set(summary["missing"]) == set(GAMES) - {"Pong", "Boxing"}


def test_missing_games_stay_missing_and_published_methods_are_shown_on_the_same_games(tmp_path):
    write(tmp_path, "Pong")
    summary = summarise(tmp_path)
    whole, alike, by_game, every = tables(summary)
    assert whole.rows[0][0].startswith("nano") and set(whole.rows[0][1:-1]) == {"–"}
    named = {row[0]: row for row in alike.rows}
    pong = (table()["efficientzero"]["Pong"] + 20.7) / 35.3
    assert named["EfficientZero"][1] == f"{pong:.3f}" and "Alien" in alike.note
    games = {row[0]: row for row in by_game.rows}
    assert games["Alien"][1] == "missing" and games["Pong"][1] == "14.6 (1.000, 1)"
    assert [row[:3] for row in every.rows] == [["Pong", every.rows[0][1], "0"]]


def test_a_complete_suite_has_figures_with_intervals_beside_the_published(tmp_path):
    for game in GAMES:
        for seed in (0, 1):
            write(tmp_path, game, seed, table()["human"][game])
    whole, *others = tables(summarise(tmp_path))
    assert whole.rows[0][1:3] == ["1.000 [1.000, 1.000]", "1.000 [1.000, 1.000]"]
    assert len(whole.rows) == 1 + len(methods()) and "without all" not in whole.note
    assert others[0].title == "Scores by game"  # no table of fewer games
    published = {row[0]: row for row in whole.rows}
    assert published["STORM"][-1].startswith("sticky actions")
    assert published["BBF (paper)"][1:4] == ["2.247", "0.917", "–"]  # its IQM is over runs


def test_failed_running_and_dead_runs_are_named_and_never_averaged(tmp_path):
    write(tmp_path, "Pong")
    held(write(tmp_path, "Alien", done=False), state="failed", why="a loss is nan")
    held(write(tmp_path, "Boxing", done=False), state="running")
    held(write(tmp_path, "Krull", done=False), state="stopped", why="it was told to")
    write(tmp_path, "Qbert", done=False)
    summary = summarise(tmp_path)
    assert list(summary["ours"][0]["games"]) == ["Pong"]
    said = {each["game"]: each["status"] for each in summary["others"]}
    assert said["Alien"] == "failed: a loss is nan" and said["Krull"] == "stopped: it was told to"
    assert said["Boxing"].startswith("dead: process 7 on there since noon")
    assert said["Qbert"] == "waiting"
    assert {"Alien", "Boxing", "Krull", "Qbert"} <= set(summary["missing"])


def test_results_of_another_protocol_are_refused_with_what_differs(fails, tmp_path):
    write(tmp_path, "Pong", 0)
    write(tmp_path, "Pong", 1, sticky=0.25, real_steps=300)
    said = fails("report", f"runs={tmp_path}", words=["different protocols", "nano-8-Pong-1"])
    assert "real_steps=300 and 100000" in said and "sticky=0.25 and None" in said


def test_sizes_are_methods_although_they_see_other_frames(tmp_path):
    write(tmp_path, "Pong", size="nano")
    write(tmp_path, "Pong", size="base", side=96, grey=False)
    write(tmp_path, "Pong", size="nano", sims=16)
    names = {method["name"]: method["observations"] for method in summarise(tmp_path)["ours"]}
    assert names == {
        "base": "96 RGB",
        "nano": "64 grey",
        "nano agent.simulations=16": "64 grey",
    }


def test_of_two_runs_of_the_same_game_and_seed_the_newer_counts(tmp_path):
    old = write(tmp_path / "old", score=1.0)
    new = write(tmp_path / "new", score=2.0)
    os.utime(old / "result.json", (1, 1))
    summary = summarise(tmp_path)
    assert [run["path"] for run in summary["ours"][0]["games"]["Pong"]] == [str(new)]
    assert summary["others"][0]["path"] == str(old)
    assert str(new) in summary["others"][0]["status"]


def test_the_verb_writes_markdown_csv_html_and_json(verb, tmp_path):
    write(tmp_path, "Pong", 3, size="nano")
    held(write(tmp_path, "Alien", done=False), state="failed", why="<b>|</b>")
    code, out, err = verb("report", f"runs={tmp_path}")
    assert (code, err) == (0, [])
    assert "1 run of 1 of 26 games, 1 failed" in out and "14.6 (seeds 3)" in out
    page = (tmp_path / "atari100k.html").read_text()
    assert "<svg" in page and "<b>" not in page and "EfficientZero" in page
    text = (tmp_path / "atari100k.md").read_text()
    assert "| Pong | nano (64 grey, 0.1 updates per decision) | 3 | 14.6 |" in text
    with (tmp_path / "atari100k.csv").open() as file:
        rows = list(csv.DictReader(file))
    states = {(row["game"], row["status"]) for row in rows}
    assert {("Pong", "done"), ("Boxing", "missing"), ("Alien", "failed: <b>|</b>")} <= states
    assert sum(row["status"] == "published" for row in rows) == 27 * 26
    assert json.loads((tmp_path / "atari100k.json").read_text())["protocol"]["skip"] == 4
    assert not (tmp_path / "report.html").exists()  # no other runs


def test_one_game_is_no_suite(fails, tmp_path):
    run = write(tmp_path, "Pong")
    fails("report", f"runs={run}", words=[f"{run}: is one run", f"run={run}"])


def test_a_dry_run_is_called_one(verb, tmp_path):
    write(tmp_path, "Pong", real_steps=300)
    assert "Dry run of Atari-100k" in verb("report", f"runs={tmp_path}")[1]


def test_rows_of_a_markdown_table_have_as_many_cells_as_its_head(tmp_path):
    write(tmp_path, "Pong")
    for each in tables(summarise(tmp_path)):
        assert len({line.count("|") for line in markdown(each).splitlines() if "|" in line}) == 1


def test_a_rule_of_the_options_is_a_rule_of_the_environment():
    from dataclasses import fields

    from envs.atari import Rules

    names = {each.name for each in fields(Rules)}
    assert {each.name for each in fields(AtariConfig().protocol)} == names
