"""A project may have packages of the names of ours: then one line says which file is in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(place: Path, code: str, path: str = str(ROOT)) -> subprocess.CompletedProcess:
    """A script in `place`, as a project's own."""
    (place / "train.py").write_text(code)
    command, env = [sys.executable, "train.py"], os.environ | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("file", ["envs/__init__.py", "worldmodels/__init__.py", "envs.py"])
@pytest.mark.parametrize("code", ["import dreaming", "import {name}\nimport dreaming"])
def test_what_lies_in_the_way_is_named_in_one_line(file, code, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    name = file.partition("/")[0].removesuffix(".py")
    told = run(tmp_path, code.format(name=name)).stderr.splitlines()[-1]
    assert told == (
        f"ImportError: dreaming needs its own package `{name}`, but {tmp_path / file} comes first "
        "on the path; rename that one, or start where it does not lie"
    )


@pytest.mark.parametrize("file", ["envs/__init__.py", "envs.py", "worldmodels/__init__.py"])
def test_a_verb_says_the_same(file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    code = "from experiments.command.cli import main\nraise SystemExit(main(['record', 'path=x']))"
    ran = run(tmp_path, code)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("error: dreaming needs its own package")
    assert str(tmp_path / file) in ran.stderr


@pytest.mark.parametrize(
    "file", ["experiments/__init__.py", "conf/__init__.py", "conf/x.yaml", "envs/notes.txt"]
)
def test_what_is_not_in_the_way_does_not_matter(file, tmp_path):
    """Of their `envs/` without an `__init__.py` Python takes ours."""
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("")
    code = "import dreaming, gymnasium; gymnasium.make('dreaming/Recall-v0'); print('fine')"
    ran = run(tmp_path, code)
    assert (ran.stdout, ran.stderr) == ("fine\n", "")
