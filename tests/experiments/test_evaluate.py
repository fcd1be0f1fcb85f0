"""The score of a saved policy: the very figures of its run, and nothing for what does not fit."""

import json

import jax
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from dreaming.student.network import init_student
from dreaming.student.policy import Policy, load_policy, save_policy


@pytest.fixture(scope="module")
def result(tiny_run):
    return json.loads((tiny_run / "result.json").read_text())


def test_seed_0_repeats_the_episodes_of_the_report(verb, tiny_run, result, tmp_path):
    words = [f"policy={tiny_run}/candidate", "env=cartpole", f"json={tmp_path}/out.json"]
    code, out, err = verb("evaluate", *words)
    assert (code, err) == (0, [])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["real_return"] == result["candidate_return"]
    # In CartPole a return is a number of steps.
    assert found["real_steps"] == pytest.approx(found["real_return"]["mean"] * 4)
    assert "dream_return" not in found
    assert f"{found['real_return']['mean']:.4g}" in out and "4 episodes of CartPole-v1" in out


def test_a_run_stands_for_what_it_deployed(verb, fails, accepted_run, tiny_run, tmp_path):
    result = json.loads((accepted_run / "result.json").read_text())
    found = []
    for place in (accepted_run, accepted_run / "policy", accepted_run / "candidate"):
        words = [f"policy={place}", "env=cartpole", f"json={tmp_path}/out.json"]
        assert verb("evaluate", *words)[0] == 0
        found.append(json.loads((tmp_path / "out.json").read_text())["real_return"])
    assert found == [result["deployed_return"]] * 3
    reason = json.loads((tiny_run / "result.json").read_text())["reasons"][0]
    for place in (tiny_run, tiny_run / "policy"):
        words = ["nothing is deployed", reason, tiny_run / "candidate"]
        fails("evaluate", f"policy={place}", "env=cartpole", words=words, code=(1,))


def test_another_seed_takes_other_episodes(verb, tiny_run, result, tmp_path):
    words = [f"policy={tiny_run}/candidate", "env=cartpole", "evaluation.episodes=20"]
    means = []
    for seed in (0, 1):
        assert verb("evaluate", *words, f"seed={seed}", f"json={tmp_path}/{seed}")[0] == 0
        means.append(json.loads((tmp_path / str(seed)).read_text())["real_return"]["mean"])
    assert means[0] != means[1]


def test_a_world_scores_it_without_the_task_and_a_sure_policy_scores_the_same_again(
    verb, tiny_run, tmp_path
):
    words = [f"policy={tiny_run}/candidate", f"world={tiny_run}/world.dream"]
    texts = []
    for name in ("one", "two"):
        code, out, err = verb("evaluate", *words, f"json={tmp_path}/{name}")
        assert (code, err) == (0, []) and "4 episodes of" in out and "world.dream" in out
        texts.append((tmp_path / name).read_text())
    found = json.loads(texts[0])
    assert texts[0] == texts[1] and "real_return" not in found
    assert found["dream_return"]["episodes"] == 4 and found["dream_return"]["mean"] > 0


def test_what_does_not_fit_is_one_line(fails, tiny_run, tmp_path):
    mine = f"policy={tiny_run}/candidate"
    fails("evaluate", words=["option policy has no value", "policy=..."], code=(2,))
    fails("evaluate", mine, words=["env=cartpole", "world="], code=(2,))
    fails("evaluate", f"policy={tmp_path}", "env=cartpole", words=[tmp_path, "no policy"])
    words = ["MountainCar-v0 has the observation space", "the policy has"]
    fails("evaluate", mine, "env=mountaincar", words=words, code=(2,))
    fails("evaluate", mine, f"world={tmp_path}/no.dream", words=["no.dream", "No such file"])
    fails("evaluate", mine, "env=cartpole", "evaluation.episodes=0", code=(2,))


def test_a_world_of_another_task_or_window_is_refused(fails, tiny_run, tmp_path):
    cart = load_policy(tiny_run / "candidate")
    world = f"world={tiny_run}/world.dream"
    more = init_student(jax.random.key(0), 4, 3, 8, np.zeros(4), np.ones(4))
    save_policy(tmp_path / "more", Policy(more, cart.observation_space, Discrete(3)))
    words = ["world.dream has the action space Discrete(2)", "Discrete(3)"]
    fails("evaluate", f"policy={tmp_path}/more", world, words=words, code=(2,))
    wide = init_student(jax.random.key(0), 2 * 4 + 2, 2, 8, np.zeros(4), np.ones(4))
    spaces = cart.observation_space, cart.action_space
    save_policy(tmp_path / "wide", Policy(wide, *spaces, window=2))
    words = ["shows 1 observations", "looks at 2"]
    fails("evaluate", f"policy={tmp_path}/wide", world, words=words, code=(2,))
