"""tesserec: candidate retrieval through interests that are learned jointly with the retrieval model.

Names load on first use, so ``import tesserec`` is light and PyTorch is imported only by what needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tesserec.data.dataset import Dataset
    from tesserec.data.prepare import prepare
    from tesserec.evaluation.interests import evaluate_interests
    from tesserec.evaluation.protocol import evaluate
    from tesserec.evaluation.significance import compare
    from tesserec.index.bundle import Bundle
    from tesserec.index.contract import Policy
    from tesserec.models import load_model as load
    from tesserec.models.all_to_all import AllToAll
    from tesserec.models.comirec import ComiRecDR, ComiRecSA
    from tesserec.models.dmi import Dmi
    from tesserec.models.gemirec import GemiRec
    from tesserec.models.item_knn import ItemKNN
    from tesserec.models.mind import Mind
    from tesserec.models.mrif import Mrif
    from tesserec.models.popularity import Popularity, PopularityRecent
    from tesserec.models.remi import Remi
    from tesserec.models.sasrec import SASRec
    from tesserec.models.sparc import Sparc
    from tesserec.models.sparcode import SparCode
    from tesserec.models.tessera import Tessera
    from tesserec.models.two_tower import TwoTower

__all__ = [
    "AllToAll",
    "Bundle",
    "ComiRecDR",
    "ComiRecSA",
    "Dataset",
    "Dmi",
    "GemiRec",
    "ItemKNN",
    "Mind",
    "Mrif",
    "Policy",
    "Popularity",
    "PopularityRecent",
    "Remi",
    "SASRec",
    "SparCode",
    "Sparc",
    "Tessera",
    "TwoTower",
    "compare",
    "evaluate",
    "evaluate_interests",
    "load",
    "prepare",
]

_HOMES = {
    "AllToAll": "tesserec.models.all_to_all",
    "Bundle": "tesserec.index.bundle",
    "ComiRecDR": "tesserec.models.comirec",
    "ComiRecSA": "tesserec.models.comirec",
    "Dataset": "tesserec.data.dataset",
    "Dmi": "tesserec.models.dmi",
    "GemiRec": "tesserec.models.gemirec",
    "ItemKNN": "tesserec.models.item_knn",
    "Mind": "tesserec.models.mind",
    "Mrif": "tesserec.models.mrif",
    "Policy": "tesserec.index.contract",
    "Popularity": "tesserec.models.popularity",
    "PopularityRecent": "tesserec.models.popularity",
    "Remi": "tesserec.models.remi",
    "SASRec": "tesserec.models.sasrec",
    "SparCode": "tesserec.models.sparcode",
    "Sparc": "tesserec.models.sparc",
    "Tessera": "tesserec.models.tessera",
    "TwoTower": "tesserec.models.two_tower",
    "compare": "tesserec.evaluation.significance",
    "evaluate": "tesserec.evaluation.protocol",
    "evaluate_interests": "tesserec.evaluation.interests",
    "load": "tesserec.models",
    "prepare": "tesserec.data.prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tesserec' has no attribute {name!r}")
    from tesserec.errors import train_extra

    with train_extra(f"tesserec.{name}"):
        value = getattr(importlib.import_module(_HOMES[name]), "load_model" if name == "load" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
