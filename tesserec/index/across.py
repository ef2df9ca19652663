"""Search where every interest reaches all visited cells: in one pass for all of them, or one list an interest.

Where the value of an item decides, all interests of a user search together (:mod:`tesserec.index.scan`). Quotas and
exploration need the best items of each interest, which :mod:`tesserec.index.topk` finds and
:mod:`tesserec.index.merge` merges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.index.contract import Candidates, Elsewhere, Floats, Policy
from tesserec.index.delta import both_segments
from tesserec.index.filters import Blocked
from tesserec.index.interests import Choice
from tesserec.index.kernels import empty_rows, ordered_rows
from tesserec.index.merge import log_chances, merge_interests, no_candidates
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import best_together
from tesserec.index.score_postings import ScorePostings
from tesserec.index.topk import TopK, cells_topk, exact_topk, in_threads
from tesserec.index.visiting import known_cells, visits_of
from tesserec.index.within import Users

if TYPE_CHECKING:
    from tesserec.index.new_items import NewItems


@dataclass(frozen=True)
class Request:
    """What is asked for all users; see :func:`tesserec.index.search.retrieve`.

    ``few`` holds the only items that are not blocked, where these are few.
    """

    k: int
    policy: Policy
    exclude_seen: bool
    budget_mb: int
    blocked: Blocked
    elsewhere: Elsewhere | None
    new: NewItems | None = None
    few: VectorPostings | ScorePostings | None = None

    @property
    def everywhere(self) -> Request:
        """The same, visiting every cell."""
        return replace(self, policy=replace(self.policy, visit=1.0, max_items=None))


def few_of(request: Request, postings: VectorPostings) -> VectorPostings:
    """What has to be searched: the postings, or the few that are not blocked."""
    if request.few is None:
        return postings
    assert isinstance(request.few, VectorPostings)
    return request.few


def search_across(
    users: Users,
    postings: VectorPostings,
    choice: Choice,
    visited: NDArray[np.bool_],
    request: Request,
    histories: Histories,
) -> Candidates:
    """The ``k`` best candidates of each user from the visited cells ``(users, cells)``.

    Parameters
    ----------
    histories
        Explored interests bring no item of their cells.
    """
    own_cells = known_cells(postings, histories)
    postings = few_of(request, postings)
    vectors = np.asarray(users.side.read(users.encoded, choice.codes), np.float32)
    by_value = request.policy.merge != "quota" and not choice.explored.any()
    if by_value and postings.cells > 1 and request.elsewhere is None:
        together = _search_together(users, postings, choice, vectors, visited, request)
        if together is not None:
            return replace(together, visits=visits_of(users.encoded.posterior, visited, postings.sizes))
    exploited, explored = _cells_to_search(visited, own_cells, choice)
    items = np.full((*choice.codes.shape, request.k), -1, np.int32)
    scores = np.full((*choice.codes.shape, request.k), -np.inf, np.float32)
    for of_part, searched in ((~choice.explored, exploited), (choice.explored, explored)):
        rows, columns = np.nonzero((choice.codes >= 0) & of_part)
        if len(rows):
            unwanted = None if users.unwanted is None else users.unwanted.take(rows)
            best = _search(postings, vectors[rows, columns], searched, rows, unwanted, request)
            items[rows, columns], scores[rows, columns] = best
    policy = request.policy
    added = log_chances(choice, policy)
    merged = merge_interests(choice, items, scores, added, request.k, policy.merge == "quota")
    return replace(merged, visits=visits_of(users.encoded.posterior, visited, postings.sizes))


def _search_together(
    users: Users,
    postings: VectorPostings,
    choice: Choice,
    vectors: Floats,
    visited: NDArray[np.bool_],
    request: Request,
) -> Candidates | None:
    """All interests of a user in one pass over the cells; None where too many values are nearly equal."""
    answer = no_candidates(len(vectors), request.k)
    added = log_chances(choice, request.policy)
    posterior, segments = users.encoded.posterior, postings.segments
    seen = empty_rows(len(vectors)) if users.unwanted is None else ordered_rows(users.unwanted)

    def search(begin: int, end: int) -> bool:
        for row in range(begin, end):
            read = choice.codes[row] >= 0
            cells = np.flatnonzero(visited[row])
            cells = cells[np.argsort(-posterior[row, cells], kind="stable")]
            queries = np.ascontiguousarray(vectors[row, read])
            unwanted = seen.values[seen.starts[row] : seen.stops[row]]
            best = best_together(segments, cells, queries, added[row, read], unwanted, request.blocked, request.k)
            if best is None:
                return False
            items, values, columns = best
            column, n = np.flatnonzero(read)[columns], len(items)
            answer.items[row, :n], answer.scores[row, :n] = items, values
            answer.interests[row, :n] = choice.codes[row, column]
            answer.probability[row, :n] = choice.probability[row, column]
        return True

    return answer if all(in_threads(len(vectors), search)) else None


def _search(
    postings: VectorPostings,
    queries: Floats,
    cells: NDArray[np.bool_] | None,
    users: NDArray[np.int64],
    unwanted: Histories | None,
    request: Request,
) -> TopK:
    """The best items of each query in the cells of its user; None is every cell."""
    k, budget = request.k, request.budget_mb
    rows = None if cells is None else _as_rows(cells).take(users)
    if request.elsewhere is not None:
        return request.elsewhere.best_in_cells(queries, rows, unwanted, k)

    def search(part: VectorPostings, exclude: Histories | None, blocked: Blocked) -> TopK:
        if rows is None:
            return exact_topk(queries, part.table, k, exclude=exclude, blocked=blocked, budget_mb=budget)
        return cells_topk(
            queries, part.table, part.offsets, rows, k, exclude=exclude, blocked=blocked, budget_mb=budget
        )

    return both_segments(postings, search, unwanted, request.blocked)


def _cells_to_search(
    visited: NDArray[np.bool_], known: NDArray[np.bool_], choice: Choice
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
    """Cells for exploitation (None is every cell) and for exploration, ``(users, cells)`` each.

    Exploration searches what is visited and the explored interests' own cells, less the known ones.
    """
    users, columns = np.nonzero((choice.codes >= 0) & choice.explored)
    reached = visited.copy()
    reached[users, choice.codes[users, columns]] = True
    return None if visited.all() else visited, reached & ~known


def _as_rows(cells: NDArray[np.bool_]) -> Histories:
    """The true columns of each row."""
    offsets = np.append(0, np.cumsum(cells.sum(axis=1)))
    return Histories.from_offsets(np.nonzero(cells)[1].astype(np.int32), offsets.astype(np.int64))
