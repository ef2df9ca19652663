"""Candidates where the user side scores every item itself: no index, a bound for comparison."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from tesserec.data.histories import Histories, Ints, Items
from tesserec.errors import ConfigError, DataError
from tesserec.index.contract import Candidates, Floats, Visits
from tesserec.index.kernels import (
    Denied,
    bitmap,
    empty_rows,
    index_of,
    is_unwanted,
    kernel,
    key_of,
    ordered_rows,
    score_of,
    select_largest,
)
from tesserec.index.merge import no_candidates
from tesserec.index.postings import EveryItem
from tesserec.index.topk import in_threads
from tesserec.index.user_side import DenseSide


def best_of_all(
    side: DenseSide, postings: EveryItem, histories: Histories, k: int, exclude_seen: bool, denied: Denied | None = None
) -> Candidates:
    """The k items of largest score; ties in order of item."""
    scores = np.ascontiguousarray(side.score(histories), dtype=np.float32)
    if scores.shape != (expected := (len(histories), postings.size)):
        raise ConfigError(f"the user side gave scores of shape {scores.shape}; expected {expected}, one an item")
    if not np.isfinite(scores).all():
        raise DataError("the scores of the user side hold NaN or infinity; the model has diverged, train it again")
    seen = ordered_rows(histories) if exclude_seen else empty_rows(len(histories))
    users = len(histories)
    answer = replace(
        no_candidates(users, k),
        visits=Visits.everything(np.zeros(users, np.int64), np.full(users, postings.size, np.int64)),
    )
    unwanted = seen.values, seen.starts, seen.stops, bitmap(denied)
    in_threads(len(histories), partial(_best, scores, unwanted, answer.items, answer.scores))
    return answer


@kernel
def _best(
    scores: Floats, unwanted: tuple[Items, Ints, Ints, Denied], out: Items, out_scores: Floats, begin: int, end: int
) -> None:
    seen, seen_from, seen_to, denied = unwanted
    keys = np.empty(scores.shape[1], np.int64)
    for user in range(begin, end):
        n = 0
        for item in range(scores.shape[1]):
            if not is_unwanted(denied, seen, seen_from[user], seen_to[user], item):
                keys[n] = key_of(scores[user, item], item)
                n += 1
        count = min(n, out.shape[1])
        if n > count:
            select_largest(keys, n, count)
        best = np.sort(keys[:count])
        for rank in range(count):
            out[user, rank], out_scores[user, rank] = index_of(best[count - 1 - rank]), score_of(best[count - 1 - rank])
