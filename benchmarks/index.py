"""`make bench-index`: a user's whole answer, ours beside nearest-neighbour libraries, on one thread.

The work of every engine is the same: the 100 items with the largest dot product with any of a user's 8 vectors. A
library searches its index for the 100 nearest items of each vector in one call and the lists are merged by a compiled
kernel; ours finds where the cells lie, makes the posterior over them, visits them by both until none is worth it for
the recall target, and merges as it goes. Recall is the share of the exact answer, over users that took no part in
calibration. With ``--kind lists`` the work is that of :mod:`benchmarks.index_lists` instead. Rows go to
``benchmarks/results/index.json`` one by one; what is there already is not measured again. From all of them the table
and the plot of ``docs/benchmarks.md`` are written.

    python -m benchmarks.index --items 1000000 --engine tesserec --engine hnswlib
    python -m benchmarks.index --kind lists --postings 200000

What takes minutes to build can be built on a busy machine and measured on a quiet one: ``--keep FOLDER`` keeps worlds,
exact answers and built engines there (pickled, for this machine and this checkout only), ``--only-build`` stops at
that. ``--bundle`` with ``--dataset`` takes vectors and users of a trained model in the place of clusters, see
:mod:`benchmarks.index_model`.

    python -m benchmarks.index --items 1000000 --keep FOLDER --only-build
    python -m benchmarks.index --items 1000000 --keep FOLDER --again
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_engines import ENGINES, Answer, Engine
from benchmarks.index_lists import LIST_ENGINES, exact_sums, make_lists
from benchmarks.index_model import ModelWorld, model_facts
from benchmarks.index_report import write_report
from benchmarks.index_world import exact_answers, make_world

RESULTS = Path(__file__).parent / "results" / "index.json"
K, ASKED = 100, 400


def main() -> None:
    """Measure the engines that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["vectors", "lists"], help="kind of postings (default: both)")
    parser.add_argument("--items", type=int, action="append", help="catalogue sizes (default: 100000, 1000000)")
    parser.add_argument("--postings", type=int, action="append", help="postings of 32 lists (default: 200000, 640000)")
    parser.add_argument("--engine", action="append", help="engines (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path, help="folder of worlds and built engines, used and filled")
    parser.add_argument("--only-build", action="store_true", help="build what is not in --keep, and measure nothing")
    parser.add_argument("--bundle", type=Path, help="bundle of a trained model: its vectors, interests and posterior")
    parser.add_argument("--dataset", type=Path, help="dataset of that model: held-out users")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    given = parser.parse_args()
    if given.bundle is not None:
        facts = model_facts(given.bundle)
        _measure_all(given, ENGINES, facts, partial(ModelWorld, given.bundle, given.dataset), exact_answers)
        given.items = []
    for items in ([100_000, 1_000_000] if given.items is None else given.items) if given.kind != "lists" else ():
        facts = {"world": "clusters", "items": items}
        _measure_all(given, ENGINES, facts, partial(make_world, items), exact_answers)
    for postings in (given.postings or [200_000, 640_000]) if given.kind != "vectors" and not given.bundle else ():
        size = (given.items or [1_000_000])[-1]
        facts = {"items": size, "postings": postings}
        _measure_all(given, LIST_ENGINES, facts, partial(make_lists, size, postings), exact_sums)
    if given.results == RESULTS and _rows(RESULTS):
        write_report(_rows(RESULTS), RESULTS.parents[2] / "docs", K, ASKED)


def _measure_all(given: Any, engines: Mapping[str, Any], facts: dict[str, Any], make: Any, solve: Any) -> None:
    """Measure those of the engines that are asked for and not yet held, on one world."""
    if unknown := set(given.engine or ()) - {*ENGINES, *LIST_ENGINES}:
        raise SystemExit(f"no engine {sorted(unknown)[0]!r}; choose from {', '.join(engines)}")
    wanted = [name for name in engines if name in (given.engine or engines)]
    wanted = [name for name in wanted if given.again or given.only_build or not _held(given.results, name, facts)]
    if not wanted:
        return
    kept = partial(_kept, given.keep and given.keep / "-".join(map(str, facts.values())))
    world = kept("world", make)
    test = np.arange(len(world.users) // 2, len(world.users))[:ASKED]
    exact = kept("exact", lambda: solve(world, K, test))
    for name in wanted:
        built, build_s = kept(name, partial(_build, engines[name], world))
        for row in measure(name, built, build_s, world, test, exact) if not given.only_build else ():
            _keep(given.results, row)
            print(json.dumps(row), flush=True)


def _kept(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """What is made, from the folder if it is there already."""
    if folder is None:
        return make()
    path = folder / f"{name}.pickle"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = make()
        with path.with_suffix(".part").open("wb") as file:
            pickle.dump(made, file, protocol=5)
        path.with_suffix(".part").replace(path)
        print(f"made {path}", flush=True)
    with path.open("rb") as file:
        return pickle.load(file)


def _build(engine: Callable[[Any], Engine], world: Any) -> tuple[Engine, float]:
    start = time.perf_counter()
    return engine(world), time.perf_counter() - start


def measure(name: str, built: Engine, build_s: float, world: Any, test: Any, exact: Any) -> Iterator[dict[str, Any]]:
    """One row for each setting of an engine."""
    for setting, answer in built.settings(K):
        ask = partial(_read_and_ask, world, answer) if hasattr(built, "by_vectors") else answer
        for row in test[:20]:
            ask(world.users[row])
        seconds, found = np.empty((len(test), 2)), []
        for place, row in enumerate(test):
            begin, busy = time.perf_counter(), time.process_time()
            found.append(ask(world.users[row]))
            seconds[place] = time.perf_counter() - begin, time.process_time() - busy
        with ThreadPoolExecutor(2) as pool:
            begin = time.perf_counter()
            list(pool.map(lambda rows, ask=ask: [ask(world.users[row]) for row in rows], (test[::2], test[1::2])))
            rate = len(test) / (time.perf_counter() - begin)
        recall = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, exact, strict=True)])
        (p50, cpu50), (p99, cpu99) = np.percentile(seconds, [50, 99], axis=0) * 1e3
        yield {
            "engine": name,
            "setting": setting,
            **world.facts,
            "recall": round(float(recall), 4),
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
            "cpu_p50_ms": round(float(cpu50), 3),
            "cpu_p99_ms": round(float(cpu99), 3),
            "queries_per_second": round(rate),
            "build_s": round(build_s, 1),
            "bytes_per_item": built.bytes_per_item and round(built.bytes_per_item, 1),
            "load": round(os.getloadavg()[0], 1),
            "machine": machine(),
        } | built.facts


def _read_and_ask(world: Any, answer: Answer, user: Any) -> Any:
    return answer(world.read(user))


def machine() -> str:
    """Processor and cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}"


def _rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def _held(path: Path, engine: str, facts: dict[str, Any]) -> bool:
    wanted = {"postings": None, **facts, "engine": engine}
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in _rows(path))


def _keep(path: Path, row: dict[str, Any]) -> None:
    key = ("engine", "setting", "world", "items", "postings")
    rows = [one for one in _rows(path) if any(one.get(name) != row.get(name) for name in key)]
    path.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
