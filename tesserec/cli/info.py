"""``tesserec info`` and ``tesserec recipe``: what a directory holds, and the settings of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tesserec.cli.shell import existing, print_json, print_table
from tesserec.errors import UserError
from tesserec.files import MANIFEST, open_directory, read_json

Facts = dict[str, Any]


def info(
    path: Annotated[Path, typer.Argument(help="A dataset, run, model, evaluation, bundle root or generation.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a directory of tesserec holds, after checking that its files are the ones that were written.

    [bold]Examples[/bold]

        tesserec info shop

        tesserec info runs/sparc --json
    """
    facts = describe(existing(path, "a directory that tesserec wrote"))
    if as_json:
        print_json(facts)
    else:
        print_table(["", ""], [[key.replace("_", " "), _text(value)] for key, value in facts.items()], str(path))


def recipe(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
) -> None:
    """Print every setting of a model with its default, as a recipe to edit and pass to `train --recipe`.

    [bold]Example[/bold]

        tesserec recipe sparc > sparc.toml
    """
    from tesserec.models import model_class
    from tesserec.training.recipe import to_toml

    print(to_toml(model_class(model).Config()), end="")


def describe(path: Path) -> Facts:
    """Facts on any directory that tesserec writes.

    Raises
    ------
    UserError
        If it is none of them, or damaged.
    """
    if (path / MANIFEST).is_file():
        manifest = read_json(path / MANIFEST)
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        if kind == "dataset":
            return _dataset(path)
        if isinstance(kind, str):
            return _sealed(path, kind)
    if (path / "config.json").is_file():
        return _run(path)
    if (path / "CURRENT").is_file():
        return _bundles(path)
    raise UserError(f"{path} is not a dataset, run, model, evaluation or bundle of tesserec")


def _dataset(path: Path) -> Facts:
    from tesserec.data.dataset import Dataset

    dataset = Dataset.open(path)
    lengths = dataset.train.lengths
    return {
        "kind": "dataset",
        "users": len(dataset.users),
        "items": len(dataset.items),
        "training_events": int(lengths.sum()),
        "training_users": len(lengths),
        "mean_history": round(float(lengths.mean()), 2) if len(lengths) else None,
        "longest_history": int(lengths.max(initial=0)),
        "validation_users": len(dataset.valid.users),
        "test_users": len(dataset.test.users),
        "split": dataset.split,
        "repeats": "left out of answers" if dataset.exclude_seen else "kept",
        "times": "yes" if dataset.train_times is not None else "no",
        "item_columns": dataset.roles,
        "fingerprint": dataset.fingerprint,
    }


def _run(path: Path) -> Facts:
    from tesserec.evaluations import evaluation_path, load_interests
    from tesserec.runs import load_run, state

    run = load_run(path)
    facts: Facts = {"kind": "run", "model": run.facts["model"], "state": "finished"}
    if not run.finished:
        facts["state"] = state(run)
    changed = {key: one["value"] for key, one in run.facts["settings"].items() if one["from"] != "default"}
    facts |= {"settings_changed": changed, "seed": run.facts["seed"], "dataset": run.facts["dataset"]}
    facts |= {"fingerprint": run.facts["fingerprint"], "seconds": run.facts.get("seconds")}
    for part in ("test", "valid"):
        if (place := evaluation_path(path, part) / "metrics.json").is_file():
            metrics = read_json(place)["metrics"]
            facts[f"{part}_metrics"] = {name: one["value"] for name, one in metrics.items() if "/" not in name}
        if (interests := load_interests(path, part)) is not None and interests.figures:
            facts[f"{part}_interests"] = {name: one.value for name, one in interests.figures.items()}
    return facts | {"versions": run.facts["versions"]}


def _bundles(path: Path) -> Facts:
    current = (path / "CURRENT").read_text().strip()
    generations = sorted(one.name for one in path.glob("generation-*") if one.is_dir())
    return {"root": str(path), "current": current, "generations": generations} | _sealed(path / current, "generation")


def _sealed(path: Path, kind: str) -> Facts:
    """The manifest, with sizes in place of hashes, once every hash has been checked."""
    manifest = open_directory(path, kind)
    files = manifest.pop("files")
    manifest["files"] = {name: f"{facts['bytes']:,} bytes" for name, facts in files.items()}
    manifest["bytes"] = sum(facts["bytes"] for facts in files.values())
    return manifest


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_text(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
