"""The verbs of sessions, from an empty directory to a rollback."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dreaming.sessions import learn
from dreaming.sessions.deltas import sha_of
from dreaming.sessions.family import load_family
from dreaming.sessions.learn import decided
from dreaming.sessions.network import ReaderShape, init_reader
from dreaming.sessions.registry import Registry
from dreaming.sessions.teacher_gap import Gap
from experiments.command.cli import main

FAMILY = "family=envs.processes.desk:make_deployment"
TINY = [f"pretrain.{name}=1" for name in ("own_rounds", "layers")]
TINY += ["pretrain.deployments=8", "pretrain.steps=40", "pretrain.updates=20", "pretrain.batch=2"]
TINY += ["pretrain.own_deployments=4", "pretrain.own_updates=20", "pretrain.width=8"]
SHORT = ["self_distil.updates=10", "self_distil.dreams=2", "self_distil.horizon=3"]


@pytest.fixture
def verb(capsys, monkeypatch):
    """Run a verb in this process: (exit code, stdout, stderr)."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*words):
        capsys.readouterr()
        code = main(list(map(str, words)))
        return (code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A registry of desks whose base has learned nothing."""
    family = load_family(FAMILY.partition("=")[2])
    shape = ReaderShape(family.observation.size, 4, 3, width=8, layers=1, heads=2)
    params = jax.jit(init_reader, static_argnums=1)(jax.random.key(0), shape)
    path = tmp_path_factory.mktemp("sessions") / "desks"
    return Registry.create(path, params, shape, family).path


@pytest.fixture
def where(place) -> str:
    return f"registry={place}"


@pytest.mark.slow  # pretraining
def test_a_registry_is_founded_with_a_base(verb, tmp_path):
    path = tmp_path / "desks"
    code, out, err = verb("pretrain", f"registry={path}", FAMILY, *TINY)
    assert code == 0 and f"registry: {path}" in out, err
    registry = Registry(path)
    head = registry.head()
    assert registry.old_dreams(head) is not None and head.report["seed"] == 0
    assert head.base == sha_of(registry.weights(head, "anyone"))


def test_from_a_session_to_weights_and_back(verb, where, place, tmp_path, monkeypatch):
    say = lambda *words: verb(words[0], where, *words[1:])
    code, out, _ = say("session-start", "deployment=7", "consent=true", "steps=40", FAMILY)
    assert code == 0 and "session 7-1, 40 decisions so far" in out
    code, _, err = say("dream", "session=7-1")
    assert (code, err) == (1, "error: session 7-1 is still open; end it first\n")
    assert say("session-end", "session=7-1")[0] == 0
    code, _, err = say("dream", "session=7-1")
    assert code == 1 and "0 sessions of 7 were reviewed, 1 are needed" in err
    assert say("session-review", "session=7-1", "review=up", "score=4")[0] == 0
    yes = Gap(0.3, 0.1, 40, "surely better")
    for name in ("teacher_gap", "student_gain"):
        monkeypatch.setattr(learn, name, lambda *args, **kwargs: yes)
    code, out, err = say("dream", "session=7-1", *SHORT)
    assert code == 0 and "head 1: " in out, err
    code, out, _ = say("compact", "session=7-1", "rows=2")
    assert code == 0 and "2 rows are context" in out
    state = Registry(place).heads()[1].state
    code, out, _ = say("rollback")
    assert code == 0 and state in out
    status, history = tmp_path / "status.json", tmp_path / "history.json"
    code, out, _ = say("session-status", f"json={status}")
    assert "7-1: closed, 40 decisions in 2 days" in out and "up, consent" in out
    assert json.loads(status.read_text())[0]["review"]["score"] == 4
    picture = tmp_path / "history.svg"
    code, out, _ = say("history", f"json={history}", f"picture={picture}")
    lines = out.splitlines()
    assert code == 0 and "from session 7-1 (up)" in out and lines[-1] == "deployed: head 3"
    heads = json.loads(history.read_text())
    assert [each["cause"] for each in heads] == ["start", "dream", "compact", "rollback"]
    assert heads[3]["state"] == state and "<svg" in picture.read_text()[:600]


def test_each_session_of_a_deployment_has_other_items_and_any_score(verb, tmp_path, place):
    where = f"registry={shutil.copytree(place, tmp_path / 'copy')}"
    for _ in range(2):
        assert verb("session-start", where, "deployment=7", "steps=12", FAMILY)[0] == 0
    registry = Registry(tmp_path / "copy")
    one, other = (decided(registry.record(id)).o for id in registry.session_ids("7")[-2:])
    assert np.any(one != other)
    id = registry.session_ids("7")[-1]
    assert verb("session-end", where, f"session={id}")[0] == 0
    code, _, err = verb("session-review", where, f"session={id}", "review=up", "score=nan")
    assert code == 2 and "score must be a finite number" in err
    assert verb("session-review", where, f"session={id}", "review=up", "score=-1")[0] == 0
    assert registry.record(id).summary()["review"]["score"] == -1


@pytest.mark.parametrize(
    "words, code, line",
    [
        (["session-end", "session=9-9"], 1, "has no session 9-9"),
        (["session-review", "session=9-9", "review=splendid"], 2, "choose up or down"),
        (["session-start", "deployment=a/b"], 1, "is no name"),
        (["session-start", "deployment=acme", "steps=5"], 2, "steps= needs family="),
        (["dream", "session=9-9", "rank=2", "share=0.5"], 2, "give one of them"),
        (["dream", "session=9-9", "self_distil.teacher=oracle"], 2, "does not exist"),
        (["dream", "session=9-9", "model.width=3"], 2, "unknown option"),
        (["rollback", "to=abcdef"], 1, "no head has weights or a state that begin with abcdef"),
        (["rollback", "steps=99"], 1, "changes to take back, not 99"),
        (["session-start", "deployment=7", "steps=1", "family=nowhere:f"], 2, "cannot be loaded"),
        (["pretrain"], 2, "is not empty"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(verb, where, words, code, line):
    got, _, err = verb(words[0], where, *words[1:])
    assert (got, err.count("\n")) == (code, 1) and line in err, err


def test_a_directory_without_a_registry_is_told(verb, tmp_path):
    code, _, err = verb("history", f"registry={tmp_path}")
    assert code == 1 and "holds no registry" in err and "dreaming pretrain" in err


def test_a_family_of_other_spaces_does_not_fit(verb, where, tmp_path, monkeypatch):
    (tmp_path / "my_family.py").write_text(
        "import gymnasium\n"
        "def cartpoles(number):\n    return gymnasium.make('CartPole-v1')\n"
        "def mixed(number):\n"
        "    from envs.processes.desk import Desk, make_large\n"
        "    return make_large(number) if number else Desk(0)\n"
        "def pendulums(number):\n    return gymnasium.make('Pendulum-v1')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["session-start", where, "deployment=7", "steps=1"]
    code, _, err = verb(*words, "family=my_family:cartpoles")
    assert code == 1 and "a registry is for one family" in err
    code, _, err = verb(*words, "family=my_family:mixed")
    assert code == 2 and "deployment 7 has the observations" in err
    code, _, err = verb(*words, "family=my_family:pendulums")
    assert code == 2 and "sessions know Discrete actions" in err
    code, _, err = verb("pretrain", f"registry={tmp_path / 'r'}", "family=my_family:cartpoles")
    assert code == 2 and "no right_action" in err
