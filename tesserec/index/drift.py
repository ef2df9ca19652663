"""How far a catalogue has moved from what its codebook was trained on: when to compact, when to train again. Ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tesserec.errors import UserError
from tesserec.index.bundle import Bundle
from tesserec.index.postings import VectorPostings

CHANGED = 0.1
"""Share of changed items from which compaction pays: every edit writes the delta, every search visits it."""
MISFIT = 1.5
"""Misfit from which the codebook no longer serves the later items."""
SHIFT = 0.1
"""Bits from which cells are no longer filled as they were when their probabilities were learned."""
_SAMPLE = 20_000


@dataclass(frozen=True)
class Drift:
    """The gauge.

    Attributes
    ----------
    items
        That can be recommended.
    later
        Share of them without training events.
    changed
        Added, re-encoded and removed items beside the items of the base.
    misfit
        Mean distance of later items from the middle of their cell, over that of the trained items; None without cells
        or without items to compare. 1 means that the codebook fits both alike.
    shift
        Jensen-Shannon divergence, in bits, of the share of items in each cell, trained items against all; 0 to 1.
    compact, retrain
        What is worth doing.
    reasons
        Why, in words.
    """

    items: int
    later: float
    changed: float
    misfit: float | None
    shift: float | None
    compact: bool
    retrain: bool
    reasons: list[str]


def drift(bundle: Bundle) -> Drift:
    """Measure the current state of an opened generation.

    Raises
    ------
    UserError
        If the model has no vectors to judge by.
    """
    postings = bundle.searcher.postings
    if not isinstance(postings, VectorPostings):
        raise UserError(f"{bundle.facts.get('model')} keeps lists of scored items; there is no codebook to drift from")
    events = bundle.searcher.catalogue.events
    live = np.concatenate([postings.items_of(cell) for cell in range(postings.cells)])
    later, trained = live[events(live) == 0], live[events(live) > 0]
    delta = postings.delta
    moved = 0 if delta is None else len(delta.ids) + int(np.unpackbits(delta.dead).sum())
    changed = moved / max(1, len(postings.items))
    misfit = shift = None
    if postings.cells > 1 and len(later) and len(trained):
        misfit = _misfit(postings, trained, later)
        shift = _divergence(*(np.bincount(postings.cells_of(i), minlength=postings.cells) for i in (trained, live)))
    reasons = []
    if changed > CHANGED:
        reasons.append(f"{changed:.0%} of the base has changed; compact it")
    if misfit is not None and misfit > MISFIT:
        reasons.append(f"later items lie {misfit:.2f} times as far from the middle of their cells; train again")
    if shift is not None and shift > SHIFT:
        reasons.append(f"items have shifted between cells by {shift:.2f} bits; train again")
    retrain = (misfit or 0) > MISFIT or (shift or 0) > SHIFT
    return Drift(len(live), len(later) / max(1, len(live)), changed, misfit, shift, changed > CHANGED, retrain, reasons)


def _misfit(postings: VectorPostings, trained: NDArray[np.int32], later: NDArray[np.int32]) -> float:
    draw = np.random.default_rng(0)
    near, far = (draw.permutation(items)[:_SAMPLE] for items in (trained, later))
    cells = postings.cells_of(near)
    sizes = np.bincount(cells, minlength=postings.cells)
    middles = np.zeros((postings.cells, postings.dim))
    np.add.at(middles, cells, postings.vectors_of(near))
    middles /= np.maximum(sizes, 1)[:, None]
    known = far[sizes[postings.cells_of(far)] > 0]
    if not len(known):
        return float("inf")
    own, new = (
        np.linalg.norm(postings.vectors_of(items) - middles[postings.cells_of(items)], axis=1).mean()
        for items in (near, known)
    )
    return float(new / own) if own > 0 else float("inf")


def _divergence(before: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    p, q = before / before.sum(), now / now.sum()
    middle = (p + q) / 2

    def toward(share: NDArray[np.float64]) -> float:
        held = share > 0
        return float((share[held] * np.log2(share[held] / middle[held])).sum())

    return (toward(p) + toward(q)) / 2
