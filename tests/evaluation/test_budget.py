"""Ranking a million items for a batch of users stays within 1 GB, measured from outside."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json
from pathlib import Path
import numpy as np
from tesserec.data.histories import Histories
from tesserec.evaluation.metrics import ranking_metrics
from tesserec.index.topk import exact_topk

random = np.random.default_rng(0)
vectors = random.standard_normal((1_000_000, 64), dtype=np.float32)
queries = random.standard_normal((200, 64), dtype=np.float32)
seen = Histories.from_lists(random.integers(1_000_000, size=(200, 20)))
items, scores = exact_topk(queries, vectors, 100, exclude=seen, budget_mb=256)
recall = ranking_metrics(items, Histories.from_lists(items[:, 50:51]), [50, 51])
# Not ru_maxrss, which a child takes over from its parent: here the whole suite's.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"peak": peak, "recall": [float(recall[f"recall@{k}"].mean()) for k in (50, 51)]}))
"""


def test_million_items_within_a_gigabyte() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["recall"] == [0.0, 1.0]
    assert found["peak"] < 1 << 30
