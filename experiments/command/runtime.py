"""Process-wide JAX settings. Verbs call `configure` once, before JAX does any work."""

import os
import re
import warnings
from pathlib import Path

# What numbers depend on: the user's environment may say otherwise.
NUMBERS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
}


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
    `platform` is cpu, gpu, tpu or auto. JAX starts here: raises `ConfigError` if it cannot, or if
    it runs otherwise already. Calling it again with the same values is harmless.
    """
    import jax

    if platform == "cpu":  # accelerators are not even looked for: meshes would find them
        jax.config.update("jax_platforms", "cpu")
    _share_out(devices)
    for name, value in NUMBERS.items():
        jax.config.update(name, value)
    jax.config.update("jax_default_matmul_precision", precision)
    cache = default_cache_dir() if cache_dir is None else cache_dir
    jax.config.update("jax_compilation_cache_dir", str(cache) if cache else None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _start(platform)
    # Errors of the cache (incomplete file, full disk) are no failure: programs are compiled anew.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def _share_out(devices: int) -> None:
    """Make so many virtual CPU devices, 0 = two where the machine has two cores."""
    import jax

    from dreaming.errors import ConfigError

    try:
        jax.config.update("jax_num_cpu_devices", devices or min(2, usable_cores()))
    except RuntimeError as error:  # JAX runs already
        if devices and devices != len(jax.devices("cpu")):
            raise ConfigError(
                f"devices={devices} was asked for, but this process began with "
                f"{len(jax.devices('cpu'))}; run such jobs on their own, or in processes of their "
                "own by hydra/launcher=processes"
            ) from error


def _start(platform: str) -> None:
    """Let JAX look for its devices, and compute on those of `platform`."""
    import jax

    from dreaming.errors import ConfigError

    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the second for CUDA that is not installed
        named = os.environ.get("JAX_PLATFORMS", "")
        why = re.split(r"\n| \(set", str(error))[0].rstrip(".")
        raise ConfigError(
            f"JAX cannot start on JAX_PLATFORMS={named}{': ' if why else ''}{why}; unset it, or "
            "name what this machine has (cpu, cuda, tpu)"
        ) from error
    if platform == "cpu" and found != "cpu":
        raise ConfigError(
            f"platform=cpu was asked for, but this process computes on {found} already; run such "
            "jobs on their own, or in processes of their own by hydra/launcher=processes"
        )
    if platform in ("auto", "cpu"):
        return
    try:
        device = jax.devices(platform)[0]
    except RuntimeError as error:
        raise ConfigError(
            f"platform={platform} was asked for, but JAX finds only {found}; install JAX for it "
            "(pip install 'jax[cuda12]' for an NVIDIA GPU), or leave platform=auto"
        ) from error
    jax.config.update("jax_default_device", device)


def default_cache_dir() -> Path | str:
    """The default cache directory: $XDG_CACHE_HOME/dreaming/jax, or ~/.cache/dreaming/jax; "" for
    a user without a home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return "" if home.startswith("~") else Path(home) / "dreaming" / "jax"


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
