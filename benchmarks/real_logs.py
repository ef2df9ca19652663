"""Every model on real logs: one resumable command that trains, measures, compares and writes the tables.

    python benchmarks/real_logs.py --data DIR --work DIR                     # about eight hours of two cores
    python benchmarks/real_logs.py --data DIR --work DIR --workers 16        # minutes a log where there is a GPU
    python benchmarks/real_logs.py --data DIR --work DIR --quick             # about half an hour: one log, few epochs
    python benchmarks/real_logs.py --data DIR --work DIR --only amazon-beauty/leave-one-out:sparc --seeds 0,1,2
    python benchmarks/real_logs.py --data DIR --work DIR --tables            # only write the tables again

``DIR`` of ``--data`` holds a folder a log with ``interactions.parquet`` and ``items.parquet``. In ``--work`` unfinished
runs go on from their checkpoint. A finished run leaves a row and its users' recall in ``results/real_logs``, from which
``docs/real-logs.md`` and the overview of ``docs/results.md`` are written; rows of ``--quick`` lie in their own folder
with ``tables.md``. A row that is there is not measured again, on whatever day and machine it was made; remove it to
measure it anew.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from real_logs_tables import slug, write_tables

from tesserec import runs
from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.splits import TimeSplit
from tesserec.errors import TesserecError, UserError
from tesserec.evaluation.interests import evaluate_interests
from tesserec.evaluation.protocol import evaluate
from tesserec.files import write_json

RESULTS = Path(__file__).parent / "results" / "real_logs"
KS = (10, 20, 50)
PER_USER = ("recall@10", "recall@50", "ndcg@10", "recall@50/novel")
CELLS = 128
"""Cells that define, for every model alike, which targets are novel: k-means on a two-tower's item vectors."""


@dataclass(frozen=True)
class Entry:
    """A row of the table: a model and its own settings.

    Where its policy, or its settings from the end of training on (``inference``), are not the model's own, the row is
    of the model's own run, searched in another way.
    """

    label: str
    model: str
    sets: tuple[str, ...] = ()
    policy: tuple[tuple[str, Any], ...] = ()
    inference: tuple[tuple[str, Any], ...] = ()

    @property
    def searches(self) -> bool:
        """Whether it only searches another entry's run."""
        return bool(self.policy or self.inference)

    @property
    def run(self) -> str:
        """Name of its run."""
        return self.model if self.searches else slug(self.label)


@dataclass(frozen=True)
class Job:
    """One log under one split, with the budget and settings that every trained model shares there.

    Of a log that is cut by time only ``window`` is taken: its start, the start of validation, of testing, and its end.
    """

    log: str
    split: str
    epochs: int
    shared: tuple[str, ...]
    window: tuple[datetime, ...] = ()

    @property
    def name(self) -> str:
        """As in ``--only``."""
        return f"{self.log}/{self.split}"


WINDOWS = ("encoder.kind=windows",)
"""The best encoder on validation users of Beauty for every model but those that read the history in their own way."""
COSINE = ("normalise=true", "temperature=0.1", "training.learning_rate=0.003")
CROSS = (*WINDOWS, "features=true", "pairs=1024")
CODES = (
    "tokens.count=4",
    "codebook.levels=1",
    "codebook.codes=1024",
    "weights.commitment=0.1",
    "reads=8",
    "training.final_rate=0.05",
)
"""Codes enough to hold a user, read in plenty, and a learning rate at which tokens hardly outrun them."""

RIVALS = (
    Entry("popularity", "popularity"),
    Entry("item-knn", "item-knn"),
    Entry("two-tower", "two-tower", WINDOWS),
    Entry("sasrec", "sasrec", ("training.learning_rate=0.001",)),
    Entry("full softmax", "sasrec", (*WINDOWS, *COSINE)),
    *(Entry(name, name, WINDOWS) for name in ("mind", "comirec-sa", "comirec-dr", "remi")),
    *(Entry(name, name) for name in ("mrif", "dmi")),
)
CODEBOOKS = tuple(Entry(name, name, WINDOWS) for name in ("sparc", "gemirec", "tessera"))
FEATURES = (
    Entry("two-tower, features", "two-tower", (*WINDOWS, "features=true")),
    Entry("all-to-all, features", "all-to-all", (*CROSS, "tokens.count=1")),
    Entry("sparcode, features", "sparcode", (*CROSS, *CODES)),
)
"""The comparison of the SparCode paper, whose gain lies in features; on logs whose items have some."""
SINGLE = (
    *(
        Entry(f"{name}, K = 1", name, (*WINDOWS, "interests=1"))
        for name in ("mind", "comirec-sa", "comirec-dr", "remi")
    ),
    Entry("dmi, K = 1", "dmi", ("interests=1",)),
    *(Entry(f"{name}, K = 1", name, policy=(("interests", 1),)) for name in ("sparc", "gemirec")),
)
NEWER = (Entry("tessera, known at 0.4", "tessera", policy=(("known", 0.4),)),)
"""Interests that the history touches count less: what it does for those that are novel by the cells of all models."""
APART = (Entry("gemirec, apart", "gemirec", inference=(("trust", 1.25), ("per_parent", 1))),)
"""One interest a first code, each with a longer step to its own vector: less collapsed, at a cost in recall."""
FEW = (Entry("tessera, few cells", "tessera", inference=(("trust", 2.0),)),)
"""Twice what the posterior corrects: a user's best items lie in fewer cells, on Amazon's logs in half as many."""
ENTRIES = (*RIVALS, *CODEBOOKS, *FEATURES, *SINGLE, *NEWER, *APART, *FEW)
RIVALS_BY_LABEL = [one.label for one in (*RIVALS, *SINGLE) if one.model not in ("sparc", "gemirec")]
FEATURES_BY_LABEL = [one.label for one in FEATURES]
CODEBOOKS_BY_LABEL = [one.label for one in ENTRIES if one.label not in RIVALS_BY_LABEL + FEATURES_BY_LABEL]
UNTRAINED = ("popularity", "item-knn")
WARM_UP = {"sparc": 0.6, "gemirec": 2 / 3, "tessera": 1 / 3, "sparcode": 2 / 3, "all-to-all": 1 / 3}
"""Share of the epochs in which a codebook method is still a single-vector model, unless that stalls before."""
WITH_FEATURES = ("amazon-beauty/leave-one-out", "ml-1m/leave-one-out")
PATIENCE = 5400
"""Seconds that a run waits for another which it builds on."""

BEAUTY = ("encoder.dropout=0.3",)
CDS = ("encoder.dropout=0.2", "training.patience=4")
SPORTS = ("encoder.dropout=0.3",)
GLOBO = ("encoder.dropout=0.2", "encoder.max_length=30", "training.patience=3")
GLOBO_WINDOW = (datetime(2017, 10, 9, 20), *(datetime(2017, 10, 10, hour) for hour in (16, 20)), datetime(2017, 10, 11))
"""A day. News live for hours: after a split of the whole log at its last days no model knows what is read there, and
events of earlier days teach what is read no more."""
ML_1M = (
    "encoder.max_length=200",
    "training.batch_positions=4096",
    "training.patience=8",
    "training.validate_k=10",
)
NEXT_ITEM = "horizon=1"
"""The best target on validation users of both splits of Beauty, though user hold-out asks for all that follows."""
JOBS = (
    Job("amazon-beauty", "leave-one-out", 30, BEAUTY),
    Job("amazon-beauty", "user-holdout", 30, BEAUTY),
    Job("amazon-cds", "leave-one-out", 30, CDS),
    Job("amazon-cds", "user-holdout", 30, CDS),
    Job("globo-news", "time", 8, GLOBO, GLOBO_WINDOW),
    Job("ml-1m", "leave-one-out", 16, ML_1M),
    Job("amazon-sports", "leave-one-out", 20, SPORTS),
)
QUICK_EPOCHS = 6


def main() -> None:
    """Run what is left of the chosen jobs, then write the tables."""
    chosen = arguments()
    results = RESULTS.with_name("real_logs_quick") if chosen.quick else RESULTS
    if not chosen.tables:
        tasks = [task for task in plan(chosen) if not row_path(results, *task[:3]).exists()]
        run_one = partial(run, data=chosen.data, work=chosen.work, results=results)
        # The two-tower first, since its item vectors say which targets are novel; searches of finished runs last.
        work_off(sorted(tasks, key=lambda task: order(task[1])), run_one, chosen.workers)
    labels = RIVALS_BY_LABEL, CODEBOOKS_BY_LABEL, FEATURES_BY_LABEL
    write_tables(results, [job.name for job in JOBS], *labels, quick=chosen.quick)


def order(entry: Entry) -> int:
    """When an entry's turn comes."""
    return 0 if entry.label == "two-tower" else 2 if entry.searches else 1


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder a log")
    parser.add_argument("--work", type=Path, required=True, help="where datasets and runs are kept")
    parser.add_argument("--only", action="append", help="a job such as ml-1m/leave-one-out, or job:entry")
    parser.add_argument("--seeds", default="0", help="separated by commas")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--quick", action="store_true", help="Beauty, leave-one-out, six epochs, without ablations")
    parser.add_argument("--tables", action="store_true", help="write the tables from finished rows only")
    return parser.parse_args()


def plan(chosen: argparse.Namespace) -> list[tuple[Job, Entry, int]]:
    """Every (job, entry, seed) that was asked for."""
    jobs, entries = (JOBS[:1], (*RIVALS, *CODEBOOKS, *FEATURES)) if chosen.quick else (JOBS, ENTRIES)
    if chosen.quick:
        jobs = tuple(replace(job, epochs=QUICK_EPOCHS) for job in jobs)
    tasks = [(job, entry, int(seed)) for seed in chosen.seeds.split(",") for job in jobs for entry in entries]
    tasks = [one for one in tasks if one[0].name in WITH_FEATURES or one[1] not in FEATURES]
    only = set(chosen.only or ())
    return [one for one in tasks if not only or {one[0].name, f"{one[0].name}:{one[1].label}"} & only]


def work_off(tasks: list[Any], run_one: Any, workers: int) -> None:
    """Run tasks in processes of one thread each: two of them do more than one with two threads."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for message in pool.map(run_one, tasks):
            print(message, flush=True)


def settings(job: Job, entry: Entry) -> tuple[str, ...]:
    """All settings of a run that are not the model's defaults."""
    if entry.model in UNTRAINED:
        return ()
    warm = round(job.epochs * WARM_UP[entry.model]) if entry.model in WARM_UP else None
    warm_up = () if warm is None else (f"warmup_epochs={max(1, warm)}",)
    return (*job.shared, NEXT_ITEM, f"training.epochs={job.epochs}", *entry.sets, *warm_up)


def run(task: tuple[Job, Entry, int], data: Path, work: Path, results: Path) -> str:
    """Prepare, train and measure one entry; leaves its row."""
    job, entry, seed = task
    name = f"{job.name}: {entry.label}, seed {seed}"
    folder = work / job.log / job.split
    dataset = folder / "dataset"
    quick = "-quick" if results != RESULTS else ""
    place = folder / f"{entry.run}-s{seed}{quick}"
    try:
        with one_at_a_time(folder):
            if not dataset.exists():
                write_dataset(job, data / job.log, dataset)
        if entry.searches:
            wait_for(place)
        begun = (place / runs.CONFIG).exists()
        if not (begun and runs.load_run(place).finished):
            runs.train_run(dataset, entry.model, place, sets=settings(job, entry), seed=seed, resume=begun)
        row = measure(
            place,
            entry,
            novelty(folder / f"two-tower-s0{quick}", results / slug(job.name)),
            row_path(results, job, entry, seed),
        )
    except TesserecError as error:
        return f"{name}: {error}"
    shown = {metric: round(row["metrics"][metric]["value"], 4) for metric in ("recall@10", "recall@50")}
    return f"{name}: {shown} in {row['seconds']:.0f} s"


def write_dataset(job: Job, source: Path, out: Path) -> None:
    """Prepare a log, or the window of it and the items that are read there."""
    log, catalogue = (source / f"{name}.parquet" for name in ("interactions", "items"))
    if not job.window:
        prepare(log, items=catalogue, split=job.split, out=out)
        return
    events, items, (start, *cuts, stop) = pl.read_parquet(log), pl.read_parquet(catalogue), job.window
    events = events.filter(pl.from_epoch("timestamp").is_between(start, stop, closed="left"))
    items = items.filter(pl.col("item_id").is_in(events["item_id"].unique().implode()))
    prepare(events, items=items, split=TimeSplit((cuts[0], cuts[1])), out=out)


def measure(place: Path, entry: Entry, cells: np.ndarray[Any, Any], row_file: Path) -> dict[str, Any]:
    """Evaluate a finished run and write its row and each user's recall."""
    opened = runs.load_run(place)
    dataset = opened.dataset()
    if entry.inference:
        change_settings(opened.model, dict(entry.inference))
        opened.model.after_training(dataset, opened.facts["seed"])
    searcher = opened.model.searcher
    policy = replace(searcher.policy, **dict(entry.policy))
    found = evaluate(partial(searcher.retrieve, policy=policy), dataset, ks=KS, cells=cells)
    log = runs.read_log(place / runs.LOG)
    row = {
        "label": entry.label,
        "model": entry.model,
        "seed": opened.facts["seed"],
        "fingerprint": found.fingerprint,
        "protocol": found.protocol,
        "versions": opened.facts["versions"],
        "device": device(entry),
        "settings": [f"{key}={one['value']}" for key, one in opened.facts["settings"].items() if one["from"] == "set"]
        + [f"{key}={value}" for key, value in entry.inference],
        "policy": dict(entry.policy),
        "seconds": sum(one["seconds"] for one in log) if log else opened.facts["seconds"],
        "epochs": len(log) or None,
        "codebook": {key: value for key, value in log[-1].items() if key.startswith("codebook/")} if log else {},
        "metrics": {name: asdict(one) for name, one in found.metrics.items()},
        "interests": {} if entry.policy else interest_figures(opened, dataset, cells),
    }
    row_file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: found.per_user[name].astype(np.float32) for name in PER_USER if name in found.per_user}
    pl.DataFrame({"user": found.users, **columns}).write_parquet(row_file.with_suffix(".parquet"))
    write_json(row_file, row)
    return row


def change_settings(model: Any, settings: dict[str, Any]) -> None:
    """Change settings of a trained model that matter to inference alone."""
    model.config = model.network.config = type(model.config).model_validate(model.config.model_dump() | settings)


def interest_figures(opened: runs.Run, dataset: Dataset, cells: np.ndarray[Any, Any]) -> dict[str, float]:
    """Collapse, concentration, calibration and health by name; empty for a model without interests."""
    codes = opened.model.item_codes()
    found = evaluate_interests(opened.model.searcher, dataset, cells=cells, codes=codes)
    size = {} if codes is None else {"codebook/codes": codes[1]}
    return {name: figure.value for name, figure in found.figures.items()} | size


def device(entry: Entry) -> str:
    """What trained a model: the graphics card's name, or the processor."""
    import torch

    trained = entry.model not in UNTRAINED and torch.cuda.is_available()
    return torch.cuda.get_device_name() if trained else "cpu"


def novelty(two_tower: Path, kept_in: Path) -> np.ndarray[Any, Any]:
    """Cell of each item by k-means on a two-tower's item vectors; kept with the rows, so all are measured alike."""
    from scipy.cluster.vq import kmeans2

    kept = kept_in / "novelty.npy"
    if not kept.exists():
        wait_for(two_tower)
        postings = runs.load_run(two_tower).model.searcher.postings
        vectors = np.asarray(postings.vectors_of(np.arange(postings.size)))
        _, cells = kmeans2(vectors, CELLS, iter=20, minit="++", rng=np.random.default_rng(0), missing="warn")
        kept_in.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{os.getpid()}-{kept.name}")
        np.save(temporary, cells.astype(np.uint8))
        temporary.replace(kept)
    return np.load(kept).astype(np.int32)


def wait_for(place: Path) -> None:
    """Wait until another process has finished a run."""
    waited = 0
    while not ((place / runs.CONFIG).exists() and runs.load_run(place).finished):
        time.sleep(2)
        waited += 2
        if waited > PATIENCE:
            raise UserError(f"{place} is not finished after {PATIENCE} s; run its entry first")


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare a log."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def row_path(results: Path, job: Job, entry: Entry, seed: int) -> Path:
    """Where a row is kept."""
    return results / slug(job.name) / f"{slug(entry.label)}-s{seed}.json"


if __name__ == "__main__":
    sys.exit(main())
