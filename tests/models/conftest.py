"""Where the workers of one run of the suite share fitted models, and what makes exports quicker."""

import os

import pytest

from tests.exporter import export_quickly
from tests.models import worlds


@pytest.fixture(scope="session", autouse=True)
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    own = tmp_path_factory.getbasetemp()
    worlds.shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "fitted"
    worlds.shared.mkdir(exist_ok=True)


@pytest.fixture(scope="session", autouse=True)
def quick_exports() -> None:
    export_quickly()
