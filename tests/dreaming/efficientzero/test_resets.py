"""What a reset leaves and what begins again; n and discount between two resets, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import SearchConfig
from dreaming.efficientzero.agent import make_agent_model
from dreaming.efficientzero.config import AgentConfig, OptimiserConfig, ReplayConfig, ResetConfig
from dreaming.efficientzero.learner import agent_optimiser
from dreaming.efficientzero.resets import annealed, is_reset_due, reset
from dreaming.efficientzero.search import agent_mesh, make_search
from dreaming.efficientzero.types import AgentState

CONFIG = AgentConfig(
    size="nano",
    window=1,
    bins=11,
    envs=2,
    real_steps=110,
    learn_after=10,
    compute="float32",
    search=SearchConfig(num_simulations=2, max_considered=2),
    replay=ReplayConfig(capacity=8, batch=4),
    reset=ResetConfig(every=20, keep=0.25, anneal=10, td_steps=10, discount=0.97),
    discount=0.997,
)


def at(updates, **fields):
    config = AgentConfig(reset=ResetConfig(**fields), discount=0.997)
    config.target.td_steps = 3
    n, discount = annealed(config, jnp.int32(updates))
    return int(n), float(discount)


@pytest.mark.parametrize("every", [0, 20])
def test_n_and_discount_anneal_by_equal_factors(every):
    found = [at(updates, every=every, anneal=10) for updates in (0, 5, 10, 19)]
    half_way = (5, 1 - np.sqrt(0.03 * 0.003))  # sqrt(10 * 3) = 5.5 would round up, 5.477 does not
    np.testing.assert_allclose(found, [(10, 0.97), half_way, (3, 0.997), (3, 0.997)], rtol=1e-6)
    assert at(20, every=every, anneal=10)[0] == (10 if every else 3)


def test_nothing_anneals_unless_asked():
    config = AgentConfig(reset=ResetConfig(every=20))
    assert annealed(config, jnp.int32(3)) == (config.target.td_steps, config.discount)
    assert config.most_td_steps == 5


def test_no_reset_comes_too_late_to_recover_from():
    assert CONFIG.updates == 100
    assert [u for u in range(101) if is_reset_due(CONFIG, u)] == [20, 40, 60, 80]
    assert not any(is_reset_due(AgentConfig(), u) for u in range(1000))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_heads_begin_again_and_the_rest_is_shrunk(name):
    modules = "encoder", "dynamics", "value_head", "projector"
    params, fresh = ({x: {"kernel": jnp.full(2, value)} for x in modules} for value in (5.0, 1.0))
    opt_state = agent_optimiser(OptimiserConfig(name), 10).init(params)
    used = jax.tree.map(lambda x: x + 7, opt_state)
    nothing: Any = None
    rest = {field: nothing for field in AgentState.__dataclass_fields__}
    after = reset(AgentState(**rest | {"params": params, "opt_state": used}), fresh, keep=0.25)
    expected = {"encoder": 2.0, "dynamics": 2.0, "value_head": 1.0, "projector": 1.0}
    assert {x: after.params[x]["kernel"].tolist() for x in modules} == {
        x: [value] * 2 for x, value in expected.items()
    }
    left = [x for x in jax.tree.leaves(after.opt_state) if np.any(x)]
    assert [int(x) for x in left] == [7]  # the place in the schedule of rates


@pytest.mark.slow
def test_the_search_discounts_as_the_targets_do_in_one_program():
    model = make_agent_model(CONFIG, (16, 16, 1), 2)

    def search_with(**fields):
        config = AgentConfig(**vars(CONFIG) | fields)
        return jax.jit(make_search(model, config, agent_mesh(jax.devices()[:1], config), 0.0))

    noisy = lambda x: x + jnp.asarray(np.random.default_rng(0).normal(0, 0.3, x.shape), x.dtype)
    params = jax.tree.map(noisy, model.init(jax.random.key(1)))
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 1), np.uint8)
    inputs = params, frames, jax.random.key(0), jnp.arange(4)
    annealed: Any = search_with()
    first, last = (annealed(*inputs, jnp.int32(updates)) for updates in (0, 10))
    assert annealed._cache_size() == 1
    fixed = search_with(reset=ResetConfig(), discount=0.97)(*inputs, jnp.int32(0))
    np.testing.assert_allclose(first.v_search, fixed.v_search, atol=1e-5)
    assert np.abs(first.v_search - last.v_search).max() > 1e-4
