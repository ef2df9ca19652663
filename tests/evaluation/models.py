"""Random models with cells, and with slots, over a small world, and their interests measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from tesserec.data.dataset import Dataset
from tesserec.evaluation.interest_result import InterestEvaluation
from tesserec.evaluation.interests import evaluate_interests
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tests.evaluation.worlds import random_world
from tests.index.world import LookupSide, catalogue, world

ITEMS, CELLS = 60, 6
DATA = random_world(users=80, items=ITEMS)
POLICY = Policy(interests=3, merge="probability")


def cells_model(policy: Policy = POLICY, renamed: np.ndarray | None = None, bias: float | None = None) -> Searcher:
    """A random model with six cells, perhaps under other numbers, or with a coordinate that is 1 for every item."""
    side, postings = world(items=ITEMS, cells=CELLS)
    cell_of, vectors = postings.cell_of, postings.vectors_of(np.arange(ITEMS))
    posterior, read = side.posterior, side.vectors
    if renamed is not None:
        cell_of, posterior, read = renamed[cell_of], posterior[:, np.argsort(renamed)], read[:, np.argsort(renamed)]
    if bias is not None:
        vectors = np.pad(vectors, ((0, 0), (0, 1)), constant_values=1.0)
        read = np.pad(read, ((0, 0), (0, 0), (0, 1)), constant_values=bias)
    return Searcher(
        catalogue(ITEMS), LookupSide(posterior, read), VectorPostings.build(vectors, cell_of, CELLS), policy
    )


def slots_model(policy: Policy | None = None) -> Searcher:
    """The same vectors as four free ones over one cell."""
    side, postings = world(items=ITEMS, cells=4)
    equal = np.full((ITEMS, 4), 0.25, np.float32)
    one = VectorPostings.build(postings.vectors_of(np.arange(ITEMS)), np.zeros(ITEMS, int), 1)
    return Searcher(catalogue(ITEMS), LookupSide(equal, side.vectors), one, policy or Policy(interests=4, merge="max"))


def measure(searcher: Searcher, data: Dataset = DATA, **options: Any) -> InterestEvaluation:
    return evaluate_interests(searcher, data, **({"k": 8, "bootstrap": 20} | options))
