"""Every model on real logs: one resumable command that trains, measures, compares and writes the tables.

    python benchmarks/real_logs.py --data DIR --work DIR [--only amazon-beauty/leave-one-out] [--tables]

``DIR`` of ``--data`` holds a folder a log with ``interactions.parquet`` and ``items.parquet``. Finished runs in
``--work`` are kept, unfinished ones go on from their checkpoint; ``--tables`` only writes the tables again.
Results go to ``benchmarks/results/real_logs.json`` and, between its markers, to ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tesserec import runs
from tesserec.data.prepare import prepare
from tesserec.errors import TesserecError
from tesserec.evaluation.protocol import evaluate
from tesserec.evaluation.significance import compare
from tesserec.files import read_json, write_atomic, write_json
from tesserec.index.contract import Policy

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real_logs.json"
PAGE = HERE.parent / "docs" / "results.md"
KS = (10, 20, 50)
METRICS = ("recall@10", "ndcg@10", "recall@20", "recall@50", "recall@50/novel", "tail_recall@50", "coverage@50")
SEED = 0


@dataclass(frozen=True)
class Job:
    """One log under one split, with the settings that every trained model shares there."""

    log: str
    split: str
    shared: tuple[str, ...]
    own: dict[str, tuple[str, ...]]

    @property
    def name(self) -> str:
        """As in ``--only``."""
        return f"{self.log}/{self.split}"


BEAUTY = ("encoder.dropout=0.3", "training.epochs=30")
PUBLISHED = ("training.learning_rate=0.001", "training.epochs=60")
"""SASRec on ML-1M has a published figure to meet, so it may train longer there than the others."""
NEXT_ITEM, NEXT_ITEMS = ("horizon=1",), ("horizon=5",)
"""Leave-one-out asks for the next item, user hold-out for all that follow; targets are drawn accordingly."""
OWN = {
    "popularity": (),
    "item-knn": (),
    "two-tower": (),
    "sasrec": ("training.learning_rate=0.001",),
    "sparc": ("warmup_epochs=18",),
}
ML_1M = (
    "encoder.max_length=200",
    "encoder.dropout=0.2",
    "training.batch_positions=4096",
    "training.epochs=16",
    "training.patience=8",
    "training.validate_k=10",
)
JOBS = (
    Job("amazon-beauty", "leave-one-out", (*BEAUTY, *NEXT_ITEM), OWN),
    Job("amazon-beauty", "user-holdout", (*BEAUTY, *NEXT_ITEMS), OWN),
    Job("ml-1m", "leave-one-out", (*ML_1M, *NEXT_ITEM), OWN | {"sasrec": PUBLISHED, "sparc": ("warmup_epochs=8",)}),
)
POLICIES = (
    Policy(interests=1),
    *(Policy(interests=k, merge=merge) for k in (4, 8, 16) for merge in ("max", "probability", "quota")),
)
POLICY_METRICS = ("recall@10", "recall@50", "coverage@50")
UNTRAINED = ("popularity", "popularity-recent", "item-knn")


def main() -> None:
    """Run the jobs that are left, then write the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="folder with a folder a log")
    arguments.add_argument("--work", type=Path, required=True, help="where datasets and runs are kept")
    arguments.add_argument("--only", action="append", help="a job such as ml-1m/leave-one-out, or one/job:model")
    arguments.add_argument("--tables", action="store_true", help="write the tables from finished runs only")
    chosen = arguments.parse_args()
    if not chosen.tables:
        for job in JOBS:
            for model in job.own:
                if not chosen.only or {job.name, f"{job.name}:{model}"} & set(chosen.only):
                    run(job, model, chosen.data, chosen.work)
    write_tables(chosen.work)


def run(job: Job, model: str, data: Path, work: Path) -> None:
    """Prepare, train and measure one model, unless that is done."""
    dataset = work / job.log / job.split / "dataset"
    if not dataset.exists():
        folder = data / job.log
        prepare(folder / "interactions.parquet", items=folder / "items.parquet", split=job.split, out=dataset)
    out = place(work, job, model)
    print(f"== {job.name}: {model}", flush=True)
    sets = job.own[model] if model in UNTRAINED else (*job.shared, *job.own[model])
    resume = out.exists()
    runs.train_run(dataset, model, out, sets=sets, seed=SEED, resume=resume, progress=True)
    if not runs.evaluation_path(out).exists():
        runs.evaluate_run(out, ks=KS)


def place(work: Path, job: Job, model: str) -> Path:
    """Directory of a run."""
    return work / job.log / job.split / model


def write_tables(work: Path) -> None:
    """Collect what is finished into JSON and Markdown."""
    tables = [table for job in JOBS if (table := collect(work, job))]
    write_json(RESULTS, tables)
    page = PAGE.read_text()
    text = "\n\n".join(render(table) for table in tables)
    page = re.sub(r"(<!-- real logs -->\n).*(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.S)
    write_atomic(PAGE, page.encode())


def collect(work: Path, job: Job) -> dict[str, Any] | None:
    """Rows of one job's finished runs, and their paired comparison with the two-tower."""
    done = [model for model in job.own if runs.evaluation_path(place(work, job, model)).is_dir()]
    if not done:
        return None
    sparc = place(work, job, "sparc")
    if "sparc" in done:
        for model in done:
            # The same cells define which interests are novel for every model.
            runs.evaluate_run(place(work, job, model), ks=KS, cells_of=sparc)
    evaluations = runs.load_evaluations([place(work, job, model) for model in done])
    facts = {model: runs.load_run(place(work, job, model)).facts for model in done}
    rows = [
        {
            "model": model,
            "seconds": seconds(place(work, job, model), facts[model]),
            "epochs": epochs(place(work, job, model)),
            "command": command(job, model),
            "metrics": {name: vars(one.metrics[name]) for name in METRICS if name in one.metrics},
        }
        for model, one in evaluations.items()
    ]
    first = next(iter(evaluations.values()))
    paired = None
    if "two-tower" in done:
        order = ["two-tower", *(model for model in done if model != "two-tower")]
        paired = compare({model: evaluations[model] for model in order}, ["recall@10", "recall@50"]).table.to_dicts()
    return {
        "job": job.name,
        "fingerprint": first.fingerprint,
        "protocol": first.protocol,
        "versions": facts[done[0]]["versions"],
        "rows": rows,
        "against two-tower": paired,
        "policies": policies(sparc) if "sparc" in done else None,
    }


def policies(run: Path) -> list[dict[str, Any]]:
    """The same fitted SPARC under other policies of search: K = 1 and more interests, each way of merging."""
    kept = run / "policies.json"
    if not kept.exists():
        opened = runs.load_run(run)
        searcher, dataset = opened.model.searcher, opened.dataset()
        rows = []
        for policy in POLICIES:
            found = evaluate(partial(searcher.retrieve, policy=policy), dataset, ks=KS)
            shown = {name: vars(found.metrics[name]) for name in POLICY_METRICS}
            rows.append({"interests": policy.interests, "merge": policy.merge, "metrics": shown})
        write_json(kept, rows)
    return list(read_json(kept))


def seconds(run: Path, facts: dict[str, Any]) -> float:
    """Time in training steps, over all sittings of a run; for a table, the time of counting."""
    log = run / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return sum(row["seconds"] for row in rows) if rows else float(facts["seconds"])


def epochs(run: Path) -> int | None:
    """Epochs that were trained."""
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else None


def command(job: Job, model: str) -> str:
    """The command line that trains this row."""
    sets = job.own[model] if model in UNTRAINED else (*job.shared, *job.own[model])
    return f"tesserec train DATASET --model {model} --seed {SEED}" + "".join(f" --set {one}" for one in sets)


def render(table: dict[str, Any]) -> str:
    """One job as Markdown."""
    protocol = table["protocol"]
    shown = [name for name in METRICS if any(name in row["metrics"] for row in table["rows"])]
    lines = [
        f"### {table['job']}",
        "",
        f"{protocol['users']:,} test users, {protocol['items']:,} items, full catalogue, seen items "
        f"{'excluded' if protocol['exclude_seen'] else 'kept'}, ties by item order, seed {SEED}, "
        f"fingerprint `{table['fingerprint'][:12]}`. 95 % bootstrap intervals over users.",
        "",
        "| model | " + " | ".join(shown) + " | epochs | training steps |",
        "| --- " * (len(shown) + 3) + "|",
    ]
    for row in table["rows"]:
        cells = [estimate(row["metrics"].get(name)) for name in shown]
        cells += [str(row["epochs"] or ""), f"{row['seconds']:.0f} s"]
        lines.append(f"| {row['model']} | " + " | ".join(cells) + " |")
    if table["against two-tower"]:
        lines += [
            "",
            "Difference from the two-tower, paired by user; p of a randomisation test, Holm-corrected:",
            "",
        ]
        lines += ["| model | metric | difference | p |", "| --- | --- | --- | --- |"]
        for row in table["against two-tower"]:
            if row["run"] != "two-tower":
                lines.append(f"| {row['run']} | {row['metric']} | {difference(row)} | {row['p_holm']:.4f} |")
    if table["policies"]:
        lines += ["", "The same SPARC with other numbers of interests (K) and other ways to merge their lists:", ""]
        lines += ["| K | merge | " + " | ".join(POLICY_METRICS) + " |", "| --- | --- | --- | --- | --- |"]
        for row in table["policies"]:
            cells = [estimate(row["metrics"][name]) for name in POLICY_METRICS]
            lines.append(f"| {row['interests']} | {row['merge']} | " + " | ".join(cells) + " |")
    lines += ["", "<details><summary>Commands</summary>", "", "```"]
    log, _, split = table["job"].partition("/")
    lines.append(
        f"tesserec prepare {log}/interactions.parquet --items {log}/items.parquet --split {split} --out DATASET"
    )
    lines += [f"{row['command']} --out {row['model']}" for row in table["rows"]]
    lines += [f"tesserec evaluate {row['model']} --cells sparc" for row in table["rows"]]
    return "\n".join([*lines, "```", "", "</details>"])


def estimate(one: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if one is None:
        return ""
    interval = "" if one["low"] is None else f" ({one['low']:.4f} to {one['high']:.4f})"
    return f"{one['value']:.4f}{interval}"


def difference(row: dict[str, Any]) -> str:
    """A paired difference with its interval."""
    return f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"


if __name__ == "__main__":
    try:
        main()
    except TesserecError as error:
        raise SystemExit(json.dumps({"error": str(error)})) from error
