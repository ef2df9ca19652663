"""A catalogue that lives, at size: how soon an item is found, what an edit costs, how fast a bundle opens.

    python -m benchmarks.living --items 1000000 [--cells 1024] [--new 1000] [--times 5]

Vectors are clustered, not trained; a new item lies at the centre of its cell. Opening is measured in fresh processes,
from the call that opens to the first answer, the imports before it: ``first_ms`` where the process has answered from
another bundle before, ``first_ms_with_kernels`` where the kernels are still to be loaded, whatever the size.
``first_across_s`` is the first answer on a generation of changes where eight interests reach the whole catalogue.
``answers_ms`` are medians over users with a share of a tenth for new items and without. One row a size in
``benchmarks/results/living.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.workers.synthetic import histories_of, publish_synthetic
from tesserec.data.histories import Histories
from tesserec.index.bundle import Bundle
from tesserec.index.contract import Policy
from tesserec.index.living import add_items, compact, remove_items

USERS = 50
POLICIES = {
    "own cells, exact": Policy(interests=1 << 20, merge="probability", reach="cell", normalise=True),
    "catalogue, visit 0.9": Policy(interests=8, merge="probability", visit=0.9),
    "catalogue, visit 0.9, quota": Policy(interests=8, merge="quota", visit=0.9),
    "catalogue, visit 0.9, explore 0.1": Policy(interests=8, visit=0.9, explore=0.1),
}
RESULTS = Path(__file__).parent / "results" / "living.json"
OPEN = """
import json, sys, time
from pathlib import Path
import numba.np.arraymath, onnxruntime
from tesserec.index.bundle import Bundle
def memory():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}
if len(sys.argv) > 2:
    Bundle.open(sys.argv[2]).recommend([["5", "77", "123"]], 20, visit=0.9)
before = memory()
begin = time.perf_counter()
bundle = Bundle.open(sys.argv[1])
opened = time.perf_counter()
bundle.recommend([["5", "77", "123"]], 20, visit=0.9)
answered = time.perf_counter()
bundle.recommend([["6", "78", "124"]], 20, visit=0.9)
again = time.perf_counter()
after = memory()
print(json.dumps({"open_ms": 1e3 * (opened - begin), "first_ms": 1e3 * (answered - opened),
                  "second_ms": 1e3 * (again - answered), **{n: after[n] - before[n] for n in after}}))
"""


def main() -> None:
    """Measure one size and write its row."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--items", type=int, default=1_000_000)
    asked.add_argument("--cells", type=int, default=1024)
    asked.add_argument("--new", type=int, default=1000)
    asked.add_argument("--times", type=int, default=5)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="tesserec-living-") as folder:
        row = measure(Path(folder) / "bundles", given.items, given.cells, given.new, given.times)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = sorted([one for one in rows if one["items"] != row["items"]] + [row], key=lambda one: one["items"])
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(json.dumps(row, indent=2))


def measure(root: Path, items: int, cells: int, new: int, times: int) -> dict[str, Any]:
    """Edits of a published catalogue, medians over ``times``."""
    begin = time.perf_counter()
    publish_synthetic(root, items, cells)
    row: dict[str, Any] = {"items": items, "cells": cells, "new": new, "publish_s": time.perf_counter() - begin}
    publish_synthetic(small := root.parent / "small", 2000, 64)
    first = [opening(root)["first_ms"] for _ in range(times)]
    row["first_ms_with_kernels"] = statistics.median(first)
    fresh = [opening(root, small) for _ in range(times)]
    row |= {name: statistics.median(one[name] for one in fresh) for name in fresh[0]}
    reader = Bundle.open(root)
    reader.recommend([["5"]], 20, visit=0.9)
    _retrieve(reader, Histories.from_lists([[5]]), POLICIES["catalogue, visit 0.9"])  # loads its kernels
    seconds: dict[str, list[float]] = {"add_s": [], "open_s": [], "visible_s": [], "remove_s": [], "first_across_s": []}
    for turn in range(times):
        ids = [f"new-{turn}-{n}" for n in range(new)]
        table = pl.DataFrame({"id": ids, "kind": [f"kind {n % cells}" for n in range(new)]})
        begin = time.perf_counter()
        add_items(root, table)
        added = time.perf_counter()
        reader = Bundle.open(root, beside=reader)
        seconds["open_s"].append(time.perf_counter() - added)
        found = reader.recommend([[ids[0]]], 20, visit=0.9, exclude_seen=False)["item"].to_list()
        seconds["visible_s"].append(time.perf_counter() - begin)
        assert ids[0] in found, "a new item is not found by the user who likes it"
        seconds["add_s"].append(added - begin)
        liked = Histories.from_lists([[5, 77]])
        seconds["first_across_s"].append(_retrieve(reader, liked, POLICIES["catalogue, visit 0.9"]))
        begin = time.perf_counter()
        remove_items(root, ids[: new // 2])
        seconds["remove_s"].append(time.perf_counter() - begin)
    row |= {name: statistics.median(values) for name, values in seconds.items()} | {
        "first_visible_s": seconds["visible_s"][0]
    }
    row["answers_ms"] = _answers(reader)
    begin = time.perf_counter()
    compact(root)
    row["compact_s"] = time.perf_counter() - begin
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _retrieve(bundle: Bundle, users: Histories, policy: Policy) -> float:
    begin = time.perf_counter()
    bundle.searcher.retrieve(users, 50, policy)
    return time.perf_counter() - begin


def _answers(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Medians over users, one at a time, without a share for new items and with it."""
    users = histories_of(bundle.base_searcher.postings, USERS, seed=7)
    alone = [Histories.from_lists([users[user]]) for user in range(USERS)]
    found: dict[str, dict[str, float]] = {}
    for name, policy in POLICIES.items():
        for share in (0.0, 0.1):
            times = [_retrieve(bundle, user, replace(policy, new_share=share)) for user in alone]
            found.setdefault(name, {})[f"new_share {share}"] = round(1e3 * statistics.median(times), 2)
    return found


def opening(*roots: Path) -> dict[str, float]:
    """Opening and two answers in a process of its own, which has asked the second root before if there is one."""
    command = [sys.executable, "-c", OPEN, *map(str, roots)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
