"""Candidates from score postings: the lists of a user's codes added up, one block of the catalogue after another.

The sums of a block of 65,536 items stay in the processor's cache, and nothing is allocated or cleared in proportion to
the catalogue. What the k-th best item found so far must be beaten by is the *floor*. The first score of a range is its
largest, so the sum of weight times first score (last score where the weight is negative) bounds a block, and blocks
below the floor are skipped; rounding is monotone, so the bound holds to the bit. Where one list alone names a block,
its range is read from the head until it falls below the floor: popularity is a few postings of one list.

Where nothing is negative and ``lists.c`` can be had, it sums whole numbers of 16 bits: a posting counts as
``ceil(weight * score / step)``, with a step that keeps the largest sum of any block within 16 bits. With n codes the
true sum lies within n steps below that, so whatever lies further than that below the k-th best whole sum is dropped,
and the exact sums of the few items left decide. Answers are the same, bit for bit.

Layout after Strohman and Croft, Efficient document retrieval in main memory (SIGIR 2007), and the block maxima of Ding
and Suel (SIGIR 2011); what is exact here is ours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints, Items
from tesserec.errors import ConfigError
from tesserec.index.contract import Candidates, Codes, Floats, Visits
from tesserec.index.filters import NOTHING, Bits, Blocked, is_blocked
from tesserec.index.kernels import (
    contains,
    empty_rows,
    index_of,
    kernel,
    key_of,
    ordered_rows,
    score_of,
    select_largest,
)
from tesserec.index.merge import no_candidates
from tesserec.index.native import address, native
from tesserec.index.score_postings import BLOCK, Lists, ScorePostings, Shorts
from tesserec.index.topk import frozen, frozen_blocked, in_threads
from tesserec.index.user_side import ScoreSide

Totals = NDArray[np.float64]
ARGUMENTS = "pi ppi pi pi pi ipp"
"""Of ``tesserec_sum_lists``, see :func:`tesserec.index.native.native`."""

_NO_BLOCK = 1 << 31
_SPARE = 512
_RUN = 1024
_DENSE = BLOCK // 3
_LOWEST = np.float32(np.finfo(np.float32).min)
_NO_POSTINGS = ScorePostings.build(
    np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32), n_codes=0, size=0
)


def sum_lists(
    side: ScoreSide,
    postings: ScorePostings,
    histories: Histories,
    k: int,
    exclude_seen: bool,
    blocked: Blocked = NOTHING,
) -> Candidates:
    """The k items with the largest sums of weight times posting score; ties in order of item.

    Only items that one of the user's lists names are candidates. Sums are float64 in the order of the codes.
    """
    codes, weights = weigh(side, postings, histories)
    seen = ordered_rows(histories) if exclude_seen else empty_rows(len(histories))
    answer = no_candidates(len(histories), k)
    users = _Users(frozen(codes), frozen(weights), seen.values, seen.starts, seen.stops, frozen_blocked(blocked))
    in_threads(len(histories), partial(_sum_part, users, postings, answer.items, answer.scores))
    return replace(answer, visits=visits_of_lists(postings, codes))


def weigh(side: ScoreSide, postings: ScorePostings, histories: Histories) -> tuple[Codes, Floats]:
    """Weighted codes of histories, all of which the postings have; see :meth:`ScoreSide.weigh`."""
    codes, weights = side.weigh(histories)
    if codes.max(initial=-1) >= postings.codes:
        raise ConfigError(f"the user side names code {codes.max()}, but the postings hold {postings.codes} codes")
    return codes, weights


def visits_of_lists(postings: ScorePostings, codes: Codes) -> Visits:
    """Whole lists are summed, so every answer is exact."""
    visits = Visits.complete(len(codes), 0, 0)
    named, own = codes >= 0, np.maximum(codes, 0)
    visits.cells[:] = named.sum(axis=1)
    for part in (postings, postings.delta):
        if part is not None:
            visits.items[:] += ((part.offsets[own + 1] - part.offsets[own]) * named).sum(axis=1)
    return visits


class _Users(NamedTuple):
    codes: Codes
    weights: Floats
    seen: Items
    seen_from: Ints
    seen_to: Ints
    blocked: Blocked


class _Cursors(NamedTuple):
    """Where each code of a user stands: its next range and posting, and the end of its ranges."""

    ranges: Ints
    ends: Ints
    postings: Ints


class _Active(NamedTuple):
    """The ranges of one block: first posting, end, and weight of each."""

    begins: Ints
    ends: Ints
    weights: NDArray[np.float64]


class _Best(NamedTuple):
    """Keys of the items found; ``state`` is how many, the floor, and how many of them are known to be wanted.

    ``bar`` is what a sum must exceed to round to the floor's score or more: the number before it.
    """

    keys: Ints
    state: Ints
    bar: Totals
    k: int


def _sum_part(users: _Users, postings: ScorePostings, items: Items, scores: Floats, begin: int, end: int) -> None:
    """The answers of some users: by the C kernel those that it takes, by Numba the others."""
    in_c = native("lists", "tesserec_sum_lists", ARGUMENTS)
    parts = [part for part in (postings, postings.delta) if part is not None]
    segments = postings.lists, (postings.delta or _NO_POSTINGS).lists
    if in_c is None:
        _sum_rows(users, segments, items, scores, begin, end)
        return
    words = np.concatenate([part.words for part in parts])
    width, k = users.codes.shape[1], items.shape[1]
    codes, weights, seen, out, out_scores = (
        address(array) for array in (users.codes, users.weights, users.seen, items, scores)
    )
    listed, bits = users.blocked
    without = address(listed), len(listed), address(bits), len(bits)
    for user in range(begin, end):
        row, place = 4 * user * width, 4 * user * k
        first, last = int(users.seen_from[user]), int(users.seen_to[user])
        own = codes + row, weights + row, width, seen + 4 * first, last - first
        if in_c(address(words), len(parts), *own, *without, k, out + place, out_scores + place) < 0:
            _sum_rows(users, segments, items, scores, user, user + 1)


@kernel
def _sum_rows(
    users: _Users, segments: tuple[Lists, Lists], out: Items, out_scores: Floats, begin: int, end: int
) -> None:
    width, k = users.codes.shape[1], out.shape[1]
    totals = np.zeros(BLOCK, np.float64)
    cursors = _Cursors(np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64))
    active = _Active(np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.float64))
    best = _Best(np.empty(k + _SPARE + _RUN, np.int64), np.zeros(3, np.int64), np.zeros(1), k)
    for user in range(begin, end):
        best.state[:], best.bar[0] = 0, -np.inf
        best.state[1] = key_of(_LOWEST, np.int32(0x7FFFFFFF))
        for lists in segments:
            if len(lists.places) == 0:
                continue
            _visit(users, user, lists, cursors, active, totals, best)
        found = np.sort(best.keys[: best.state[0]])[::-1]
        for rank in range(len(found)):
            out[user, rank], out_scores[user, rank] = index_of(found[rank]), score_of(found[rank])


@kernel
def _visit(
    users: _Users, user: int, lists: Lists, cursors: _Cursors, active: _Active, totals: Totals, best: _Best
) -> None:
    for column in range(len(cursors.ends)):
        code = users.codes[user, column]
        own = max(code, 0)
        cursors.ranges[column], cursors.postings[column] = lists.ranges[own], lists.offsets[own]
        cursors.ends[column] = lists.ranges[own + 1] if code >= 0 else lists.ranges[own]
    while True:
        block = _next_block(lists, cursors)
        if block == _NO_BLOCK:
            return
        n, bound = _enter(users, user, lists, block, cursors, active)
        first = np.int32(block) * BLOCK
        if key_of(np.float32(bound), first) < best.state[1]:
            continue
        if n == 1 and active.weights[0] > 0:
            _read_head(users, user, lists, first, active.begins[0], active.ends[0], active.weights[0], best)
        else:
            _add_up(lists, active, n, totals)
            _gather(users, user, lists, first, active, n, totals, best)
        _settle(users, user, lists.dead, best)


@kernel
def _next_block(lists: Lists, cursors: _Cursors) -> int:
    block = _NO_BLOCK
    for column in range(len(cursors.ends)):
        if cursors.ranges[column] < cursors.ends[column]:
            block = min(block, int(lists.blocks[cursors.ranges[column]]))
    return block


@kernel
def _enter(users: _Users, user: int, lists: Lists, block: int, cursors: _Cursors, active: _Active) -> tuple[int, float]:
    """Collect the ranges of a block; how many there are, and a bound on the sums of its items."""
    n, bound = 0, 0.0
    for column in range(len(cursors.ends)):
        at = cursors.ranges[column]
        if at == cursors.ends[column] or lists.blocks[at] != block:
            continue
        begin, weight = cursors.postings[column], np.float64(users.weights[user, column])
        end = begin + np.int64(lists.counts[at]) + 1
        active.begins[n], active.ends[n], active.weights[n] = begin, end, weight
        bound += max(0.0, weight * lists.scores[begin if weight > 0 else end - 1])
        cursors.ranges[column], cursors.postings[column] = at + 1, end
        n += 1
    return n, bound


@kernel
def _add_up(lists: Lists, active: _Active, n: int, totals: Totals) -> None:
    for i in range(n):
        part = slice(active.begins[i], active.ends[i])
        _add(lists.places[part], lists.scores[part], active.weights[i], totals)


@kernel
def _add(places: Shorts, scores: Floats, weight: float, totals: Totals) -> None:
    for posting in range(len(places)):
        totals[places[posting]] += weight * scores[posting]


@kernel
def _read_head(
    users: _Users, user: int, lists: Lists, first: int, begin: int, end: int, weight: float, best: _Best
) -> None:
    """Note the postings of a single range until they fall below the floor."""
    for start in range(begin, end, _RUN):
        bar = best.bar[0]
        for posting in range(start, min(start + _RUN, end)):
            total = weight * lists.scores[posting]
            if not total > bar:
                return
            _note(best, first + lists.places[posting], total)
        if best.state[0] > best.k + _SPARE:
            _settle(users, user, lists.dead, best)


@kernel
def _gather(
    users: _Users, user: int, lists: Lists, first: int, active: _Active, n: int, totals: Totals, best: _Best
) -> None:
    """Note each item of the active ranges once, and leave all totals zero."""
    positive = best.bar[0] >= 0  # then what has been noted needs no other mark than zero
    if positive and (active.ends[:n] - active.begins[:n]).sum() > _DENSE:
        for start in range(0, BLOCK, _RUN):
            _note_above(totals[start : start + _RUN], first + start, best)
            if best.state[0] > best.k + _SPARE:
                _settle(users, user, lists.dead, best)
        return
    spent = 0.0 if positive else -np.inf
    for i in range(n):
        for start in range(active.begins[i], active.ends[i], _RUN):
            _note_places(lists.places[start : min(start + _RUN, active.ends[i])], first, totals, spent, best)
            if best.state[0] > best.k + _SPARE:
                _settle(users, user, lists.dead, best)
    for i in range(0 if positive else n):
        for posting in range(active.begins[i], active.ends[i]):
            totals[lists.places[posting]] = 0.0


@kernel
def _note_places(places: Shorts, first: int, totals: Totals, spent: float, best: _Best) -> None:
    bar = best.bar[0]
    for place in places:
        total, totals[place] = totals[place], spent
        if total > bar:
            _note(best, first + place, total)


@kernel
def _note_above(totals: Totals, first: int, best: _Best) -> None:
    """The same for a run of totals, which is cheaper where most are touched."""
    bar, above = best.bar[0], 0
    for place in range(len(totals)):
        above += totals[place] > bar
    if above > 0:
        for place in range(len(totals)):
            if totals[place] > bar:
                _note(best, first + place, totals[place])
    totals[:] = 0.0


@kernel
def _note(best: _Best, item: int, total: float) -> None:
    best.keys[best.state[0]] = key_of(np.float32(total), np.int32(item))
    best.state[0] += 1


@kernel
def _settle(users: _Users, user: int, dead: Bits, best: _Best) -> None:
    """Drop unwanted items among those noted since, keep the k best, raise the floor."""
    left = best.state[2]
    for i in range(left, best.state[0]):
        key = best.keys[i]
        if key > best.state[1] and not (_unwanted(users, user, index_of(key)) or _is_set(dead, index_of(key))):
            best.keys[left] = key
            left += 1
    if left > best.k:
        best.state[1], left = select_largest(best.keys, left, best.k), best.k
        best.bar[0] = np.nextafter(score_of(best.state[1]), np.float32(-np.inf))
    best.state[0] = best.state[2] = left


@kernel
def _unwanted(users: _Users, user: int, item: int) -> bool:
    return bool(
        contains(users.seen, users.seen_from[user], users.seen_to[user], item) or is_blocked(users.blocked, item)
    )


@kernel
def _is_set(bits: Bits, item: int) -> bool:
    return len(bits) > 0 and bool((bits[item >> 3] >> (item & 7)) & 1)
