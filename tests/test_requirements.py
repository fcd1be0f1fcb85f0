"""The locked requirements: pinned, hashed, nothing but the package index, no torch."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins(name: str) -> list[str]:
    """The pinned requirements of a lock, each with its hashes: `name==version ; marker --hash=…`"""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return text.replace("\\\n", " ").splitlines()


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", line.strip())[0] for line in lines if line.strip()}


@pytest.mark.parametrize("lock", ["core", "dev"])
def test_a_lock_pins_and_hashes_everything_and_names_no_registry(lock):
    lines = pins(lock)
    assert len(lines) > 20
    for line in lines:
        assert re.match(r"[\w-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line), line[:80]
        assert "://" not in line
    assert "torch" not in names(lines)


def test_the_locks_hold_what_the_project_asks_for_and_dev_extends_core():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    core = names(setup["options"]["install_requires"].splitlines())
    dev = names(setup["options.extras_require"]["dev"].splitlines())
    assert {"jax", "gymnasium"} <= core <= names(pins("core"))
    assert {"pytest", "ruff"} <= dev <= names(pins("dev"))
    assert set(pins("core")) <= set(pins("dev"))
