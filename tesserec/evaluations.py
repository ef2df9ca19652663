"""Workflows over runs that are trained: measure them, compare them, report on them.

What is measured stays in the run: ``evaluation/`` and ``interests.json`` of its test part, ``evaluation-valid/`` and
``interests-valid.json`` of its validation part; the pages are ``report.html`` and ``report-valid.html``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tesserec.errors import UserError
from tesserec.runs import LOG, Run, load_run, read_log

if TYPE_CHECKING:
    from tesserec.evaluation.interest_result import InterestEvaluation
    from tesserec.evaluation.result import Evaluation
    from tesserec.evaluation.significance import Comparison


def evaluate_run(
    path: Path,
    *,
    ks: Sequence[int] = (10, 20, 50),
    part: str = "test",
    compat: Sequence[str] = (),
    cells_of: Path | None = None,
    dataset_path: Path | None = None,
    interest_users: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a run on a held-out part and keep the result in ``evaluation/`` (``evaluation-valid/``) of the run.

    Its interests are measured on a sample of the same users and kept in ``interests.json`` (``interests-valid.json``).

    Parameters
    ----------
    path
        The run.
    ks, part, compat, progress
        As for :func:`tesserec.evaluation.protocol.evaluate`.
    cells_of
        Another run whose cells define which interests are novel; by default the run's own, if it has cells.
    dataset_path
        Where the dataset is, if it has moved since training.
    interest_users
        At most this many users for the figures on interests; 0 leaves these out.
    """
    from tesserec.evaluation.interests import evaluate_interests
    from tesserec.evaluation.protocol import evaluate
    from tesserec.evaluation.result import main_k

    run = load_run(path)
    dataset = run.dataset(dataset_path)
    cells = (run if cells_of is None else load_run(cells_of)).model.searcher.cells
    if cells_of is not None and cells is None:
        raise UserError(f"{cells_of} has no interests, so no cells; name a run of a model with interests")
    evaluation = evaluate(
        run.model.searcher.retrieve, dataset, part=part, ks=ks, cells=cells, compat=compat, progress=progress
    )
    evaluation.save(evaluation_path(run.path, part), overwrite=True)
    interests_path(run.path, part).unlink(missing_ok=True)
    if interest_users:
        k, codes = main_k(evaluation.protocol["ks"]), run.model.item_codes()
        interests = evaluate_interests(
            run.model.searcher, dataset, part=part, k=k, users=interest_users, cells=cells, codes=codes
        )
        interests.save(interests_path(run.path, part))
    return evaluation


def evaluation_path(run: Path, part: str = "test") -> Path:
    """Where a run keeps the evaluation of a part."""
    return Path(run) / ("evaluation" if part == "test" else f"evaluation-{part}")


def interests_path(run: Path, part: str = "test") -> Path:
    """Where a run keeps the figures on its interests."""
    return Path(run) / ("interests.json" if part == "test" else f"interests-{part}.json")


def report_path(run: Path, part: str = "test") -> Path:
    """Where a run keeps the page on a part."""
    return Path(run) / ("report.html" if part == "test" else f"report-{part}.html")


def load_interests(run: Path, part: str = "test") -> InterestEvaluation | None:
    """Figures on the interests of an evaluated run; None where they were left out."""
    from tesserec.evaluation.interest_result import InterestEvaluation

    place = interests_path(run, part)
    return InterestEvaluation.load(place) if place.is_file() else None


def load_evaluations(paths: Sequence[Path], part: str = "test") -> dict[str, Evaluation]:
    """Evaluations of runs by the shortest name that tells them apart.

    Raises
    ------
    UserError
        If a run has not been evaluated on that part, there is no such part, or a run is named twice.
    """
    from tesserec.evaluation.protocol import check_part
    from tesserec.evaluation.result import Evaluation

    check_part(part)
    found = {}
    for path, name in zip(paths, _short_names(paths), strict=True):
        run = load_run(path)
        place = evaluation_path(run.path, part)
        if not place.is_dir():
            command = shlex.join(["tesserec", "evaluate", str(path), "--part", part])
            raise UserError(f"{path} has no evaluation of its {part} part; run: {command}")
        found[name] = Evaluation.load(place)
    return found


def compare_runs(paths: Sequence[Path], metrics: Sequence[str] | None = None, part: str = "test") -> Comparison:
    """Compare runs with the first of them, user by user; see :func:`tesserec.evaluation.significance.compare`."""
    from tesserec.evaluation.significance import compare

    return compare(load_evaluations(paths, part), metrics)


def write_run_report(paths: Sequence[Path], out: Path, part: str = "test") -> Path:
    """One self-contained HTML page on one evaluated run or several; several are compared with the first.

    Raises
    ------
    MissingExtra
        If the ``report`` extra is not installed.
    """
    from tesserec.evaluation.report import write_report
    from tesserec.evaluation.significance import compare

    evaluations = load_evaluations(paths, part)
    logs = {name: read_log(path / LOG) for name, path in zip(evaluations, paths, strict=True)}
    facts = {name: _settings_and_versions(load_run(path)) for name, path in zip(evaluations, paths, strict=True)}
    measured = {name: load_interests(path, part) for name, path in zip(evaluations, paths, strict=True)}
    interests = {name: one for name, one in measured.items() if one is not None}
    if len(paths) == 1:
        (name, evaluation), *_ = evaluations.items()
        title = f"{facts[name]['model']}: {name}"
        alone = {"run": interests[name]} if interests else {}
        write_report(out, evaluation, interests=alone, training_log=logs[name], facts=facts[name], title=title)
    else:
        title = f"{len(paths)} runs compared"
        comparison = compare(evaluations)
        write_report(
            out, evaluations, interests=interests, comparison=comparison, training_log=logs, facts=facts, title=title
        )
    return out


def _settings_and_versions(run: Run) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    settings = {key: f"{one['value']} ({one['from']})" for key, one in run.facts["settings"].items()}
    kept = {key: run.facts.get(key) for key in ("model", "seed", "seconds", "dataset", "versions")}
    return kept | {"settings": settings}


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Directory names, or as many parents as it takes to tell the runs apart."""
    parts = [Path(path).absolute().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("a run is named twice; a comparison needs different runs")
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            break
    return names
