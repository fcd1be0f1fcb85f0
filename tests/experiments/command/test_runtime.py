"""JAX settings of a process: devices, and a cache of compiled programs that survives damage."""

import subprocess
import sys
from pathlib import Path

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
