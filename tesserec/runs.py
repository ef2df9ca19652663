"""Workflows over directories: train a run, open it, publish it as a bundle.

A run is a directory: ``config.json`` (model, settings with their origin, seed, dataset, versions) is written first,
``log.jsonl`` and ``checkpoint/`` grow while a model is trained, ``model/`` appears when it is done, and
``evaluation/`` and ``report.html`` follow. A run without ``model/`` is unfinished and can be resumed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserec.errors import ArtefactError, ConfigError, DataError, MissingExtra, TrainingRefused, UserError, train_extra
from tesserec.files import MANIFEST, read_json, write_json

if TYPE_CHECKING:
    from tesserec.data.dataset import Dataset
    from tesserec.models.base import Retriever

CONFIG = "config.json"
MODEL = "model"
CHECKPOINT = "checkpoint"
LOG = "log.jsonl"
PACKAGES = ("tesserec", "numpy", "polars", "numba", "torch")
#: What must be the same for a run to be resumed.
SAME = ("model", "settings", "seed", "fingerprint")
#: Validation users on whom recall targets are calibrated.
CALIBRATED = 1000


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes
    ----------
    path
        Its directory.
    facts
        What ``config.json`` holds.
    """

    path: Path
    facts: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the fitted model is there."""
        return (self.path / MODEL).is_dir()

    @cached_property
    def model(self) -> Retriever:
        """The fitted model.

        Raises
        ------
        UserError
            If the run is unfinished.
        """
        from tesserec.models import model_class

        if not self.finished:
            raise UserError(f"{self.path} {state(self)}")
        with train_extra(f"opening {self.facts['model']}"):
            return model_class(self.facts["model"]).load(self.path / MODEL)

    def dataset(self, path: Path | None = None) -> Dataset:
        """The dataset that the run was trained on, at its old place or at ``path``.

        Raises
        ------
        UserError
            If it is not there, or is another one by its fingerprint.
        """
        from tesserec.data.dataset import Dataset

        place = Path(self.facts["dataset"]) if path is None else path
        if not place.exists():
            raise UserError(f"{place}, the dataset of {self.path}, is gone; say with --dataset where it is now")
        dataset = Dataset.open(place)
        if dataset.fingerprint != self.facts["fingerprint"]:
            raise UserError(
                f"{place} has fingerprint {dataset.fingerprint}, but {self.path} was trained on "
                f"{self.facts['fingerprint']}; prepare the same dataset again or train again"
            )
        return dataset


def load_run(path: Path) -> Run:
    """Open a run directory, finished or not.

    Raises
    ------
    ArtefactError
        If it is not a run.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        raise ArtefactError(f"{path} is not a run: it holds no {CONFIG}; `tesserec train` writes one")
    facts = read_json(path / CONFIG)
    if not isinstance(facts, dict) or facts.get("kind") != "run":
        raise ArtefactError(f"{path / CONFIG} does not describe a run; `tesserec train` writes one")
    return Run(path, facts)


def state(run: Run) -> str:
    """What is to be said of a run that has no model."""
    if refused := run.facts.get("refused"):
        return f"was refused: {refused}; train it anew with other settings, under the same name or another"
    return f"is unfinished; {how_to_resume(run)}"


def how_to_resume(run: Run) -> str:
    """The command that goes on with an unfinished run."""
    facts = run.facts
    words = ["tesserec", "train", facts["dataset"], "--model", facts["model"]]
    words += ["--recipe", facts["recipe"]] if facts["recipe"] else []
    for key, value in facts["settings"].items():
        words += ["--set", f"{key}={value['value']}"] if value["from"] == "set" else []
    return f"go on with: {shlex.join([*words, '--seed', str(facts['seed']), '--out', str(run.path), '--resume'])}"


def train_run(
    dataset_path: Path,
    model_name: str,
    out: Path,
    *,
    recipe: Path | None = None,
    sets: Sequence[str] = (),
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Run:
    """Train a model on a prepared dataset into a run directory.

    Parameters
    ----------
    dataset_path
        What ``prepare`` wrote.
    model_name
        A name that :func:`tesserec.models.model_class` knows.
    out
        The run directory.
    recipe, sets
        TOML file of settings and ``key=value`` overrides.
    seed
        Of everything random in training.
    resume
        Go on from the checkpoint of an unfinished run with the same settings.
    overwrite
        Remove an earlier run at ``out`` first.
    progress
        Show a progress bar.

    Raises
    ------
    UserError
        If ``out`` is taken, settings are refused, or the run to resume is another one.
    TrainingRefused
        If training stopped because its result would be worthless.
    """
    from tesserec.data.dataset import Dataset
    from tesserec.models import model_class
    from tesserec.training.recipe import load_recipe, origins

    with train_extra(f"training {model_name}"):
        model_type = model_class(model_name)
    config = load_recipe(model_type.Config, recipe, sets)
    dataset = Dataset.open(dataset_path)
    facts = {
        "kind": "run",
        "model": model_name,
        "settings": origins(config, recipe, sets),
        "recipe": None if recipe is None else str(Path(recipe).absolute()),
        "seed": seed,
        "dataset": str(Path(dataset_path).absolute()),
        "fingerprint": dataset.fingerprint,
        "versions": _versions(),
    }
    run = _start(Path(out), facts, resume=resume, overwrite=overwrite)
    if run.finished:
        return run
    begin = time.perf_counter()
    # A run that was stopped before its first checkpoint begins anew.
    resume = resume and (run.path / CHECKPOINT).is_dir()
    try:
        with train_extra(f"training {model_name}"):
            model = model_type(config).fit(dataset, seed=seed, run=run.path, resume=resume, progress=progress)
    except (ConfigError, DataError, MissingExtra):
        # What cannot be trained here would only be in the way of the corrected command.
        if [path.name for path in run.path.iterdir()] == [CONFIG]:
            shutil.rmtree(run.path)
        raise
    except TrainingRefused as error:
        write_json(run.path / CONFIG, run.facts | {"refused": str(error)})
        raise
    run.facts["seconds"] = round(time.perf_counter() - begin, 2)
    model.save(run.path / MODEL)
    write_json(run.path / CONFIG, run.facts)
    return run


def index_run(path: Path, out: Path, dataset: Path | None = None) -> Path:
    """Publish the run's model as the next generation of the bundle root ``out``; returns the generation's directory.

    A model with interests is calibrated for recall targets on validation users of its dataset, at its old place or at
    ``dataset``; where it is not at its old place any more, the bundle answers no recall targets.
    """
    from tesserec.index.calibration import calibrate
    from tesserec.models.publish import publish_bundle

    run = load_run(path)
    facts = {key: run.facts[key] for key in ("model", "seed", "fingerprint")} | {"run": str(run.path.absolute())}
    with train_extra(f"indexing {run.facts['model']}"):
        searcher = run.model.searcher
        known = dataset is not None or has_dataset(run)
        if searcher.has_interests and known:
            held_out = run.dataset(dataset).valid.histories
            if len(held_out):
                searcher.calibration = calibrate(searcher, held_out.take(slice(0, CALIBRATED)), searcher.policy)
        return publish_bundle(run.model, Path(out), facts)


def has_dataset(run: Run) -> bool:
    """Whether the dataset of a run is still where it was."""
    manifest = Path(run.facts["dataset"]) / MANIFEST
    return manifest.is_file() and read_json(manifest).get("fingerprint") == run.facts["fingerprint"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``log.jsonl``, one an epoch; none where there is no log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _start(out: Path, facts: dict[str, Any], *, resume: bool, overwrite: bool) -> Run:
    """Claim the run directory, or find the run to resume in it."""
    earlier = load_run(out) if (out / CONFIG).exists() else None
    refusal = None if earlier is None else earlier.facts.get("refused")
    if resume and earlier is not None:
        differences = (_difference(key, earlier.facts[key], facts[key]) for key in SAME)
        difference = next((one for one in differences if one is not None), None)
        if refusal is None and difference is None:
            return earlier
        if refusal is None:
            raise ConfigError(f"{out} cannot be resumed: {difference}")
        if difference is None:
            raise TrainingRefused(refusal)
    if out.exists() and not _only_leftovers(out):
        if not overwrite and refusal is None:
            raise UserError(f"{out} exists already; choose another name, or --resume or --overwrite it")
        load_run(out)
        # Renamed first, so that a kill in the middle of removing leaves no half of a run under this name.
        retired = out.with_name(f".{out.name}.{os.getpid()}.old")
        os.rename(out, retired)
        shutil.rmtree(retired)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / CONFIG, facts)
    return Run(out, facts)


def _only_leftovers(out: Path) -> bool:
    """Whether the directory holds no more than what a kill before the first file leaves."""
    return out.is_dir() and all(path.name.startswith(f".{CONFIG}.") for path in out.iterdir())


def _difference(key: str, before: Any, now: Any) -> str | None:
    """What differs, in words; where a setting came from does not matter, only its value."""
    if key == "settings":
        settings = ((name, *(side.get(name, {}).get("value") for side in (before, now))) for name in {**before, **now})
        key, before, now = next((one for one in settings if one[1] != one[2]), (key, None, None))
    return None if before == now else f"its {key} is {before!r}, this command says {now!r}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
