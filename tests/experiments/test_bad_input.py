"""What users get wrong: one clear line, exit code 1 or 2, and nothing that was stored is lost."""

import json
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

from dreaming.metrics import finite
from dreaming.observe.log import Log
from dreaming.student.evaluate import evaluate
from envs.traces import TraceStore
from envs.types import Features, Trace, UserError, action_features
from experiments.logs.reading import factors_hint

EPISODES, STEPS = 10, 8
SPACES = {"text": Dict(a=Discrete(2), said=Text(5)), "nothing": Box(0, 1, (0,))}


class Faulty(gymnasium.Env):
    """A task that goes wrong at step 3 of its second episode, in the way that is asked for."""

    def __init__(self, fault="", **_):
        self.fault, self.episode, self.t = fault, -1, 0
        self.observation_space = SPACES.get(fault, Box(-9, 9, (2,), np.float32))
        self.action_space = {
            "box_action": Box(-1, 1, (2,), np.int64),
            "tuple_action": Tuple([Discrete(2)]),
        }.get(fault, Discrete(2))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        size = 3 if (self.fault, self.episode) == ("shape", 1) else 2
        return np.zeros(size, np.float32), {}

    def step(self, action):
        self.t += 1
        is_now = self.episode == 1 and self.t == 3
        o, r = np.zeros(2, np.float32), float(self.t)
        if is_now and self.fault == "error":
            raise RuntimeError("no connection\nto the host")
        if is_now and self.fault in ("o_nan", "o_infinite"):
            o[1] = {"o_nan": np.nan, "o_infinite": np.inf}[self.fault]
        if is_now and self.fault in ("r_nan", "r_infinite"):
            r = {"r_nan": np.nan, "r_infinite": -np.inf}[self.fault]
        return o, r, self.t == 5, False, {}


@pytest.fixture(scope="module", autouse=True)
def faulty():
    """The faulty task by its id."""
    gymnasium.register("Faulty-v0", Faulty, disable_env_checker=True)
    yield
    del gymnasium.registry["Faulty-v0"]


@pytest.fixture
def place(tmp_path):
    """An override: where a run that should not come far would write."""
    return f"hydra.run.dir={tmp_path}/run"


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OSError), tempfile.TemporaryFile() as file:  # it does happen
            file.write(bytes(size + 1))
            file.flush()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# A task that misbehaves, or that cannot be learned here


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("o_nan", ["episode 1", "observation at step 3", "nan"]),
        ("o_infinite", ["episode 1", "observation at step 3", "inf"]),
        ("r_nan", ["episode 1", "reward at step 2", "nan"]),
        ("r_infinite", ["episode 1", "reward at step 2", "inf"]),
        ("shape", ["episode 1", "observation at step 0", "(3,)", "expected (2,)"]),
        ("error", ["step failed", "RuntimeError: no connection to the host"]),
        ("text", ["observation.said space Text", "supported are Box, Discrete, MultiBinary"]),
        ("nothing", ["observation space Box", "empty"]),
        ("box_action", ["action space Box", "supported are Discrete", "Box of floats"]),
        ("tuple_action", ["action space Tuple", "supported are Discrete"]),
    ],
)
def test_a_task_that_misbehaves(fault, words, fails, place, tmp_path):
    task = ["env=gym", "env.id=Faulty-v0", f"+env.options.fault={fault}"]
    fails("dream", *task, place, words=["Faulty-v0", *words], code=(1,))
    fails("record", *task, f"path={tmp_path}/store", words=["Faulty-v0", *words], code=(1,))


def test_a_recording_that_fails_keeps_what_was_stored(fails, verb, tmp_path):
    store = tmp_path / "store"
    task = ["env=gym", "env.id=Faulty-v0", f"path={store}", "env.real_steps=30"]
    assert verb("record", *task)[0] == 0
    before = TraceStore(store).digest()
    fails("record", *task, "append=true", "+env.options.fault=o_nan", words=["episode 1"])
    assert TraceStore(store).digest() == before and TraceStore(store).num_steps == 30
    TraceStore(store).verify()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["env=gym", "env.id=CartPoll-v1"], ["CartPoll-v1", "not registered", "CartPole-v1"]),
        (["env=gym", "env.id=nowhere/Task-v0"], ["install and import the package", "nowhere/"]),
        (["env=gym"], ["env.id has no value", "add env.id="]),
        (["+env.options.gravty=1"], ["CartPole-v1", "gravty"]),
        (["env.behaviour=half_random"], ["CartPole-v1 comes without a heuristic", "LunarLander"]),
        (["env=none"], ["nothing to record"]),
        (["env.behaviour=randm"], ["env.behaviour=randm", "random, sticky_random", "policy.json"]),
    ],
)
def test_a_task_that_cannot_be(words, expected, fails, place, tmp_path):
    fails("dream", *words, place, words=expected)
    fails("record", *words, f"path={tmp_path}/store", words=expected)
    assert not (tmp_path / "store").exists()


def test_a_return_that_is_not_a_number_stops_the_evaluation():
    """The learned policy meets what the log never met."""
    spaces: Any = {
        "observation": Features(Box(-9, 9, (2,))),
        "action": action_features(Discrete(2)),
    }
    act = lambda context, *_: np.eye(2)[np.zeros(len(context.o), int)]
    for fault, word in (("r_nan", "reward"), ("o_nan", "observation")):
        make = lambda fault=fault: gymnasium.make("Faulty-v0", fault=fault)
        task = make()
        task.reset()
        with pytest.raises(UserError, match=f"Faulty-v0: .*{word} is"):
            evaluate(lambda task=task: task, act, [0], max_steps=9, **spaces)


# A log that is damaged, empty, or not what it claims


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


@pytest.fixture
def store(verb, tmp_path) -> Path:
    """A recorded log."""
    assert verb("record", f"path={tmp_path}/store")[0] == 0
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-30]), ["cut short", "restore"]),
        (lambda file: flip(file, 99), ["rows 0 to", "damaged", "restore"]),
        (lambda file: file.unlink(), ["missing", "restore"]),
    ],
)
def test_a_damaged_store_is_not_learned_from(damage, words, store, fails, place):
    file = store / "segment-000000.parquet"
    damage(file)
    fails("dream", f"traces={store}", place, words=[file, *words], code=(1,))


def test_a_damaged_manifest_is_named(store, fails, place):
    flip(store / "manifest.json", 100)
    fails("dream", f"traces={store}", place, words=[store / "manifest.json", "damaged"], code=(1,))


def test_a_log_that_changes_after_it_was_recorded_stops_the_run(tiny_run, tmp_path, fails):
    run_dir = shutil.copytree(tiny_run, tmp_path / "run")
    flip(run_dir / "traces" / "segment-000000.parquet", 99)
    fails("dream", f"hydra.run.dir={run_dir}", words=["segment-000000.parquet", "damaged"])
    shutil.copytree(tiny_run / "traces", run_dir / "traces", dirs_exist_ok=True)
    trace = next(TraceStore(run_dir / "traces").traces())
    TraceStore(run_dir / "traces").append(trace)
    fails("dream", f"hydra.run.dir={run_dir}", words=["changed since it was recorded"])


def test_a_log_that_is_nowhere_or_empty(fails, place, tmp_path):
    fails("dream", f"traces={tmp_path}/nowhere", place, words=["nowhere", "does not exist"])
    TraceStore(tmp_path / "empty").extend([])
    fails("dream", f"traces={tmp_path}/empty", place, words=["empty store", "dreaming record"])
    fails("dream", f"traces={__file__}", place, words=["test_bad_input.py"])
    words = ["source.uri"]
    fails("dream", "source.name=parquet", place, words=words, code=(2,))
    words = ["give one of them"]
    both = [f"traces={tmp_path}", "source.name=parquet", "source.uri=x"]
    fails("dream", *both, place, words=words, code=(2,))


def test_the_log_of_another_task_is_refused_before_it_is_learned_from(store, fails, place):
    words = ["MountainCar-v0 has the observation space", "the log has"]
    fails("dream", f"traces={store}", "env=mountaincar", place, words=words, code=(2,))


def test_a_context_longer_than_every_episode(store, fails, place):
    words = ["context.window=999", "choose at most"]
    fails("dream", f"traces={store}", "context.window=999", place, words=words, code=(2,))


@pytest.mark.parametrize(("factors", "hint"), [([4, 4, 4], None), ([5, 5, 5], "125 combinations")])
def test_too_many_actions_for_a_product_are_searched_factor_by_factor(factors, hint):
    a = np.zeros((3, 3), int)
    trace = Trace(np.zeros((4, 1), np.float32), a, np.zeros(3), False, True)
    log = Log([trace], Features(Box(-1, 1, (1,))), action_features(MultiDiscrete(factors)))
    said = factors_hint(log)
    assert (said is None) == (hint is None) == (log.head.kind == "discrete")
    assert said is None or f"{hint}" in said and "factor by factor" in said


MAPPING = """
episode: e
observation: o
action: a
reward: r
terminated: d
final: repeat
action_space: {type: Discrete, n: 2, start: 0, dtype: int64}
"""


@pytest.fixture
def learn_from(tmp_path, fails, place):
    """Write a Parquet log with one cell changed, and learn from it: it must fail."""

    def call(*words, row=0, damage=None, **cells):
        t = np.tile(np.arange(STEPS), EPISODES)
        columns = {
            "e": np.repeat(np.arange(EPISODES), STEPS).tolist(),
            "o": [[float(i), float(i % 3)] for i in range(t.size)],
            "a": (t % 2).tolist(),
            "r": (t > 3).astype(float).tolist(),
            "d": (t == STEPS - 1).tolist(),
        }
        for name, value in cells.items():
            columns[name][row] = value
        file = tmp_path / "log.parquet"
        pq.write_table(pa.table(columns), file)
        if damage is not None:
            damage(file)
        (tmp_path / "mapping.yaml").write_text(MAPPING)
        source = ["source.name=parquet", f"source.uri={file}"]
        mapping = f"source.mapping={tmp_path}/mapping.yaml"
        fails("dream", "env=none", *source, mapping, place, words=[file, *words], code=(1,))

    return call


def test_a_users_log_with_a_bad_cell_names_file_episode_and_step(learn_from):
    at = ["row 16: the episode that starts here"]  # the third episode
    learn_from(*at, "observation at step 5", "nan", row=21, o=[1.0, np.nan])
    learn_from(*at, "observation at step 5", "inf", row=21, o=[1.0, np.inf])
    learn_from(*at, "reward at step 5", "nan", row=21, r=np.nan)
    learn_from(*at, "reward at step 5", "inf", row=21, r=-np.inf)
    learn_from(*at, "action at row 5 is 7", "Discrete(2)", row=21, a=7)
    learn_from(*at, "lists of different lengths", row=21, o=[1.0])
    learn_from(*at, "ends at step 5 but has 8 steps", row=21, d=True)


def test_a_users_log_whose_observations_change_shape_between_episodes(learn_from):
    def widen(file):
        table = pq.read_table(file)
        o = [x if i < 40 else [*x, 0.0] for i, x in enumerate(table["o"].to_pylist())]
        pq.write_table(table.set_column(1, "o", pa.array(o)), file)

    learn_from("row 40", "observation at step 0 holds lists of different lengths", damage=widen)


def test_a_users_log_that_is_damaged_or_empty(learn_from):
    learn_from("Parquet", damage=lambda file: file.write_bytes(file.read_bytes()[:300]))
    learn_from("Parquet", damage=lambda file: file.write_bytes(b""))
    empty = lambda file: pq.write_table(pq.read_table(file).slice(0, 0), file)
    learn_from("holds no rows", damage=empty)


# Logs that teach nothing, and runs that nobody can judge


def test_a_log_without_a_termination_runs_to_an_honest_verdict(verb, tmp_path):
    """Every episode is cut by the clock with the same return, and there is no task to ask."""
    log, run_dir = tmp_path / "log", tmp_path / "run"
    assert verb("record", "+env.options.max_episode_steps=5", f"path={log}")[0] == 0
    assert not any(trace.terminated.any() for trace in TraceStore(log))
    code, out, err = verb("dream", "env=none", f"traces={log}", f"hydra.run.dir={run_dir}")
    result = json.loads((run_dir / "result.json").read_text())
    assert (code, err, result["verdict"]) == (0, [], "reject")
    assert "not improvable" in result["reasons"][0] and "not improvable" in out
    assert any("no evidence" in reason for reason in result["reasons"]) and "no evidence" in out
    assert result["candidate_return"] is None
    for name in ("incumbent", "deployed"):  # the process goes on as the log shows it
        assert result[f"{name}_return"] == result["behaviour_return"]
        assert result[f"{name}_return"]["ci"] == [5, 5]
    assert set(result["baselines"].values()) == {None}
    assert result["gate_steps"] == result["evaluation_steps"] == 0
    assert result["dream_return"]["episodes"] == 4
    assert (run_dir / "candidate/policy.json").exists() and (run_dir / "world.dream").exists()
    assert not (run_dir / "policy").exists() and result["deployed_sha256"] is None
    assert result["trial"] is None and not (run_dir / "trials.json").exists()  # nothing was tried


# Options


KNOBS = {
    **dict.fromkeys(["env.real_steps", "fit.batch", "fit.unroll_steps"], (0, -1)),
    **dict.fromkeys(["fit.td_steps", "judge.steps", "model.members"], (0, -1)),
    **dict.fromkeys(["model.window", "model.latent"], (0, -1)),
    **dict.fromkeys(["search.num_simulations", "search.max_considered"], (0, -16)),
    **dict.fromkeys(["rehearse.dreams", "rehearse.horizon", "baselines.batch"], (0, -1)),
    **dict.fromkeys(["rehearse.taught", "distill.minibatches", "distill.width"], (0, -1)),
    **dict.fromkeys(["evaluation.episodes", "evaluation.dreams", "gate.episodes"], (0, -1)),
    **dict.fromkeys(["rehearse.iterations", "baselines.steps", "judge.members"], (-1,)),
    "fit.discount": (1, -0.5, 2),
    **dict.fromkeys(["judge.share", "judge.most", "gate.level"], (0, 1, -0.5, 2)),
    **dict.fromkeys(["fit.learning_rate", "distill.learning_rate"], (0, -1, "nan", "inf")),
    **dict.fromkeys(["search.pessimism", "gate.min_gain", "fit.weight_decay"], (-1, "nan")),
    "model.chance_codes": (-1,),
    "fit.steps": (-1,),
    "search.uniform_share": (-0.1, 1.1),
    "env.switch": (0, 1.5, -1),
    "env.epsilon": (-0.1, 1.5),
    **dict.fromkeys(["rehearse.lam", "rehearse.real"], (-0.1, 1.1)),
    "rehearse.sampling": ("members",),
    "teacher": ("tree",),
    "devices": (-1,),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_out_of_range_is_refused_before_anything_starts(knob, fails, place, tmp_path):
    for value in KNOBS[knob]:
        fails("dream", f"{knob}={value}", place, words=[knob, value], code=(2,))
    assert not (tmp_path / "run").exists()


def test_every_number_of_the_main_job_has_a_least_value():
    """A knob that is added later is checked too: -1 is refused for all but a seed."""
    from experiments.command.options import VerbOptions
    from experiments.config import DreamConfig, _flat

    free, options = {"seed"}, VerbOptions("dream", DreamConfig)
    numbers = [
        name
        for name, value in _flat(options.compose()[0])
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in free
    ]
    assert len(numbers) > 40
    for name in numbers:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            options.compose([f"{name}=-1"])


def test_a_typo_names_what_was_meant(fails, place, capsys):
    from experiments.command.cli import main

    fails("dream", "env.real_stes=3", place, words=["env.real_stes", "'env.real_steps'"], code=(2,))
    fails("record", "apend=true", words=["apend", "'append'"], code=(2,))
    fails("dream", "env=mountncar", place, words=["mountncar", "mountaincar"], code=(2,))
    assert main(["recrod"]) == 2
    assert "did you mean 'record'?" in capsys.readouterr().err


# Places that cannot be written


def test_a_run_directory_of_another_config_is_left_alone(tiny_run, fails):
    before = (tiny_run / "result.json").read_bytes()
    words = [tiny_run, "another configuration", "seed was 0, is 1", "hydra.run.dir"]
    fails("dream", "seed=1", f"hydra.run.dir={tiny_run}", words=words)
    words = ["distill.learning_rate was 0.001, is 0.1"]
    fails("dream", "distill.learning_rate=0.1", f"hydra.run.dir={tiny_run}", words=words)
    assert (tiny_run / "result.json").read_bytes() == before


@pytest.mark.parametrize("name", ["fit", "dream"])
def test_a_home_that_cannot_be_written_is_found_out_first(name, fails, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    place = f"hydra.run.dir={tmp_path}/run"
    fails(name, place, words=["cannot keep a signing key", "XDG_CONFIG_HOME"], code=(1,))
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_a_directory(fails, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    fails("dream", f"hydra.run.dir={file}", words=[file])
    fails("dream", f"hydra.run.dir={file}/run", words=[file])
    fails("record", f"path={file}", words=[file])
    fails("record", f"path={tmp_path}", words=["not empty"], code=(2,))
    assert file.read_text() == "mine"


def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on_later(
    tiny_run, tmp_path, fails, tiny
):
    """The disk is full at another stage each time, until there is room."""
    from experiments import dream

    run_dir = tmp_path / "run"
    largest = max(path.stat().st_size for path in tiny_run.rglob("*") if path.is_file())
    told, kept = [], []
    for size in (300, 3_000, 20_000, largest - 1):
        with largest_file(size):
            told.append(fails("dream", f"hydra.run.dir={run_dir}", words=[run_dir, "too large"]))
        assert "make room" in told[-1]
        kept.append(sorted(path.name for path in run_dir.glob("state/*/[0-9]*")))
        assert not (run_dir / "result.json").exists()
    assert len(set(told)) == len(told)
    assert not kept[0] and len(kept[1]) < len(kept[3])
    assert dream.main([*tiny, f"hydra.run.dir={run_dir}"]) == 0
    ends = [json.loads((path / "result.json").read_text()) for path in (run_dir, tiny_run)]
    assert ends[0]["state_sha256"] == ends[1]["state_sha256"]


def test_a_disk_that_fills_up_keeps_the_log_that_was_recorded(verb, fails, tmp_path):
    path = tmp_path / "store"
    assert verb("record", f"path={path}")[0] == 0
    before = TraceStore(path).digest()
    with largest_file(2_000):
        words = [path, "too large", "what was stored before is intact", "make room"]
        fails("record", f"path={path}", "append=true", words=words, code=(1,))
    assert TraceStore(path).digest() == before
    TraceStore(path).verify()


# Fits that fail


def test_a_loss_that_is_not_a_number_names_itself_and_the_knob():
    assert finite({"fit/loss": np.float32(0.5)}) == {"fit/loss": 0.5}
    for part in ("fit", "distill"):
        with pytest.raises(UserError, match=rf"{part}/loss became nan.*lower {part}.learning_rate"):
            finite({f"{part}/loss": np.float32("nan")})


def test_a_fit_that_diverges_is_one_line_and_its_log_is_kept(fails, tmp_path):
    words = ["fit/", "became nan", "lower fit.learning_rate"]
    fails("dream", "fit.learning_rate=1e30", f"hydra.run.dir={tmp_path}/run", words=words)
    assert [path.parent.name for path in tmp_path.glob("run/state/*/[0-9]*")] == ["record"]
    assert TraceStore(tmp_path / "run" / "traces").num_steps == 200
