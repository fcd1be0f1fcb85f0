"""The agent as a whole: cached searches are searches, devices agree, a bad loss changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreaming.config import SearchConfig
from dreaming.efficientzero.agent import check_losses, make_agent, make_agent_model, stream
from dreaming.efficientzero.config import AgentConfig, OptimiserConfig, ReplayConfig, TargetConfig
from dreaming.efficientzero.ring import stacks
from dreaming.efficientzero.search import agent_mesh, make_search, usual_devices
from dreaming.efficientzero.types import Tick
from dreaming.errors import LossError
from dreaming.flops import count_flops

CONFIG = AgentConfig(
    size="nano",
    window=2,
    bins=11,
    unroll_steps=2,
    envs=2,
    real_steps=100,
    learn_after=10,
    updates_per_call=5,
    refresh_batch=8,
    compute="float32",
    search=SearchConfig(num_simulations=2, max_considered=2),
    replay=ReplayConfig(capacity=24, batch=4),
    target=TargetConfig(td_steps=2, every=15),
    # AdamW makes a step of the rounding of a gradient that is 0, as it is before heads are learned.
    optimiser=OptimiserConfig(name="sgd", learning_rate=0.1),
)
TICKS = 10


@pytest.fixture(scope="module")
def agents():
    """An agent on one device and one on two; their functions compile once for all tests."""
    return [make_agent(CONFIG, (16, 16, 1), 3, jax.devices()[:count]) for count in (1, 2)]


@pytest.fixture(params=[0, 1], ids=["one device", "two devices"])
def agent(request, agents):
    return agents[request.param]


@pytest.fixture
def state(agent):
    return lived(agent)


def lived(agent):
    """The state after ten ticks of two environments of random frames; the fourth step of each
    episode terminates it."""
    random, state = np.random.default_rng(0), agent.init(jax.random.key(3))
    # Heads begin at zero: all actions tie, and rounding would choose between them.
    noisy = lambda x: x + random.normal(0, 0.1, x.shape).astype(np.float32)
    params = jax.tree.map(noisy, jax.device_get(state.params))
    state = agent.place(state.replace(params=params))
    for tick in range(TICKS):
        rows = Tick(
            o=random.integers(0, 256, (2, 16, 16, 1), np.uint8),
            a=random.integers(0, 3, 2).astype(np.int32),
            r=random.normal(size=2).astype(np.float32),
            terminated=np.full(2, tick % 5 == 3),
            truncated=np.zeros(2, bool),
            pi_search=np.full((2, 3), 1 / 3, np.float32),
            v_search=np.zeros(2, np.float32),
            v=np.zeros(2, np.float32),
        )
        state = agent.add(state, rows)
    return state


def test_steps_are_counted_without_last_observations(state):
    assert state.real_steps == 2 * 8 and state.ring.added == 2 * TICKS


def test_what_is_cached_is_what_a_search_says(agent, state):
    params, key, ring = jax.tree.map(np.asarray, (state.params, state.key, state.ring))
    state = agent.refresh(state)
    assert state.version == 1 and state.searches == 2 * TICKS
    slots = jnp.arange(2 * TICKS)
    direct = jax.jit(make_search(agent.model, CONFIG, agent_mesh(jax.devices()[:1], CONFIG), 1.0))
    ring = jax.tree.map(jnp.asarray, ring)
    found = direct(params, stacks(ring, slots, 2, 2), stream(key, "refresh", 1), slots, 0)
    cached = lambda name: np.asarray(getattr(state.ring, name))[: 2 * TICKS]
    for name in ("pi_search", "v_search", "v"):
        # A search magnifies the rounding of its values: a softmax of normalised ones, and a visit
        # more or less where two are nearly equal. On one machine a value was 1.3e-4 off.
        atol = 1e-5 if name == "v" else 5e-4
        np.testing.assert_allclose(cached(name), getattr(found, name), atol=atol)
    assert cached("version").tolist() == [1] * 2 * TICKS
    assert not state.ring.version[2 * TICKS :].any()


def test_a_tick_is_the_same_whenever_it_is_acted(agent, state):
    frames = np.random.default_rng(1).integers(0, 256, (2, 2, 16, 16, 1), np.uint8)
    act = lambda tick: agent.act(state.params, state.key, tick, frames, 0)
    one, again, later = act(7), act(7), act(8)
    np.testing.assert_array_equal(one.pi_search, again.pi_search)
    np.testing.assert_array_equal(one.action, again.action)
    assert one.pi_search.shape == (2, 3) and one.action.shape == one.v.shape == (2,)
    np.testing.assert_allclose(jnp.sum(later.pi_search, -1), 1, rtol=1e-5)


def test_params_are_lowered_once_and_not_in_every_simulation():
    config = dataclasses.replace(CONFIG, compute="bfloat16")
    model = make_agent_model(config, (16, 16, 1), 3)
    search = make_search(model, config, agent_mesh(jax.devices()[:1], config), gumbel_scale=1.0)
    params = jax.eval_shape(model.init, jax.random.key(0))
    frames = jnp.zeros((2, 2, 16, 16, 1), jnp.uint8)
    traced = jax.make_jaxpr(search)(params, frames, jax.random.key(0), jnp.arange(2), 0)
    kernels = {x.shape for x in jax.tree.leaves(params) if x.ndim == 4}
    lowered = [inside for inside, shape in casts(traced.jaxpr) if shape in kernels]
    assert lowered and not any(lowered)


def casts(jaxpr, inside=False):
    """(whether it is inside of a loop, shape) of every cast to bfloat16."""
    for equation in jaxpr.eqns:
        if equation.params.get("new_dtype") == jnp.bfloat16:
            yield inside, equation.invars[0].aval.shape
        loops = inside or equation.primitive.name in ("while", "scan")
        for inner in (getattr(x, "jaxpr", x) for x in equation.params.values()):
            if hasattr(inner, "eqns"):
                yield from casts(inner, loops)


def test_learning_needs_few_searches_and_compiles_once(agent, state, caplog):
    before = jax.tree.map(np.asarray, state.params)
    state = agent.refresh(state)
    for call in range(CONFIG.target.every // CONFIG.updates_per_call):
        caplog.clear()
        with jax.log_compiles():
            state, metrics = agent.learn(state)
        check_losses(metrics, int(state.updates))
        assert state.updates == 5 * (call + 1)
        assert call == 0 or "Compiling" not in caplog.text
    assert agent.refresh._cache_size() == 1
    # One search per state and version, where one per sampled position is what it replaces.
    positions = CONFIG.target.every * CONFIG.replay.batch * (CONFIG.unroll_steps + 1)
    assert positions >= 5 * int(state.searches)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), before, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    assert len(set(np.asarray(state.ring.priority[: 2 * TICKS]).tolist())) > 5


def test_as_planned_searches_are_five_times_fewer():
    config = AgentConfig()
    versions = config.updates // config.target.every
    stored = np.linspace(config.learn_after, config.real_steps, versions)
    positions = config.updates * config.replay.batch * (config.unroll_steps + 1)
    assert positions >= 5 * stored.sum()


def test_a_reward_that_is_not_a_number_is_named_and_changes_nothing(agent, state):
    ring = state.ring
    state = state.replace(ring=ring.replace(r=jnp.full_like(ring.r, jnp.nan)))
    before = jax.tree.map(np.asarray, (state.params, state.opt_state, state.ring.priority))
    state, metrics = agent.learn(state)
    after = state.params, state.opt_state, state.ring.priority
    for one, other in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(LossError, match="value_prefix_loss"):
        check_losses(metrics, int(state.updates))


def test_one_and_two_devices_learn_the_same(agents):
    ends = []
    for agent in agents:
        state, metrics = agent.learn(agent.refresh(lived(agent)))
        ends.append(jax.tree.map(np.asarray, (state.params, state.ring, metrics)))
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-4, rtol=1e-4)  # searches magnify rounding


def test_late_unrolls_and_sequences_cost_what_they_should():
    """Nothing is compiled: the operations of an update are counted."""

    def counted(name="learn", **fields):
        agent = make_agent(dataclasses.replace(CONFIG, **fields), (16, 16, 1), 3, jax.devices()[:1])
        return count_flops(getattr(agent, name), jax.eval_shape(agent.init, jax.random.key(0)))

    plain, late = counted(), counted("learn_late", late_unroll_steps=4)
    assert counted(unroll_steps=4) == late > 1.4 * plain
    model = make_agent(CONFIG, (16, 16, 1), 3, jax.devices()[:1]).model
    params = jax.eval_shape(model.init, jax.random.key(0))
    frames = jax.ShapeDtypeStruct((1, CONFIG.window, 16, 16, 1), np.uint8)
    encode = CONFIG.updates_per_call * count_flops(model.encode, params, frames)
    saved = (4 - 2) * CONFIG.unroll_steps * encode  # 4 windows in 2 sequences
    in_sequences = counted(replay=ReplayConfig(capacity=24, batch=4, sequence=2))
    assert in_sequences == pytest.approx(plain - saved, rel=0.01) and saved > 0.02 * plain


def test_small_networks_take_one_of_two_cpus():
    of = lambda size: usual_devices(dataclasses.replace(CONFIG, size=size))
    assert len(of("base")) == jax.device_count() == 2
    assert of("nano") == of("small") == jax.devices()[:1]


def test_the_mesh_takes_as_many_devices_as_share_evenly():
    odd = dataclasses.replace(CONFIG, refresh_batch=7)
    assert agent_mesh(jax.devices(), CONFIG).size == 2 and agent_mesh(jax.devices(), odd).size == 1
