"""How much faster decisions are when the search calls its model once per pass, not per simulation.

python -m experiments.study.passes size=nano batches=1,8,64 simulations=16 considered=4 calls=300

A decision encodes a stack of frames and searches (the agent's own `act`, with fresh weights). Calls
with and without `agent.search.batched_passes` take turns, and the fastest single call of each
counts: it is short enough that another program on the machine has not interrupted it.
"""

import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dreaming.efficientzero.agent import make_agent
from experiments.command import runtime
from experiments.command.options import VerbOptions
from experiments.runs.atari_options import AtariConfig
from experiments.study.options import options

OPTIONS = {"size": "nano", "batches": "1,8,64", "simulations": "16", "considered": "4"}
OPTIONS |= {"actions": "4", "calls": "300"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    if (given := options(argv, OPTIONS)) is None:
        return 2
    runtime.configure(devices=1)
    print("batch  decisions/s one by one, by passes, ratio", flush=True)
    for batch in map(int, given["batches"].split(",")):
        calls = [decide(given, batch, passes) for passes in ("false", "true")]
        alone, batched = (batch / each for each in fastest(calls, int(given["calls"])))
        print(f"{batch:5d}  {alone:9.1f} {batched:9.1f} {batched / alone:6.2f}", flush=True)
    return 0


def decide(given: dict[str, str], batch: int, passes: str) -> Callable[[], object]:
    """A call that takes `batch` decisions."""
    words = [f"size={given['size']}", "game=Breakout", f"agent.search.batched_passes={passes}"]
    words += [f"agent.search.num_simulations={given['simulations']}"]
    words += [f"agent.search.max_considered={given['considered']}"]
    config, _ = VerbOptions("atari100k", AtariConfig).compose(words)
    side, channels = config.protocol.side, 1 if config.protocol.grey else 3
    agent = make_agent(config.agent, (side, side, channels), int(given["actions"]))
    key = jax.random.key(0)
    params = agent.model.init(key)
    frames = jax.random.bits(key, (batch, config.agent.window, side, side, channels), jnp.uint8)
    raw = jax.random.key_data(key)
    return lambda: jax.block_until_ready(agent.act(params, raw, 0, frames, 0))


def fastest(calls: Sequence[Callable], count: int) -> list[float]:
    """Seconds of the fastest of `count` calls of each, after one to warm up."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    for _ in range(count):
        for at, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[at] = min(best[at], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main())
