"""Retrievers by name; a model's module, and with it PyTorch where it needs it, is imported on first use."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tesserec.errors import ConfigError
from tesserec.files import open_directory

if TYPE_CHECKING:
    from tesserec.models.base import Retriever

MODELS = {
    "popularity": ("tesserec.models.popularity", "Popularity"),
    "popularity-recent": ("tesserec.models.popularity", "PopularityRecent"),
    "item-knn": ("tesserec.models.item_knn", "ItemKNN"),
    "two-tower": ("tesserec.models.two_tower", "TwoTower"),
    "sasrec": ("tesserec.models.sasrec", "SASRec"),
    "sparc": ("tesserec.models.sparc", "Sparc"),
    "comirec-sa": ("tesserec.models.comirec", "ComiRecSA"),
    "comirec-dr": ("tesserec.models.comirec", "ComiRecDR"),
    "mind": ("tesserec.models.mind", "Mind"),
    "remi": ("tesserec.models.remi", "Remi"),
    "gemirec": ("tesserec.models.gemirec", "GemiRec"),
    "mrif": ("tesserec.models.mrif", "Mrif"),
    "dmi": ("tesserec.models.dmi", "Dmi"),
    "sparcode": ("tesserec.models.sparcode", "SparCode"),
    "all-to-all": ("tesserec.models.all_to_all", "AllToAll"),
    "tessera": ("tesserec.models.tessera", "Tessera"),
}


def model_class(name: str) -> type[Retriever]:
    """The retriever that ``name`` stands for.

    Raises
    ------
    ConfigError
        If there is none; names the nearest and lists all.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"unknown model {name!r}; {hint}known models: {', '.join(MODELS)}")
    module, cls = MODELS[name]
    found: type[Retriever] = getattr(import_module(module), cls)
    return found


def load_model(path: Path) -> Retriever:
    """Open a saved model of any kind."""
    manifest = open_directory(Path(path), "model", check="size")
    return model_class(manifest["model"]).load(Path(path))
