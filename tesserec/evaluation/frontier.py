"""What accuracy costs in variety, and the reverse: one model under several policies at the same length of list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tesserec.data.dataset import Dataset, Part
from tesserec.data.histories import Items
from tesserec.evaluation import beyond
from tesserec.evaluation.metrics import Floats, recall
from tesserec.evaluation.slices import Cells
from tesserec.index.contract import Policy
from tesserec.index.searcher import Searcher

INTERESTS = (1, 2, 4, 8)
EXPLORE = (0.1, 0.2, 0.4)


def frontier(
    searcher: Searcher, dataset: Dataset, part: Part, k: int, *, codes: int, cells: Cells | None
) -> list[dict[str, Any]]:
    """Measure the model's own policy, then others that differ from it in one setting.

    Parameters
    ----------
    searcher
        The model.
    dataset, part
        Catalogue and the users to ask for.
    k
        Length of every list.
    codes
        Interests that there are.
    cells
        Cell of each item, for the number of distinct cells in a list; None leaves it out.

    Returns
    -------
    list of dict
        ``interests``, ``explore`` and ``varied`` (the setting that differs, None for the model's own policy), then
        ``recall``, ``coverage`` (of these users' lists) and, where they can be had, ``diversity`` and ``cells``
        (mean distinct cells in a list).
    """
    return [
        {"interests": policy.interests, "explore": policy.explore, "varied": varied}
        | tradeoff(searcher.retrieve(part.histories, k, policy).items, dataset, part, cells)
        for varied, policy in _policies(searcher, codes)
    ]


def tradeoff(lists: Items, dataset: Dataset, part: Part, cells: Cells | None) -> dict[str, float]:
    """Recall, coverage, diversity and distinct cells of lists ``(users, k)``; what cannot be had is left out."""
    k = lists.shape[1]
    found = {
        "recall": float(recall(lists, part.targets, k).mean()),
        "coverage": beyond.coverage(beyond.exposure(lists, k, len(dataset.items))),
    }
    by_user = {name.removesuffix(f"@{k}"): one for name, one in beyond.category_diversity(lists, dataset, [k]).items()}
    if cells is not None:
        by_user["cells"] = distinct_cells(lists, cells)
    return found | {name: float(np.nanmean(values)) for name, values in by_user.items() if not np.isnan(values).all()}


def distinct_cells(lists: Items, cells: Cells) -> Floats:
    """How many cells the items of each list lie in, ``(users,)``."""
    cell = np.sort(np.where(lists >= 0, cells[np.maximum(lists, 0)], -1), axis=1)
    first = np.ones(cell.shape, bool)
    first[:, 1:] = cell[:, 1:] != cell[:, :-1]
    return np.asarray((first & (cell >= 0)).sum(axis=1), np.float64)


def _policies(searcher: Searcher, codes: int) -> Iterator[tuple[str | None, Policy]]:
    """The model's own policy and its neighbours; exploration needs shared interests, chosen by the posterior."""
    own = searcher.policy
    yield None, own
    for interests in INTERESTS:
        if interests <= codes and interests != min(own.interests, codes):
            yield "interests", replace(own, interests=interests)
    for explore in (0.0, *EXPLORE) if searcher.has_interests and own.select == "posterior" else ():
        if explore != own.explore:
            yield "explore", replace(own, explore=explore)
