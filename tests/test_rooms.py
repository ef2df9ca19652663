"""The package as a whole: a light import, and rooms that import only rooms before them."""

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import tesserec

PACKAGE = Path(tesserec.__file__).parent
ORDER = ("core", "data", "index", "evaluation", "adapters", "serving", "nn", "training", "models", "cli")
CORE = ("errors", "files", "__init__")
CLI = ("cli", "runs", "evaluations", "updates", "ablations", "__main__")
WITHOUT_TORCH = ("core", "data", "index", "evaluation", "adapters", "serving")
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(parts: tuple[str, ...]) -> str:
    first = parts[0] if parts else "__init__"
    return "core" if first in CORE else "cli" if first in CLI else first


def _imports(tree: ast.Module) -> list[str]:
    """Modules imported anywhere in the file, except for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _check(room: str, imports: list[str]) -> None:
    for name in imports:
        parts = tuple(name.split("."))
        if parts[0] == "torch":
            assert room not in WITHOUT_TORCH, f"{room} imports {name}"
        if parts[0] == "tesserec" and parts[1:] != ("__version__",):
            above = _room(parts[1:])
            assert ORDER.index(above) <= ORDER.index(room), f"{room} imports {name} of a room above it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rooms_import_only_rooms_before_them(file: Path) -> None:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    _check(_room(parts), _imports(ast.parse(file.read_text())))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("data", "from tesserec.models.base import Retriever"),
        ("index", "def f():\n    import torch"),
        ("evaluation", "from torch import nn"),
        ("training", "import tesserec.models"),
    ],
)
def test_a_forbidden_import_is_noticed(room: str, source: str) -> None:
    with pytest.raises(AssertionError, match="imports"):
        _check(room, _imports(ast.parse(source)))


def test_import_is_fast_and_light() -> None:
    snippet = (
        "import json, sys, time; start = time.perf_counter(); import tesserec; "
        "print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", snippet], text=True)) for _ in range(3)]
    assert statistics.median(seconds for seconds, _ in runs) < 0.3
    assert not {"torch", "numba", "polars", "onnxruntime"} & set(runs[0][1])


def test_public_names_have_homes() -> None:
    assert set(tesserec.__all__) == set(tesserec._HOMES)
    assert set(tesserec.__all__) <= set(dir(tesserec))
    with pytest.raises(AttributeError, match="no attribute 'Sprac'"):
        _ = tesserec.Sprac
