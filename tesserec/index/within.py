"""Search where an interest brings items of its own cell only, for hundreds of interests a user.

Cells are visited in falling probability, each with the query of its interest. As no item lies in two cells, the best
items of all cells are kept in one heap a user; only interests with a quota have heaps of their own.

With scores normalised over the cell and merged by probability the value of an item is
``log p(c | u) + log p(i | c, u)``, at most ``log p(c | u)``. So once the heap is full and its worst value is above
``log p(c | u)`` of the next cell, no later cell can change the answer. Queries are read block by block, so that most
of them are never read; where few users are left, each block is twice as long as the one before.

Fast float32 dot products make the normaliser and propose candidates, exact ones decide, as in
:mod:`tesserec.index.topk`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints, Items
from tesserec.index.contract import Candidates, Codes, Elsewhere, Encoded, Floats, Policy, UserSide, Visits
from tesserec.index.filters import NOTHING, Bits, Blocked, is_blocked
from tesserec.index.heaps import Heaps, push, sort
from tesserec.index.interests import Choice
from tesserec.index.kernels import contains, empty_rows, exact_dot, fast_dot, kernel, ordered_rows
from tesserec.index.merge import log_chances, merge_interests
from tesserec.index.postings import VectorPostings
from tesserec.index.tiles import Doubles
from tesserec.index.topk import frozen, frozen_blocked, in_threads, margins

BLOCK = 32
"""Interests of a user that are read at once, at first."""
FEW = 16
"""Users; of fewer, longer and longer blocks are read, as long as all that is read at once stays below that of these."""
_LOG_2 = math.log(2)
_TAYLOR = tuple(1 / math.factorial(n) for n in range(12, -1, -1))
_LEAST_EXPONENT = -700.0  # below it 2^n is no normal number, and nothing is added


@dataclass(frozen=True, eq=False)
class Users:
    """A batch of encoded users, the side that reads their interests, and what they or anybody must not be given."""

    side: UserSide
    encoded: Encoded
    unwanted: Histories | None
    blocked: Blocked


def search_within(
    users: Users,
    postings: VectorPostings,
    choice: Choice,
    k: int,
    policy: Policy,
    few: VectorPostings | None = None,
    elsewhere: Elsewhere | None = None,
) -> Candidates:
    """The ``k`` best candidates of each user, every interest bringing items of its own cell.

    Parameters
    ----------
    choice
        Interests to search, exploited ones in order of falling probability. Of those that are not to be visited the
        code is -1 and the probability kept; what they could bring is not proved away.
    few
        The only items that are not blocked, where these are few: cells without one are not searched.
    elsewhere
        Who scores the items in the place of the postings; it knows of no blocked ones.
    """
    proves = policy.normalise and policy.merge == "probability"
    left_out = _likeliest_left_out(choice) if proves else None
    if few is not None:
        choice = _of_cells(choice, few.sizes > 0)
    by_quota = policy.merge == "quota"
    n, columns = choice.codes.shape
    wide = int((~choice.explored).any(axis=0).sum())
    heap_of = np.arange(columns) if by_quota else np.maximum(np.arange(columns) - wide + 1, 0)
    heaps = Heaps.empty(n, int(heap_of[-1]) + 1, min(k, postings.size), columns)
    tables = _tables(users, postings, n)
    bases = log_chances(choice, policy)
    for first, last in ((0, wide), (wide, columns)):
        unproven = np.ones(n, np.bool_)
        start, width = first, BLOCK
        while start < last and unproven.any():
            part = slice(start, min(start + width, last))
            rows = np.flatnonzero(unproven & (choice.codes[:, part] >= 0).any(axis=1))
            if len(rows):
                block = _read(users, postings, choice.codes[rows, part], bases[rows, part], rows)
                proof = unproven, proves and start < wide
                given = block, part.start, heap_of[part], policy.normalise, proof
                if elsewhere is None:
                    work = partial(_absorb, *given, tables, heaps)
                else:
                    found = _ask(elsewhere, users, postings, block, k, policy.normalise)
                    work = partial(_absorb_found, *given, found, tables[2], heaps)
                in_threads(len(rows), work)
            start, width = part.stop, max(BLOCK, min(2 * width, FEW * BLOCK // max(1, len(rows))))
    if left_out is not None:
        # A weight on known interests reorders them: one left out may come before the one that ended the search.
        heaps.proven[...] &= left_out < heaps.values[:, 0, 0]
    in_threads(n, partial(sort, heaps))
    _, one_of_each = np.unique(heap_of, return_index=True)
    lists = Choice(*(getattr(choice, name)[:, one_of_each] for name in ("codes", "probability", "explored", "quotas")))
    merged = merge_interests(lists, heaps.items, heaps.values, k, by_quota)
    telling = (few or postings).sizes > 0
    visits = _visits(users.encoded.posterior, postings, choice, heaps, telling)
    return replace(_name(merged, postings, choice), visits=visits)


def _likeliest_left_out(choice: Choice) -> Doubles:
    """The log-probability of the likeliest exploited interest that is not searched, ``(users,)``."""
    chances = np.where((choice.codes < 0) & ~choice.explored, choice.probability, 0).max(axis=1, initial=0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(chances, dtype=np.float64))


def _of_cells(choice: Choice, cells: NDArray[np.bool_]) -> Choice:
    """The interests of some cells; explored ones keep their columns, as they keep their places."""
    codes = np.where((choice.codes >= 0) & cells[choice.codes], choice.codes, -1).astype(np.int32)
    kept: NDArray[np.bool_] = np.any(choice.explored | (codes >= 0), axis=0, keepdims=False)
    kept[0] = True  # of exploited interests there is always one
    rest = (getattr(choice, name)[:, kept] for name in ("probability", "explored", "quotas"))
    return Choice(np.ascontiguousarray(codes[:, kept]), *rest)


def _visits(
    posterior: Floats, postings: VectorPostings, choice: Choice, heaps: Heaps, telling: NDArray[np.bool_]
) -> Visits:
    """Certified is what was proved, or left no item of any likely and telling cell out."""
    searched = np.zeros((len(posterior), postings.cells + 1), np.bool_)
    np.put_along_axis(searched, np.where(heaps.visited, choice.codes, -1).astype(np.int64), True, axis=1)
    left = np.where(searched[:, :-1], 0.0, posterior)
    certified = heaps.proven | ~((left > 0) & telling).any(axis=1)
    cells = searched[:, :-1]  # an interest that is exploited and explored is one cell
    mass_left, by_place = np.asarray(left.sum(axis=1), np.float32), np.zeros(len(certified), np.bool_)
    return Visits(certified, cells.sum(axis=1), cells @ postings.sizes, mass_left, by_place)


def _read(users: Users, postings: VectorPostings, codes: Codes, bases: Doubles, rows: Ints) -> _Block:
    """Queries of a block of interests of some of the users."""
    queries = np.ascontiguousarray(users.side.read(users.encoded.take(rows), codes), dtype=np.float32)
    longest = max(part.table.longest for part in (postings, postings.delta and postings.delta.rows) if part)
    near = margins(queries.reshape(-1, queries.shape[-1]), longest).reshape(codes.shape)
    return _Block(rows, codes, queries, bases, near)


def _ask(
    elsewhere: Elsewhere, users: Users, postings: VectorPostings, block: _Block, k: int, whole: bool
) -> tuple[Items, Floats]:
    """Items and scores of each interest's cell from elsewhere, best first, ``(rows, columns, n)``.

    Of ``whole`` cells every score is asked for, since a normaliser sums them all; otherwise so many that k are wanted.
    """
    held = np.where(block.codes >= 0, postings.sizes[block.codes], 0)
    limit = int(held.max(initial=0))
    if not whole:
        limit = min(limit, k + (0 if users.unwanted is None else int(users.unwanted.lengths.max(initial=0))))
    items, scores = np.full((*held.shape, limit), -1, np.int32), np.full((*held.shape, limit), -np.inf, np.float32)
    rows, columns = np.nonzero(held)
    if len(rows):
        cells = Histories.from_offsets(block.codes[rows, columns], np.arange(len(rows) + 1))
        found = elsewhere.best_in_cells(block.queries[rows, columns], cells, None, limit)
        items[rows, columns], scores[rows, columns] = found
    return items, scores


def _name(found: Candidates, postings: VectorPostings, choice: Choice) -> Candidates:
    """The interest of a candidate is its cell."""
    chances = np.full((len(choice.codes), postings.cells + 1), np.nan, np.float32)
    np.put_along_axis(chances, choice.codes.astype(np.int64), choice.probability, axis=1)  # -1 is the spare column
    chances[:, -1] = np.nan
    cells = np.where(found.items >= 0, postings.cells_of(np.maximum(found.items, 0)), -1).astype(np.int32)
    return replace(found, interests=cells, probability=np.take_along_axis(chances, cells.astype(np.int64), axis=1))


class _Block(NamedTuple):
    """A row for each of some users, a column for each of some interests."""

    users: Ints
    codes: Codes
    queries: Floats
    bases: Doubles
    margins: Floats


class _Table(NamedTuple):
    """One segment of the postings; items of ``dead`` count neither as answers nor in a normaliser."""

    vectors: Floats
    items: Items
    offsets: Ints
    dead: Bits


class _Unwanted(NamedTuple):
    """The items that each user, and that nobody must be given."""

    seen: Items
    seen_from: Ints
    seen_to: Ints
    blocked: Blocked


def _tables(users: Users, postings: VectorPostings, n: int) -> tuple[_Table, _Table, _Unwanted]:
    """Both segments, the second perhaps empty, and what must not be given."""
    seen = empty_rows(n) if users.unwanted is None else ordered_rows(users.unwanted)
    unwanted = _Unwanted(seen.values, seen.starts, seen.stops, frozen_blocked(users.blocked))
    own = postings.table
    base = _Table(own.vectors, own.items, frozen(postings.offsets), frozen(postings.dead))
    if postings.delta is None:
        offsets, items = np.zeros_like(postings.offsets), own.items[:0]
        return base, _Table(own.vectors[:0], items, frozen(offsets), frozen(NOTHING.bits)), unwanted
    rows = postings.delta.rows
    items = frozen(postings.delta.ids[rows.items])
    return base, _Table(rows.table.vectors, items, frozen(rows.offsets), frozen(NOTHING.bits)), unwanted


@kernel
def _absorb(
    block: _Block,
    first: int,
    heap_of: Ints,
    normalise: bool,
    proof: tuple[NDArray[np.bool_], bool],
    tables: tuple[_Table, _Table, _Unwanted],
    heaps: Heaps,
    begin: int,
    end: int,
) -> None:
    """Add the cells of a block to the heaps of their users; where that is provable, mark who needs no more cells."""
    base_rows, delta_rows, unwanted = tables
    k = heaps.items.shape[2]
    for row in range(begin, end):
        user = block.users[row]
        for column in range(block.codes.shape[1]):
            cell, heap, base = block.codes[row, column], heap_of[column], block.bases[row, column]
            if cell < 0:
                continue
            if _is_enough(proof, heaps, user, heap, base):
                break
            heaps.visited[user, first + column] = True
            query, margin = block.queries[row, column], block.margins[row, column]
            old, new = _dots(query, base_rows, cell), _dots(query, delta_rows, cell)
            if len(old) + len(new) == 0:
                continue
            lse, most = (_log_sum_exp(old, new), 0.0) if normalise else (0.0, np.inf)
            for dots, rows in ((old, base_rows), (new, delta_rows)):
                start = rows.offsets[cell]
                for i in range(len(dots)):
                    full = heaps.counts[user, heap] == k
                    if full and base + (dots[i] - lse) + margin < heaps.values[user, heap, 0]:
                        continue
                    item = rows.items[start + i]
                    if dots[i] == -np.inf or _is_unwanted(unwanted, user, item):
                        continue
                    score = np.float64(exact_dot(query, rows.vectors[start + i])) - lse
                    push(heaps, user, heap, item, base + min(score, most))  # no probability is above 1


@kernel
def _absorb_found(
    block: _Block,
    first: int,
    heap_of: Ints,
    normalise: bool,
    proof: tuple[NDArray[np.bool_], bool],
    found: tuple[Items, Floats],
    unwanted: _Unwanted,
    heaps: Heaps,
    begin: int,
    end: int,
) -> None:
    """The same with scores that others found, best first."""
    for row in range(begin, end):
        user = block.users[row]
        for column in range(block.codes.shape[1]):
            cell, heap, base = block.codes[row, column], heap_of[column], block.bases[row, column]
            if cell < 0:
                continue
            if _is_enough(proof, heaps, user, heap, base):
                break
            heaps.visited[user, first + column] = True
            items, scores = found[0][row, column], found[1][row, column]
            lse, most = (_log_sum_exp(scores, scores[:0]), 0.0) if normalise else (0.0, np.inf)
            for i in range(len(items)):
                if items[i] >= 0 and not _is_unwanted(unwanted, user, items[i]):
                    push(heaps, user, heap, items[i], base + min(np.float64(scores[i]) - lse, most))


@kernel
def _is_enough(proof: tuple[NDArray[np.bool_], bool], heaps: Heaps, user: int, heap: int, base: float) -> bool:
    """Whether a user provably needs no cell that adds so little, which is marked."""
    unproven, proves = proof
    if proves and heaps.counts[user, heap] == heaps.items.shape[2] and base < heaps.values[user, heap, 0]:
        unproven[user], heaps.proven[user] = False, True
        return True
    return False


@kernel
def _is_unwanted(unwanted: _Unwanted, user: int, item: int) -> bool:
    seen: bool = contains(unwanted.seen, unwanted.seen_from[user], unwanted.seen_to[user], item)
    return seen or is_blocked(unwanted.blocked, item)


@kernel
def _dots(query: Floats, rows: _Table, cell: int) -> Floats:
    """Fast dot products with a cell of a segment, -inf for what is dead."""
    start, stop = rows.offsets[cell], rows.offsets[cell + 1]
    dots = np.empty(stop - start, np.float32)
    for i in range(start, stop):
        dots[i - start] = fast_dot(query, rows.vectors[i])
    if len(rows.dead) > 0:
        for i in range(start, stop):
            if (rows.dead[rows.items[i] >> 3] >> (rows.items[i] & 7)) & 1:
                dots[i - start] = -np.inf
    return dots


@kernel
def _log_sum_exp(values: Floats, others: Floats) -> float:
    largest = -np.inf
    for part in (values, others):
        for value in part:
            largest = max(largest, np.float64(value))
    if largest == -np.inf:
        return 0.0
    return largest + math.log(_sum_exp(values, largest) + _sum_exp(others, largest))


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sum_exp(values: Floats, largest: float) -> float:
    """Sum of ``exp(value - largest)``, to about 1e-14; a library's exponential would take them one by one.

    ``exp(x) = 2^n exp(r)`` with whole ``n`` and ``|r| <= log(2) / 2``, where a Taylor polynomial is exact enough.
    """
    total = 0.0
    for i in range(len(values)):
        x = max(np.float64(values[i]) - largest, _LEAST_EXPONENT)
        n = math.floor(x / _LOG_2 + 0.5)
        r = x - n * _LOG_2
        power = 0.0
        for factor in _TAYLOR:
            power = power * r + factor
        total += power * np.int64((np.int64(n) + np.int64(1023)) << np.int64(52)).view(np.float64)
    return total
