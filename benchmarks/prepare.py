"""Seconds and peak memory of preparing a large log from parquet, in a process of its own.

    python benchmarks/prepare.py [--events 50000000] [--users 1000000] [--items 500000]

Writes ``benchmarks/results/prepare.json``. The log is synthetic: uniform users, Zipf items, random times, unsorted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

RESULT = Path(__file__).parent / "results" / "prepare.json"
CHUNK = 5_000_000
GOAL = {"seconds": 60, "peak_gb": 4}
WORK = "import sys; from tesserec.data.prepare import prepare; prepare(sys.argv[1], out=sys.argv[2], progress=print)"


def write_log(folder: Path, events: int, users: int, items: int, seed: int = 0) -> None:
    """Write the synthetic log as one parquet file a chunk."""
    folder.mkdir()
    weights = np.arange(1, items + 1) ** -0.9
    cumulated = np.cumsum(weights) / weights.sum()
    names: NDArray[np.int64] = np.random.default_rng([seed, 0]).permutation(items)
    for start in range(0, events, CHUNK):
        rng, rows = np.random.default_rng([seed, 1, start]), min(CHUNK, events - start)
        frame = pl.DataFrame(
            {
                "user_id": rng.integers(0, users, rows),
                "item_id": names[np.minimum(np.searchsorted(cumulated, rng.random(rows)), items - 1)],
                "timestamp": rng.integers(1_600_000_000, 1_700_000_000, rows),
            }
        )
        frame.write_parquet(folder / f"part-{start // CHUNK:04d}.parquet")


def main() -> None:
    """Measure once and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    size = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        log, out = Path(scratch) / "log", Path(scratch) / "dataset"
        write_log(log, size.events, size.users, size.items)
        load = os.getloadavg()[0]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", WORK, str(log), str(out)], check=True)
        seconds = time.perf_counter() - start
        megabytes = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    result = {
        "events": size.events,
        "users": size.users,
        "items": size.items,
        "seconds": round(seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9, 2),
        "dataset_mb": round(megabytes),
        "goal": GOAL,
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "python": platform.python_version(),
        "polars": pl.__version__,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
