"""How long a new process takes to open postings of many items and give a first answer, and what it touches.

The postings are random vectors in random cells, as what they hold makes no difference to opening. They are written
once; then a new process loads its kernels by a search of a few items, maps the postings, searches the 32 largest cells
for 8 vectors, opens the ids and looks 50 of them up both ways, and says how long each took and what it grew by: pages
of the files, and memory of its own.

    python -m benchmarks.index_open --items 10000000 --folder /tmp/ten-million
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tesserec.data.ids import IdMap
from tesserec.index.catalogue import Catalogue
from tesserec.index.filters import NOTHING
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import best_together

DIM, CELLS, VISITED = 64, 16384, 32


def main() -> None:
    """Write what is not there yet, and open it in a new process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--read", action="store_true", help="open what is there, in this process")
    given = parser.parse_args()
    if given.read:
        print(json.dumps(_read(given.folder)))
        return
    if not (given.folder / "postings").exists():
        _write(given.folder, given.items)
    command = [sys.executable, "-m", "benchmarks.index_open", "--folder", str(given.folder), "--read"]
    for _ in range(3):
        subprocess.run(command, check=True)


def _write(folder: Path, items: int) -> None:
    import polars as pl

    rng = np.random.default_rng(0)
    (folder / "postings").mkdir(parents=True)
    vectors = rng.standard_normal((items, DIM), dtype=np.float32)
    VectorPostings.build(vectors, rng.integers(0, CELLS, items), CELLS).save(folder / "postings")
    ids = pl.Series("id", np.arange(items)).cast(pl.String)
    Catalogue(IdMap(ids), pl.DataFrame({"id": ids}), {}, True, np.arange(items, 0, -1)).save(folder)


def _read(folder: Path) -> dict[str, Any]:
    rng, started = np.random.default_rng(1), time.perf_counter()
    few = VectorPostings.build(rng.standard_normal((500, DIM), dtype=np.float32), np.arange(500) % 9, 9)
    _answer(few)
    before, begin = (_resident("RssAnon"), _resident("RssFile")), time.perf_counter()
    postings = VectorPostings.open(folder / "postings")
    opened = time.perf_counter()
    visited = _answer(postings)
    answered = time.perf_counter()
    ids = Catalogue.open(folder).items
    known = ids.encode([str(n * 7919) for n in range(50)])
    ids.take(known[known >= 0])
    named = time.perf_counter()
    own, files = _resident("RssAnon") - before[0], _resident("RssFile") - before[1]
    spans = {"kernels": begin - started, "open": opened - begin, "answer": answered - opened, "names": named - answered}
    return {
        "items": postings.size,
        **{f"{name}_ms": round(span * 1e3, 1) for name, span in spans.items()},
        "items_visited": visited,
        "own_mb": own,
        "files_mb": files,
    }


def _answer(postings: VectorPostings) -> int:
    queries = np.random.default_rng(2).standard_normal((8, DIM), dtype=np.float32)
    cells = np.argsort(-postings.sizes, kind="stable")[:VISITED]
    found = best_together(postings.segments, cells, queries, np.zeros(8), np.empty(0, np.int32), NOTHING, 100)
    assert found is not None
    return int(postings.sizes[cells].sum())


def _resident(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(kind))


if __name__ == "__main__":
    main()
