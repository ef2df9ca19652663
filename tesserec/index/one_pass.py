"""One list for all interests of a user in one pass over the visited cells: the fast way to answer.

Where an interest may bring any visited item and lists are merged by value, an item's value is the best of
``score_c + added_c`` over the interests ``c``. Rounded scores (:mod:`tesserec.index.compact`) propose, float32 scores
narrow down, exact ones decide, so the answer is that of :mod:`tesserec.index.topk` and :mod:`tesserec.index.merge` over
the same cells, bit for bit. Cells are visited in falling probability; scratch memory is some pages a thread.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Ints, Items
from tesserec.index.compact import MOST_INTERESTS, best_scores, round_queries
from tesserec.index.contract import Candidates, Codes, Floats, Policy
from tesserec.index.interests import Choice
from tesserec.index.kernels import (
    Denied,
    bitmap,
    empty_rows,
    exact_dot,
    fast_dot,
    index_of,
    is_unwanted,
    kernel,
    key_of,
    ordered_rows,
    score_of,
    select_largest,
)
from tesserec.index.merge import Doubles, log_chances, no_candidates
from tesserec.index.postings import VectorPostings
from tesserec.index.topk import frozen, in_threads, margins
from tesserec.index.within import Users

_CHUNK = 1 << 15
"""Items that are scored at once."""
_STEP = 1 << 11
"""Items that a proof visits before it looks again at what is left."""
_FIRST = 0.9
"""Mass of the cells that a proof starts from."""
_ROUNDING = 32 * 2.0**-24
_scratch = threading.local()


def suits(policy: Policy, postings: VectorPostings, interests: int) -> bool:
    """Whether a policy asks for what one pass can do."""
    merges = policy.merge != "quota" and policy.explore == 0 and policy.reach == "catalogue"
    leaves_out = policy.visit < 1 or policy.max_items is not None or policy.exact
    return merges and leaves_out and postings.cells > 1 and interests <= MOST_INTERESTS


def search_once(users: Users, postings: VectorPostings, choice: Choice, k: int, policy: Policy) -> Candidates:
    """The ``k`` best items of each user in the likeliest cells, for a policy that :func:`suits`."""
    n = len(choice.codes)
    queries = np.ascontiguousarray(users.side.read(users.encoded, choice.codes), np.float32)
    answer = no_candidates(n, k)
    seen = empty_rows(n) if users.unwanted is None else ordered_rows(users.unwanted)
    table = _Table(
        postings.table.vectors,
        postings.table.items,
        frozen(postings.offsets),
        seen.values,
        seen.starts,
        seen.stops,
        bitmap(users.denied),
    )
    added = log_chances(choice, policy)
    posterior = np.ascontiguousarray(users.encoded.posterior, np.float32)
    in_threads(n, partial(_search_rows, postings, table, choice, queries, added, posterior, policy, answer))
    return answer


class _Table(NamedTuple):
    vectors: Floats
    items: Items
    offsets: Ints
    seen: Items
    seen_from: Ints
    seen_to: Ints
    denied: Denied


class _Out(NamedTuple):
    items: Items
    scores: Floats
    interests: Codes
    probability: Floats


def _search_rows(
    postings: VectorPostings,
    table: _Table,
    choice: Choice,
    queries: Floats,
    added: Doubles,
    posterior: Floats,
    policy: Policy,
    answer: Candidates,
    begin: int,
    end: int,
) -> None:
    out = _Out(answer.items, answer.scores, answer.interests, answer.probability)
    k, visits = answer.items.shape[1], answer.visits
    cap = np.iinfo(np.int64).max if policy.max_items is None else policy.max_items
    mass = np.inf if policy.visit >= 1 else policy.visit
    for user in range(begin, end):
        used = np.flatnonzero(choice.codes[user] >= 0)
        search = _UserSearch(postings, table, user, np.ascontiguousarray(queries[user, used]), added[user, used], k)
        cells = _likeliest_cells(posterior[user], table.offsets, min(mass, _FIRST) if policy.exact else mass, cap)
        search.visit(cells)
        visited = np.zeros(postings.cells, np.bool_)
        visited[cells] = True
        if policy.exact:
            search.visit_until_proven(visited)
        search.finish(choice.codes[user, used], choice.probability[user, used], out)
        visits.cells[user], visits.items[user] = np.count_nonzero(visited), search.visited
        visits.certified[user] = policy.exact or search.visited == postings.size
        visits.mass_left[user] = posterior[user, ~(visited | postings.empty)].sum(dtype=np.float64)


class _UserSearch:
    """The running candidates of a user."""

    def __init__(
        self, postings: VectorPostings, table: _Table, user: int, queries: Floats, added: Doubles, k: int
    ) -> None:
        self.postings, self.table, self.user, self.queries, self.added, self.k = (
            postings,
            table,
            user,
            queries,
            added,
            k,
        )
        self.rounded = round_queries(queries, postings.compact)
        largest = float(np.abs(queries).sum(axis=1).max(initial=0.0)) * postings.table.longest
        exact = float(margins(queries, postings.table.longest).max(initial=0.0))
        self.narrow = exact + _ROUNDING * (largest + float(np.abs(added).max(initial=0.0)))
        self.margin = 2 * self.rounded.error + self.narrow
        self.keys, self.count, self.threshold = np.empty(4 * k + 2048, np.int64), 0, -np.inf
        self.visited = 0

    def visit(self, cells: Codes) -> None:
        """Add the items of some cells."""
        starts, stops, chunks = _ranges(cells, self.table.offsets, _CHUNK)
        added = self.added.astype(np.float32)
        values = _values()
        for first, last in zip(chunks[:-1].tolist(), chunks[1:].tolist(), strict=True):
            rows = starts[first:last], stops[first:last]
            best_scores(self.postings.compact, self.rounded, added, *rows, values)
            running = self.keys, self.count, self.threshold, self.k, self.margin
            self.keys, self.count, self.threshold = _absorb(values, *rows, self.table, self.user, *running)
        self.visited += int((stops - starts).sum())

    def visit_until_proven(self, visited: NDArray[np.bool_]) -> None:
        """Go on with the cells that could hold a better item than the k-th best, most promising first."""
        centres, radii = self.postings.balls
        lengths = np.sqrt(np.einsum("ij,ij->i", self.queries, self.queries, dtype=np.float64))
        bounds = (centres @ self.queries.T) + np.outer(radii, lengths) + self.added
        best = bounds.max(axis=1, initial=-np.inf) + self.narrow
        best[visited | self.postings.empty] = -np.inf
        sizes = np.diff(self.postings.offsets)
        left = np.argsort(-best, kind="stable")[: np.count_nonzero(best > -np.inf)]
        while len(left):
            self.count, threshold = _keep_from(self.keys, self.count, self.k, self.margin)
            self.threshold = max(self.threshold, threshold)
            left = left[best[left] >= self.threshold]
            several = max(1, int(np.searchsorted(np.cumsum(sizes[left]), _STEP)))
            self.visit(left[:several].astype(np.int32))
            visited[left[:several]] = True
            left = left[several:]

    def finish(self, codes: Codes, chances: Floats, out: _Out) -> None:
        """Write the answer."""
        margins_ = self.margin, self.narrow
        of_user = self.table, (codes, chances), out, self.user
        _finish(self.queries, self.added, self.keys, self.count, margins_, *of_user)


def _values() -> Floats:
    """This thread's scratch memory for the scores of a chunk."""
    values: Floats | None = getattr(_scratch, "values", None)
    if values is None or len(values) < _CHUNK:
        values = _scratch.values = np.empty(_CHUNK, np.float32)
    return values


@kernel
def _likeliest_cells(posterior: Floats, offsets: Ints, visit: float, most: int) -> Codes:
    """The likeliest cells that together reach a mass and hold no more than some items, at least one; best first."""
    n = len(posterior)
    keys = np.empty(n, np.int64)
    for code in range(n):
        keys[code] = key_of(posterior[code], code)
    done, wide, mass, held, full = 0, 64, 0.0, 0, False
    cells = np.empty(n, np.int32)
    while done < n and not full and (mass < visit or done == 0):
        block = keys[done:]
        take = min(wide, len(block))
        if take < len(block):
            select_largest(block, len(block), take)
        block[:take].sort()
        block[:take] = block[:take][::-1].copy()
        for i in range(take):
            cell = index_of(block[i])
            held += offsets[cell + 1] - offsets[cell]
            full = done > 0 and held > most
            if full or (done > 0 and mass >= visit):
                break
            cells[done] = cell
            mass += np.float64(posterior[cells[done]])
            done += 1
        wide *= 2
    return cells[:done]


@kernel
def _ranges(cells: Codes, offsets: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """The rows of cells, cut so that ranges ``chunks[i]`` to ``chunks[i + 1]`` hold at most ``most`` rows together."""
    n = 0
    for cell in cells:
        n += 1 + (offsets[cell + 1] - offsets[cell]) // most
    starts, stops, chunks = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n + 1, np.int64)
    n, held, chunk = 0, 0, 0
    for cell in cells:
        row = offsets[cell]
        while row < offsets[cell + 1]:
            end = min(offsets[cell + 1], row + most)
            if held + end - row > most:
                chunk += 1
                chunks[chunk], held = n, 0
            starts[n], stops[n] = row, end
            held += end - row
            n += 1
            row = end
    chunks[chunk + 1] = n
    return starts[:n], stops[:n], chunks[: chunk + 2]


@kernel
def _any_from(values: Floats, threshold: float) -> bool:
    count = 0  # a sum is vectorised, a loop that may stop early is not
    for value in values:
        count += value >= threshold
    return count > 0


@kernel
def _keep_from(keys: Ints, n: int, k: int, margin: float) -> tuple[int, float]:
    """Drop keys that lie more than a margin below the k-th best; how many are left, and the threshold."""
    if n <= k:
        return n, -np.inf
    threshold = np.float64(score_of(select_largest(keys, n, k))) - margin
    left = 0
    for i in range(n):
        if score_of(keys[i]) >= threshold:
            keys[left] = keys[i]
            left += 1
    return left, threshold


@kernel
def _absorb(
    values: Floats,
    starts: Ints,
    stops: Ints,
    table: _Table,
    user: int,
    keys: Ints,
    n: int,
    threshold: float,
    k: int,
    margin: float,
) -> tuple[Ints, int, float]:
    """Add the rows of a chunk whose rounded scores may be answers to the running candidates."""
    seen, seen_from, seen_to = table.seen, table.seen_from[user], table.seen_to[user]
    at, limit = 0, n + 2 * k
    for part in range(len(starts)):
        row = starts[part]
        while row < stops[part]:
            end = min(row + 64, stops[part])
            if _any_from(values[at : at + end - row], threshold):
                for i in range(row, end):
                    value = values[at + i - row]
                    if value < threshold:
                        continue
                    if is_unwanted(table.denied, seen, seen_from, seen_to, table.items[i]):
                        continue
                    if n == len(keys):
                        n, threshold = _keep_from(keys, n, k, margin)
                        if 2 * n > len(keys):  # too many near ties to tell apart by rounded scores
                            more = np.empty(2 * len(keys), np.int64)
                            more[:n] = keys[:n]
                            keys = more
                    keys[n] = key_of(value, i)
                    n += 1
            at += end - row
            row = end
        if n > limit:
            n, threshold = _keep_from(keys, n, k, margin)
            limit = n + max(n, k)
    return keys, n, threshold


@kernel
def _finish(
    queries: Floats,
    added: Doubles,
    keys: Ints,
    n: int,
    margin: tuple[float, float],
    table: _Table,
    chosen: tuple[Codes, Floats],
    out: _Out,
    user: int,
) -> None:
    """Narrow the candidates down by float32 scores, then score exactly and write the best."""
    k = out.items.shape[1]
    n, _ = _keep_from(keys, n, k, margin[0])
    for i in range(n):
        row = index_of(keys[i])
        best = -np.inf
        for q in range(len(queries)):
            best = max(best, np.float64(fast_dot(queries[q], table.vectors[row])) + added[q])
        keys[i] = key_of(np.float32(best), row)
    n, _ = _keep_from(keys, n, k, margin[1])
    items, values, brought = np.empty(n, np.int32), np.empty(n, np.float64), np.empty(n, np.int32)
    for i in range(n):
        row = index_of(keys[i])
        items[i], values[i], brought[i] = table.items[row], -np.inf, -1
        for q in range(len(queries)):
            value = np.float64(exact_dot(queries[q], table.vectors[row])) + added[q]
            if value > values[i]:
                values[i], brought[i] = value, q
    by_item = np.argsort(items)
    order = by_item[np.argsort(-values[by_item], kind="mergesort")]
    codes, chances = chosen
    for rank in range(min(n, k)):
        i = order[rank]
        out.items[user, rank], out.scores[user, rank] = items[i], np.float32(values[i])
        out.interests[user, rank], out.probability[user, rank] = codes[brought[i]], chances[brought[i]]
