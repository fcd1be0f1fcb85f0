"""How the product may look: few positional parameters, flat searches, a round on one page."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

KEY = jax.random.key(0)
ROOT = Path(__file__).parents[1]
PACKAGES = ("dreaming", "envs", "worldmodels", "experiments")
MOST_POSITIONAL = 6
FLAT = ("dreaming/search", "dreaming/student", "dreaming/gate", "dreaming/world")  # closures


def functions(tree: ast.AST, depth: int = 0) -> Iterator[tuple[ast.FunctionDef, int]]:
    """Every function with how many functions it stands in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node, depth
        yield from functions(node, depth + isinstance(node, ast.FunctionDef))


def positional(function: ast.FunctionDef) -> int:
    """Parameters that can be given by position, but for self."""
    names = [each.arg for each in [*function.args.posonlyargs, *function.args.args]]
    return len([name for name in names if name not in ("self", "cls")])


def offenders(source: str, most: int, deepest: int) -> list[str]:
    """Functions with more positional parameters, or that stand deeper in others."""
    found = functions(ast.parse(source))
    return [f.name for f, depth in found if positional(f) > most or depth > deepest]


@pytest.mark.parametrize("package", PACKAGES)
def test_beyond_six_parameters_are_named(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not offenders(path.read_text(), MOST_POSITIONAL, deepest=99), path


@pytest.mark.parametrize("folder", FLAT)
def test_closures_are_one_deep(folder):
    for path in (ROOT / folder).glob("*.py"):
        assert not offenders(path.read_text(), 99, deepest=1), path


def counted_tags(source: str) -> list[int]:
    """Lines that fold a literal number into a key: fold_in(k, 1) is split(k, n)[1]."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = lambda call: isinstance(call.func, ast.Attribute) and call.func.attr == "fold_in"
    tags = lambda call: len(call.args) > 1 and isinstance(call.args[1], ast.Constant)
    return [call.lineno for call in calls if names(call) and tags(call)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_key_comes_twice(package):
    """Keys are split, or folded with tags that no split gives (the hash of a name)."""
    for path in (ROOT / package).rglob("*.py"):
        assert not counted_tags(path.read_text()), path
    assert counted_tags("k = jax.random.fold_in(key, 1)") == [1]
    assert jax.random.fold_in(KEY, 1) == jax.random.split(KEY, 3)[1]  # why


def guessed_letters(source: str) -> list[int]:
    """Lines that read or write text in whatever encoding the locale has."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        given = [ast.unparse(each) for each in call.args]
        is_said = any(each.arg == "encoding" for each in call.keywords) or "'utf-8'" in given
        is_bytes = any(re.fullmatch("'[rwax]b'", each) for each in given)
        whole = ast.unparse(call.func)
        others = whole == "os.open" or whole.startswith("self._")  # libraries' own
        reads = name in ("read_text", "write_text", "open") and not others
        if reads and not is_said and not is_bytes:
            found.append(call.lineno)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_text_is_utf_8_whatever_the_locale(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not guessed_letters(path.read_text("utf-8")), path
    guessed = "p.read_text()\np.write_text(x)\nopen(p)\np.open('a')"
    assert guessed_letters(guessed) == [1, 2, 3, 4]
    said = "p.read_text('utf-8')\nopen(p, 'rb')\nopen(p, encoding='utf-8')\nos.open(p, 0)"
    assert guessed_letters(said) == []


def test_what_is_too_much_is_found():
    seven = "def f(a, b, c, d, e, f, g): pass"
    assert offenders(seven, MOST_POSITIONAL, 99) == ["f"]
    assert not offenders("def f(self, a, b, c, d, e, f, *, g): pass", MOST_POSITIONAL, 99)
    nest = "def f():\n  def g():\n    def h(): pass"
    assert offenders(nest, 99, 1) == ["h"] and not offenders(nest, 99, 2)
