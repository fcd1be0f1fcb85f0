"""Process-wide JAX settings. Verbs call `configure` once, before JAX does any work."""

import os
import warnings
from pathlib import Path


def configure(
    devices: int = 0,
    cache_dir: str | Path | None = None,
    precision: str | None = None,
    platform: str = "auto",
) -> None:
    """Set devices, compilation cache and matmul precision for this process.

    `devices` is the number of virtual CPU devices, 0 = two where the machine has two cores.
    `cache_dir` keeps compiled programs between processes, None = in the user's cache directory,
    "" = off. `precision` is JAX's default matmul precision, None = as the hardware likes it.
    `platform` is cpu, gpu, tpu or auto; `ConfigError` when it is not there. Calling it again with
    the same values is harmless.
    """
    import jax

    jax.config.update("jax_num_cpu_devices", devices or min(2, usable_cores()))
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_default_matmul_precision", precision)
    cache = default_cache_dir() if cache_dir is None else cache_dir
    jax.config.update("jax_compilation_cache_dir", str(cache) if cache else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if platform != "auto":
        _choose(platform)
    # A kill may leave a program cut short in the cache, a full disk none: it is compiled anew.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _choose(platform: str) -> None:
    """Work on one kind of device, and on nothing else."""
    import jax

    from dreaming.errors import ConfigError

    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        found = jax.default_backend()
        raise ConfigError(
            f"platform={platform} was asked for, but JAX finds only {found}; install JAX for it "
            "(pip install 'jax[cuda12]' for an NVIDIA GPU), or leave platform=auto"
        ) from error
    jax.config.update("jax_default_device", device)


def default_cache_dir() -> Path:
    """Where compiled programs are kept: $XDG_CACHE_HOME/dreaming/jax, or ~/.cache/dreaming/jax."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dreaming" / "jax"


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
