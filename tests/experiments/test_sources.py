"""`dreaming sources`, and packages that bring sources: a foreign one beside a broken one."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from envs.sources import describe_sources, open_source
from envs.types import TraceError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "thermostat"
LOGS = f"source.uri={EXAMPLE}/*.log"


def install(target, name, version, entries, *modules):
    """What an installer leaves: modules, and metadata beside them."""
    about = target / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (about / "entry_points.txt").write_text("\n".join(["[dreaming.sources]", *lines]))
    for module in modules:
        shutil.copy(module, target)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The example of the documents, and a package that cannot be imported."""
    target = tmp_path_factory.mktemp("packages")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["dreaming.sources"]
    install(target, project["name"], project["version"], entries, EXAMPLE / "thermostat.py")
    broken = {"broken": "a_module_that_nobody_wrote:Source", "parquet": "hidden:Source"}
    install(target, "broken-source", "1.0", broken)
    return target


@pytest.fixture
def installed(packages, monkeypatch):
    """In this process."""
    monkeypatch.syspath_prepend(packages)
    yield
    sys.modules.pop("thermostat", None)


def command(packages, *argv):
    """The command line in a process of its own, in an environment that has both packages."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])}
    env.pop("HYDRA_FULL_ERROR", None)
    words = [sys.executable, "-m", "experiments", *map(str, argv)]
    return subprocess.run(words, env=env, capture_output=True, text=True)


def test_a_source_of_another_package_is_used_from_the_command_line(packages):
    words = ("inspect-traces", "source.name=thermostat", LOGS, "+source.options.wanted=21")
    done = command(packages, *words)
    assert done.returncode == 0, done.stderr
    assert "2 (9 steps)" in done.stdout and not done.stderr


def test_a_broken_source_is_told_by_its_package(installed, fails):
    told = "source broken of the package broken-source is broken (ModuleNotFound"
    fails("inspect-traces", "source.name=broken", LOGS, words=[told], code=(1,))


def test_the_list_says_what_there_is_from_whom_and_what_it_accepts(installed, verb):
    code, out, err = verb("sources")
    assert code == 0 and not err
    assert (
        "thermostat (dreaming-thermostat)\n"
        "    The days of a thermostat. A step costs how far the next reading is from `wanted` "
        "degrees.\n"
        "    options: wanted=20.0\n"
    ) in out
    assert "broken (broken-source)\n    broken: ModuleNotFoundError: No module named" in out
    assert "repair or uninstall broken-source" in out
    assert "parquet (dreaming)\n" in out and "hidden" not in out
    assert "minari (dreaming)\n" in out and "extra minari" in out


def test_one_source_is_shown_alone_and_written_as_json(installed, verb, fails, tmp_path):
    code, out, _ = verb("sources", "name=thermostat", f"json={tmp_path}/x.json")
    assert code == 0 and out.startswith("thermostat (dreaming-thermostat)") and "minari" not in out
    (info,) = json.loads((tmp_path / "x.json").read_text())
    assert info["options"] == "wanted=20.0" and info["broken"] is None
    fails("sources", "name=nobody", words=["name=nobody is no source"], code=(2,))


def test_all_built_in_sources_say_what_they_are():
    infos = [info for info in describe_sources() if info.package == "dreaming"]
    assert {"minari", "parquet", "store"} <= {info.name for info in infos}
    assert all(info.about.endswith(".") and info.broken is None for info in infos), infos


def test_the_example_reads_its_logs(installed):
    first, second = open_source("thermostat", f"{EXAMPLE}/*.log")
    assert first.actions.tolist() == [1, 1, 0, 1, 0] and first.truncated[-1]
    expected = -np.abs(np.array([18.9, 19.6, 19.4, 20.1, 19.9], np.float32) - 20)
    assert first.rewards == pytest.approx(expected) and first.session == "monday"
    assert second.is_open and len(second) == 4


def test_bad_lines_of_the_example_are_named(installed, tmp_path):
    (tmp_path / "x.log").write_text("18 on\n19 maybe\n")
    with pytest.raises(TraceError, match=r"x.log: line 2 is '19 maybe'; expected a temperature"):
        list(open_source("thermostat", str(tmp_path / "x.log")))


def test_a_source_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(TraceError, match=r"needs the package minari.*dreaming\[minari\]"):
        open_source("minari", "some/thing-v0")
