"""tessera beside the full softmax: time of a step over a large catalogue, and how few cells hold a user's best items.

    python benchmarks/tessera.py steps
    python benchmarks/tessera.py cells DATASET RUN --name sports [--trust 1 2] [--baseline RUN]

Writes its part of ``benchmarks/results/tessera.json``.

``steps``: loss, gradients and one Adam step over 300,000 items of width 64 for 1,024 positions, one thread, targets by
a Zipf law; the encoder, which is the same for all, is left out. The full softmax is ``nn.losses.full_softmax`` as it
stands, and with larger blocks of rows, which suit a catalogue of this size better. In bfloat16 where training would
pick it. Processor time, the least of a few rounds.

``cells``: of the items that a trained model ranks first, how many cells hold 99 of 100, with cells visited by falling
posterior; means over users of the test part, at the temperature of training. ``--baseline`` names a run of a
single-vector model (SASRec): its items are divided into as many cells by k-means, and its posterior over cells is the
exact mass of its own softmax. Kept under ``--name``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_logs import change_settings
from torch import Tensor
from torch.nn import functional as F

from tesserec.data.dataset import Dataset
from tesserec.models import load_model
from tesserec.nn import losses
from tesserec.nn.cells import start_cells
from tesserec.nn.codebook import codebook_health
from tesserec.nn.factorised import Layout, Moments, cell_softmax
from tesserec.training.loop import use_bf16

RESULT = Path(__file__).parent / "results" / "tessera.json"
ITEMS, WIDTH, ROWS, PARTS, K, HELD = 300_000, 64, 1024, 8, 100, 99


def step_times(rounds: int) -> dict[str, Any]:
    """Processor seconds of a step by loss, and the ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(ITEMS, WIDTH) * WIDTH**-0.5)
    users = torch.randn(ROWS, WIDTH).requires_grad_()
    chance = (1.0 + np.arange(ITEMS)) ** -0.8
    targets = torch.from_numpy(np.random.default_rng(0).choice(ITEMS, ROWS, p=chance / chance.sum()))
    optimiser = torch.optim.AdamW([table], fused=True)

    def full(rows: int) -> Tensor:
        losses.CHUNK_LOGITS = rows * ITEMS
        return losses.full_softmax(users, table, targets)

    def factorised(layout: Layout) -> Tensor:
        n_parts = len(layout.sizes) * PARTS
        parts = layout.cells * PARTS + layout.place % PARTS
        moments = Moments.of(table, parts, n_parts)
        with torch.autocast("cpu", enabled=False):  # as in the model
            mass = moments.log_mass_of_cells(users, len(layout.sizes))
        return F.cross_entropy(mass, layout.cells[targets]) + cell_softmax(users, table, targets, layout)

    default = max(losses.LEAST_ROWS, losses.CHUNK_LOGITS // ITEMS)
    seconds = {
        f"full softmax, {rows} rows a block": _seconds(lambda r=rows: full(r), optimiser, 1) for rows in (default, 256)
    }
    for codes in (512, 1024, 2048):
        layout = Layout.of(torch.randperm(ITEMS) % codes, codes)
        seconds[f"factorised, {codes} cells"] = _seconds(lambda at=layout: factorised(at), optimiser, rounds)
    whole = {name: value for name, value in seconds.items() if name.startswith("full")}
    ratios = {
        f"{slow} / {fast}": round(whole[slow] / seconds[fast], 1)
        for slow in whole
        for fast in seconds
        if fast not in whole
    }
    of = {"items": ITEMS, "width": WIDTH, "rows": ROWS, "precision": "bf16" if use_bf16("auto") else "fp32"}
    return of | {"cpu_seconds": seconds, "ratios": ratios}


def _seconds(loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer, rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        started = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16("auto")):
            value = loss()
        value.backward()
        optimiser.step()
        times.append(time.process_time() - started)
    return round(min(times), 3)


def cells_needed(posterior: Tensor, cells: Tensor, best: Tensor) -> Tensor:
    """Cells to visit by falling posterior until 99 of the best 100 items are met, ``(users,)``."""
    order = posterior.argsort(dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    return rank.gather(1, cells[best]).sort(1).values[:, HELD - 1] + 1


@torch.no_grad()
def concentration(
    dataset: Dataset, run: Path, users: int, codes: int | None, trust: float | None = None
) -> dict[str, Any]:
    """Figures of a run; with ``codes`` the run has one vector a user, and cells come from k-means."""
    model: Any = load_model(run / "model")
    if trust is not None:
        change_settings(model, {"trust": trust})
    network = model.network.eval()
    if codes is None:
        network.heat.fill_(1.0)
    items = network.item_vectors()
    cells = network.cells() if codes is None else start_cells(items, codes, len(items), np.random.default_rng(0))
    n_cells = codes or network.codes
    rows = np.linspace(0, len(dataset.test.users) - 1, users).astype(np.int64)
    histories = dataset.test.histories.take(rows).last(network.config.encoder.max_length)
    needed = []
    for part in np.array_split(np.arange(users), max(1, users // 250)):
        some = histories.take(part)
        lengths = torch.from_numpy(np.ascontiguousarray(some.lengths))
        posterior, *state = network.encode(items[torch.from_numpy(some.padded(0)).long()], lengths)
        vectors = network.read(torch.zeros(len(part), 1, dtype=torch.int64), lengths, *state)[:, 0]
        logits = vectors @ items.T
        if codes is None and network.exact:
            mass = state[1]
        else:
            mass = torch.zeros(len(part), n_cells).index_add(1, cells, logits.double().exp().float()).log()
        if codes is not None:
            posterior = mass.softmax(-1)
        scores = logits + (posterior.log() - mass)[:, cells]
        needed.append(cells_needed(posterior, cells, scores.topk(K).indices))
    figures = torch.cat(needed).float()
    health = codebook_health(cells[:, None].numpy(), n_cells)[0]
    return {
        "run": run.name,
        "cells": n_cells,
        "users": users,
        "cells_needed_mean": round(figures.mean().item(), 1),
        "cells_needed_median": figures.median().item(),
        "perplexity_share": round(health.perplexity / n_cells, 3),
        "dead_share": round(health.dead / n_cells, 3),
        "largest_cell": int(torch.bincount(cells).max()),
    }


def main() -> None:
    """Measure one part and write it beside the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    steps = parts.add_parser("steps")
    steps.add_argument("--rounds", type=int, default=4)
    cells = parts.add_parser("cells")
    cells.add_argument("dataset", type=Path)
    cells.add_argument("run", type=Path, help="a run of tessera without a reader")
    cells.add_argument("--name", required=True, help="of the log and seed, under which the figures are kept")
    cells.add_argument("--baseline", type=Path, help="a run of a single-vector model")
    cells.add_argument("--users", type=int, default=2000)
    cells.add_argument("--trust", type=float, nargs="+", default=[], help="other shares of the posterior's correction")
    options = parser.parse_args()
    if options.part == "steps":
        found = step_times(options.rounds)
        name = f"steps, {found['precision']}"
    else:
        name = f"cells, {options.name}"
        dataset = Dataset.open(options.dataset)
        found = {"tessera": concentration(dataset, options.run, options.users, None)}
        for trust in options.trust:
            found[f"tessera, trust = {trust:g}"] = concentration(dataset, options.run, options.users, None, trust)
        if options.baseline:
            codes = found["tessera"]["cells"]
            found["k-means"] = concentration(dataset, options.baseline, options.users, codes)
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "torch": torch.__version__}
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known[name] = {"date": date.today().isoformat(), "machine": machine, **found}
    RESULT.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known[name], indent=2))


if __name__ == "__main__":
    main()
