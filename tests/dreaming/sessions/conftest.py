"""A small family of desks, an unlearned reader for it, and registries of both."""

import shutil
from typing import Any

import jax
import numpy as np
import pytest

from dreaming.sessions.family import Family, family_of
from dreaming.sessions.network import ReaderShape, init_reader
from dreaming.sessions.registry import Registry
from envs.processes.desk import Desk
from envs.processes.desks import Sizes

SMALL = Sizes(vendors=2, departments=2, amounts=3, code_bits=1)


def make_small(number: int) -> Desk:
    """A desk with few different items."""
    return Desk(number, sizes=SMALL)


@pytest.fixture(scope="session")
def family() -> Family:
    return family_of(make_small, "small")


@pytest.fixture(scope="session")
def shape(family) -> ReaderShape:
    return ReaderShape(family.observation.size, 4, 3, width=8, layers=1, heads=2, features=6)


@pytest.fixture(scope="session")
def params(shape) -> Any:
    return jax.jit(init_reader, static_argnums=1)(jax.random.key(0), shape)


@pytest.fixture(scope="session")
def founded(family, shape, params, tmp_path_factory) -> Registry:
    """A registry that no test writes to."""
    return Registry.create(tmp_path_factory.mktemp("founded") / "registry", params, shape, family)


@pytest.fixture
def registry(founded, tmp_path) -> Registry:
    """A registry of the test's own."""
    shutil.copytree(founded.path, tmp_path / "registry")
    return Registry(tmp_path / "registry")


def work(session: Any, number: int = 1, steps: int = 6, outcomes: bool = True) -> None:
    """Some decisions of a deployment in a session; the day ends with the last one."""
    task = make_small(number)
    o, _ = task.reset(seed=number)
    for t in range(steps):
        a = session.act(o, seed=t)
        o, r, _, _, info = task.step(a)
        seen = {"reward": r, "outcome": info["outcome"]} if outcomes else {}
        session.observe(ended=t == steps - 1, **seen)


@pytest.fixture
def worked() -> Any:
    """The function that works in a session."""
    return work


def changed(params: Any, seed: int = 0, share: float = 0.1) -> Any:
    """Weights of which a share is others."""
    random = np.random.default_rng(seed)

    def change(x):
        x = np.array(x)
        return np.where(random.random(x.shape) < share, x + 1, x).astype(np.float32)

    return jax.tree.map(change, params)


@pytest.fixture
def other(params) -> Any:
    """Other weights than `params`."""
    return changed(params)
