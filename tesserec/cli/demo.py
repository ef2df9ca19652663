"""``tesserec demo``: the whole line on a synthetic world, or on a log of one's own."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tesserec.cli.shell import existing, print_table, say
from tesserec.errors import UserError
from tesserec.files import read_json, write_json

if TYPE_CHECKING:
    from tesserec.data.world import World
    from tesserec.evaluation.result import Evaluation

MARKER = "demo.json"
KS = (10, 20, 50)
COLUMNS = ("recall@10", "recall@20", "recall@50", "ndcg@20", "coverage@20")


@dataclass(frozen=True)
class Size:
    """How large the world is and how long the models train."""

    users: int
    items: int
    interests: int
    epochs: int


FULL = Size(users=4000, items=2000, interests=24, epochs=12)
SHORT = Size(users=1500, items=400, interests=12, epochs=5)


def demo(
    out: Annotated[Path, typer.Option(help="Directory for everything the demo writes.")] = Path("tesserec-demo"),
    data: Annotated[Path | None, typer.Option(help="A log of your own instead of the synthetic world.")] = None,
    items: Annotated[Path | None, typer.Option(help="Its items table, if there is one.")] = None,
    short: Annotated[bool, typer.Option("--short", help="A smaller world and fewer epochs.")] = False,
    seed: Annotated[int, typer.Option(help="Of the world and of training.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo at --out.")] = False,
) -> None:
    """Run the whole line: prepare, train, evaluate, index, recommend.

    Without --data the log is synthetic, with planted interests, so that the best possible recall is known.

    [bold]Examples[/bold]

        tesserec demo

        tesserec demo --data clicks.parquet --items products.parquet --out first-look
    """
    from tesserec import runs

    begin = time.perf_counter()
    size = SHORT if short else FULL
    if data is not None:
        existing(data, "a log: a parquet, CSV or Arrow file, or a folder of them")
    _claim(out, overwrite)
    log, table, world = _log(out, data, items, size, seed)
    _prepare(log, table, out / "dataset", seed)
    names = _train(out, size, seed)
    evaluations = {}
    for name in names:
        evaluations[name] = runs.evaluate_run(out / "runs" / name, ks=KS, cells_of=out / "runs" / "sparc" if "sparc" in names else None)
    _print_results(evaluations, world)
    served = "sparc" if "sparc" in names else names[-1]
    runs.index_run(out / "runs" / served, out / "bundles")
    histories = _print_candidates(out)
    if all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib")):
        say(f"report: {runs.write_run_report([out / 'runs' / name for name in names], out / 'report.html')}")
    say(f"done in {time.perf_counter() - begin:.0f} s\n")
    _print_next(out, names, histories[0])
