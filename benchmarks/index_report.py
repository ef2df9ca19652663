"""The table and the recall-latency plot of ``docs/benchmarks.md``, from the rows of ``benchmarks/results/index.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

_HEAD = """# Benchmarks of the index

Written by `make bench-index` ({command}); every figure of this page comes from that command.

The work: the best {k} items for all {interests} vectors of a user, whose score is the best dot product with one of them.
Items are {dim}-dimensional unit vectors of a hierarchical mixture (4,000 clusters of Zipf sizes in 100 topics), and a
user's posterior over k-means cells is given: the time of a trained network that computes it is not in here. Recall is the
share of the exact best {k}. Times are of one user at a time on one thread, throughput of batches on two threads. Other
engines search the {interests} vectors in one call, and the merge of their lists is not counted; ours is the whole answer.
`mass` is the posterior mass visited; `exact` visits until no other cell can matter, and says so (`certified`).

Machine: {machine}, shared with other work: load averages while measuring were {loads}, so tails (p99) hold what others
did too. Compare rows with each other rather than with other machines.
"""


def write_report(results: dict[str, Any], docs: Path) -> None:
    """Write the page and its plot."""
    rows = results["rows"]
    loads = sorted(row["load"] for row in rows)
    head = _HEAD.format(
        command="`python -m benchmarks.index`",
        k=results["k"],
        dim=results["dim"],
        interests=rows[0]["interests"],
        machine=rows[0]["machine"],
        loads=f"{loads[0]} to {loads[-1]}",
    )
    parts = [head]
    for items in sorted({row["items"] for row in rows}):
        parts += [f"## {items:,} items\n", _table([row for row in rows if row["items"] == items])]
    parts += ["## Recall and latency\n", "![Recall and median latency of each engine](benchmarks-index.svg)\n"]
    (docs / "benchmarks.md").write_text("\n".join(parts))
    _plot(rows, docs / "benchmarks-index.svg")


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| engine | setting | recall | p50 ms | p99 ms | users a second | build s | bytes an item |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: (row["engine"] != "tesserec", row["engine"], row["recall"])):
        lines.append(
            f"| {row['engine']} | {row['setting']} | {row['recall']:.4f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} "
            f"| {row['queries_per_second']:,} | {row['build_s']:.0f} | {row['bytes_per_item']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    sizes = sorted({row["items"] for row in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(5.5 * len(sizes), 4.2), squeeze=False)
    for axis, items in zip(axes[0], sizes, strict=True):
        for engine in sorted({row["engine"] for row in rows}):
            own = sorted((r["recall"], r["p50_ms"]) for r in rows if r["engine"] == engine and r["items"] == items)
            if own:
                axis.plot(*zip(*own, strict=True), marker="o", label=engine, lw=3 if engine == "tesserec" else 1.2)
        axis.set(title=f"{items:,} items", xlabel="recall of the exact best", ylabel="median ms a user", yscale="log")
        axis.set_xlim(0.9, 1.003)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
