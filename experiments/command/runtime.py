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
    "" = off. `precision` is JAX's default matmul precision, None = the hardware's default.
    `platform` is cpu, gpu, tpu or auto; raises `ConfigError` if it is not available. Calling it
    again with the same values is harmless.
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
    # Errors of the cache (incomplete file, full disk) are no failure: programs are compiled anew.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _choose(platform: str) -> None:
    """Make `platform` the one that JAX computes on.

    With cpu, accelerators are not even looked for: a default device alone would leave them in
    `jax.devices()`, and `jax.default_backend()` would still name them.
    """
    import jax

    from dreaming.errors import ConfigError

    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
        return
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
    """The default cache directory: $XDG_CACHE_HOME/dreaming/jax, or ~/.cache/dreaming/jax."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dreaming" / "jax"


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
