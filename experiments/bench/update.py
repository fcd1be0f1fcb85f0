"""Time of each part of an update: the learner's functions, compiled and timed one by one.

In the real update the parts are one program, so their sum is not exactly the whole; the ratio is a
figure, too (`update/parts_over_whole`).
"""

from collections.abc import Callable

import jax

from dreaming.devices import make_mesh, spread
from dreaming.efficientzero.learner import make_follow, make_gradient, make_sample, store
from dreaming.efficientzero.types import AgentState
from experiments.bench.case import Workload
from experiments.bench.clock import timed


def update_figures(
    case: Workload, state: AgentState, whole: float, update: Callable
) -> dict[str, float]:
    """Milliseconds and share of each part; `whole` is the seconds of an update in one program.

    `state` is not donated, so it stays usable.
    """
    config, keys = case.config, jax.random.split(case.key("sample"), 4)
    mesh = make_mesh(case.batch_devices, config.replay.batch)
    share = lambda batch: jax.lax.with_sharding_constraint(batch, spread(mesh))
    sample, follow = jax.jit(make_sample(config)), jax.jit(make_follow(config))
    gradient, keep = jax.jit(make_gradient(case.model, config, share)), jax.jit(store)
    drawn = sample(state, keys[0], keys[1])
    learned = gradient(state, drawn.batch, keys[2], keys[3])
    calls = {
        "sample": lambda: sample(state, keys[0], keys[1]),
        "forward_backward": lambda: gradient(state, drawn.batch, keys[2], keys[3]),
        "optimiser": lambda: follow(state, learned.grads),
        "priorities": lambda: keep(state, drawn, learned.priorities),
    }
    seconds = {}
    for name, call in calls.items():
        waits = lambda call=call: jax.block_until_ready(call())
        seconds[name] = timed(waits, case.repetitions)[0]
        update(1)
    total = sum(seconds.values())
    return (
        {f"update/{name}_ms": 1e3 * each for name, each in seconds.items()}
        | {f"update/{name}_share": each / total for name, each in seconds.items()}
        | {"update/parts_over_whole": total / whole}
    )
