"""What is taken out of a run is what was in it, whole, and explains itself."""

import json
import shutil

import gymnasium
import numpy as np
import pytest

import dreaming

FILES = ("policy.json", "student.safetensors")


@pytest.mark.parametrize(
    ("run", "verdict", "policies"),
    [("tiny_run", "reject", ["candidate"]), ("accepted_run", "accept", ["policy", "candidate"])],
)
def test_an_export_holds_the_same_bytes_and_a_model_card(
    run, verdict, policies, verb, tmp_path, request
):
    run_dir = request.getfixturevalue(run)
    code, out, err = verb("export", f"run={run_dir}", f"to={tmp_path}/out")
    assert (code, err) == (0, [])
    there = tmp_path / "out"
    names = {"world.dream", *(f"{policy}/{name}" for policy in policies for name in FILES)}
    found = {str(x.relative_to(there)) for x in there.rglob("*") if x.is_file()}
    assert found == names | {"README.md"}
    for name in names:
        assert (there / name).read_bytes() == (run_dir / name).read_bytes() and name in out
    card = (there / "README.md").read_text()
    result = json.loads((run_dir / "result.json").read_text())
    assert result["verdict"] == verdict
    for words in ("# A dream of CartPole-v1", "Discrete(2)", "500 steps", f"**{verdict}**"):
        assert words in card, words
    standing = {line.split("|")[1].strip(): line for line in card.splitlines() if "/`" in line}
    assert list(standing) == [f"`{policy}/`" for policy in policies]  # which is which
    if verdict == "accept":
        assert f"deployed, `student-{result['deployed_sha256'][:12]}`" in standing["`policy/`"]
        assert "the policy that was tried: accept" in standing["`candidate/`"]
    else:
        assert f"**rejected, not deployed**: {result['reasons'][0]}" in standing["`candidate/`"]
    assert f'load_policy("{policies[0]}")' in card
    for words in ("behaviour cloning", "candidate", "## Fidelity", "gymnasium.make", "trust=True"):
        assert words in card, words
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("run", ["tiny_run", "accepted_run"])
def test_the_code_in_the_model_card_works(run, verb, tmp_path, monkeypatch, request):
    run_dir = request.getfixturevalue(run)
    assert verb("export", f"run={run_dir}", f"to={tmp_path}/out")[0] == 0
    code = (tmp_path / "out" / "README.md").read_text().split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    seen: dict = {}
    exec(code, seen)
    assert seen["env"].observation_space.contains(seen["o"]) and np.isfinite(seen["r"])


def test_one_file_is_the_dream_alone(verb, tiny_fit, tmp_path):
    path = tmp_path / "new" / "cart.dream"
    code, out, _ = verb("export", f"run={tiny_fit}", f"to={path}")
    assert code == 0 and str(path) in out and list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == (tiny_fit / "world.dream").read_bytes()
    gymnasium.make("dreaming/Dream-v0", path=str(path)).reset(seed=0)


def test_a_fit_is_exported_without_a_policy(verb, tiny_fit, tmp_path):
    assert verb("export", f"run={tiny_fit}", f"to={tmp_path}/out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No policy has rehearsed" in card and "load_policy" not in card
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "world.dream"}
    dreaming.load_world(tmp_path / "out" / "world.dream")


def test_what_cannot_be_exported(fails, tiny_run, tmp_path):
    to = f"to={tmp_path}/out"
    fails("export", to, words=["nothing is named; add run="], code=(2,))
    fails("export", f"run={tmp_path}/nowhere", to, words=["nowhere", "holds no world.dream"])
    fails("export", f"run={tiny_run}/candidate", to, words=["candidate", "holds no world.dream"])
    (tmp_path / "mine").write_text("mine")
    for path in ("mine", "."):
        words = ["exists already", "another path"]
        fails("export", f"run={tiny_run}", f"to={tmp_path}/{path}", words=words, code=(2,))
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_damaged_run_leaves_nothing_behind(fails, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    weights = run / "candidate" / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    fails("export", f"run={run}", f"to={tmp_path}/out", words=["damaged"])
    (run / "world.dream").write_bytes((run / "world.dream").read_bytes()[:-1])
    fails("export", f"run={run}", f"to={tmp_path}/out", words=["world.dream", "damaged"])
    fails("export", f"run={run}", f"to={tmp_path}/x.dream", words=["world.dream", "damaged"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
