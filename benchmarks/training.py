"""Training throughput of two-tower, SASRec and SPARC beside RecBole's SASRec: the same log, width, length, batch, loss.

    python benchmarks/training.py [--log LOG] [--recbole-python PATH] [--threads 2]

Writes ``benchmarks/results/training.json``. Without ``--log`` the log is a synthetic world; without
``--recbole-python`` RecBole is left out. RecBole needs an environment of its own:

    python3.11 -m venv recbole-env
    recbole-env/bin/pip install torch==2.13.0 'setuptools<81' 'numpy<2' 'pandas<3' 'scipy<1.14' colorlog colorama \
        pyyaml tqdm tabulate texttable psutil scikit-learn thop plotly tensorboard
    recbole-env/bin/pip install --no-deps recbole==1.2.1
    python benchmarks/training.py --recbole-python recbole-env/bin/python

What is counted: a *target* is one interaction of the training histories that is predicted once from what came before
it, and both sides predict every target once an epoch. tesserec predicts at all positions of a history in one pass;
RecBole makes a sample of every prefix, padded to the full length, and predicts one target from each. A step has the
same number of targets on both sides. Sequences and positions (with padding) a second say what the encoders do for it.

How: one process a model, all alive and idle but one; rounds go round robin (A B C A B C ...), each trains whole steps
for some seconds through the side's own loop or trainer, with batching, without evaluation and reading of files, after
two rounds of warm-up (SPARC starts its codebook between them). Medians over rounds, by wall clock and by processor
time of the process, which foreign load hardly changes; ratios are medians over pairs of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.world import World

HERE = Path(__file__).parent
RESULT = HERE / "results" / "training.json"
WIDTH, LAYERS, HEADS, INNER, LENGTH, DROPOUT = 64, 2, 2, 128, 50, 0.2
BASELINE = "RecBole SASRec, full softmax, fp32"
LIKE = "SASRec, full softmax, fp32"
GOAL = 3.0
WARMUP_ROUNDS, WARMUP_SECONDS = 2, 2.0


@dataclass
class Side:
    """One row: a process that trains a model whenever it is asked to."""

    name: str
    python: str
    script: str
    settings: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def start(self, threads: int) -> None:
        """Start the process, wait until it is ready and warm it up."""
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(limits, str(threads)) | {"GOMP_SPINCOUNT": "1000"}
        command = [self.python, "-W", "ignore", str(HERE / "workers" / self.script)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._ask(json.dumps(self.settings))
        for _ in range(WARMUP_ROUNDS):
            self._ask(str(WARMUP_SECONDS))

    def round(self, seconds: float) -> None:
        """Train for some seconds and keep what was done."""
        load = os.getloadavg()[0]
        self.rounds.append(self._ask(str(seconds)) | {"load_before": load})

    def stop(self) -> None:
        """End the process."""
        self.process.communicate()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name}: the process ended with code {self.process.wait()}; its message is above")
        answered: dict[str, Any] = json.loads(answer)
        return answered

    def speeds(self, what: str = "targets", clock: str = "seconds") -> list[float]:
        """``what`` a second, round by round."""
        return [done[what] / done[clock] for done in self.rounds]

    def row(self) -> dict[str, Any]:
        """The figures of the result file."""
        targets = self.speeds()
        steps = sum(done["steps"] for done in self.rounds)
        return {
            "model": self.name,
            "precision": self.facts["precision"],
            "targets_per_second": round(statistics.median(targets)),
            "targets_per_second_rounds": [round(speed) for speed in targets],
            "targets_per_cpu_second": round(statistics.median(self.speeds(clock="cpu_seconds"))),
            "sequences_per_second": round(statistics.median(self.speeds("sequences"))),
            "positions_per_second": round(statistics.median(self.speeds("positions"))),
            "targets_per_step": round(sum(done["targets"] for done in self.rounds) / steps),
            "sequences_per_step": round(sum(done["sequences"] for done in self.rounds) / steps),
            "positions_per_step": round(sum(done["positions"] for done in self.rounds) / steps),
            "steps": steps,
            "cpu_per_wall": round(statistics.median(d["cpu_seconds"] / d["seconds"] for d in self.rounds), 2),
            "seconds_an_epoch": round(self.facts["epoch_targets"] / statistics.median(targets), 1),
            "epoch_targets": self.facts["epoch_targets"],
            "items": self.facts["items"],
        }


def tesserec_sides(dataset: Path, batch: int) -> list[Side]:
    """Our models: the library's defaults at the common shape, plus SASRec in RecBole's precision."""
    encoder = {"dim": WIDTH, "layers": LAYERS, "heads": HEADS, "expansion": INNER // WIDTH, "max_length": LENGTH}
    shared: dict[str, Any] = {"encoder": encoder | {"dropout": DROPOUT}, "training": {"batch_positions": batch}}
    fp32 = shared | {"training": {"batch_positions": batch, "precision": "fp32"}}
    models = [
        (LIKE, "sasrec", fp32),
        ("SASRec, full softmax", "sasrec", shared),
        ("SASRec, sampled softmax", "sasrec", shared | {"loss": "sampled"}),
        ("two-tower", "two-tower", shared),
        ("SPARC, joint phase", "sparc", shared | {"warmup_epochs": 1}),
    ]
    return [
        Side(name, sys.executable, "tesserec_side.py", {"dataset": str(dataset), "model": model, "config": config})
        for name, model, config in models
    ]


def recbole_sides(folder: Path, python: str, batch: int) -> list[Side]:
    """RecBole's SASRec as it comes, and with its mixed precision switched on."""
    config: dict[str, Any] = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "checkpoints"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "group_by": "user", "order": "TO", "mode": "full"},
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "MAX_ITEM_LIST_LENGTH": LENGTH,
        "hidden_size": WIDTH,
        "inner_size": INNER,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": 0.0,  # ours has none there, and it would cost RecBole time
        "train_batch_size": batch,
        "use_gpu": False,
        "show_progress": False,
    }
    sides = [(BASELINE, config), ("RecBole SASRec, full softmax, enable_amp", config | {"enable_amp": True})]
    return [Side(name, python, "recbole_side.py", {"config": settings}) for name, settings in sides]


def write_recbole(dataset: Dataset, folder: Path) -> None:
    """The training histories as RecBole's atomic file; places in the history serve as times."""
    histories = dataset.train.compact()
    frame = pl.DataFrame(
        {
            "user_id:token": np.repeat(np.arange(len(histories)), histories.lengths),
            "item_id:token": histories.values,
            "timestamp:float": np.arange(len(histories.values)) - np.repeat(histories.starts, histories.lengths),
        }
    )
    (folder / "log").mkdir(parents=True)
    frame.write_csv(folder / "log" / "log.inter", separator="\t")


def measure(sides: list[Side], threads: int, rounds: int, seconds: float) -> None:
    """Start all sides, then ask them in turn."""
    for side in sides:
        print(f"starting {side.name}", flush=True)
        side.start(threads)
    for number in range(rounds):
        for side in sides:
            side.round(seconds)
            print(f"round {number + 1}  {side.name}: {side.speeds()[-1]:,.0f} targets/s", flush=True)
    for side in sides:
        side.stop()


def ratios(sides: list[Side]) -> list[dict[str, Any]]:
    """Each tesserec row against each RecBole row."""
    found = []
    for base in (side for side in sides if "recbole" in side.facts["versions"]):
        for side in (side for side in sides if "recbole" not in side.facts["versions"]):
            quotient: dict[str, Any] = {"model": side.name, "against": base.name}
            for key, clock in (("wall", "seconds"), ("cpu", "cpu_seconds")):
                pairs = zip(side.speeds(clock=clock), base.speeds(clock=clock), strict=True)
                each = [ours / theirs for ours, theirs in pairs]
                quotient[key] = round(statistics.median(each), 1)
                quotient[f"{key}_range"] = [round(min(each), 1), round(max(each), 1)]
            found.append(quotient)
    return found


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(sides: list[Side], dataset: Dataset, log: str, options: argparse.Namespace) -> dict[str, Any]:
    """The whole result file."""
    loads = [done["load_before"] for side in sides for done in side.rounds]
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "log": {"name": log, "users": len(dataset.users), "items": len(dataset.items), "split": dataset.split},
        "training_events": int(dataset.train.lengths.sum()),
        "settings": {"width": WIDTH, "layers": LAYERS, "heads": HEADS, "inner": INNER, "length": LENGTH}
        | {"dropout": DROPOUT, "batch_targets": options.batch, "rounds": options.rounds, "seconds": options.seconds},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads}
        | {"load_min": round(min(loads), 1), "load_max": round(max(loads), 1)},
        "versions": {side.script.split("_")[0]: side.facts["versions"] for side in sides},
        "rows": [side.row() for side in sides],
        "ratios": ratios(sides),
    }
    like = [r for r in result["ratios"] if (r["model"], r["against"]) == (LIKE, BASELINE)]
    if like:
        result["goal"] = {"what": f"{LIKE} / {BASELINE}", "at_least": GOAL} | {k: like[0][k] for k in ("wall", "cpu")}
    return result


def main() -> None:
    """Measure once and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="interactions as parquet or CSV; a synthetic world if not given")
    parser.add_argument("--recbole-python", help="the interpreter of an environment with RecBole")
    parser.add_argument("--threads", type=int, default=2, help="of every process")
    parser.add_argument("--batch", type=int, default=2048, help="targets a step, on both sides")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round, at least")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        log = options.log
        if log is None:
            log, _ = World.generate(users=20_000, items=12_000, interests=64, mean_length=9).write(folder / "world")
        dataset = prepare(log, out=folder / "dataset")
        sides = tesserec_sides(folder / "dataset", options.batch)
        if options.recbole_python:
            write_recbole(dataset, folder / "recbole")
            sides += recbole_sides(folder / "recbole", options.recbole_python, options.batch)
        else:
            print("RecBole is left out: give the interpreter of its environment as --recbole-python")
        measure(sides, options.threads, options.rounds, options.seconds)
        name = "synthetic world" if options.log is None else f"{log.parent.name}/{log.name}"
        result = report(sides, dataset, name, options)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
