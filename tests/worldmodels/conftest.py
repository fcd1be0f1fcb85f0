"""Tiny world models with random weights, and windows of random numbers to feed them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodels.actions import make_head
from worldmodels.config import ModelConfig
from worldmodels.types import Windows
from worldmodels.vectors.contacts import no_contacts
from worldmodels.vectors.family import make_mlp
from worldmodels.vectors.measure import measure_scale

SIZE = {"box": 2, "discrete": 3}  # of an observation


def random_observations(random, shape, kind):
    """Observation features [*shape, O]."""
    if kind == "box":
        return random.normal(size=(*shape, 2)).astype(np.float32) * [1, 5] + [0, 3]
    return np.eye(3, dtype=np.float32)[random.integers(3, size=shape)]


def make_tiny(kind="box", codes=1, window=1, recurrent=False, **model_fields):
    """(model, params): two members; weights are drawn at once, for no compiler to wait for."""
    random = np.random.default_rng(0)
    config = ModelConfig(
        latent=8,
        width=16,
        members=2,
        chance_codes=codes,
        window=window,
        features=4,
        value_bins=11,
        recurrent=recurrent,
    )
    o = random_observations(random, (40,), kind)
    r, ends = list(random.integers(-1, 3, (10, 4)).astype(float)), [k < 4 for k in range(10)]
    is_number = np.full(SIZE[kind], kind == "box")
    rules = {"config": config, "discount": 0.9, "is_number": is_number}
    numbers = o[:, is_number]
    scale = measure_scale(numbers, np.diff(numbers, axis=0), r, ends, **rules)
    parts = (({"box": "box", "discrete": "categorical"}[kind], SIZE[kind]),)
    model = make_mlp(config, parts, make_head((2,), 2), scale)
    blank = jax.eval_shape(lambda: model.init(jax.random.key(0), scale))
    draw = lambda x: random.normal(size=x.shape) * 0.8 / np.sqrt(x.shape[-2] if x.ndim > 1 else 9)
    drawn = lambda tree: jax.tree.map(lambda x: jnp.asarray(draw(x), jnp.float32), tree)
    if model.has_base:
        even = lambda x: jnp.full(SIZE[kind], x)
        known: dict = {"noise": even(1.0), "low": even(-1e9), "high": even(1e9)}
        known |= {"contacts": no_contacts(SIZE[kind])}
        base = drawn(blank["scale"]["base"]) | known
        scale = scale | {"base": base, "share": jnp.full(SIZE[kind], 0.5)}
    return dataclasses.replace(model, **model_fields), {"net": drawn(blank["net"]), "scale": scale}


@pytest.fixture(scope="session")
def tiny():
    """`tiny(kind, codes, ...) -> (model, params)`: far from the start and from each other."""
    return make_tiny


@pytest.fixture(scope="session")
def windows():
    """`windows(model, length) -> Windows` of 3 rows, all of it real and going on."""

    def make(model, length=4, seed=1):
        random = np.random.default_rng(seed)
        rows, steps = (3, length), (3, length - 1)
        kind = {"box": "box", "categorical": "discrete"}[model.parts[0][0]]
        one_hot = lambda shape: np.eye(2, dtype=np.float32)[random.integers(2, size=shape)]
        o = random_observations(random, (*rows, model.window), kind)
        arrays = dict(
            o=o.astype(np.float32),
            a_past=one_hot((*rows, model.window - 1)),
            valid=np.ones((*rows, model.window), bool),
            is_real_o=np.ones(rows, bool),
            is_absorbing=np.zeros(rows, bool),
            a=one_hot(steps),
            r=random.integers(-1, 3, steps).astype(np.float32),
            terminated=np.zeros(steps, bool),
            is_real_step=np.ones(steps, bool),
            pi=one_hot(rows),
            has_pi=np.ones(rows, bool),
            legal=np.ones((*rows, 2), bool),
            member_weights=np.ones((3, 2), np.float32),
            weight=np.ones(3, np.float32),
        )
        return Windows(**{name: jnp.asarray(x) for name, x in arrays.items()})

    return make
