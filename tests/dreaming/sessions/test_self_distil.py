"""The loss of self-distillation: each of its options has an effect, and what it may not touch."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from dreaming.errors import TraceError
from dreaming.sessions.config import SelfDistilConfig
from dreaming.sessions.network import init_reader
from dreaming.sessions.self_distil import distil_loss, transitions
from dreaming.sessions.teachers import advise, without_rows
from dreaming.sessions.types import Memory, OldDreams, Walk, rows_of

PLAIN = SelfDistilConfig(retention=0.0)


@pytest.fixture(scope="module")
def student(shape):
    """Weights whose answers are far from uniform."""
    params = jax.jit(init_reader, static_argnums=1)(jax.random.key(1), shape)
    return jax.tree.map(lambda x: 4 * np.asarray(x), params)


@pytest.fixture(scope="module")
def walk(shape) -> Walk:
    """Three steps of two days, with a teacher that knows its mind."""
    random = np.random.default_rng(0)
    hot = lambda n: np.eye(n, dtype=np.float32)[random.integers(n, size=(3, 2))]
    advice = 2 * random.normal(size=(3, 2, 4)).astype(np.float32)
    advice = np.asarray(jax.nn.log_softmax(advice))
    q = random.random((3, 2, 4)).astype(np.float32)
    fields: dict[str, Any] = {"o": hot(shape.o_size), "a": hot(4), "advice": advice, "q": q}
    return Walk(**fields)


@pytest.fixture(scope="module")
def old(shape) -> OldDreams:
    random = np.random.default_rng(1)
    hot = lambda n, *size: np.eye(n, dtype=np.float32)[random.integers(n, size=size)]
    rows = rows_of(
        {
            "o": hot(shape.o_size, 2, 5),
            "a": hot(4, 2, 5),
            "r": np.ones((2, 5), np.float32),
            "known": np.ones((2, 5), bool),
            "outcome": np.zeros((2, 5), int),
            "day": np.zeros((2, 5), int),
            "valid": np.ones((2, 5), bool),
        }
    )
    log_pi = np.full((2, 3, 4), np.log(0.25), np.float32)
    fields: dict[str, Any] = {"o": hot(shape.o_size, 2, 3), "log_pi": log_pi}
    fields["weight"] = np.ones((2, 3), np.float32)
    return OldDreams(rows=rows, **fields)


@functools.partial(jax.jit, static_argnums=(1, 4))
def loss(params, shape, walk, old, config):
    return distil_loss(params, shape, walk, old, config)


OPTIONS = {"alpha": 0.0, "clip": 0.05, "step": 0.01, "gap": 1.0, "regret": 0.1}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_loss_has_its_effect(name, student, shape, walk):
    plain, metrics = loss(student, shape, walk, None, PLAIN)
    changed, _ = loss(
        student, shape, walk, None, dataclasses.replace(PLAIN, **{name: OPTIONS[name]})
    )
    assert np.isfinite(plain) and abs(changed - plain) > 1e-4
    assert set(metrics) == {"self_distil/divergence"}
    if name in ("clip", "step"):
        assert changed < plain  # both take something away


def test_old_dreams_without_weight_keep_nothing_and_break_nothing(student, shape, walk, old):
    none = dataclasses.replace(old, weight=np.zeros((2, 3), np.float32))
    total, metrics = loss(student, shape, walk, none, dataclasses.replace(PLAIN, retention=1.0))
    assert metrics["self_distil/retention"] == 0 and np.isfinite(total)


def test_retention_adds_the_divergence_from_the_base_on_old_dreams(student, shape, walk, old):
    plain, _ = loss(student, shape, walk, old, PLAIN)
    once, metrics = loss(student, shape, walk, old, dataclasses.replace(PLAIN, retention=1.0))
    kept = metrics["self_distil/retention"]
    assert kept > 0.01
    np.testing.assert_allclose(once - plain, kept, rtol=1e-4)
    half = dataclasses.replace(old, weight=np.array([[1, 0, 0], [0, 0, 0]], np.float32))
    _, other = loss(student, shape, walk, half, dataclasses.replace(PLAIN, retention=1.0))
    assert abs(other["self_distil/retention"] - kept) > 1e-4


def test_a_student_that_agrees_has_nothing_to_learn(student, shape, walk):
    pi = jax.nn.log_softmax(jax.jit(without_rows, static_argnums=1)(student, shape, walk.o))
    same = dataclasses.replace(walk, advice=np.asarray(pi))
    value, _ = loss(student, shape, same, None, PLAIN)
    assert abs(float(value)) < 1e-6


def test_teachers_differ_as_they_are_said_to(student, shape):
    random = np.random.default_rng(0)
    size = (5, 3, shape.layers, shape.heads, shape.width // shape.heads)
    draw = lambda: random.normal(size=size).astype(np.float32)
    memory = lambda *arrays: Memory(*arrays)
    some, none = (memory(draw(), draw(), np.full((5, 3), x)) for x in (True, False))
    o = np.eye(shape.o_size, dtype=np.float32)[:5]
    ask = jax.jit(advise, static_argnums=1, static_argnames=("kind", "temperature"))
    told = lambda memory, kind, t=0.1: ask(student, shape, memory, o, kind=kind, temperature=t)
    context, q = told(some, "context")
    alone, _ = told(none, "context")
    step, _ = told(some, "one_step")
    both, _ = told(some, "combined")
    normal = lambda x: np.asarray(jax.nn.log_softmax(x))
    np.testing.assert_allclose(both, normal(context + q / 0.1), atol=1e-4)
    np.testing.assert_allclose(step, normal(alone + q / 0.1), atol=1e-4)
    assert not np.allclose(context, alone, atol=1e-3)
    assert not np.allclose(both, told(some, "combined", 1.0)[0], atol=1e-3)


def test_only_decisions_of_a_day_follow_each_other(shape):
    o = np.eye(shape.o_size, dtype=np.float32)[:5]
    rows = rows_of(
        {
            "o": o,
            "a": np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]],
            "r": np.zeros(5, np.float32),
            "known": np.ones(5, bool),
            "outcome": np.zeros(5, int),
            "day": np.array([0, 0, 1, 1, 2]),
            "valid": np.ones(5, bool),
        }
    )
    before, a, after = transitions(rows)
    assert before.argmax(1).tolist() == [0, 2] and after.argmax(1).tolist() == [1, 3]
    assert a.argmax(1).tolist() == [0, 2]
    with pytest.raises(TraceError, match="no two decisions in a row"):
        transitions(dataclasses.replace(rows, day=np.arange(5)))
