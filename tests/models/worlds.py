"""Small prepared datasets that the model tests share."""

from __future__ import annotations

from functools import cache

from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.world import World
from tesserec.models.base import Retriever

SMALL = {
    "encoder": {"dim": 16, "layers": 1, "heads": 1, "max_length": 20, "dropout": 0.0},
    "training": {"epochs": 12, "batch_positions": 128, "learning_rate": 0.01, "negatives": 128, "precision": "fp32"},
}
SPARC = SMALL | {
    "codebook": {"levels": 2, "codes": 8},
    "warmup_epochs": 6,
    "interests": 4,
    "contrast_rows": 64,
    "temperature": 0.2,
}
GEMIREC = SMALL | {
    "codebook": {"levels": 2, "codes": 6},
    "warmup_epochs": 6,
    "interests": 4,
    "temperature": 0.2,
}
CROSS = SMALL | {"temperature": 0.2, "pairs": 64, "warmup_epochs": 3}


@cache
def world() -> World:
    """Six planted interests, 120 items; without a skew inside interests, so that they show soon."""
    return World.generate(users=600, items=120, interests=6, seed=3, mean_length=15, skew=0.0)


@cache
def dataset() -> Dataset:
    """The world's log, prepared for leave-one-out."""
    return prepare(world().log, items=world().items, split="leave-one-out")


TESSERA = SMALL | {"normalise": True, "temperature": 0.2, "codes": 8, "parts": 3, "warmup_epochs": 6, "spread": 30.0}
OWN: dict[str, dict[str, object]] = {
    "two-tower": SMALL | {"temperature": 0.2},
    "sasrec": SMALL,
    "sparc": SPARC,
    "comirec-sa": SMALL | {"temperature": 0.2},
    "comirec-dr": SMALL | {"temperature": 0.2},
    "mind": SMALL | {"temperature": 0.2},
    "remi": SMALL | {"temperature": 0.2},
    "gemirec": GEMIREC,
    "mrif": SMALL | {"temperature": 0.2},
    "dmi": SMALL | {"temperature": 0.2},
    "tessera": TESSERA,
    "tessera, moments": TESSERA | {"normaliser": "moments"},
    "sparcode": CROSS | {"codebook": {"levels": 2, "codes": 8}},
    "all-to-all": CROSS,
}
"""Settings that fit a trained model to the small world in seconds, by its name, before a comma where it has several."""


def settings(name: str) -> dict[str, object]:
    """Settings of a model of that name in the small world."""
    return OWN.get(name, {})


@cache
def fitted(name: str) -> Retriever:
    """A model of that name, fitted to the small world."""
    from tesserec.models import model_class

    cls = model_class(name.partition(",")[0])
    return cls(cls.Config.model_validate(settings(name))).fit(dataset(), seed=1)
