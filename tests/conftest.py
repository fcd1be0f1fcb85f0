"""How the tests run: two CPU devices, no silent rank promotion, checked shapes, slow ones apart."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from experiments.command import runtime

ROOT = Path(__file__).parents[1]

runtime.configure(devices=2)
os.environ.setdefault("MPLBACKEND", "Agg")
settings.register_profile("project", deadline=None, derandomize=True)  # the first call compiles
settings.load_profile("project")


def checked_modules(root: Path) -> list[str]:
    """Modules whose jaxtyping annotations are checked: those that hold functions.

    Containers (`types.py`, `networks.py`) are rebuilt with placeholders under vmap and would be
    refused; in modules with postponed annotations there is nothing to check.
    """
    names = []
    for path in sorted([*root.glob("dreaming/**/*.py"), *root.glob("worldmodels/**/*.py")]):
        postponed = "from __future__ import annotations" in path.read_text()
        if path.name not in ("__init__.py", "types.py", "networks.py") and not postponed:
            names.append(".".join(path.relative_to(root).with_suffix("").parts))
    return names


# An int is a float here, as it is for static checkers.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(checked_modules(ROOT), CHECKER)

# Linux lets a process map 65,530 pieces of memory, and every compiled program takes about seven of
# them: with thousands of programs the next one ends the process.
MOST_MAPPED = 20_000


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Let compiled programs go once there are many; the cache on disk brings back the needed."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPPED:
        jax.clear_caches()


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests as well")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow") or os.environ.get("DREAMING_SLOW") == "1":
        return
    skip = pytest.mark.skip(reason="slow: runs with --slow or DREAMING_SLOW=1")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
