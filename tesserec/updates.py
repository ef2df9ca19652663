"""From a run and a later log to the next run: items keep their codes, new ones get some, and the change is counted.

An update prepares the old events and the new ones together, moves the trained weights onto the new catalogue, trains
on for some epochs if asked to, and publishes. The directory that it makes is a run like any other, with its dataset
inside, so it can be evaluated and updated again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tesserec.errors import UserError, train_extra
from tesserec.files import write_json
from tesserec.runs import CONFIG, MODEL, Run, index_run, load_run

if TYPE_CHECKING:
    from tesserec.data.dataset import Dataset
    from tesserec.models.base import Retriever

DATASET = "dataset"
REPORT = "update.json"


@dataclass(frozen=True)
class Update:
    """What an update did.

    Attributes
    ----------
    run
        Directory of the new run.
    events, users, items
        How many came on top.
    dropped
        New events that each filter of the dataset removed, and those that it had already.
    churn
        Share of the items known before whose code, at any level, is another now; None for models without codes.
    moved
        How many items that is.
    fine_tuned
        Epochs of training on.
    generation
        Directory of the published generation, None where none was asked for.
    seconds
        In all.
    """

    run: str
    events: int
    users: int
    items: int
    dropped: dict[str, int]
    churn: float | None
    moved: int | None
    fine_tuned: int
    generation: str | None
    seconds: float


def update_run(
    path: Path,
    interactions: Any,
    out: Path,
    *,
    items: Any = None,
    columns: Mapping[str, str | None] | None = None,
    fine_tune: int = 0,
    bundles: Path | None = None,
    dataset: Path | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Update:
    """Bring a run up to date with new interactions and items.

    Counted models (popularity, item-kNN) are counted again. Trained models keep every weight: an item known before has
    the vector and the code that it had, a new one starts beside the items that it was met with and where its features
    put it (see :func:`tesserec.models.warm.warm_start`). With ``fine_tune`` they then train on; codes may move, but
    keep their identity, and ``churn`` says how many items changed over.

    Parameters
    ----------
    path
        A finished run.
    interactions, items, columns
        See :func:`tesserec.data.merge.prepare_more`.
    out
        Directory of the new run, to be made.
    fine_tune
        Epochs to train on.
    bundles
        Publish as the next generation of this root.
    dataset
        Where the run's dataset is, if it was moved.

    Raises
    ------
    UserError
        If ``out`` exists, the run is unfinished, or the new tables cannot be used.
    """
    from tesserec.data.merge import prepare_more

    begin = time.perf_counter()
    if Path(out).exists():
        raise UserError(f"{out} exists already; choose another name")
    if fine_tune < 0:
        raise UserError(f"fine_tune = {fine_tune}; expected a number of epochs")
    before = load_run(path)
    known, trained = before.dataset(dataset), before.model
    try:
        later = prepare_more(known, interactions, items=items, columns=columns, out=Path(out) / DATASET)
        facts = {**before.facts, "dataset": str((Path(out) / DATASET).absolute()), "fingerprint": later.fingerprint}
        run = Run(Path(out), facts | {"updated_from": str(Path(path).absolute()), "fine_tuned": fine_tune})
        with train_extra(f"updating {facts['model']}"):
            model = _on(trained, later, run.path, fine_tune, seed, progress)
        churn, moved = _churn(trained, model)
        model.save(run.path / MODEL)
        write_json(run.path / CONFIG, run.facts | {"seconds": round(time.perf_counter() - begin, 2)})
    except BaseException:
        # What is refused or stopped is begun anew, and must not be in the way of that.
        shutil.rmtree(out, ignore_errors=True)
        raise
    assert later.report is not None
    generation = None if bundles is None else str(index_run(run.path, bundles))
    done = Update(
        run=str(out),
        events=len(later.train.values) - len(known.train.values),
        users=len(later.users) - len(known.users),
        items=len(later.items) - len(known.items),
        dropped=later.report.dropped,
        churn=churn,
        moved=moved,
        fine_tuned=fine_tune,
        generation=generation,
        seconds=round(time.perf_counter() - begin, 2),
    )
    write_json(run.path / REPORT, asdict(done))
    return done


def _on(trained: Retriever, dataset: Dataset, run: Path, epochs: int, seed: int, progress: bool) -> Retriever:
    """The model on the later dataset."""
    from tesserec.models.tables import TableRetriever

    if isinstance(trained, TableRetriever):
        if epochs:
            raise UserError(f"{trained.name} is counted, not trained; leave out --fine-tune")
        return type(trained)(trained.config).fit(dataset)
    from tesserec.models.neural import NeuralRetriever
    from tesserec.models.warm import warm_start

    assert isinstance(trained, NeuralRetriever)
    model = warm_start(trained, dataset)
    return model.fine_tune(dataset, epochs, seed=seed, run=run, progress=progress) if epochs else model


def _churn(before: Retriever, after: Retriever) -> tuple[float | None, int | None]:
    """Share and number of the items of the earlier model whose codes differ in the later one."""
    from tesserec.evaluation.codebooks import churn

    old, new = before.item_codes(), after.item_codes()
    if old is None or new is None:
        return None, None
    ids = before.searcher.catalogue.items.values.to_list()
    place = after.searcher.catalogue.items.encode(ids)
    kept = place >= 0
    share = churn(np.asarray(old[0])[kept], np.asarray(new[0])[place[kept]])
    return share, round(share * int(kept.sum()))
