"""Many runs side by side: what is grouped, what is left out, and numbers worked out by hand."""

import json
import os

import numpy as np
import pytest
import yaml

from experiments.pages.suite import across_tasks, differing, read_runs, summarise
from experiments.pages.suite_report import text


def write_run(root, env="CartPole-v1", seed=0, deployed=100.0, verdict="accept", **options):
    """A finished run with made-up numbers; its directory."""
    score = lambda x: {"mean": x, "iqm": x, "ci": [x - 1, x + 1], "episodes": 9}
    name = "-".join([env.partition("-")[0], str(seed), *map(str, options.values())])
    run = root / name.replace("/", "_")
    run.mkdir(parents=True)
    result = {
        "schema_version": 1,
        "experiment": "dream",
        "env": env,
        "seed": seed,
        "behaviour_return": score(20.0),
        "incumbent_return": score(21.0),
        "candidate_return": score(deployed),
        "deployed_return": score(deployed),
        "dream_return": score(deployed),
        "baselines": {"behaviour_cloning": score(21.0), "conservative_q": None},
        "verdict": verdict,
        "seconds": {"fit": 10.0 + seed, "gate": 1.0},
    }
    config = {"seed": seed, "env": {"id": env, "real_steps": 2000}, "fit": {"steps": 3000}}
    for dotted, value in options.items():
        config[dotted] = value
    (run / "result.json").write_text(json.dumps(result))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_the_scores_of_five_seeds_by_hand(tmp_path):
    for seed, value in enumerate([10.0, 50, 60, 70, 500]):
        write_run(tmp_path, seed=seed, deployed=value, verdict="accept" if seed else "reject")
    [group] = summarise(tmp_path)["groups"]
    deployed = group["returns"]["deployed"]
    assert deployed["iqm"] == 60  # one of five is left out at either end
    assert deployed["mean"] == 138
    assert deployed["worst"] == {"seed": 0, "value": 10}
    assert [point["value"] for point in deployed["points"]] == [10, 50, 60, 70, 500]
    assert deployed["ci"][0] < 60 < deployed["ci"][1]
    assert group["verdicts"] == {"reject": 1, "accept": 4}
    assert group["seconds"] == {"median": 13, "longest": 15}
    assert group["returns"]["baselines/behaviour_cloning"]["iqm"] == 21
    assert "baselines/conservative_q" not in group["returns"]  # never scored


def test_runs_are_grouped_by_task_and_by_the_options_that_differ(tmp_path):
    for seed in (0, 1):
        for teacher in ("search", "one_step"):
            write_run(tmp_path, seed=seed, teacher=teacher, traces=f"logs/seed{seed}")
        write_run(tmp_path, env="MountainCar-v0", seed=seed, teacher="search")
    groups = summarise(tmp_path)["groups"]
    seen = [(group["env"], group["variant"], group["seeds"]) for group in groups]
    assert seen == [
        ("CartPole-v1", {"teacher": "one_step"}, [0, 1]),
        ("CartPole-v1", {"teacher": "search"}, [0, 1]),
        ("MountainCar-v0", {}, [0, 1]),
    ]


def write_online(root, seed, deployed, minutes=0.0):
    """A finished online run: a return of 1 at step 10, of 2 and 4 from step 90 on."""
    run = write_run(root, seed=seed, deployed=deployed, budget_minutes=minutes)
    result = json.loads((run / "result.json").read_text())
    result = {name: x for name, x in result.items() if name not in ("verdict", "baselines")}
    result |= {"experiment": "online", "rounds": 2, "real_steps": 100, "dream_return": None}
    (run / "result.json").write_text(json.dumps(result))
    lines = [{"step": t, "collect/return": r} for t, r in ((10, 1.0), (98, 2.0), (100, 4.0))]
    lines.insert(1, {"step": 50, "learn/loss": 0.1})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_online_runs_are_compared_by_seed_and_shown_by_real_steps(verb, tmp_path):
    write_online(tmp_path, 0, 90.0)
    write_online(tmp_path, 1, 100.0, minutes=3.0)  # stopped on the way: no other way to learn
    code, out, _ = verb("report", f"runs={tmp_path}")
    assert code == 0 and "CartPole-v1 (online)" in out and "2 seeds (0, 1), 100 real steps" in out
    assert "first, random steps" in out and "accepted" not in out
    [group] = json.loads((tmp_path / "summary.json").read_text())["groups"]
    # 40 bins of 2.5 steps each; the episodes at 98 and 100 share the last one.
    [curve, _] = group["learning"]
    assert curve == {"seed": 0, "real_steps": [10, 100], "returns": [1, 3]}
    page = (tmp_path / "report.html").read_text()
    assert "a line per seed" in page and "<dt>accepted" not in page


def test_an_option_that_a_run_does_not_know_is_no_difference(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, newer="yes")
    runs, _ = read_runs(tmp_path)
    assert differing(runs) == []


def test_what_does_not_count_is_named_and_left_out(tmp_path):
    good = write_run(tmp_path, seed=0)
    for name, content in (("damaged", "{"), ("list", "[1]"), ("other", '{"schema_version": 7}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    world = {"schema_version": 1, "experiment": "fit", "env": "CartPole-v1", "seed": 0}
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "result.json").write_text(json.dumps(world))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "metrics.jsonl").write_text("")
    summary = summarise(tmp_path)
    why = {each["path"].rpartition("/")[2]: each["why"] for each in summary["skipped"]}
    assert set(why) == {"damaged", "list", "other", "world", "cut"}
    assert "cannot be read" in why["damaged"] and "schema 7, not 1" in why["other"]
    assert "without a policy" in why["world"] and "unfinished" in why["cut"]
    assert summary["groups"][0]["runs"] == [str(good)]
    assert all(words in text(summary) for words in ("left out: 5", "unfinished"))


def test_of_two_runs_with_the_same_seed_and_options_the_newer_counts(tmp_path):
    old = write_run(tmp_path / "old", deployed=1.0)
    new = write_run(tmp_path / "new", deployed=2.0)
    os.utime(old / "result.json", (1, 1))
    summary = summarise(tmp_path)
    assert summary["groups"][0]["runs"] == [str(new)]
    [skipped] = summary["skipped"]
    assert skipped["path"] == str(old) and str(new) in skipped["why"]


def test_tasks_are_compared_on_the_scale_from_behaviour_to_threshold(tmp_path):
    # CartPole-v1 counts as solved from 475, MountainCar-v0 from -110; the log earned 20.
    for seed in (0, 1):
        write_run(tmp_path, seed=seed, deployed=20 + 455 * 0.5)
        write_run(tmp_path, env="Pendulum-v1", seed=seed)  # has no threshold
        write_run(tmp_path, env="Acrobot-v1", seed=seed)  # whose log is above its threshold
        write_run(tmp_path, env="none", seed=seed)
    [figure] = summarise(tmp_path)["across_tasks"]
    assert figure["tasks"] == ["CartPole-v1"]
    assert set(figure["left_out"]) == {"Pendulum-v1", "Acrobot-v1", "none"}
    assert figure["iqm"] == pytest.approx(0.5) and figure["ci"] == pytest.approx([0.5, 0.5])


def test_the_interval_over_tasks_draws_within_each_task():
    def group(env, low, values):
        points = [{"seed": i, "value": x} for i, x in enumerate(values)]
        returns = {"behaviour": {"mean": low}, "deployed": {"points": points}}
        named = {"experiment": "dream", "env": env, "variant": {}}
        return named | {"returns": returns, "learning": []}

    # Both tasks on the same scale: 0, 0 and 1, 1; the IQM of 0, 0, 1, 1 is 0.5 in every draw.
    cart = group("CartPole-v1", 0, [475.0, 475.0])
    lake = group("FrozenLake-v1", 0, [0.0, 0.0])
    [figure] = across_tasks([cart, lake])
    assert figure["iqm"] == 0.5 and figure["ci"] == [0.5, 0.5]


def test_the_verb_writes_a_page_and_a_summary(verb, tmp_path):
    for seed in range(5):
        write_run(tmp_path, seed=seed, deployed=90.0 + 5 * seed, teacher="<b>")
    write_run(tmp_path, env="none", seed=0, verdict="reject")
    code, out, err = verb("report", f"runs={tmp_path}")
    assert (code, err) == (0, [])
    assert "CartPole-v1 (dream)" in out and "90 (0)" in out and "5 accepted" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    page = (tmp_path / "report.html").read_text()
    assert (
        "<svg" in page and "seed 4" in page and "http://" not in page.replace("http://www.w3", "")
    )
    assert "<b>" not in page
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["groups"]) == 2
    assert verb("report", f"runs={tmp_path}")[0] == 0  # its own files are no runs
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_real_run_is_read_and_drawn_again(verb, tiny_run, tmp_path):
    import shutil

    shutil.copytree(tiny_run, tmp_path / "runs" / "one")
    code, out, _ = verb("report", f"runs={tmp_path}/runs")
    assert code == 0 and "CartPole-v1 (dream)" in out and "1 seed (0)" in out
    page = tmp_path / "runs" / "one" / "report.html"
    before = page.read_text()
    page.unlink()
    assert verb("report", f"run={page.parent}")[:2] == (0, f"{page}\n")
    assert page.read_text() == before
    page.unlink()
    assert verb("report", f"hydra.run.dir={page.parent}")[0] == 0 and page.exists()


def test_what_cannot_be_reported(fails, tiny_run, tmp_path, monkeypatch):
    fails("report", f"runs={tmp_path}/nowhere", words=["nowhere", "no such directory"])
    fails("report", f"runs={tmp_path}", words=[tmp_path, "no finished run"])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yaml").write_text("seed: 0")
    fails("report", f"runs={tmp_path}", words=["no finished run", "unfinished"])
    fails("report", f"runs={tiny_run}", words=["is one run", "run="])
    fails("report", f"run={tmp_path}", words=["no readable result.json"])
    fails("report", "run=a", "runs=b", words=["give one of them"], code=(2,))
    monkeypatch.chdir(tmp_path)
    fails("report", words=["runs: no such directory"])


def test_single_seeds_have_no_width():
    from experiments.pages.suite import over_seeds

    found = over_seeds([3, 4], [None, {"mean": 7.0}])
    assert found is not None and found["ci"] == [7, 7]
    assert found["worst"] == {"seed": 4, "value": 7} and np.isfinite(found["iqm"])
    assert over_seeds([3], [None]) is None
