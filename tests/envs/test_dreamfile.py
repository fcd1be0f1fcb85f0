"""A dream file gives back the same dream bit for bit, and no damage to it is ever silent."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import dreaming
from envs import dreamfile
from envs.dreamfile import load_world, write_dream
from envs.shells import DreamEnv, DreamVectorEnv
from envs.types import DreamFileError

ID = "dreaming/Dream-v0"
make: Any = gymnasium.make


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory):
    """A configuration directory, and so a signing key, of these tests alone."""
    directory = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(directory))
        yield directory


@pytest.fixture(scope="module")
def path(tmp_path_factory, cart, config):
    """A file of the untrained CartPole world."""
    path = tmp_path_factory.mktemp("worlds") / "world.dream"
    write_dream(path, cart)
    return str(path)


def steps(env, num, seed=0):
    """Leaves of all that a vector env shows."""
    random = np.random.default_rng(0)
    seen = [env.reset(seed=seed)]
    seen += [env.step(random.integers(0, 2, env.num_envs)) for _ in range(num)]
    return jax.tree.leaves(seen)


@pytest.mark.parametrize("sampling", ["member", "mixture", "mean"])
def test_a_loaded_world_dreams_the_same_bits(cart, path, sampling):
    memory = DreamVectorEnv(world=cart, num_envs=20, sampling=sampling)
    loaded = DreamVectorEnv(path, num_envs=20, sampling=sampling)
    for expected, got in zip(steps(memory, 15), steps(loaded, 15), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_loaded_model_keeps_the_protocol(cart, path):
    world = load_world(path)
    a, c = np.eye(2, dtype=np.float32)[[0, 1, 1]], np.array([0, 1, 1], np.int32)
    context = jax.tree.map(lambda x: x[:3], cart.starts)

    def walk(model, params):
        z = model.root(params, context)
        code_logits, y = model.afterstate(params, z, a)
        z, step = model.outcome(params, y, c)
        shown = [code_logits, step.r, step.continuation, step.v, step.uncertainty, z.member]
        return [*shown, model.decode(params, z), *model.predict(params, z)]

    expected, got = walk(cart.model, cart.params), walk(world.model, world.params)
    for x, y in zip(expected, got, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-6, atol=1e-6)
    counts = ("num_codes", "num_members", "num_actions", "action_size")
    assert all(getattr(world.model, n) == getattr(cart.model, n) for n in counts)


@pytest.mark.parametrize("name", ["grid", "tuple_grid", "point"])
def test_all_kinds_of_spaces_travel(name, request, tmp_path):
    world = request.getfixturevalue(name)
    write_dream(tmp_path / "world.dream", world)
    loaded = load_world(tmp_path / "world.dream")
    assert (loaded.observation_space, loaded.action_space) == (
        world.observation_space,
        world.action_space,
    )
    model, memory = loaded.model, world.model
    assert (model.num_actions, model.action_size) == (memory.num_actions, memory.action_size)
    space = world.action_space
    actions = [np.stack([space.sample() for _ in range(5)]) for _ in range(6)]
    envs = [DreamVectorEnv(world=each, num_envs=5, horizon=4) for each in (world, loaded)]
    seen = [[env.reset(seed=1), *(env.step(a) for a in actions)] for env in envs]
    for x, y in zip(*map(jax.tree.leaves, seen), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_file_of_before_action_sizes_is_still_read(path, tmp_path, monkeypatch):
    """Files said how many codes and members there are; actions were numbered."""
    real = dreamfile._checked_manifest

    def older(members, trust):
        manifest = real(members, trust)
        sizes = {name: manifest["model"][name] for name in ("num_codes", "num_members")}
        return manifest | {"model": sizes}

    monkeypatch.setattr(dreamfile, "_checked_manifest", older)
    monkeypatch.setattr(dreamfile, "_loaded", {})
    model = load_world(path).model
    assert (model.num_actions, model.action_size) == (2, 2)


def test_loaded_programs_can_be_mapped_by_a_teacher(cart, path):
    world = load_world(path)
    z = world.model.root(world.params, cart.starts)
    a = np.eye(2, dtype=np.float32)[:, None].repeat(40, 1)
    logits = jax.vmap(lambda a: world.model.afterstate(world.params, z, a)[0])(a)
    for i in (0, 1):
        np.testing.assert_array_equal(logits[i], world.model.afterstate(world.params, z, a[i])[0])


def test_the_facts_of_a_world_come_back(cart, path):
    world = load_world(path)
    assert world.observation_space == cart.observation_space
    assert world.action_space == cart.action_space
    assert (world.horizon, world.u_max, world.card) == (20, 0.25, {"what": "a test"})
    np.testing.assert_array_equal(world.initial, cart.initial)
    for x, y in zip(jax.tree.leaves(world.starts), jax.tree.leaves(cart.starts), strict=True):
        np.testing.assert_array_equal(x, y)
    assert load_world(path) is world  # compiled once for all envs of a file


def test_equal_worlds_make_equal_bytes_without_paths_of_this_machine(cart, path, tmp_path):
    write_dream(tmp_path / "again.dream", cart)
    data = (tmp_path / "again.dream").read_bytes()
    with open(path, "rb") as file:
        assert file.read() == data
    assert os.path.dirname(__file__).encode() not in data and b".py" not in data
    assert [p.name for p in tmp_path.iterdir()] == ["again.dream"]


def test_made_by_id(path):
    env = make(ID, path=path, horizon=3)
    assert env.spec is not None
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    for e in (env, again):
        e.reset(seed=1)
        ends = [e.step(0)[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]
    np.testing.assert_array_equal(env.reset(seed=4)[0], again.reset(seed=4)[0])


def test_vectors_made_by_id(path):
    make = lambda mode, **options: gymnasium.make_vec(
        ID, num_envs=4, path=path, vectorization_mode=mode, **options
    )
    ours, sync = make("vector_entry_point"), make("sync")
    assert isinstance(ours.unwrapped, DreamVectorEnv)
    for got, expected in zip(steps(ours, 10), steps(sync, 10), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert ours.spec is not None
    again = gymnasium.make_vec(EnvSpec.from_json(ours.spec.to_json()))
    assert again.num_envs == 4
    same = make("vector_entry_point", autoreset_mode="SameStep")
    assert same.metadata["autoreset_mode"].value == "SameStep"


def test_a_new_env_made_by_id_goes_on_from_a_snapshot(path):
    env, other = (make(ID, path=path) for _ in range(2))
    env.reset(seed=0)
    other.unwrapped.restore(env.unwrapped.snapshot())
    np.testing.assert_array_equal(other.step(1)[0], env.step(1)[0])


def test_another_process_dreams_the_same(path, config):
    code = (
        "import sys, dreaming, gymnasium, hashlib\n"
        f"env = gymnasium.make('{ID}', path=sys.argv[1])\n"
        "o, _ = env.reset(seed=3)\n"
        "print(hashlib.sha256(o.tobytes() + env.step(1)[0].tobytes()).hexdigest())\n"
        "heavy = {'flax', 'optax', 'mctx', 'pyarrow', 'hydra', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(os.path.dirname(dreaming.__file__)),
    ).stdout.split("\n")
    env = DreamEnv(path)
    o, _ = env.reset(seed=3)
    assert out[0] == hashlib.sha256(o.tobytes() + env.step(1)[0].tobytes()).hexdigest()
    assert out[1] == "[]"


# Trust


def test_the_key_is_the_users_own(config, path):
    key = config / "dreaming" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32


def test_a_foreign_file_runs_only_on_trust(path, monkeypatch, tmp_path):
    assert dreaming.load_world(path).horizon == 20
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for _ in ("no key at all", "another key"):
        with pytest.raises(DreamFileError, match="trust=True") as error:
            dreaming.load_world(path)
        assert "\n" not in str(error.value) and path in str(error.value)
        with pytest.raises(DreamFileError):
            gymnasium.make(ID, path=path)
        assert dreaming.load_world(path, trust=True).horizon == 20
        assert DreamEnv(path, trust=True).reset(seed=0)[0].shape == (4,)
        dreamfile._user_key(create=True)


# Damage


def load_fails(path, data, trust=False):
    """The one line that is said of these bytes."""
    path.write_bytes(data)
    with pytest.raises(DreamFileError) as error:
        load_world(path, trust=trust)
    assert "\n" not in str(error.value) and path.name in str(error.value)
    return str(error.value)


def sealed(body):
    """As an attacker would: any bytes before a digest that fits them."""
    return body + hashlib.sha256(body).hexdigest().encode()


def test_no_flipped_bit_and_no_cut_is_silent(path, tmp_path):
    with open(path, "rb") as file:
        whole = file.read()
    random, target = np.random.default_rng(0), tmp_path / "bad.dream"
    for _ in range(300):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        assert bytes(data) != whole
        load_fails(target, bytes(data), trust=True)
    for size in [0, 1, 63, 64, 65, len(whole) - 1, *random.integers(len(whole), size=100)]:
        load_fails(target, whole[:size], trust=True)
    load_fails(target, whole + b"\0", trust=True)


def test_no_change_inside_is_silent_even_under_a_fitting_digest(path, tmp_path):
    with open(path, "rb") as file:
        whole = file.read()
    random, target = np.random.default_rng(1), tmp_path / "bad.dream"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for member in members.values():
        start = whole.index(member)
        for _ in range(10):
            data = bytearray(whole[:-64])
            data[start + random.integers(len(member))] ^= 1 << random.integers(8)
            load_fails(target, sealed(bytes(data)))
    for name, member in members.items():  # and with checksums of the zip that fit, too
        changed = {**members, name: member[:-2] + b"?" + member[-1:]}
        load_fails(target, dreamfile._zip(changed))
        load_fails(target, dreamfile._zip({n: x for n, x in members.items() if n != name}))


def archive_of(entries, **options):
    """A zip with a fitting digest, from (name, bytes) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
        archive.comment = b"0" * 64
    return sealed(buffer.getvalue()[:-64])


def manifest(**changes):
    """A signed manifest of no members."""
    body = {"schema_version": 1, "members": {}, **changes}
    key = dreamfile._user_key(create=True) or b""
    return json.dumps({**body, "signature": dreamfile._signature(body, key)}).encode()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_malice_is_told_in_one_line(path, tmp_path):
    target = tmp_path / "bad.dream"
    say = lambda entries, **options: load_fails(target, archive_of(entries, **options), trust=True)
    for name in ("../up.json", "/root.json", "a/../b.json", "x\\y.json", "programs/step.exe"):
        assert "badly named" in say([(name, b"{}")])
    assert "repeated" in say([("manifest.json", b"{}"), ("manifest.json", b"{}")])
    zipped = {"compression": zipfile.ZIP_DEFLATED}
    assert "compressed" in say([("manifest.json", b"0" * 10_000)], **zipped)
    assert "manifest" in say([])
    for body in (b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"schema_version": {}}'):
        say([("manifest.json", body)])
    assert "schema_version 2" in say([("manifest.json", manifest(schema_version=2))])
    assert "members" in say([("manifest.json", manifest()), ("extra.json", b"{}")])
    say([("manifest.json", manifest())])
    load_fails(target, sealed(b"this is no zip at all"), trust=True)


def test_programs_that_cannot_be_read_are_told(path, tmp_path):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members["programs/decode.jax"] = b"not a program"
    facts = json.loads(members.pop("manifest.json"))
    facts["members"]["programs/decode.jax"] = {
        "sha256": hashlib.sha256(b"not a program").hexdigest(),
        "size": len(b"not a program"),
    }
    data = dreamfile._zip({**members, "manifest.json": json.dumps(facts).encode()})
    assert "programs" in load_fails(tmp_path / "bad.dream", data, trust=True)


def test_a_missing_file_is_told(tmp_path):
    for path in (tmp_path / "none.dream", tmp_path):
        with pytest.raises(DreamFileError, match=str(path)):
            load_world(path)


def test_a_failed_write_leaves_the_old_file(cart, path, monkeypatch):
    with open(path, "rb") as file:
        before = file.read()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            write_dream(path, cart)
    with open(path, "rb") as file:
        assert file.read() == before
    assert os.listdir(os.path.dirname(path)) == ["world.dream"]


def test_a_key_that_cannot_be_kept_is_told_before_a_world_is_fitted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file" / "config"))
    with pytest.raises(DreamFileError, match="cannot keep a signing key at .*set XDG_CONFIG_HOME"):
        dreamfile.check_key()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without a home
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DreamFileError, match="this user has no home directory"):
        dreamfile.check_key()
    assert os.listdir(tmp_path) == ["file"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    dreamfile.check_key()
    key = (tmp_path / "config" / "dreaming" / "key").read_bytes()
    dreamfile.check_key()
    assert len(key) == 32 and (tmp_path / "config" / "dreaming" / "key").read_bytes() == key
