"""What a model's interests are worth: where its best items lie, whether interests differ, what the posterior knows.

One workflow over a seeded sample of held-out users. A model whose interests are cells of the catalogue is measured in
full; one whose interests are slots (free vectors over one cell) has no posterior over cells, so what rests on it is
left out; a model that reads no interest vectors has nothing here. What is left out is named with its reason.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.dataset import Dataset, Part
from tesserec.errors import ConfigError
from tesserec.evaluation.calibration import Calibration, calibration
from tesserec.evaluation.codebooks import Codes, cell_means, code_counts, codebook_figures, layout, telling
from tesserec.evaluation.collapse import effective_number, list_shares, mean_cosine, mean_jaccard
from tesserec.evaluation.concentration import SHARE, cells_needed
from tesserec.evaluation.frontier import frontier
from tesserec.evaluation.interest_lists import Answers, Asker
from tesserec.evaluation.interest_result import Figure, InterestEvaluation, plain, summarise
from tesserec.evaluation.metrics import Floats, PerUser, distinct, hits
from tesserec.evaluation.protocol import held_out
from tesserec.evaluation.slices import Cells
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import DenseSide, ScoreSide

USERS = 2000
TOPS = (10, 100)
OVERLAP = 50
NAMED = 24

_NO_PAIRS = "one interest a user is read, so there are no pairs"
_NO_CELLS = "this model's interests are slots of a user; no items belong to them and they have no probability"
_OWN_CELL = "every interest searches its own cell alone, so no two lists share an item"


def evaluate_interests(
    searcher: Searcher,
    dataset: Dataset,
    *,
    part: str = "test",
    k: int = 20,
    users: int = USERS,
    cells: Cells | None = None,
    codes: tuple[Codes, int] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_users: int = 256,
) -> InterestEvaluation:
    """Measure the interests of a model on a sample of a held-out part.

    Parameters
    ----------
    searcher
        The model; its own policy holds unless a figure says otherwise.
    dataset
        Gives users, targets, training counts and categories.
    part
        ``"test"`` or ``"valid"``.
    k
        Length of the lists.
    users
        At most this many users, drawn by ``seed``.
    cells
        Cell of each item by which lists are said to be varied; by default the model's own.
    codes
        Codes of every item by level, ``(items, levels)``, and the codes of a level; by default the cells.
    bootstrap, seed
        Resamples of users for the 95 % intervals, and the seed of these and of the sample.
    batch_users
        Users asked for at once; the result does not depend on it.

    Raises
    ------
    ConfigError
        For an unknown part, or sizes below one.
    """
    for name, value in (("k", k), ("users", users), ("batch_users", batch_users)):
        if value < 1:
            raise ConfigError(f"{name} = {value}; expected at least 1")
    held = held_out(dataset, part)
    sample = take_sample(held, users, seed)
    items = len(dataset.items)
    postings, side = searcher.postings, searcher.side
    facts: dict[str, Any] = {
        "part": part,
        "users": len(sample.users),
        "of_users": len(held.users),
        "seed": seed,
        "k": min(k, items),
        "policy": asdict(searcher.policy),
    }
    if isinstance(side, ScoreSide | DenseSide) or not isinstance(postings, VectorPostings):
        return _nothing(dataset, facts, "the model scores items without reading a vector an interest")
    known = int(side.encode(sample.histories.take(slice(0, 1))).posterior.shape[1])
    if known == 1:
        return _nothing(dataset, facts, "the model reads one vector a user, so there are no interests to tell apart")
    facts |= {"kind": "cells" if searcher.has_interests else "slots", "codes": known, "share": SHARE}
    asker = Asker(searcher, side, postings, facts["k"], min(max(OVERLAP, k), items), min(max(TOPS), items))
    facts["interests_read"] = min(asker.read, known)

    measured = _Measured()
    for answers in asker.blocks(sample, batch_users):
        measured.add(answers, asker)
    found = measured.figures(bootstrap, seed)
    curves: dict[str, Any] = {"ranks": measured.rank_rows(bootstrap, seed)}
    if searcher.has_interests:
        levels = (postings.cell_of[:, None], postings.cells) if codes is None else codes
        found |= _codebook(*levels) | _prior(postings, dataset, sample)
        curves |= _reliability(measured) | _codebook_curves(searcher, postings, levels, dataset)
    cells = searcher.cells if cells is None else cells
    curves["frontier"] = frontier(searcher, dataset, sample, facts["k"], codes=known, cells=cells)
    return InterestEvaluation(dataset.fingerprint, facts, found, curves, _omitted(asker, facts, curves["frontier"][0]))


def take_sample(part: Part, users: int, seed: int) -> Part:
    """At most so many users of a part, drawn by the seed, in their own order."""
    rows = sample_rows(len(part.users), users, seed)
    return Part(part.users[rows], part.histories.take(rows), part.targets.take(rows))


def sample_rows(rows: int, users: int, seed: int) -> NDArray[np.int64]:
    """Rows of the sample; all of them where there are no more than asked for."""
    if rows <= users:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, users, replace=False))


def _nothing(dataset: Dataset, facts: dict[str, Any], reason: str) -> InterestEvaluation:
    return InterestEvaluation(dataset.fingerprint, facts | {"kind": "none"}, {}, {}, {"interests": reason})


def _omitted(asker: Asker, facts: dict[str, Any], point: dict[str, Any]) -> dict[str, str]:
    """What does not apply to this model or dataset, and why; ``point`` is one of the frontier."""
    reasons: dict[str, str] = {}
    if facts["kind"] == "slots":
        reasons |= dict.fromkeys(("concentration", "calibration", "codebook"), _NO_CELLS)
    if asker.own_cell:
        reasons["collapse/jaccard"] = _OWN_CELL
    if facts["interests_read"] == 1:
        reasons |= dict.fromkeys(("collapse/cosine", "collapse/jaccard"), _NO_PAIRS)
    if "cells" not in point:
        reasons["frontier/cells"] = "no cells of items are known; name a run that has them with --cells"
    if "diversity" not in point:
        reasons["frontier/diversity"] = "the item table has no categorical or multi column"
    return reasons


class _Measured:
    """Columns of users and sums over users, gathered block by block."""

    def __init__(self) -> None:
        self.blocks: list[PerUser] = []
        self.ranks: list[dict[str, Floats]] = []
        self.calibration: Calibration | None = None

    def add(self, answers: Answers, asker: Asker) -> None:
        self.blocks.append(_columns(answers, asker))
        self.ranks.append(_ranks(answers))
        if asker.searcher.has_interests:
            here = calibration(answers.posterior, asker.postings.cell_of, answers.targets)
            self.calibration = here if self.calibration is None else self.calibration + here

    def figures(self, bootstrap: int, seed: int) -> dict[str, Figure]:
        columns = {name: np.concatenate([block[name] for block in self.blocks]) for name in self.blocks[0]}
        found = summarise(columns, resamples=bootstrap, seed=seed)
        if self.calibration is not None:
            found |= plain({f"calibration/{name}": value for name, value in self.calibration.figures().items()})
        return found

    def rank_rows(self, bootstrap: int, seed: int) -> list[dict[str, Any]]:
        """One row a rank of interest, and a last one for interests of lower rank or exploration."""
        sums = {name: sum(block[name].sum(axis=0) for block in self.ranks) for name in ("places", "hits")}
        recall = np.concatenate([block["recall"] for block in self.ranks])
        by_rank = summarise({str(n): recall[:, n] for n in range(recall.shape[1])}, resamples=bootstrap, seed=seed)
        rows: list[dict[str, Any]] = []
        for n in range(recall.shape[1] + 1):
            row: dict[str, Any] = {"rank": n + 1 if n < recall.shape[1] else None}
            row |= {name: float(values[n] / values.sum()) for name, values in sums.items() if values.sum()}
            if str(n) in by_rank:
                row |= {"recall": by_rank[str(n)].value, "low": by_rank[str(n)].low, "high": by_rank[str(n)].high}
            rows.append(row)
        return rows


def _columns(answers: Answers, asker: Asker) -> PerUser:
    """Figures with a value a user."""
    final, read = answers.final, answers.codes >= 0
    spread, largest = list_shares(final.interests, final.items >= 0)
    columns: PerUser = {}
    if asker.searcher.has_interests:
        columns |= _concentration(answers, asker)
    columns["collapse/cosine"] = mean_cosine(answers.vectors, read)
    if not asker.own_cell:
        columns[f"collapse/jaccard@{min(OVERLAP, asker.n)}"] = mean_jaccard(answers.lists[:, :, :OVERLAP])
    columns[f"collapse/interests_in_list@{asker.k}"] = spread
    columns[f"collapse/largest_share@{asker.k}"] = largest
    if asker.searcher.has_interests:
        columns["collapse/interests_in_posterior"] = effective_number(answers.posterior)
    return columns


def _concentration(answers: Answers, asker: Asker) -> PerUser:
    columns: PerUser = {}
    postings = asker.postings
    for n in sorted({min(n, asker.best) for n in TOPS}):
        needed = cells_needed(answers.posterior, postings.cell_of, answers.exact[:, :n])
        columns |= {
            f"concentration/cells@{n}": needed.cells,
            f"concentration/cell_share@{n}": needed.cells / postings.cells,
            f"concentration/items@{n}": needed.items,
            f"concentration/item_share@{n}": needed.items / postings.size,
            f"concentration/fewest_cells@{n}": needed.fewest,
        }
    return columns


def _ranks(answers: Answers) -> dict[str, Floats]:
    """Places and hits of the final list by the rank of the interest that brought them, and each interest's own recall.

    ``places`` and ``hits`` have one column more than interests were read: for those of lower rank.
    """
    final, codes = answers.final, answers.codes
    users, read = codes.shape
    same = final.interests[:, :, None] == codes[:, None, :]
    rank = np.where(same.any(axis=2), same.argmax(axis=2), read)
    at = np.arange(users)[:, None] * (read + 1) + rank
    filled, hit = final.items >= 0, hits(final.items, answers.targets)
    places, found = (np.bincount(at[chosen], minlength=users * (read + 1)) for chosen in (filled, hit))
    k, wanted = final.items.shape[1], distinct(answers.targets)
    alone = np.stack([hits(answers.lists[:, n, :k], answers.targets).sum(axis=1) / wanted for n in range(read)], axis=1)
    return {
        "places": places.reshape(users, read + 1).astype(np.float64),
        "hits": found.reshape(users, read + 1).astype(np.float64),
        "recall": np.where(codes >= 0, alone, np.nan),
    }


def _codebook(codes: Codes, size: int) -> dict[str, Figure]:
    return plain({f"codebook/{name}": value for name, value in codebook_figures(codes, size).items()})


def _prior(postings: VectorPostings, dataset: Dataset, sample: Part) -> dict[str, Figure]:
    """What a posterior that knows no user would score: each cell's share of the training events."""
    share = np.bincount(postings.cell_of, dataset.item_counts, postings.cells) + 1.0
    of_target = np.log(share / share.sum())[postings.cell_of[sample.targets.compact().values]]
    return plain({"calibration/nll_popularity": float(-of_target.mean())})


def _reliability(measured: _Measured) -> dict[str, Any]:
    assert measured.calibration is not None
    return {"reliability": {"pairs": measured.calibration.pairs.curve(), "top": measured.calibration.top.curve()}}


def _codebook_curves(
    searcher: Searcher, postings: VectorPostings, levels: tuple[Codes, int], dataset: Dataset
) -> dict[str, Any]:
    """Sorted use of every level, and the map of the cells with the names of the largest."""
    usage = -np.sort(-code_counts(*levels), axis=1)
    means = cell_means(postings)
    places = layout(means[:, telling(postings.vectors)])
    held = np.flatnonzero(~np.isnan(places[:, 0]))
    sizes = np.diff(postings.offsets)
    traffic = np.bincount(postings.cell_of, dataset.item_counts, postings.cells)
    named = held[np.argsort(-sizes[held], kind="stable")][:NAMED]
    assert searcher.names is not None
    return {
        "usage": usage.tolist(),
        "map": {
            "x": places[held, 0].tolist(),
            "y": places[held, 1].tolist(),
            "items": sizes[held].tolist(),
            "traffic": traffic[held].tolist(),
            "names": {str(np.searchsorted(held, cell)): searcher.names["name"][int(cell)] for cell in named},
        },
    }
