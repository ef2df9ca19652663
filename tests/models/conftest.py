"""Where the workers of one run of the suite share fitted models, and what makes exports quicker."""

import pytest

from tests.conftest import shared_folder
from tests.exporter import export_quickly
from tests.models import worlds


@pytest.fixture(scope="session", autouse=True)
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    export_quickly()
    worlds.shared = shared_folder(tmp_path_factory, "fitted")
