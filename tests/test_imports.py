"""The import rule, and what the runtime of a dream may need."""

import ast
import subprocess
import sys
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
    "dreaming.policy",
    "dreaming.student",
    "envs.types",
    "envs.dream",
    "envs.dreamfile",
)
RUNTIME_NEEDS = "numpy, gymnasium.vector, jax.export, safetensors.numpy, flatbuffers"


def imported_packages(source: str) -> set[str]:
    """Top-level packages a source imports anywhere, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").partition(".")[0])
    return names


def offences(package: str, source: str) -> set[str]:
    """Our packages that a source of `package` imports although it may not."""
    return (imported_packages(source) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}


def test_the_rule_catches_an_import_inside_a_function():
    source = "def f():\n    from worldmodels.fit import fit\n    import numpy"
    assert offences("envs", source) == {"worldmodels"}
    assert offences("dreaming", source) == set()
    assert offences("worldmodels", "import dreaming.policy, envs") == {"dreaming", "envs"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_downwards(package):
    found = {
        str(path.relative_to(ROOT)): offences(package, path.read_text())
        for path in (ROOT / package).rglob("*.py")
    }
    assert found and not {path: names for path, names in found.items() if names}


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
