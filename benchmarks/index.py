"""The index beside Faiss, hnswlib and usearch on multi-interest work: the best 100 items for all 8 vectors of a user.

    python -m benchmarks.index [--items 100000 1000000] [--engines NAME ...] [--work DIR] [--build-only] [--again]

Writes rows into ``benchmarks/results/index.json``, one an engine, setting and catalogue size, and from all of them
the table and the plot of ``docs/benchmarks.md``. Rows that are there are not measured again; built indexes stay in
``--work``. Needs the extra ``bench``.

The data: unit vectors of 64 dimensions from a hierarchical mixture (100 topics, 4,000 clusters of Zipf sizes, decaying
spectrum). A user has 8 vectors near 8 clusters, and a posterior over k-means cells: half of its mass on the home cells
of the 8 vectors, half a softmax of how well a cell's centre fits the best of them. An item's score is its best dot
product with a vector of the user; recall is the share of the exact best 100. The posterior is given, not computed. The
time of other engines is that of searching the 8 vectors in one call, without the merge; ours is that of the whole list.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_engines import ENGINES, Engine, User
from benchmarks.index_report import write_report
from benchmarks.index_world import DIM, INTERESTS, K, World

HERE = Path(__file__).parent
RESULT = HERE / "results" / "index.json"
BATCH = 256


def main() -> None:
    arguments = _arguments()
    for items in arguments.items:
        world = World.draw(items, arguments.work)
        for name in arguments.engines:
            engine = ENGINES[name]
            done = {(row["engine"], row["setting"], row["items"]) for row in _rows()}
            left = [s for s in engine.settings if arguments.again or (name, s, items) not in done]
            if not left:
                continue
            print(f"{name}, {items:,} items", flush=True)
            index, build_s = engine.load(world, arguments.work)
            for setting in () if arguments.build_only else left:
                _keep(_measure(engine, index, setting, world) | {"engine": name, "build_s": round(build_s, 1)})
    if _rows():
        write_report(json.loads(RESULT.read_text()), HERE.parent / "docs")


def _measure(engine: Engine, index: Any, setting: str, world: World) -> dict[str, Any]:
    """Recall, latency and throughput of one setting."""
    users = world.users[: engine.users]
    search = engine.searcher(index, setting, world, threads=1)
    for user in users[:20]:
        search([user])
    seconds, hits = [], 0
    for row, user in enumerate(users):
        start = time.perf_counter()
        found = search([user])
        seconds.append(time.perf_counter() - start)
        hits += len(np.intersect1d(engine.merged(found)[0], world.best[row]))
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    row = {
        "setting": setting,
        "items": world.size,
        "interests": INTERESTS,
        "recall": round(hits / (len(users) * K), 4),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "queries_per_second": round(_throughput(engine, index, setting, world)),
        "bytes_per_item": round(engine.bytes(index, world) / world.size, 1),
        "users": len(users),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
    }
    print(row, flush=True)
    return row


def _throughput(engine: Engine, index: Any, setting: str, world: World) -> float:
    """Users a second in batches, on two threads."""
    search = engine.searcher(index, setting, world, threads=2)
    batch: list[User] = world.users[: min(BATCH, engine.users)]
    search(batch)
    start = time.perf_counter()
    search(batch)
    return len(batch) / (time.perf_counter() - start)


def _rows() -> list[dict[str, Any]]:
    return list(json.loads(RESULT.read_text())["rows"]) if RESULT.exists() else []


def _keep(row: dict[str, Any]) -> None:
    key = ("engine", "setting", "items")
    rows = [old for old in _rows() if any(old[name] != row[name] for name in key)] + [row]
    rows.sort(key=lambda row: (row["items"], row["engine"], row["recall"]))
    RESULT.write_text(json.dumps({"dim": DIM, "k": K, "rows": rows}, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument(
        "--work", type=Path, default=Path("bench-index"), help="where vectors and built indexes are kept"
    )
    parser.add_argument("--build-only", action="store_true", help="build and keep the indexes, measure nothing")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already again")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
