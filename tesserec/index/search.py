"""Soft search: from histories to ranked candidates, each with the interest that brought it.

Vector postings: each chosen interest ranks the items of the visited cells; its best unseen items are merged into one
list. With every cell visited the answer is that of the exact scorer, bit for bit. An item counts as *explored* only
if an interest outside the history brought it and its own cell holds no item of the history either.
Score postings: the lists of the user's codes are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index.contract import Candidates, Codes, Floats, Policy, UserSide
from tesserec.index.interests import Choice, choose, explore_slots
from tesserec.index.kernels import contains, index_of, kernel, key_of, ordered_rows, score_of, select_largest
from tesserec.index.postings import Postings, ScorePostings, VectorPostings
from tesserec.index.topk import TopK, cells_topk, exact_topk, in_threads
from tesserec.index.user_side import ScoreSide

_BATCH = 512
Progress = Callable[[int, int], None]


def retrieve(
    side: UserSide | ScoreSide,
    postings: Postings,
    histories: Histories,
    k: int,
    policy: Policy,
    *,
    exclude_seen: bool,
    budget_mb: int = 256,
    progress: Progress | None = None,
) -> Candidates:
    """The ``k`` best candidates of each history.

    Fewer than ``k`` are returned where fewer items are left or were reached; the rest of the row holds -1.

    Parameters
    ----------
    histories
        Item indices, oldest first, no row empty.
    exclude_seen
        Leave out the items of the history.
    budget_mb
        Working memory of the search, in MiB; the answer and the user side's own network come on top.
    progress
        Called with the users done and all users after each batch.

    Raises
    ------
    DataError
        If a history is empty or names an item that is not in the postings.
    ConfigError
        If k is below one, or exploration is asked of a model without interests.
    """
    _check(postings, histories, k, policy)
    answer = _empty(len(histories), k)
    by_length = np.argsort(histories.lengths, kind="stable")  # users of like lengths share a batch: little padding
    batch = _batch_users(postings, k, policy, budget_mb)
    for start in range(0, len(histories), batch):
        rows = by_length[start : start + batch]
        found = _retrieve_batch(side, postings, histories.take(rows), k, policy, exclude_seen, budget_mb)
        for name in vars(answer):
            getattr(answer, name)[rows] = getattr(found, name)
        if progress:
            progress(min(start + batch, len(histories)), len(histories))
    return answer


def has_interests(postings: Postings) -> bool:
    """Whether candidates come from interests, so that there is something to explore."""
    return isinstance(postings, VectorPostings) and postings.cells > 1


def _check(postings: Postings, histories: Histories, k: int, policy: Policy) -> None:
    if k < 1:
        raise ConfigError(f"k = {k}; ask for at least one candidate")
    if policy.explore > 0 and not has_interests(postings):
        raise ConfigError(
            f"explore = {policy.explore}, but this model has no interests to explore; models with a codebook "
            "have them (sparc), or leave explore at 0"
        )
    if len(empty := np.flatnonzero(histories.lengths < 1)):
        raise DataError(f"history {empty[0]} is empty; give at least one item of the catalogue")
    flat = histories.compact()
    if len(bad := np.flatnonzero((flat.values < 0) | (flat.values >= postings.size))):
        row = int(np.searchsorted(flat.stops, bad[0], side="right"))
        raise DataError(f"history {row} holds item {flat.values[bad[0]]}; expected 0 to {postings.size - 1}")


def _empty(users: int, k: int) -> Candidates:
    return Candidates(
        np.full((users, k), -1, np.int32),
        np.full((users, k), -np.inf, np.float32),
        np.full((users, k), -1, np.int32),
        np.full((users, k), np.nan, np.float32),
        np.zeros((users, k), np.bool_),
    )


def _batch_users(postings: Postings, k: int, policy: Policy, budget_mb: int) -> int:
    if budget_mb < 1:
        raise ConfigError(f"budget_mb = {budget_mb}; the search needs at least 1 MiB of working memory")
    if isinstance(postings, ScorePostings):
        return _BATCH
    columns = policy.interests * (2 if policy.explore else 1)
    row = postings.cells * 20 + columns * (postings.dim * 8 + k * 16)
    return int(np.clip((budget_mb << 20) // (2 * row), 1, _BATCH))


def _retrieve_batch(
    side: UserSide | ScoreSide,
    postings: Postings,
    histories: Histories,
    k: int,
    policy: Policy,
    exclude_seen: bool,
    budget_mb: int,
) -> Candidates:
    if isinstance(postings, ScorePostings):
        if not isinstance(side, ScoreSide):
            raise ConfigError(f"{type(side).__name__} reads vectors, but the postings hold scores; they do not fit")
        return _sum_lists(side, postings, histories, k, exclude_seen)
    if isinstance(side, ScoreSide):
        raise ConfigError(f"{type(side).__name__} weighs codes, but the postings hold vectors; they do not fit")
    return _search_cells(side, postings, histories, k, policy, exclude_seen, budget_mb)


def _search_cells(
    side: UserSide,
    postings: VectorPostings,
    histories: Histories,
    k: int,
    policy: Policy,
    exclude_seen: bool,
    budget_mb: int,
) -> Candidates:
    encoded = side.encode(histories)
    posterior = _checked_posterior(encoded.posterior, postings.cells)
    known = known_cells(postings, histories) if policy.explore > 0 else np.zeros((len(histories), 0), np.bool_)
    choice = choose(posterior, known, policy, k)
    vectors = np.asarray(side.read(encoded, choice.codes), np.float32)
    seen = histories if exclude_seen else None
    items, scores = _interest_lists(postings, posterior, known, choice, vectors, k, policy.visit, seen, budget_mb)
    return _merge(choice, items, scores, k, policy, has_interests(postings))


def _checked_posterior(posterior: Floats, cells: int) -> Floats:
    if posterior.shape[1] != cells:
        raise ConfigError(f"the user side knows {posterior.shape[1]} codes, the postings {cells}; they do not fit")
    if not np.isfinite(posterior).all():
        raise DataError("the posterior over interests holds NaN or infinity; the model has diverged, train it again")
    return posterior


def known_cells(postings: VectorPostings, histories: Histories) -> NDArray[np.bool_]:
    """Cells that hold an item of the history, ``(users, cells)``."""
    known = np.zeros((len(histories), postings.cells), np.bool_)
    flat = histories.compact()
    known[np.repeat(np.arange(len(flat)), flat.lengths), postings.cell_of[flat.values]] = True
    return known


def visited_cells(posterior: Floats, visit: float) -> NDArray[np.bool_]:
    """The likeliest cells that together reach the posterior mass ``visit``, at least one, ``(users, cells)``.

    A mass of 1 visits every cell, those of probability zero too.
    """
    if visit >= 1.0:
        return np.ones(posterior.shape, np.bool_)
    order = np.argsort(-posterior, axis=1, kind="stable")
    mass_before = np.cumsum(np.take_along_axis(posterior, order, axis=1), axis=1, dtype=np.float64)
    mass_before = np.hstack([np.zeros((len(posterior), 1)), mass_before[:, :-1]])
    chosen = mass_before < visit
    chosen[:, 0] = True
    visited = np.zeros(posterior.shape, np.bool_)
    np.put_along_axis(visited, order, chosen, axis=1)
    return visited


def _interest_lists(
    postings: VectorPostings,
    posterior: Floats,
    known: NDArray[np.bool_],
    choice: Choice,
    vectors: Floats,
    k: int,
    visit: float,
    seen: Histories | None,
    budget_mb: int,
) -> TopK:
    """The k best unseen items of each interest within its cells, ``(users, columns, k)``; -1 where there are none."""
    items = np.full((*choice.codes.shape, k), -1, np.int32)
    scores = np.full((*choice.codes.shape, k), -np.inf, np.float32)
    visited = visited_cells(posterior, visit)
    for explored in (False, True):
        users, columns = np.nonzero((choice.codes >= 0) & (choice.explored == explored))
        if not len(users):
            continue
        unwanted = None if seen is None else seen.take(users)
        queries = vectors[users, columns]
        if visit >= 1.0 and not explored:
            found = exact_topk(
                queries, postings.vectors, k, items=postings.items, exclude=unwanted, budget_mb=budget_mb
            )
        else:
            cells = _cells_to_search(visited, known, choice) if explored else visited
            found = cells_topk(
                queries, postings.vectors, postings.offsets, _as_rows(cells).take(users), k,
                items=postings.items, exclude=unwanted,
            )  # fmt: skip
        items[users, columns], scores[users, columns] = found
    return items, scores


def _cells_to_search(
    visited: NDArray[np.bool_], known: NDArray[np.bool_], choice: Choice
) -> NDArray[np.bool_]:
    """Cells for exploration: what is visited and the explored interests' own cells, less the known ones."""
    users, columns = np.nonzero((choice.codes >= 0) & choice.explored)
    cells = visited.copy()
    cells[users, choice.codes[users, columns]] = True
    return cells & ~known


def _as_rows(cells: NDArray[np.bool_]) -> Histories:
    """The true columns of each row."""
    offsets = np.append(0, np.cumsum(cells.sum(axis=1)))
    return Histories.from_offsets(np.nonzero(cells)[1].astype(np.int32), offsets.astype(np.int64))


def _merge(choice: Choice, items: Any, scores: Any, k: int, policy: Policy, interests: bool) -> Candidates:
    """Merge the lists of a user's interests under the policy."""
    with np.errstate(divide="ignore"):
        log_probability = np.log(choice.probability.astype(np.float64))
    shift = log_probability if policy.merge == "probability" else np.zeros(choice.codes.shape)
    places = k - (choice.quotas * choice.explored).sum(axis=1)
    first_explored = int((~choice.explored[:1]).sum())
    answer = _empty(len(items), k)
    columns = np.full((len(items), k), -1, np.int32)
    in_threads(
        len(items),
        lambda a, b: _merge_rows(
            a, b, items, scores, shift, choice.quotas, places, first_explored, policy.merge == "quota",
            answer.items, answer.scores, columns,
        ),
    )  # fmt: skip
    if interests:
        users, ranks = np.nonzero(columns >= 0)
        chosen = columns[users, ranks]
        answer.interests[users, ranks] = choice.codes[users, chosen]
        answer.probability[users, ranks] = choice.probability[users, chosen]
        answer.explored[users, ranks] = choice.explored[users, chosen]
    return answer


@kernel
def _taken(items, n, item):  # type: ignore[no-untyped-def]
    for i in range(n):  # noqa: SIM110  numba compiles the loop, not the generator
        if items[i] == item:
            return True
    return False


@kernel
def _take_quota(items, scores, shift, column, quota, n, out, values, columns):  # type: ignore[no-untyped-def]
    """Add the ``quota`` best items of one interest that are not in the list yet."""
    stop = min(n + quota, len(out))
    for rank in range(items.shape[1]):
        item = items[column, rank]
        if n == stop or item < 0:
            break
        if not _taken(out, n, item):
            out[n], values[n], columns[n] = item, scores[column, rank] + shift[column], column
            n += 1
    return n


@kernel
def _take_best(items, scores, shift, first, last, stop, n, out, values, columns):  # type: ignore[no-untyped-def]
    """Fill the list to ``stop`` with the best items over the interests ``first`` to ``last - 1``."""
    heads = np.zeros(last - first, np.int64)
    while n < stop:
        best, best_value, best_item = -1, -np.inf, np.int32(0)
        for c in range(first, last):
            head = heads[c - first]
            if head == items.shape[1] or items[c, head] < 0:
                continue
            value, item = scores[c, head] + shift[c], items[c, head]
            if best < 0 or value > best_value or (value == best_value and item < best_item):
                best, best_value, best_item = c, value, item
        if best < 0:
            break
        heads[best - first] += 1
        if not _taken(out, n, best_item):
            out[n], values[n], columns[n] = best_item, best_value, best
            n += 1
    return n


@kernel
def _order(n, out, values, columns):  # type: ignore[no-untyped-def]
    """Sort by falling value, then rising item; the list consists of a few sorted runs."""
    for i in range(1, n):
        item, value, column = out[i], values[i], columns[i]
        j = i
        while j > 0 and (values[j - 1] < value or (values[j - 1] == value and out[j - 1] > item)):
            out[j], values[j], columns[j] = out[j - 1], values[j - 1], columns[j - 1]
            j -= 1
        out[j], values[j], columns[j] = item, value, column


@kernel
def _merge_rows(
    begin, end, items, scores, shift, quotas, places, first_explored, by_quota, out, out_scores, out_columns
):  # type: ignore[no-untyped-def]
    last, k = items.shape[1], out.shape[1]
    for row in range(begin, end):
        lists, values, moves = items[row], scores[row], shift[row]
        found, found_values, found_columns = out[row], np.empty(k, np.float64), out_columns[row]
        n = 0
        if by_quota:
            for c in range(first_explored):
                n = _take_quota(lists, values, moves, c, quotas[row, c], n, found, found_values, found_columns)
        n = _take_best(lists, values, moves, 0, first_explored, places[row], n, found, found_values, found_columns)
        for c in range(first_explored, last):
            n = _take_quota(lists, values, moves, c, quotas[row, c], n, found, found_values, found_columns)
        n = _take_best(lists, values, moves, 0, first_explored, k, n, found, found_values, found_columns)
        n = _take_best(lists, values, moves, first_explored, last, k, n, found, found_values, found_columns)
        _order(n, found, found_values, found_columns)
        for i in range(n):
            out_scores[row, i] = np.float32(found_values[i])


def _sum_lists(
    side: ScoreSide, postings: ScorePostings, histories: Histories, k: int, exclude_seen: bool
) -> Candidates:
    codes, weights = side.weigh(histories)
    if codes.size and codes.max() >= postings.codes:
        raise ConfigError(f"the user side names code {codes.max()}, the postings hold {postings.codes}; they do not fit")
    seen = ordered_rows(histories if exclude_seen else Histories.from_lists([[]] * len(histories)))
    answer = _empty(len(histories), k)
    lists = tuple(np.asarray(a) for a in (postings.items, postings.scores, postings.offsets))
    unwanted = seen.values, seen.starts, seen.stops
    in_threads(
        len(histories),
        lambda a, b: _sum_rows(a, b, codes, weights, *lists, postings.size, *unwanted, answer.items, answer.scores),
    )
    return answer


@kernel
def _sum_rows(
    begin, end, codes, weights, items, scores, offsets, size, seen, seen_from, seen_to, out, out_scores
):  # type: ignore[no-untyped-def]
    totals = np.zeros(size, np.float64)
    touched = np.zeros(size, np.bool_)
    keys = np.empty(size, np.int64)
    k = out.shape[1]
    for row in range(begin, end):
        n = 0
        for column in range(codes.shape[1]):
            code, weight = codes[row, column], np.float64(weights[row, column])
            if code < 0:
                continue
            for posting in range(offsets[code], offsets[code + 1]):
                item = items[posting]
                totals[item] += weight * scores[posting]
                if not touched[item]:
                    touched[item] = True
                    keys[n] = item
                    n += 1
        left = 0
        for i in range(n):
            item = np.int32(keys[i])
            if not contains(seen, seen_from[row], seen_to[row], item):
                keys[left] = key_of(np.float32(totals[item]), item)
                left += 1
            totals[item], touched[item] = 0.0, False
        if left > k:
            select_largest(keys, left, k)
        best = np.sort(keys[: min(left, k)])[::-1]
        for rank in range(len(best)):
            out[row, rank], out_scores[row, rank] = index_of(best[rank]), score_of(best[rank])
