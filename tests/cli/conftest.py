"""A tiny log and the line built on it once, for all tests of the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tesserec.cli.app import app
from tesserec.data.world import World

Cli = Callable[..., str]


def run_cli(*args: object, code: int = 0) -> str:
    """Run a command in this process; its stdout, or its stderr where a failure is expected."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="session")
def world() -> World:
    return World.generate(users=240, items=150, interests=6, seed=5, mean_length=12)


@pytest.fixture(scope="session")
def log(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Paths of the interactions and of the items table."""
    return world.write(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="session")
def shop(log: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared dataset."""
    out = tmp_path_factory.mktemp("data") / "shop"
    run_cli("prepare", log[0], "--items", log[1], "--split", "leave-one-out", "--out", out)
    return out


@pytest.fixture(scope="session")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and evaluated run of popularity."""
    out = tmp_path_factory.mktemp("runs") / "popularity"
    run_cli("train", shop, "--model", "popularity", "--out", out)
    run_cli("evaluate", out)
    return out


@pytest.fixture(scope="session")
def bundles(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle root with one generation."""
    out = tmp_path_factory.mktemp("bundles") / "popularity"
    run_cli("index", run, "--out", out)
    return out
