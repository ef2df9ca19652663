"""The README's commands and its Python example do what they say, on a tiny world."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tesserec.training.recipe import load_recipe
from tests.cli.conftest import SHORT_SPARC, run_cli, sets, tiny_world

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.skipif(
    not README.exists() or any(importlib.util.find_spec(name) is None for name in ("torch", "onnxscript")),
    reason="needs the README of a checkout and the train extra",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def own_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = tiny_world()
    world.log.write_parquet("interactions.parquet")
    world.items.write_parquet("items.parquet")


def test_commands_run_in_their_order():
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("tesserec ")]
    assert len(lines) >= 8
    for line in lines:
        command, *args = shlex.split(line, comments=True)[1:]
        if command in ("demo", "serve"):
            continue
        if (command == "train" and "sparc" in args) or command == "ablate":
            args += sets(SHORT_SPARC)  # enough to run; the README itself uses the defaults
        run_cli(command, *args)


def test_python_example_runs():
    (example,) = blocks("python")
    assert "tesserec.Sparc()" in example
    short = "tesserec.Sparc(load_recipe(tesserec.Sparc.Config, None, SHORT_SPARC))"
    exec(example.replace("tesserec.Sparc()", short), {"load_recipe": load_recipe, "SHORT_SPARC": SHORT_SPARC})
