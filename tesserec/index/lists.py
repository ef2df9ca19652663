"""Candidates from score postings: the lists of a user's codes added up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

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
from tesserec.index.score_postings import ScorePostings
from tesserec.index.topk import frozen, frozen_blocked, in_threads
from tesserec.index.user_side import ScoreSide


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
    codes, weights = side.weigh(histories)
    if codes.max(initial=-1) >= postings.codes:
        raise ConfigError(f"the user side names code {codes.max()}, but the postings hold {postings.codes} codes")
    seen = ordered_rows(histories) if exclude_seen else empty_rows(len(histories))
    answer = no_candidates(len(histories), k)
    users = _Users(codes, weights, seen.values, seen.starts, seen.stops, frozen_blocked(blocked))
    segments = _segment(postings, postings.dead), _segment(postings.delta or _no_lists(postings), NOTHING.bits)
    in_threads(len(histories), partial(_sum_rows, users, segments, postings.size, answer.items, answer.scores))
    return replace(answer, visits=_visits(postings, codes))


def _segment(postings: ScorePostings, dead: Bits) -> _Lists:
    return _Lists(frozen(postings.items), frozen(postings.scores), frozen(postings.offsets), frozen(dead))


def _no_lists(like: ScorePostings) -> ScorePostings:
    nothing = np.zeros(len(like.offsets), np.int64)
    return ScorePostings(np.empty(0, np.int32), np.empty(0, np.float32), nothing, like.size)


def _visits(postings: ScorePostings, codes: Codes) -> Visits:
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


class _Lists(NamedTuple):
    items: Items
    scores: Floats
    offsets: Ints
    dead: Bits


@kernel
def _sum_rows(
    users: _Users, segments: tuple[_Lists, _Lists], size: int, out: Items, out_scores: Floats, begin: int, end: int
) -> None:
    lists, delta = segments
    totals = np.zeros(size, np.float64)
    touched = np.zeros(size, np.bool_)
    keys = np.empty(size, np.int64)
    for user in range(begin, end):
        if users.codes.shape[1] == 1 and users.weights[user, 0] > 0 and len(delta.items) == 0:
            _first_unseen(users, lists, user, out, out_scores)
            continue
        n = _add_up(users, lists, user, totals, touched, keys, 0)
        n = _add_up(users, delta, user, totals, touched, keys, n)
        left = 0
        for i in range(n):
            item = np.int32(keys[i])
            if not _unwanted(users, user, item):
                keys[left] = key_of(np.float32(totals[item]), item)
                left += 1
            totals[item], touched[item] = 0.0, False
        count = min(left, out.shape[1])
        if left > count:
            select_largest(keys, left, count)
        best = np.sort(keys[:count])
        for rank in range(count):
            out[user, rank], out_scores[user, rank] = index_of(best[count - 1 - rank]), score_of(best[count - 1 - rank])


@kernel
def _unwanted(users: _Users, user: int, item: int) -> bool:
    return bool(
        contains(users.seen, users.seen_from[user], users.seen_to[user], item) or is_blocked(users.blocked, item)
    )


@kernel
def _is_set(bits: Bits, item: int) -> bool:
    return len(bits) > 0 and bool((bits[item >> 3] >> (item & 7)) & 1)


@kernel
def _add_up(users: _Users, lists: _Lists, user: int, totals: Floats, touched: Items, keys: Ints, n: int) -> int:
    """Sum the lists of a user into ``totals``; touched items follow the first ``n`` keys, how many is returned."""
    for column in range(users.codes.shape[1]):
        code, weight = users.codes[user, column], np.float64(users.weights[user, column])
        if code < 0:
            continue
        for posting in range(lists.offsets[code], lists.offsets[code + 1]):
            item = lists.items[posting]
            if _is_set(lists.dead, item):
                continue
            totals[item] += weight * lists.scores[posting]
            if not touched[item]:
                touched[item] = True
                keys[n] = item
                n += 1
    return n


@kernel
def _first_unseen(users: _Users, lists: _Lists, user: int, out: Items, out_scores: Floats) -> None:
    """The answer where there is one list: its head, for lists are sorted."""
    code, n = users.codes[user, 0], 0
    if code < 0:
        return
    for posting in range(lists.offsets[code], lists.offsets[code + 1]):
        if n == out.shape[1]:
            break
        item = lists.items[posting]
        if not (_unwanted(users, user, item) or _is_set(lists.dead, item)):
            out[user, n] = item
            out_scores[user, n] = np.float32(np.float64(users.weights[user, 0]) * lists.scores[posting])
            n += 1
