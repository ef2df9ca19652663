"""The demo: the whole line from a log to candidates, told step by step."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tesserec import runs
from tesserec.cli.bundles import named_interests, print_candidates, titles_of
from tesserec.cli.measuring import estimate_text
from tesserec.cli.prepare import print_prepared
from tesserec.cli.shell import print_table, say
from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.world import World
from tesserec.errors import TrainingRefused, UserError
from tesserec.evaluation.result import Evaluation
from tesserec.evaluations import evaluate_run, write_run_report
from tesserec.files import write_json
from tesserec.index.bundle import Bundle

MARKER = "demo.json"
TRAINED = ("item-knn", "two-tower", "sparc")
KS = (10, 20, 50)
METRICS = ("recall@10", "recall@20", "recall@50", "ndcg@20", "coverage@20")
EXPLORE = 0.2


@dataclass(frozen=True)
class Size:
    """How large the world is, and how long the models train on it or on a log."""

    users: int
    items: int
    interests: int
    epochs: int
    batch: int
    codes: int


FULL = Size(users=3000, items=1000, interests=24, epochs=12, batch=1024, codes=48)
SHORT = Size(users=800, items=200, interests=8, epochs=6, batch=256, codes=16)


def run_line(out: Path, data: Path | None, items: Path | None, *, short: bool, seed: int, overwrite: bool) -> None:
    """Write everything under ``out``; without ``data``, on a synthetic world."""
    begin = time.perf_counter()
    size = SHORT if short else FULL
    _claim(out, overwrite)
    world = None if data is not None else World.generate(size.users, size.items, size.interests, seed)
    log, table = (data, items) if world is None else world.write(out / "log")
    print_prepared(prepare(log, items=table, split="leave-one-out", out=out / "dataset"))
    names = _train(out, size, seed)
    evaluations = _evaluate(out, names)
    _print_results(evaluations, world)
    runs.index_run(out / "runs" / names[-1], out / "bundles")
    history = _print_answers(out, world)
    if all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib")):
        say(f"report: {write_run_report([out / 'runs' / name for name in names], out / 'report.html')}")
    say(f"the whole line took {time.perf_counter() - begin:.0f} s")
    _print_next(out, names, history)


def _claim(out: Path, overwrite: bool) -> None:
    """Make the demo's directory; only an earlier demo is ever replaced."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise UserError(f"{out} exists and is not an earlier demo; choose another --out")
        if not overwrite:
            raise UserError(f"{out} holds an earlier demo; choose another --out or replace it with --overwrite")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, {"kind": "demo"})


def _train(out: Path, size: Size, seed: int) -> list[str]:
    """Train what is installed; returns the names of what was not refused, the model to be served last."""
    neural = all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript", "scipy"))
    if not neural:
        say("item-knn, two-tower and sparc are left out; they need: pip install 'tesserec[train]'")
    done = []
    for name in ("popularity", *(TRAINED if neural else ())):
        sets = _settings(name, size, len(Dataset.open(out / "dataset").items))
        try:
            run = runs.train_run(out / "dataset", name, out / "runs" / name, sets=sets, seed=seed, progress=True)
        except TrainingRefused as error:
            say(f"{name} is left out: {error}")
            continue
        say(f"{name}: trained in {run.facts['seconds']:.1f} s")
        done.append(name)
    return done


def _settings(name: str, size: Size, items: int) -> list[str]:
    """A budget for a demonstration: fewer epochs and smaller steps than the defaults."""
    if name not in ("two-tower", "sparc"):
        return []
    budget = [f"training.epochs={size.epochs}", f"training.batch_positions={size.batch}"]
    if name == "sparc":
        budget += [f"codebook.codes={max(2, min(size.codes, items // 4))}", f"warmup_epochs={size.epochs // 2}"]
    return budget


def _evaluate(out: Path, names: list[str]) -> dict[str, Evaluation]:
    """All runs measured alike, with the served model's interests as the common ground for novelty."""
    cells_of = out / "runs" / "sparc" if "sparc" in names else None
    items = len(Dataset.open(out / "dataset").items)
    ks = [k for k in KS if k <= items] or [items]
    return {name: evaluate_run(out / "runs" / name, ks=ks, cells_of=cells_of) for name in names}


def _print_results(evaluations: dict[str, Evaluation], world: World | None) -> None:
    first = next(iter(evaluations.values()))
    metrics = [metric for metric in METRICS if metric in first.metrics] or list(first.metrics)[:1]
    rows = [[name, *(estimate_text(one.metrics[metric]) for metric in metrics)] for name, one in evaluations.items()]
    if world is not None:
        best = [f"{world.optimal_recall(int(metric.partition('@')[2])):.4f}" if metric.startswith("recall") else ""
                for metric in metrics]  # fmt: skip
        rows.append(["best possible", *best])
    title = f"{first.protocol['users']:,} test users, {first.protocol['items']:,} items, full catalogue, 95 % intervals"
    print_table(["model", *(f">{metric}" for metric in metrics)], rows, title)


def _print_answers(out: Path, world: World | None) -> list[Any]:
    """Interests and candidates of three test users; returns the newest items of the last of them."""
    dataset, searcher = Dataset.open(out / "dataset"), Bundle.open(out / "bundles").searcher
    titles = titles_of(searcher)
    for row in range(min(3, len(dataset.test.users))):
        user = dataset.users.values[int(dataset.test.users[row])]
        ids = dataset.items.decode(dataset.test.histories[row]).to_list()
        newest = [str(titles[one] if titles is not None else one) for one in ids[-5:]]
        print(f"\n{user}, lately: {', '.join(newest)}")
        if world is not None:
            print(f"in truth:  {_planted(world, int(str(user)[1:]))}")
        if searcher.has_interests:
            likely = searcher.interests([ids], 3).to_dicts()
            print("estimated:", "; ".join(f"{one['name']} {one['probability']:.2f}" for one in likely))
        candidates = searcher.recommend([ids], 10, explore=EXPLORE if searcher.has_interests else None)
        codes = candidates["interest"].drop_nulls().unique().to_list()
        print_candidates(candidates, named_interests(searcher, ids, codes), titles)
    return ids[-3:]


def _planted(world: World, user: int) -> str:
    """The three likeliest interests of a user's next event, as the world knows them."""
    chances = world.posterior(np.array([user]))[0]
    return "; ".join(f"{world.interest_names[c]} {chances[c]:.2f}" for c in np.argsort(-chances)[:3])


def _print_next(out: Path, names: list[str], history: list[Any]) -> None:
    ids, bundles = [str(item) for item in history], str(out / "bundles")
    of = [word for item in ids for word in ("--history-id", item)]
    if not any("," in item for item in ids):
        of = ["--history", ",".join(ids)]
    commands = [["compare", *(str(out / "runs" / name) for name in names)]]
    if "sparc" in names:
        commands.append(["interests", bundles, *of])
    commands += [
        ["recommend", bundles, *of, *(["--explore", "0.3"] if "sparc" in names else []), "--json"],
        ["info", bundles],
        ["prepare", "YOUR-LOG.parquet", "--split", "leave-one-out", "--out", "my-dataset"],
    ]
    say("\nTo try next:")
    for command in commands:
        say(f"  {shlex.join(['tesserec', *command])}")
