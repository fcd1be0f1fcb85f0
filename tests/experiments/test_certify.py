"""`dreaming certify` on a finished run and on dream files; the certificate in words."""

import json
import shutil

import pytest

from experiments.pages import certificate
from experiments.pages.certificate import lines_of, text
from experiments.pages.run_report import render
from experiments.pages.words import name_of

FIGURES = {"skill_1", "reward_mae", "termination_ece", "coverage_o", "value_equivalence"}


@pytest.fixture
def run_dir(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log that no world has seen."""
    from experiments.command.cli import main

    path = tmp_path_factory.mktemp("new") / "log"
    assert main(["record", f"path={path}", "seed=9", "env.real_steps=150"]) == 0
    return path


def test_a_run_leaves_its_certificate_where_the_report_shows_it(tiny_run):
    written = json.loads((tiny_run / "certificate.json").read_text())
    result = json.loads((tiny_run / "result.json").read_text())
    assert FIGURES <= set(written["figures"])
    assert written["figures"].items() <= result["fidelity"].items()
    assert len(written["policies"]) == 8 and written["env"] == "CartPole-v1"
    page = (tiny_run / "report.html").read_text()
    assert written["sentence"].replace(">", "&gt;") in page
    assert "How far the dream can be trusted" in page and "candidate, 30% uniform" in page


def test_a_finished_run_is_certified_again_with_the_same_figures(run_dir, verb):
    before = (run_dir / "certificate.json").read_text()
    (run_dir / "certificate.json").unlink()
    (run_dir / "report.html").unlink()
    state = sorted(path.name for path in (run_dir / "state").iterdir())
    code, out, _ = verb("certify", f"run={run_dir}", "episodes=3", "dreams=3")
    assert code == 0
    assert json.loads((run_dir / "certificate.json").read_text()) == json.loads(before)
    assert json.loads(before)["sentence"] in out and "skill after 1 step" in out
    assert "How far the dream" in (run_dir / "report.html").read_text()
    assert state == sorted(path.name for path in (run_dir / "state").iterdir())
    assert verb("certify", f"run={run_dir}", "episodes=0", f"path={run_dir}/other.json")[0] == 0
    other = json.loads((run_dir / "other.json").read_text())
    assert other["policies"] == [] and "episodes is 0" in other["missing"]["rank_correlation"]
    assert json.loads((run_dir / "certificate.json").read_text()) == json.loads(before)


def test_a_dream_file_is_certified_on_any_log_of_its_spaces(tiny_run, log, verb, tmp_path):
    world, out = tiny_run / "world.dream", tmp_path / "out.json"
    code, said, _ = verb("certify", f"world={world}", f"traces={log}", f"path={out}")
    assert code == 0 and "no policy was named" in said
    written = json.loads(out.read_text())
    assert FIGURES <= set(written["figures"]) and not written["notes"]
    args = (
        f"world={world}",
        f"policy={tiny_run}/candidate",
        "env=cartpole",
        "episodes=3",
        "dreams=3",
    )
    code, said, _ = verb("certify", *args, f"traces={log}", f"path={out}")
    assert code == 0 and "there is no model at hand that did not plan" in said
    written = json.loads(out.read_text())
    assert len(written["policies"]) == 8
    assert {"exploitation_gap", "candidate_coverage"} <= set(written["figures"])


def test_a_log_that_the_world_has_seen_is_noticed(tiny_run, verb):
    code, out, _ = verb("certify", f"world={tiny_run}/world.dream", f"traces={tiny_run}/traces")
    assert code == 0 and "it has seen them" in out


def test_a_short_log_is_measured_and_said_to_be_short(tiny_run, verb, tmp_path):
    assert verb("record", f"path={tmp_path}/log", "env.real_steps=2")[0] == 0
    code, out, _ = verb("certify", f"world={tiny_run}/world.dream", f"traces={tmp_path}/log")
    assert code == 0 and "the log holds 2 steps" in out and "unknown" in out


def test_what_cannot_be_certified_is_one_line(tiny_run, run_dir, log, fails, verb, tmp_path):
    world = f"world={tiny_run}/world.dream"
    fails("certify", words=("run=", "world="), code=(2,))
    fails("certify", world, f"run={run_dir}", words=("either run=",), code=(2,))
    fails("certify", world, words=("traces=",), code=(2,))
    fails("certify", f"run={run_dir}", f"traces={log}", words=("traces= belongs to world=",))
    fails("certify", f"run={tmp_path}/nothing", words=(tmp_path / "nothing", "directory of a run"))
    fails("certify", f"world={tmp_path}/no.dream", f"traces={log}", words=("no.dream",))
    fails("certify", world, f"traces={tmp_path}/nothing", words=("does not exist",))
    lake = tmp_path / "lake"
    assert verb("record", "env=frozenlake", f"path={lake}", "env.real_steps=50")[0] == 0
    fails("certify", world, f"traces={lake}", words=("Box", "Discrete(16)", "world.dream", lake))
    fails("certify", world, f"traces={log}", "env=frozenlake", words=("FrozenLake", "Discrete(16)"))
    shutil.rmtree(run_dir / "state" / "rehearse")
    fails("certify", f"run={run_dir}", words=("stage rehearse is not finished", run_dir))
    (run_dir / "config.yaml").write_text("no_such_option: 1\n")
    fails("certify", f"run={run_dir}", words=("config.yaml", "no_such_option"))


def test_a_policy_of_another_task_is_refused(tiny_run, log, fails, tmp_path):
    import gymnasium
    import jax
    import numpy as np

    from dreaming.student.network import init_student
    from dreaming.student.policy import Policy, save_policy

    params = init_student(jax.random.key(0), 3, 2, 4, np.zeros(3), np.ones(3))
    spaces = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)
    save_policy(tmp_path / "other", Policy(params, *spaces))
    args = f"world={tiny_run}/world.dream", f"traces={log}", f"policy={tmp_path}/other"
    fails("certify", *args, words=("observation space Box(-1.0", "other", "world.dream"))


def certified(**figures):
    """A certificate with these figures."""
    return {"figures": figures, "missing": {}, "policies": [], "sentence": "Trust <it>."}


def marks(**figures):
    return {label: (mark, value) for mark, label, value, _ in lines_of(certified(**figures))}


def test_marks_follow_the_targets():
    found = marks(skill_1=0.95, skill_15=0.59, termination_ece=0.05, coverage_o=0.96, skill_5=0.1)
    assert found["skill after 1 step"] == ("met", "0.95")
    assert found["skill after 15 steps"][0] == "missed"
    assert found["termination, ECE"][0] == "met"
    assert found["90% coverage, observation"][0] == "missed"
    assert found["skill after 5 steps"] == ("", "0.1")  # there is no target
    assert found["termination, AUROC"][0] == "unknown"
    assert "90% coverage, outcomes" not in found and "probability of what happened" not in found
    assert "alarm" in marks(exploitation_gap=0.26)["exploitation gap / range"][1]
    assert marks(exploitation_gap=-0.3)["exploitation gap / range"] == ("met", "−0.3")


def test_where_chance_decides_no_skill_is_asked_for():
    odds = {"chance_probability": 0.34, "chance_expected": 0.36}
    chancy = marks(skill_1=0.4, value_equivalence=0.2, coverage_set=1.0, **odds)
    assert chancy["value equivalence, error / range"] == ("", "0.2")
    assert chancy["skill after 1 step"] == ("", "0.4")
    assert chancy["probability of what happened"] == ("met", "0.340, expected 0.360")
    assert "90% coverage, observation" not in chancy
    sure = marks(skill_1=0.4, chance_probability=0.9, chance_expected=1.0)
    assert sure["skill after 1 step"][0] == "missed"
    assert sure["probability of what happened"][0] == "missed"


def test_the_rank_is_shown_with_its_interval_and_its_reasons():
    rank = {"rank_correlation": 0.9, "rank_low": 0.5, "rank_high": 1.0, "rank_pairs": 12}
    assert marks(**rank)["policy rank correlation"] == ("met", "0.90 [0.50, 1.00] over 12 pairs")
    missing = certified() | {"missing": {"rank_correlation": "nothing is real"}}
    assert "none: nothing is real" in text(missing)
    names = ("behaviour", "candidate_uniform_0.3", "conservative_q")
    written = ["behaviour in the log", "candidate, 30% uniform", "conservative Q"]
    assert [name_of(name) for name in names] == written


def test_the_report_shows_a_certificate_or_leaves_it_out(run_dir):
    assert certificate.section({}) == ""
    attack = certified(skill_1=None) | {"sentence": "<script>", "notes": ["<b>"]}
    assert "<script>" not in certificate.section(attack) and "<b>" not in attack["sentence"]
    (run_dir / "certificate.json").unlink()
    assert "How far the dream can be trusted" not in render(run_dir).read_text()
