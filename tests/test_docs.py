"""What the documents say about the code: the picture of the house, and the files they name."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRUCTURE = runpy.run_path(str(ROOT / "docs" / "structure.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = re.compile(r"`((?:dreaming|envs|worldmodels|experiments)/[\w/]*\.py)`")


def test_the_picture_of_the_house_is_up_to_date():
    committed = STRUCTURE["PICTURE"].read_text()
    assert committed == STRUCTURE["picture"](), "python docs/structure.py draws it anew"


def test_a_file_is_a_door_or_the_ground_and_between_folders_a_room_of_its_own():
    graph = {
        "p": {"p.one.x"},
        "p.verb": {"p", "p.ground"},
        "p.one.x": {"p.between"},
        "p.between": {"p.two"},
        "p.two": {"p.ground"},
        "p.two.y": {"q"},
        "p.ground": {"q"},
        "q": set(),
    }
    rooms = STRUCTURE["rooms"]("p", graph)
    doors, between, ground = {"p": "doors", "p.verb": "doors"}, "between.py", "ground"
    folders = {"p.one.x": "one/", "p.two": "two/", "p.two.y": "two/"}
    assert rooms == doors | folders | {"p.between": between, "p.ground": ground}


def test_the_picture_knows_imports_in_functions_and_of_modules_by_name():
    source = "import p.a\ndef f():\n    from p import b, c\n    from p.d import x"
    assert STRUCTURE["imports"](source, {"p", "p.a", "p.b", "p.d"}) == {"p", "p.a", "p.b", "p.d"}
    assert STRUCTURE["imports"]("from p import b", {"p", "p.b"}) == {"p.b"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
    assert [
        name for name in FILES.findall(document.read_text()) if not (ROOT / name).exists()
    ] == []


def test_the_rule_finds_files_in_backticks():
    text = "[`dreaming/a.py`](dreaming/a.py), `envs/b/c.py`; not `d.py` nor dreaming/e.py"
    assert FILES.findall(text) == ["dreaming/a.py", "envs/b/c.py"]
    assert any(FILES.search(document.read_text()) for document in DOCUMENTS)
