"""Peaks of a machine: FLOP/s of large matrix products, and the most memory that was held."""

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CHAIN = 4  # products in one program, so that launching it does not count
SIZES = {"cpu": (1024, 2048)}  # rows of the square matrices, by platform
LARGE = (4096, 8192)  # elsewhere


def matrix_peak(
    dtype: str, devices: Sequence[Any], repetitions: int, sizes: Sequence[int] | None = None
) -> float:
    """FLOP/s of all devices together on square matrices of `dtype`: the best of all tries.

    Tried are a product on every device at once, and on the first device alone (which is faster
    where devices share cores).
    """
    sizes = sizes or SIZES.get(devices[0].platform, LARGE)
    groups = [devices] if len(devices) == 1 else [devices, devices[:1]]
    return max(_rate(n, dtype, group, repetitions) for n in sizes for group in groups)


def _rate(n: int, dtype: str, devices: Sequence[Any], repetitions: int) -> float:
    each = PartitionSpec("each")
    mesh = Mesh(np.array(devices), "each")
    # Random numbers: chips multiply zeros and ones with less power, hence faster.
    x = jax.random.normal(jax.random.key(0), (n, n)) / n**0.5
    x = jnp.broadcast_to(x.astype(dtype), (len(devices), n, n))
    x = jax.device_put(x, NamedSharding(mesh, each))

    def chain(x):
        y, _ = jax.lax.scan(lambda y, _: (y @ x[0], None), x[0], length=CHAIN)
        return y[None]

    multiply = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=each, out_specs=each))
    seconds = []
    for _ in range(repetitions + 1):  # the first one compiles
        begun = time.perf_counter()
        jax.block_until_ready(multiply(x))
        seconds.append(time.perf_counter() - begun)
    return len(devices) * CHAIN * 2 * n**3 / min(seconds[1:])


def host_memory() -> float:
    """The most memory that this process ever held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def device_memory(devices: Sequence[Any]) -> float | None:
    """The peak memory of one of the devices in MB; None if no device reports it."""
    stats = [device.memory_stats() for device in devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if each]
    return max(peaks) / 1e6 if peaks else None
