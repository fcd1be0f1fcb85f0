"""JAX settings of a process: devices, and a cache of compiled programs that survives damage."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dreaming.errors import ConfigError
from experiments.command import runtime

PROGRAM = """
import sys, warnings
warnings.simplefilter("error")
from experiments.command.runtime import configure
configure(devices=3, cache_dir=sys.argv[1])
import jax
print(jax.device_count(), jax.jit(lambda x: x * 2 + 1)(20.5))
configure(devices=3, cache_dir=sys.argv[1])
"""


def run(cache: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, str(cache)]
    return subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )


def test_compiled_programs_are_kept_and_a_damaged_one_is_compiled_anew(tmp_path):
    assert run(tmp_path).stdout == "3 42.0\n"
    kept = sorted(tmp_path.glob("*-cache"))
    assert kept
    assert run(tmp_path).stdout == "3 42.0\n"
    assert sorted(tmp_path.glob("*-cache")) == kept  # the second process compiled nothing new
    for path in kept:
        path.write_bytes(path.read_bytes()[:20])
    again = run(tmp_path)
    assert (again.stdout, again.stderr) == ("3 42.0\n", "")


def test_with_platform_cpu_no_other_devices_are_seen():
    program = (
        "from experiments.command.runtime import configure; configure(platform='cpu', cache_dir='')"
        "; import jax; print(jax.config.jax_platforms, jax.default_backend())"
    )
    command, root = [sys.executable, "-c", program], Path(__file__).parents[3]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout == "cpu cpu\n"


def test_the_cache_lives_in_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.default_cache_dir() == tmp_path / "dreaming" / "jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert runtime.default_cache_dir() == tmp_path / "home" / ".cache" / "dreaming" / "jax"


CONFIGURE = "from experiments.command.runtime import configure; configure({}, cache_dir='')"
SETTINGS = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
}


def in_python(code: str, **env: str) -> subprocess.CompletedProcess:
    """A fresh process with these environment variables."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, text=True)


def test_numbers_do_not_depend_on_the_users_settings_of_jax():
    draw = "; import jax, jax.numpy as jnp; key = jax.random.key(3)"
    draw += "; print(jax.random.normal(key, 3).tolist(), key.dtype, jnp.arange(2).dtype)"
    code = CONFIGURE.format("devices=0") + draw
    plain, other = in_python(code), in_python(code, **SETTINGS)
    assert "fry" in plain.stdout and other.stdout == plain.stdout, other.stderr
    # The comparison can fail: without `configure` they do matter.
    bare = in_python(draw.lstrip("; "), **SETTINGS).stdout
    assert "rbg" in bare and "int64" in bare


@pytest.mark.parametrize(
    ("name", "platforms"), [("fit", "gup"), ("dream", "rocm"), ("online", "cpux,cpu")]
)
def test_a_platform_that_is_not_there_is_told_before_anything_is_made(name, platforms, tmp_path):
    code = "from experiments.command.cli import main; "
    code += f"raise SystemExit(main(['{name}', 'hydra.run.dir={tmp_path}/run']))"
    ran = in_python(code, JAX_PLATFORMS=platforms)
    told = f"error: JAX cannot start on JAX_PLATFORMS={platforms}: "
    assert ran.returncode == 2 and ran.stderr.startswith(told), ran.stderr
    assert len(ran.stderr.splitlines()) == 1 and "unset it" in ran.stderr
    assert not (tmp_path / "run").exists()


def test_what_jax_began_with_is_not_changed_in_silence():
    later = "; configure(devices=3, cache_dir='')"
    ran = in_python(CONFIGURE.format("devices=2") + "; configure(cache_dir='')" + later)
    assert "ConfigError: devices=3 was asked for, but this process began with 2" in ran.stderr


def test_with_platform_cpu_after_another_one_a_process_says_so(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(ConfigError, match="platform=cpu was asked for, .* computes on gpu already"):
        runtime.configure(platform="cpu")


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for an unknown user
    assert runtime.default_cache_dir() == ""
