"""Small prepared datasets that the model tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.world import World
from tesserec.models.base import Retriever

SMALL = {
    "encoder": {"kind": "mean", "dim": 16, "layers": 1, "heads": 1, "max_length": 20, "dropout": 0.0},
    "training": {"epochs": 4, "batch_positions": 128, "learning_rate": 0.01, "negatives": 128, "precision": "fp32"},
}
WINDOWS = SMALL | {"encoder": SMALL["encoder"] | {"kind": "windows"}}
SPARC = WINDOWS | {
    "codebook": {"levels": 2, "codes": 8},
    "warmup_epochs": 2,
    "interests": 4,
    "contrast_rows": 64,
    "temperature": 0.2,
}
GEMIREC = SMALL | {
    "training": SMALL["training"] | {"epochs": 8},
    "codebook": {"levels": 2, "codes": 6},
    "warmup_epochs": 4,
    "interests": 4,
    "temperature": 0.2,
}
CROSS = SMALL | {"training": SMALL["training"] | {"epochs": 6}, "temperature": 0.2, "pairs": 64, "warmup_epochs": 2}


@cache
def world() -> World:
    """Six planted interests, 120 items; without a skew inside interests, so that they show soon."""
    return World.generate(users=600, items=120, interests=6, seed=3, mean_length=15, skew=0.0)


@cache
def dataset() -> Dataset:
    """The world's log, prepared for leave-one-out."""
    return prepare(world().log, items=world().items, split="leave-one-out")


@cache
def few_users() -> Dataset:
    """A quarter of as many users, for what asks only that a model trains."""
    few = World.generate(users=150, items=120, interests=6, seed=3, mean_length=15, skew=0.0)
    return prepare(few.log, items=few.items)


TESSERA = WINDOWS | {"normalise": True, "temperature": 0.2, "codes": 8, "parts": 3, "warmup_epochs": 2, "spread": 30.0}
OWN: dict[str, dict[str, object]] = {
    "two-tower": WINDOWS | {"temperature": 0.2},
    "sasrec": SMALL | {"encoder": SMALL["encoder"] | {"kind": "transformer"}},
    "sparc": SPARC | {"features": True},
    "comirec-sa": SMALL | {"temperature": 0.2},
    "comirec-dr": SMALL | {"temperature": 0.2},
    "mind": SMALL | {"temperature": 0.2},
    "remi": SMALL | {"temperature": 0.2},
    "gemirec": GEMIREC,
    "mrif": SMALL | {"temperature": 0.2},
    "dmi": SMALL | {"temperature": 0.2},
    "tessera": TESSERA | {"features": True},
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
    """A model of that name, fitted to the small world once for all workers of a run of the suite, then loaded."""
    from filelock import FileLock

    from tesserec.models import load_model, model_class

    assert shared is not None
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            cls = model_class(name.partition(",")[0])
            cls(cls.Config.model_validate(settings(name))).fit(dataset(), seed=1).save(shared / name)
    return load_model(shared / name)


def published(name: str) -> Path:
    """Root of a bundle of that model, which tests only read or copy: an export takes seconds."""
    from filelock import FileLock

    from tesserec.models.publish import publish_bundle

    assert shared is not None
    root = shared / f"{name}, published"
    with FileLock(shared / f"{name}, published.lock"):
        if not root.exists():
            publish_bundle(fitted(name), root, {"fingerprint": dataset().fingerprint})
    return root


shared: Path | None = None
"""Where the workers of one run of the suite keep what is fitted and published, see ``conftest.py``."""
