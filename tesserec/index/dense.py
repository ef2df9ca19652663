"""Candidates where the user side scores every item itself: no index, a bound for comparison."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tesserec.data.histories import Histories, Ints, Items
from tesserec.errors import ConfigError, DataError
from tesserec.index.contract import Candidates, Floats, Visits
from tesserec.index.filters import NOTHING, Blocked, is_blocked
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
from tesserec.index.postings import EveryItem
from tesserec.index.topk import frozen_blocked, in_threads
from tesserec.index.user_side import DenseSide


def best_of_all(
    side: DenseSide, postings: EveryItem, histories: Histories, k: int, exclude_seen: bool, blocked: Blocked = NOTHING
) -> Candidates:
    """The k items of largest score; ties in order of item."""
    scores = np.ascontiguousarray(side.score(histories), dtype=np.float32)
    if scores.shape != (expected := (len(histories), postings.size)):
        raise ConfigError(f"the user side gave scores of shape {scores.shape}; expected {expected}, one an item")
    if not np.isfinite(scores).all():
        raise DataError("the scores of the user side hold NaN or infinity; the model has diverged, train it again")
    seen = ordered_rows(histories) if exclude_seen else empty_rows(len(histories))
    answer = no_candidates(len(histories), k)
    unwanted = seen.values, seen.starts, seen.stops, frozen_blocked(blocked)
    in_threads(len(histories), partial(_best, scores, unwanted, answer.items, answer.scores))
    return replace(answer, visits=Visits.complete(len(histories), 0, postings.size))


@kernel
def _best(
    scores: Floats, unwanted: tuple[Items, Ints, Ints, Blocked], out: Items, out_scores: Floats, begin: int, end: int
) -> None:
    seen, seen_from, seen_to, blocked = unwanted
    keys = np.empty(scores.shape[1], np.int64)
    for user in range(begin, end):
        n = 0
        for item in range(scores.shape[1]):
            if not (contains(seen, seen_from[user], seen_to[user], item) or is_blocked(blocked, item)):
                keys[n] = key_of(scores[user, item], item)
                n += 1
        count = min(n, out.shape[1])
        if n > count:
            select_largest(keys, n, count)
        best = np.sort(keys[:count])
        for rank in range(count):
            out[user, rank], out_scores[user, rank] = index_of(best[count - 1 - rank]), score_of(best[count - 1 - rank])
