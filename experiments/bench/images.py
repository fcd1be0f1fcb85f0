"""`part=images` of the benchmark: search, updates, reanalysis, acting and dreams of the agent."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import dreaming  # noqa: F401  (registers the tasks)
from dreaming.devices import everywhere, make_mesh, share_out, spread
from dreaming.efficientzero.config import AgentConfig
from dreaming.efficientzero.types import AgentState
from dreaming.flops import count_flops
from dreaming.search.teachers import make_teacher
from envs.real import make_real
from experiments.bench.case import PassingOn, Workload, filled_state
from experiments.bench.clock import timed
from experiments.bench.peak import device_memory, matrix_peak
from experiments.bench.predict import minutes_per_game
from experiments.bench.update import update_figures
from experiments.command.progress import Progress

DREAM_STEPS = 16  # dreamed steps in one program


def measure(case: Workload, progress: Progress) -> dict[str, float]:
    """All figures by flat names that contain their units; `table.py` explains them."""
    with progress.stage("peak"):
        peak = matrix_peak(case.model.compute, case.devices, case.repetitions)
        figures = {"device/peak_flops_per_s": peak}
    with progress.stage("fill"):
        state = filled_state(case)
    with progress.stage("searches", total=3) as stage:
        figures |= search_figures(case, state.params, peak, stage.update)
    with progress.stage("act"):
        figures |= act_figures(case, state)
    with progress.stage("latents"):
        figures |= dream_figures(case, state.params)
    with progress.stage("envs"):
        figures |= env_figures(case)
    with progress.stage("refresh"):
        state, refreshed = refresh_figures(case, state)
        figures |= refreshed
    with progress.stage("learn"):
        state, learned = learn_figures(case, state, peak)
        figures |= learned
    with progress.stage("parts", total=4) as stage:
        whole = 1 / figures["learn/updates_per_s"]
        figures |= update_figures(case, state, whole, stage.update)
    return figures | predicted(case, figures) | memory_figures(case)


def predicted(case: Workload, figures: dict[str, float]) -> dict[str, float]:
    """Minutes of a game with the agent's default schedule, at the rates in `figures`."""
    game = AgentConfig(real_steps=case.config.real_steps, envs=case.config.envs)
    rates = "learn/updates_per_s", "refresh/states_per_s", "act/decisions_per_s"
    minutes = minutes_per_game(game, *(figures[name] for name in rates))
    return {f"predict/{name}": x for name, x in minutes.items()}


def memory_figures(case: Workload) -> dict[str, float]:
    """The peak memory of one device; {} where devices do not report it."""
    held = device_memory(case.devices)
    return {} if held is None else {"device/peak_memory_mb": held}


def ready(function: Callable, *args: Any) -> Callable[[], Any]:
    """`function(*args)` as a call that waits for its results."""
    return lambda: jax.block_until_ready(function(*args))


def shared_out(function: Callable, devices: Sequence[Any], params, *rows: Any) -> Callable:
    """`call()` of `function(params, *rows)`: compiled, its rows shared out over the devices."""
    mesh = make_mesh(devices, len(jax.tree.leaves(rows)[0]))
    params = jax.device_put(params, everywhere(mesh))
    rows = jax.device_put(rows, spread(mesh))
    return ready(jax.jit(functools.partial(share_out, function, mesh)), params, *rows)


def search_figures(case: Workload, params, peak: float, update: Callable) -> dict[str, float]:
    """Rates of searches from latents on all devices and on one, and of `make_network_loop`."""
    rows, budget = case.searches, case.config.search.num_simulations
    keys = jax.random.key_data(jax.random.split(case.key("search"), rows))
    inputs = params, case.latents(rows), keys
    search, bare = make_searcher(case), make_network_loop(case)
    seconds, first = timed(shared_out(search, case.devices, *inputs), case.repetitions)
    update(1)
    alone = seconds
    if len(case.devices) > 1:
        alone, _ = timed(shared_out(search, case.devices[:1], *inputs), case.repetitions)
    update(1)
    least, _ = timed(shared_out(bare, case.devices, *inputs), case.repetitions)
    update(1)
    flops = count_flops(search, *inputs)
    return {
        "search/searches_per_s": rows / seconds,
        "search/simulations_per_s": rows * budget / seconds,
        "search/one_device_searches_per_s": rows / alone,
        "search/speedup": alone / seconds,
        "search/ceiling_searches_per_s": rows / least,
        "search/share_of_ceiling": least / seconds,
        "search/mflops_per_search": flops / rows / 1e6,
        "search/flops_per_s": flops / seconds,
        "search/mfu": flops / seconds / peak,
        "search/compile_s": first,
    }


def make_searcher(case: Workload) -> Callable:
    """`search(params, z, keys) -> (pi_search, v_search)`: the agent's search at latent states, with
    a raw key for each."""
    model, config = case.model, case.config
    teach = make_teacher(model, model.head, config.search, config.discount)

    def search(params, z, keys):
        params = model.lowered(params)
        found = teach(params, z, jax.random.wrap_key_data(keys), config.value_span)
        return found.pi_search, found.v_search

    return search


def make_network_loop(case: Workload) -> Callable:
    """The network calls of a search without its tree: an upper bound on the speed of searches."""
    model, budget = case.model, case.config.search.num_simulations

    def loop(params, z, keys):
        params = model.lowered(params)
        a = jax.nn.one_hot(keys[:, 0] % model.head.size, model.head.size)
        no_code = jnp.zeros(len(a), jnp.int32)

        def step(carry, _):
            z, total = carry
            z, p = model.outcome(params, model.afterstate(params, z, a)[1], no_code)
            # All outputs are used, since XLA drops unused ones.
            return (z, total + p.r + p.continuation + p.v + jnp.sum(p.pi_logits, -1)), None

        v, pi, _ = model.predict(params, z)
        return jax.lax.scan(step, (z, v + jnp.sum(pi, -1)), length=budget)[0][1]

    return loop


def act_figures(case: Workload, state: AgentState) -> dict[str, float]:
    """Rate of decisions: encode the newest frames, search, choose."""
    shape = case.config.envs, case.config.window, *case.frame
    frames = jax.random.bits(case.key("frames"), shape, jnp.uint8)
    tick = jnp.int32(0)
    call = ready(case.agent.act, state.params, state.key, tick, frames, state.updates)
    seconds, first = timed(call, case.repetitions)
    return {"act/decisions_per_s": shape[0] / seconds, "act/compile_s": first}


def dream_figures(case: Workload, params) -> dict[str, float]:
    """Rate of dreamed steps that are not decoded, by the model's policy."""
    model, rows = case.model, case.dreams
    keys = jax.random.key_data(jax.random.split(case.key("dream"), rows))

    def dream(params, z, keys):
        no_code = jnp.zeros(len(keys), jnp.int32)
        params = model.lowered(params)
        _, pi, _ = model.predict(params, z)

        def step(carry, at):
            z, pi, total = carry
            each = jax.vmap(lambda raw: jax.random.fold_in(jax.random.wrap_key_data(raw), at))
            a = model.head.sample(pi, jax.random.key_data(each(keys)))
            z, p = model.outcome(params, model.afterstate(params, z, a)[1], no_code)
            return (z, p.pi_logits, total + p.r * p.continuation), None

        start = z, pi, jnp.zeros(len(keys))
        return jax.lax.scan(step, start, jnp.arange(DREAM_STEPS))[0]

    call = shared_out(dream, case.devices, params, case.latents(rows), keys)
    seconds, first = timed(call, case.repetitions)
    return {"dream/steps_per_s": rows * DREAM_STEPS / seconds, "dream/compile_s": first}


def env_figures(case: Workload) -> dict[str, float]:
    """Rate of real steps of Catch on the host, without networks."""
    tasks = make_real("dreaming/Catch-v0", num_envs=case.config.envs)
    tasks.reset(seed=case.seed)
    tasks.action_space.seed(case.seed)
    actions = tasks.action_space.sample()
    seconds, _ = timed(lambda: tasks.step(actions), case.repetitions)
    tasks.close()
    return {"env/decisions_per_s": case.config.envs / seconds}


def refresh_figures(case: Workload, state: AgentState) -> tuple[AgentState, dict[str, float]]:
    """Rate of reanalysis (`refresh`): stored states encoded and searched."""
    call = PassingOn(case.agent.refresh, state)
    seconds, first = timed(call, case.repetitions)
    rate = case.config.replay.capacity / seconds
    return call.state, {"refresh/states_per_s": rate, "refresh/compile_s": first}


def learn_figures(
    case: Workload, state: AgentState, peak: float
) -> tuple[AgentState, dict[str, float]]:
    """Rate and operations of whole updates, `updates_per_call` in one program."""
    learn, updates, batch = case.agent.learn, case.config.updates_per_call, case.config.replay.batch
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    flops = count_flops(learn, shapes) / updates
    call = PassingOn(lambda state: learn(state)[0], state)
    seconds, first = timed(call, case.repetitions)
    rate = updates / seconds
    return call.state, {
        "learn/updates_per_s": rate,
        "learn/samples_per_s": rate * batch,
        "learn/update_ms": 1e3 / rate,
        "learn/gflops_per_update": flops / 1e9,
        "learn/flops_per_s": flops * rate,
        "learn/mfu": flops * rate / peak,
        "learn/compile_s": first,
    }
