"""A whole run, made small: what is in its directory, and that outsiders can use what they find."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import dreaming
from dreaming.checkpoint import state_sha256
from dreaming.config import FIRST_SEED, GateConfig, SearchConfig
from dreaming.gate.real import gate_seeds
from dreaming.observe.collect import record
from dreaming.observe.log import Log
from dreaming.world.physics import LearnedPhysics, make_world, world_of
from envs.tabular import TabularModel, from_gym
from envs.traces import TraceStore
from envs.types import Features, action_features
from experiments.command.cli import main
from experiments.pages.strip import dream_strip
from experiments.runs.certificate import CERTIFY_SEED
from experiments.runs.results import REPORT_SEED
from tests.experiments.conftest import BECAUSE
from worldmodels.config import FitConfig, ModelConfig
from worldmodels.fit import init_fit

ROOT = Path(__file__).parents[2]
FILES = {"config.yaml", "metrics.jsonl", "result.json", "report.html", "traces", "world.dream"}
FILES |= {"certificate.json", "figures.json", "candidate", "trials.json", "state"}
KEYS = {
    *("schema_version", "experiment", "env", "seed", "teacher", "real_steps", "gate_steps"),
    *("evaluation_steps", "dream_steps", "search_steps", "behaviour_return", "incumbent_return"),
    *("candidate_return", "deployed_return", "dream_return", "verdict", "reasons", "baselines"),
    *("fidelity", "seconds", "versions", "state_sha256", "round", "trial", "real_episodes"),
    *("gate_episodes", "deployed_sha256", "discount", "logged_steps", "left_out"),
}
RETURNS = ("behaviour", "incumbent", "candidate", "deployed", "dream")
STAGES = {"record", "fit", "judge", "clone", "rehearse", "gate", "evaluate", "certify", "life"}


@pytest.fixture(scope="module")
def result(tiny_run):
    return json.loads((tiny_run / "result.json").read_text())


def stored(tiny_run, stage):
    """The arrays a stage left behind."""
    from safetensors.numpy import load_file

    [unit] = (tiny_run / "state" / stage).iterdir()
    return load_file(unit / "arrays.safetensors")


def test_the_run_directory_holds_what_is_promised(tiny_run):
    assert FILES == {path.name for path in tiny_run.iterdir()}
    assert not list(tiny_run.rglob("*.tmp")) and not list(tiny_run.rglob("unfinished-*"))
    assert TraceStore(tiny_run / "traces").num_steps == 200


def test_the_result_has_exactly_the_promised_keys(result):
    assert set(result) == KEYS
    for name in RETURNS:
        figure = result[f"{name}_return"]
        assert set(figure) == {"mean", "iqm", "ci", "episodes"}
        assert figure["ci"][0] <= figure["mean"] <= figure["ci"][1]
    assert set(result["baselines"]) == {"behaviour_cloning", "conservative_q"}
    assert set(result["seconds"]) == STAGES
    assert all(isinstance(x, float | int) for x in result["fidelity"].values())
    assert result["versions"]["jax"] == jax.__version__
    assert result["verdict"] in ("accept", "reject") and result["reasons"]
    assert (result["schema_version"], result["round"], result["trial"]) == (3, 0, 0)


def test_every_step_is_counted_where_it_was_spent(tiny_run, result):
    gate, report = stored(tiny_run, "gate"), stored(tiny_run, "evaluate")
    played = ~np.isnan(gate["['returns']"])
    assert (played[0] == played[1]).all() and played.sum() == 2 * result["gate_episodes"]
    assert result["gate_episodes"] in GateConfig(episodes=4).looks
    # In CartPole a return is a number of steps.
    assert (gate["['returns']"][played] == gate["['lengths']"][played]).all()
    assert result["gate_steps"] == gate["['lengths']"].sum() > 0
    names = ("['behaviour_cloning']", "['conservative_q']", "['candidate']")
    ranked = stored(tiny_run, "certify")
    assert ranked["['steps']"] == ranked["['real']"].sum() > 0
    evaluated = sum(report[name].sum() for name in names) + ranked["['steps']"]
    assert result["evaluation_steps"] == evaluated
    assert result["real_steps"] == 200
    assert result["dream_steps"] == 4 * 8 * 4
    assert result["search_steps"] == 4 * 8 * 4  # iterations x taught x simulations


def test_the_returns_are_those_of_the_stored_episodes(tiny_run, result):
    report = stored(tiny_run, "evaluate")
    assert result["candidate_return"]["mean"] == pytest.approx(report["['candidate']"].mean())
    assert result["dream_return"]["mean"] == pytest.approx(report["['dream']"].mean())
    closed = [x.rewards.sum() for x in TraceStore(tiny_run / "traces") if not x.is_open]
    assert result["behaviour_return"]["mean"] == pytest.approx(np.mean(closed))
    assert result["behaviour_return"]["episodes"] == len(closed)
    assert result["real_episodes"] == len(TraceStore(tiny_run / "traces"))


def test_the_incumbent_of_round_0_is_the_process_as_it_ran(result):
    """Not a clone of it: its returns are those of the log, and it goes on where nothing passed."""
    assert result["incumbent_return"] == result["behaviour_return"]
    assert result["incumbent_return"] != result["baselines"]["behaviour_cloning"]
    assert result["verdict"] == "reject"
    assert result["deployed_return"] == result["incumbent_return"]
    assert any("the process as it ran" in reason for reason in result["reasons"])


def test_the_log_is_what_the_verb_record_would_have_recorded(tiny_run, tmp_path):
    """`record` and then `dream traces=` learn from the same episodes as `dream` alone."""
    assert main(["record", f"path={tmp_path}/log", "env.real_steps=200"]) == 0
    pairs = zip(TraceStore(tmp_path / "log"), TraceStore(tiny_run / "traces"), strict=True)
    for recorded, learned_from in pairs:
        assert np.array_equal(recorded.observations, learned_from.observations)
        assert np.array_equal(recorded.actions, learned_from.actions)


def test_gate_report_and_certificate_share_no_seed():
    """Not even by a trial of a thousand episodes; a report of 10,000,000 would reach the next."""
    every = []
    for run in range(5):
        for trial in range(20):
            every += gate_seeds(jax.random.key(run), trial, GateConfig(episodes=250).looks[-1])
    assert len(every) == 100 * 1000 and len(set(every)) > 0.98 * len(every)
    assert FIRST_SEED <= min(every) and max(every) < REPORT_SEED < CERTIFY_SEED
    assert len(set(gate_seeds(jax.random.key(0), 0, 10_000))) == 10_000  # within a trial, never


def weights(policy) -> np.ndarray:
    return policy.params["layers"][0]["w"]


def test_a_rejected_candidate_is_kept_and_not_deployed(tiny_run, result):
    assert result["verdict"] == "reject" and result["deployed_sha256"] is None
    assert not (tiny_run / "policy").exists()
    candidate = stored(tiny_run, "rehearse")[".student['layers'][0]['w']"]
    kept = dreaming.load_policy(tiny_run / "candidate")
    assert np.array_equal(weights(kept), candidate)
    assert kept.card["verdict"] == "reject" and kept.card["reasons"] == result["reasons"]
    clone = stored(tiny_run, "clone")["['behaviour_cloning']['layers'][0]['w']"]
    assert not np.array_equal(candidate, clone)


def test_an_accepted_candidate_is_what_is_deployed(accepted_run, tiny_run):
    """The same run, whose gate let everything pass."""
    result = json.loads((accepted_run / "result.json").read_text())
    assert result["verdict"] == "accept" and result["reasons"] == [BECAUSE]
    assert result["deployed_return"] == result["candidate_return"] != result["incumbent_return"]
    candidate = stored(tiny_run, "rehearse")[".student['layers'][0]['w']"]
    for place in ("", "policy", "candidate"):
        policy = dreaming.load_policy(accepted_run / place)
        assert np.array_equal(weights(policy), candidate) and policy.card["reasons"] == [BECAUSE]
        assert policy.name == f"student-{result['deployed_sha256'][:12]}"
    assert (result["trial"], result["gate_episodes"]) == (0, 4)  # the same trial of the same gate
    assert (accepted_run / "trials.json").read_bytes() == (tiny_run / "trials.json").read_bytes()


def test_the_report_is_one_self_contained_page(tiny_run, result):
    page = (tiny_run / "report.html").read_text()
    assert result["verdict"] in page and "http://" not in page.replace("http://www.w3.org", "")
    assert "<img" in page or "<svg" in page
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert {"fit", "judge", "clone", "rehearse"} <= {line["stage"] for line in lines}


def test_the_dream_of_a_run_is_an_ordinary_environment(tiny_run):
    path = str(tiny_run / "world.dream")
    env, real = gymnasium.make("dreaming/Dream-v0", path=path), gymnasium.make("CartPole-v1")
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    first, again = env.reset(seed=7), env.reset(seed=7)
    assert np.array_equal(first[0], again[0])
    assert set(first[1]) == {"uncertainty", "trusted", "member", "action_mask"}
    many = gymnasium.make_vec(
        "dreaming/Dream-v0", num_envs=3, path=path, vectorization_mode="vector_entry_point"
    )
    o, _ = many.reset(seed=7)
    assert np.array_equal(o[0], first[0])
    many.close()


def warnings_of(env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    return {str(each.message) for each in caught}


def test_the_checker_says_nothing_of_the_dream_that_it_does_not_say_of_the_task(tiny_run):
    dreamed = gymnasium.make("dreaming/Dream-v0", path=str(tiny_run / "world.dream"))
    theirs = warnings_of(gymnasium.make("CartPole-v1").unwrapped)
    assert warnings_of(dreamed.unwrapped) <= theirs


def test_the_policy_of_a_run_acts_in_the_real_task_and_in_its_dream(tiny_run):
    policy = dreaming.load_policy(tiny_run / "candidate")
    world = dreaming.load_world(tiny_run / "world.dream")
    real = gymnasium.make("CartPole-v1")
    dreamed = gymnasium.make("dreaming/Dream-v0", path=str(tiny_run / "world.dream"))
    for env in (real, dreamed):
        o, _ = env.reset(seed=1)
        policy.reset()
        for _ in range(3):
            a = policy.act(o, seed=0)
            assert env.action_space.contains(a)
            o, *_ = env.step(a)
    assert real.action_space.contains(policy.act(o, search=True, world=world, seed=0))


def test_the_hash_of_the_state_sees_every_bit(tiny_run):
    arrays = stored(tiny_run, "rehearse")
    before = state_sha256(arrays)
    name = ".student['layers'][0]['w']"
    arrays[name].view(np.uint8).flat[0] ^= 1
    assert state_sha256(arrays) != before


def test_the_first_progress_comes_early_and_help_needs_no_jax():
    code = "import sys\nfrom experiments.dream import main\nassert main(['--help']) == 0\n"
    code += "assert not {'jax', 'flax', 'pyarrow'} & set(sys.modules), 'loaded'"
    begun = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "env.real_steps" in ran.stdout and "hydra.run.dir" in ran.stdout
    assert time.monotonic() - begun < 5  # of which most is Python and Hydra; one second when idle


def test_a_refused_run_leaves_the_config_of_the_one_that_is_there(tiny_run, tiny, tmp_path):
    import shutil

    from experiments import dream

    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run, run_dir)
    before = (run_dir / "config.yaml").read_text()
    assert dream.main([*tiny, "distill.learning_rate=0.3", f"hydra.run.dir={run_dir}"]) == 1
    assert (run_dir / "config.yaml").read_text() == before


def test_the_strip_of_a_discrete_task_shows_its_states():
    task = gymnasium.make("FrozenLake-v1", is_slippery=False)
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(list(record("FrozenLake-v1", "random", 300, 0)), *spaces)
    table = TabularModel(from_gym(task), 0.9)
    strip = dream_strip(make_world(table, table.params, log, 100, {}), log)
    longest = max(log.traces, key=len).observations
    assert strip["names"] == ["state"] and strip["real"][:5] == longest[:5, None].tolist()
    assert strip["dream"][0] == [0] and all(0 <= s < 16 for [s] in strip["dream"])


@pytest.mark.parametrize("window", [1, 3])
def test_the_strip_of_a_report_begins_at_the_real_start(window):
    """A world of any window is shown beside the longest episode."""
    task = gymnasium.make("CartPole-v1")
    spaces = Features(task.observation_space), action_features(task.action_space)
    log = Log(list(record("CartPole-v1", "random", 60, 0)), *spaces)
    physics = LearnedPhysics(ModelConfig(latent=4, width=4, members=2, window=window))
    fit = physics.planner(log)
    learned = init_fit(fit.model, FitConfig(steps=1), fit.scale, jax.random.key(0))
    world = world_of(fit, learned, 500, SearchConfig(), {})
    strip = dream_strip(world, log)
    longest = max(log.traces, key=len)
    assert len(strip["dream"]) == len(strip["real"]) == min(len(longest), 60) + 1
    np.testing.assert_allclose(strip["dream"][0], longest.observations[0], rtol=1e-6)
    assert np.isfinite(strip["dream"]).all()
