"""The import rules, and what the runtime of a dream may need."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "envs": set(),
    "worldmodels": set(),
    "dreaming": {"envs", "worldmodels"},
    "experiments": {"dreaming", "envs", "worldmodels"},
}
RUNTIME = (
    "dreaming",
    "dreaming.student.policy",
    "dreaming.student.network",
    "envs.types",
    "envs.dream",
    "envs.dreamfile",
)
RUNTIME_NEEDS = "numpy, gymnasium.vector, jax.export, safetensors.numpy, flatbuffers"
NO_VERB = {"experiments.config"}  # on top of experiments/ all other modules are verbs

Graph = dict[str, set[str]]  # module -> modules it imports anywhere, in functions too


def imports(source: str) -> Iterator[tuple[str, str | None]]:
    """(module, name taken from it or None) of every import of a source, in functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported_packages(source: str) -> set[str]:
    """Top-level packages a source imports."""
    return {module.partition(".")[0] for module, _ in imports(source)}


def offences(package: str, source: str) -> set[str]:
    """Our packages that a source of `package` imports although it may not."""
    return (imported_packages(source) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}


def product() -> dict[str, str]:
    """Module -> source, of everything but the tests."""
    found = {}
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def import_graph(sources: dict[str, str]) -> Graph:
    """Which of these modules imports which."""
    graph: Graph = {}
    for module, source in sources.items():
        named = {f"{base}.{name}" if name else base for base, name in imports(source)}
        named |= {base for base, _ in imports(source)}
        # `from package import module` takes the module; the package's own docstring does not count.
        within = {name for name in named & set(sources) if name != module}
        graph[module] = {
            name for name in within if not any(other.startswith(f"{name}.") for other in within)
        }
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph.get(module, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == index[module]:
            at = stack.index(module)
            component, stack[at:] = stack[at:], []
            if len(component) > 1:
                found.append(sorted(component))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def wings(graph: Graph) -> Graph:
    """The same between folders: a module in a folder of a package stands for its folder."""
    place = lambda module: ".".join(module.split(".")[:2]) if module.count(".") > 1 else module
    folded: Graph = {}
    for module, others in graph.items():
        folded.setdefault(place(module), set()).update(place(other) for other in others)
    return {name: others - {name} for name, others in folded.items()}


def verbs(modules: dict[str, str]) -> set[str]:
    """The modules on top of experiments/ that are run as commands."""
    top = {name for name in modules if name.startswith("experiments.") and name.count(".") == 1}
    folders = {name.rpartition(".")[0] for name in modules}
    return top - folders - NO_VERB - {"experiments.__main__"}


def test_the_rule_catches_an_import_inside_a_function():
    source = "def f():\n    from worldmodels.fit import fit\n    import numpy"
    assert offences("envs", source) == {"worldmodels"}
    assert offences("dreaming", source) == set()
    assert offences("worldmodels", "import dreaming.round, envs") == {"dreaming", "envs"}


def test_circles_are_found_in_functions_and_between_folders():
    sources = {
        "p": "",
        "p.a": "from p.b import x",
        "p.b": "def f():\n    from p import c",
        "p.c": "import p.a",
        "p.d": "from p import a",
        "p.one": "",
        "p.one.x": "from p.two.y import f",
        "p.one.z": "",
        "p.two": "",
        "p.two.y": "from p.one import z",
    }
    graph = import_graph(sources)
    assert graph["p.b"] == {"p.c"} and graph["p.d"] == {"p.a"}
    assert circles(graph) == [["p.a", "p.b", "p.c"]]
    assert ["p.one", "p.two"] in circles(wings(graph))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_downwards(package):
    found = {
        str(path.relative_to(ROOT)): offences(package, path.read_text())
        for path in (ROOT / package).rglob("*.py")
    }
    assert found and not {path: names for path, names in found.items() if names}


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph(product())
    assert len(graph) > 100 and "worldmodels.types" in graph["dreaming.world.physics"]
    assert circles(graph) == []


def test_no_folders_import_each_other_in_a_circle():
    assert circles(wings(import_graph(product()))) == []


def test_verbs_are_doors_and_not_libraries():
    sources = product()
    graph, doors = import_graph(sources), verbs(sources)
    assert {"experiments.dream", "experiments.inspect_traces", "experiments.report"} <= doors
    assert {name: others & doors for name, others in graph.items() if others & doors} == {}


def third_party_modules(*imports: str) -> set[str]:
    """Top-level modules loaded by the imports in a fresh process, without the standard library."""
    code = "import sys\n" + "".join(f"import {name}\n" for name in imports)
    code += "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_the_runtime_of_a_dream_loads_nothing_of_the_trainer():
    # What policy outputs mean is said once, in a module of jax and numpy alone.
    allowed = third_party_modules(RUNTIME_NEEDS) | {"dreaming", "envs", "worldmodels"}
    assert not third_party_modules(*RUNTIME) - allowed
    # The comparison can fail: what the trainer needs is not in what the runtime needs.
    assert not allowed & {"flax", "optax", "mctx", "hydra", "pyarrow", "rich"}
