"""A tiny log and the line built on it once, for all tests of the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tesserec.cli.app import app
from tesserec.data.world import World
from tests.conftest import shared_folder
from tests.exporter import export_quickly, share_exports

# Settings under which a neural model learns the tiny world within seconds.
QUICK = ["training.batch_positions=128", "training.learning_rate=0.01", "encoder.dim=32"]
QUICK_SPARC = [*QUICK, "encoder.kind=mean", "training.epochs=6", "codebook.codes=8", "warmup_epochs=3"]
# Settings under which it has a codebook, and has learned little, for what does not ask how good it is.
SHORT_SPARC = [*QUICK, "encoder.kind=mean", "training.epochs=2", "codebook.codes=8", "warmup_epochs=1"]


def sets(values: list[str]) -> list[str]:
    """As options of the command line."""
    return [part for one in values for part in ("--set", one)]


def tiny_world() -> World:
    """Small, and without a skew inside interests, so that personal models win soon."""
    return World.generate(users=300, items=120, interests=8, seed=5, mean_length=15, skew=0.0)


def run_cli(*args: object, code: int = 0) -> str:
    """Run a command in this process; its stdout, or its stderr where a failure is expected."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


@pytest.fixture(scope="session", autouse=True)
def quick_exports(tmp_path_factory: pytest.TempPathFactory) -> None:
    export_quickly()
    share_exports(shared_folder(tmp_path_factory, "exports"))


@pytest.fixture(scope="session")
def world() -> World:
    return tiny_world()


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
