"""From a fitted retriever to a bundle generation; tables need no PyTorch for it, networks are exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tesserec.index.bundle import publish
from tesserec.models.base import Retriever
from tesserec.models.tables import TableRetriever


def publish_bundle(model: Retriever, root: Path, facts: dict[str, Any]) -> Path:
    """Publish a fitted model as the next generation under ``root`` and return its directory."""
    facts = {"model": model.name, "config": model.config.model_dump(), **facts}
    if isinstance(model, TableRetriever):
        return publish(root, model.searcher, model.side().save, facts)
    from tesserec.models.neural import NeuralRetriever

    assert isinstance(model, NeuralRetriever)

    def write_user_side(folder: Path) -> None:
        model.export(folder)
        model.save_weights(folder)

    return publish(root, model.searcher, write_user_side, facts)
