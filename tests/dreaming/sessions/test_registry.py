"""A registry: one writer, history that is never rewritten, and errors that leave it as it was."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from dreaming.errors import CheckpointError, RegistryError
from dreaming.sessions.deltas import difference, sha_of
from dreaming.sessions.registry import Registry, _named_by
from dreaming.sessions.store import Head
from dreaming.sessions.units import write_once, write_unit


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a registry but its lock."""
    files = [each for each in path.rglob("*") if each.is_file() and each.name != "lock"]
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


def learn(registry: Registry, params, new, deployment: str = "acme"):
    """A head with new weights in a deployment."""
    with registry.writing() as head:
        sha = registry.put_delta(head, difference(params, new))
        return registry.commit(head, deltas=head.deltas | {deployment: sha}, cause="dream")


def test_what_is_deployed_is_the_base_and_then_the_delta(registry, params, other):
    head = registry.head()
    assert sha_of(registry.weights(head, "acme")) == sha_of(params) == head.base
    before = snapshot(registry.path)
    head = learn(registry, params, other)
    assert sha_of(registry.weights(head, "acme")) == sha_of(other)
    assert sha_of(registry.weights(head, "globex")) == sha_of(params)  # others go on with the base
    after = snapshot(registry.path)
    assert {name: after[name] for name in before} == before and len(after) > len(before)


def test_a_rollback_is_a_new_head_with_the_old_weights(registry, params, other):
    second = learn(registry, params, other)
    third = learn(registry, params, other, "globex")
    before, begun = snapshot(registry.path), time.monotonic()
    back = registry.rollback()
    assert time.monotonic() - begun < 1
    assert (back.number, back.cause, back.to) == (3, "rollback", 1)
    assert back.state == second.state and sha_of(registry.weights(back, "acme")) == sha_of(other)
    assert {name: snapshot(registry.path)[name] for name in before} == before
    # Another step back goes on from there, and not back to what was just taken back.
    assert registry.rollback().to == 0
    assert sha_of(registry.weights(registry.head(), "acme")) == sha_of(params)
    assert registry.rollback(to=third.state[:10]).to == 2
    assert registry.rollback(to=sha_of(other)[:8]).state == third.state
    with pytest.raises(RegistryError, match="3 changes to take back, not 5|2 changes"):
        registry.rollback(steps=5)
    with pytest.raises(RegistryError, match="no head has weights or a state that begin with zzz"):
        registry.rollback(to="zzz")


def test_a_stale_writer_is_refused(registry, params, other):
    seen = registry.head()
    learn(registry, params, other)
    before = snapshot(registry.path)
    with pytest.raises(RegistryError, match=r"head 1 by now \(dream\).* made from head 0"):
        with registry.writing(seen):
            raise AssertionError("a stale writer must not get in")
    assert snapshot(registry.path) == before


def test_a_second_writer_is_told_who_holds_the_lock(registry):
    with registry.writing():
        with pytest.raises(RegistryError, match=f"written by process {os.getpid()} on .* since"):
            Registry(registry.path).rollback()
    with registry.writing():
        pass  # and it is free again


def test_a_delta_for_another_base_is_refused(registry, params, other):
    strange = difference(other, params)
    with registry.writing() as head, pytest.raises(RegistryError, match="a delta for another base"):
        registry.put_delta(head, strange)


def test_a_head_that_names_what_is_not_there_is_refused(registry):
    with registry.writing() as head, pytest.raises(RegistryError, match="is missing"):
        registry.commit(head, deltas={"acme": "0" * 64}, cause="dream")
    assert registry.head().number == 0


def test_a_registry_that_was_copied_in_half_is_seen(registry, params, other, tmp_path):
    learn(registry, params, other)
    learn(registry, params, other, "globex")
    half = lambda name: shutil.copytree(registry.path, tmp_path / name)
    no_about, no_head = half("a"), half("b")
    (no_about / "registry.json").unlink()
    with pytest.raises(RegistryError, match="holds no registry"):
        Registry(no_about)
    shutil.rmtree(no_head / "heads" / "000001")
    with pytest.raises(RegistryError, match="000001 is missing; the registry was copied in half"):
        Registry(no_head).head()
    no_delta = half("c")
    shutil.rmtree(no_delta / "deltas")
    copy = Registry(no_delta)
    with pytest.raises(RegistryError, match="copied in half"):
        copy.weights(copy.head(), "acme")
    no_arrays = half("d")
    (no_arrays / "base" / registry.head().base / "arrays.safetensors").unlink()
    copy = Registry(no_arrays)
    with pytest.raises(RegistryError, match="arrays.safetensors is missing"):
        copy.weights(copy.head(), "acme")


def test_flipped_bits_and_mixed_histories_are_seen(registry, params, other, tmp_path):
    head = learn(registry, params, other)
    arrays = registry.path / "deltas" / head.deltas["acme"] / "arrays.safetensors"
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RegistryError, match="is damaged"):
        registry.weights(head, "acme")
    arrays.write_bytes(whole)
    sibling = Registry(shutil.copytree(registry.path, tmp_path / "sibling"))
    shutil.rmtree(sibling.path / "heads" / "000001")
    with sibling.writing() as first:
        sibling.commit(first, cause="compact")
    learned = shutil.copytree(registry.path, tmp_path / "mixed")
    with registry.writing() as newest:
        registry.commit(newest, cause="compact")
    shutil.copytree(registry.path / "heads" / "000002", learned / "heads" / "000002")
    shutil.rmtree(learned / "heads" / "000001")
    shutil.copytree(sibling.path / "heads" / "000001", learned / "heads" / "000001")
    with pytest.raises(RegistryError, match="mixed from two copies"):
        Registry(learned).heads()


def test_nothing_is_founded_over_what_is_there(registry, params, shape, family):
    with pytest.raises(RegistryError, match="is not empty"):
        Registry.create(registry.path, params, shape, family)


def test_a_failed_write_leaves_the_registry_as_it_was(registry, params, other, monkeypatch):
    before = snapshot(registry.path)
    calls = []

    def full(path, data):
        calls.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreaming.sessions.units.write_file", full)
    with pytest.raises(RegistryError, match="No space left on device; make room"):
        learn(registry, params, other)
    assert calls and snapshot(registry.path) == before  # the fault happened, and left nothing


def test_a_registry_of_a_later_version_is_not_read(registry):
    from dreaming.checkpoint import seal, unseal

    about = registry.path / "registry.json"
    about.write_bytes(seal(unseal(about.read_bytes()) | {"schema_version": 99}))
    with pytest.raises(RegistryError, match="schema version 99"):
        Registry(registry.path)
    about.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(RegistryError, match="damaged"):
        Registry(registry.path)


def test_weights_are_found_by_hash_alone(registry, params, other):
    head = learn(registry, params, other)
    delta = registry.delta(head.deltas["acme"])
    assert delta.result == sha_of(other) == head.weights("acme")
    assert np.isclose(delta.share, difference(params, other).share)
    with pytest.raises(CheckpointError):
        from dreaming.sessions.deltas import apply

        apply(other, delta)


def test_the_base_names_the_state_that_has_nothing_else(registry, params, other):
    learn(registry, params, other)
    assert registry.rollback(to=sha_of(params)).to == 0
    assert registry.head().deltas == {}


def test_digits_that_begin_several_hashes_name_none():
    with pytest.raises(RegistryError, match="begins several hashes .*; give more digits"):
        _named_by([Head(0, "ab" * 32), Head(1, "ab" * 32, {"acme": "ac" * 32})], "a")


def test_the_names_of_new_directories_survive_a_power_cut(tmp_path, monkeypatch):
    synced = []
    for module in ("envs.atomic", "dreaming.sessions.units"):
        monkeypatch.setattr(f"{module}.sync_directory", synced.append)
    write_once(tmp_path / "sessions" / "acme-1" / "session.json", {})
    assert {tmp_path, tmp_path / "sessions", tmp_path / "sessions" / "acme-1"} <= set(synced)
    synced.clear()
    write_unit(tmp_path / "new" / "deltas" / "abc", {})
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "deltas"} <= set(synced)
