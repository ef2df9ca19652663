"""Search where every interest reaches all visited cells: in one pass for all of them, or one list an interest.

Where the value of an item decides, all interests of a user search together (:mod:`tesserec.index.scan`). Quotas and
exploration need the best items of each interest, found by a pass for each, and :mod:`tesserec.index.merge` merges them.
Slots, which all search one cell, many queries that visit every cell, and whatever is too nearly equal for 8 bits go
through :mod:`tesserec.index.topk`, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories, Items
from tesserec.index.contract import Candidates, Elsewhere, Floats, Policy
from tesserec.index.delta import both_segments
from tesserec.index.filters import Blocked
from tesserec.index.interests import Choice
from tesserec.index.kernels import empty_rows, ordered_rows
from tesserec.index.merge import log_chances, merge_interests, no_candidates
from tesserec.index.order import Order
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import NO_STOPS, best_together
from tesserec.index.score_postings import ScorePostings
from tesserec.index.tiles import Doubles
from tesserec.index.topk import TopK, cells_topk, exact_topk, in_threads
from tesserec.index.visiting import cells_to_visit, in_falling_probability, in_order, known_cells, visits_of
from tesserec.index.within import Users

if TYPE_CHECKING:
    from tesserec.index.new_items import NewItems

_MANY = 16
"""Queries; more of them search every cell faster in one product of matrices than by a pass for each."""


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
    order: Order | None = None

    @property
    def everywhere(self) -> Request:
        """The same, visiting every cell."""
        return replace(self, policy=replace(self.policy, visit=1.0, max_items=None), order=None)


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
    request: Request,
    histories: Histories,
) -> Candidates:
    """The ``k`` best candidates of each user from the cells that the request visits.

    Parameters
    ----------
    histories
        Explored interests bring no item of their cells.
    """
    posterior, whole = users.encoded.posterior, postings
    likely, postings = cells_to_visit(posterior, postings, request.policy), few_of(request, postings)
    vectors = np.asarray(users.side.read(users.encoded, choice.codes), np.float32)
    one_pass = partial(_in_one_pass, users, postings, choice, vectors)
    by_value = request.policy.merge != "quota" and postings.cells > 1 and request.elsewhere is None
    if by_value and not choice.explored.any():
        visited = np.zeros(posterior.shape, np.bool_) if request.order else likely
        answer = no_candidates(len(vectors), request.k)
        if one_pass(visited, request, partial(_write, answer, choice)):
            by_place = request.order is not None
            return replace(answer, visits=visits_of(posterior, visited, postings.sizes, by_place=by_place))
    lists = _Lists.empty(choice, request.k)
    added = log_chances(choice, request.policy)
    parts = [(choice.explored, _cells_to_explore(likely, known_cells(whole, histories), choice))]
    if not (by_value and one_pass(likely, replace(request, order=None), lists.write)):
        parts.append((~choice.explored, likely))
    for of_part, searched in parts:
        rows, columns = np.nonzero((choice.codes >= 0) & of_part)
        if len(rows):
            unwanted = None if users.unwanted is None else users.unwanted.take(rows)
            at_once = postings.cells == 1 or request.elsewhere is not None or len(rows) > _MANY
            within = None if at_once and searched.all() else _likely_first(searched, posterior).take(rows)
            items, scores = _search(postings, vectors[rows, columns], within, unwanted, request)
            lists.items[rows, columns] = items
            lists.values[rows, columns] = scores + added[rows, columns, None]
    by_quota = request.policy.merge == "quota"
    merged = merge_interests(choice, lists.items, lists.values, request.k, by_quota)
    return replace(merged, visits=visits_of(posterior, likely, postings.sizes))


class _Lists(NamedTuple):
    """The best items of each interest and their values, ``(users, columns, k)``."""

    items: Items
    values: Doubles

    @classmethod
    def empty(cls, choice: Choice, k: int) -> Self:
        shape = *choice.codes.shape, k
        return cls(np.full(shape, -1, np.int32), np.full(shape, -np.inf))

    def write(self, row: int, items: Items, values: Doubles, columns: Items) -> None:
        """What one pass has found for a user: each item into the list of its best interest."""
        for column in np.unique(columns):
            own = np.flatnonzero(columns == column)
            self.items[row, column, : len(own)], self.values[row, column, : len(own)] = items[own], values[own]


def _write(answer: Candidates, choice: Choice, row: int, items: Items, values: Doubles, columns: Items) -> None:
    """What one pass has found for a user, as the answer where the best value decides."""
    n = len(items)
    answer.items[row, :n], answer.scores[row, :n] = items, values
    answer.interests[row, :n] = choice.codes[row, columns]
    answer.probability[row, :n] = choice.probability[row, columns]


def _in_one_pass(
    users: Users,
    postings: VectorPostings,
    choice: Choice,
    vectors: Floats,
    visited: NDArray[np.bool_],
    request: Request,
    write: Callable[[int, Items, Doubles, Items], None],
) -> bool:
    """One pass over a user's cells for all exploited interests, which hands row, items, values and columns on.

    False where too many values are nearly equal; what was handed on by then is no answer.
    """
    added = log_chances(choice, request.policy)
    posterior, segments, order = users.encoded.posterior, postings.segments, request.order
    seen = empty_rows(len(vectors)) if users.unwanted is None else ordered_rows(users.unwanted)

    def search(begin: int, end: int) -> bool:
        for row in range(begin, end):
            read = np.flatnonzero((choice.codes[row] >= 0) & ~choice.explored[row])
            queries, own = np.ascontiguousarray(vectors[row, read]), added[row, read]
            if order:
                cells, stops = in_order(postings, queries, own, posterior[row], order, request.policy.max_items)
            else:
                cells, stops = in_falling_probability(posterior[row], visited[row]), NO_STOPS
            best = best_together(segments, cells, queries, own, seen[row], request.blocked, request.k, stops)
            if best is None:
                return False
            items, values, columns, reached = best
            visited[row, cells[:reached]] = True
            write(row, items, values, read[columns].astype(np.int32))
        return True

    return all(in_threads(len(vectors), search))


def _search(
    postings: VectorPostings,
    queries: Floats,
    rows: Histories | None,
    unwanted: Histories | None,
    request: Request,
) -> TopK:
    """The best items of each query in its cells; None is every cell."""
    k, budget = request.k, request.budget_mb
    if request.elsewhere is not None:
        return request.elsewhere.best_in_cells(queries, rows, unwanted, k)
    if rows is not None:
        scanned = _scan_each(postings, queries, rows, unwanted, request)
        if scanned is not None:
            return scanned

    def search(part: VectorPostings, exclude: Histories | None, blocked: Blocked) -> TopK:
        if rows is None:
            return exact_topk(queries, part.table, k, exclude=exclude, blocked=blocked, budget_mb=budget)
        return cells_topk(
            queries, part.table, part.offsets, rows, k, exclude=exclude, blocked=blocked, budget_mb=budget
        )

    return both_segments(postings, search, unwanted, request.blocked)


def _scan_each(
    postings: VectorPostings, queries: Floats, cells: Histories, unwanted: Histories | None, request: Request
) -> TopK | None:
    """A pass over its cells for each query; None where too many values are nearly equal."""
    items = np.full((len(queries), request.k), -1, np.int32)
    scores = np.full((len(queries), request.k), -np.inf, np.float32)
    seen = empty_rows(len(queries)) if unwanted is None else ordered_rows(unwanted)
    segments, nothing = postings.segments, np.zeros(1)

    def search(begin: int, end: int) -> bool:
        for row in range(begin, end):
            own = cells[row].astype(np.int64)
            best = best_together(segments, own, queries[row : row + 1], nothing, seen[row], request.blocked, request.k)
            if best is None:
                return False
            n = len(best.items)
            items[row, :n], scores[row, :n] = best.items, best.values
        return True

    return (items, scores) if all(in_threads(len(queries), search)) else None


def _cells_to_explore(visited: NDArray[np.bool_], known: NDArray[np.bool_], choice: Choice) -> NDArray[np.bool_]:
    """What is visited and the explored interests' own cells, less the known ones, ``(users, cells)``."""
    users, columns = np.nonzero((choice.codes >= 0) & choice.explored)
    reached = visited.copy()
    reached[users, choice.codes[users, columns]] = True
    return reached & ~known


def _likely_first(cells: NDArray[np.bool_], posterior: Floats) -> Histories:
    """The cells of each user, likely ones first."""
    codes = [in_falling_probability(*row) for row in zip(posterior, cells, strict=True)]
    return Histories.from_offsets(np.concatenate(codes).astype(np.int32), np.append(0, np.cumsum(cells.sum(axis=1))))
