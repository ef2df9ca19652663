"""Ranking metrics of one list a user: recall, hit rate, NDCG and MRR at any k, one number a user.

What the definitions settle:

* A target that occurs several times counts once. A list holds an item at most once; unfilled places (-1) are misses.
* ``recall@k`` is hits / targets, ``hit@k`` is 1 if there is a hit, ``mrr@k`` is 1 / rank of the first hit, 0 without.
* ``ndcg@k`` has binary gains, discount 1 / log2(rank + 1) and the ideal list of min(k, targets) hits.
* A user without targets has no metrics; such rows are refused, not counted as 0 or 1.

Published numbers often rest on another NDCG. :data:`COMPAT` names the variants that can be computed beside ours; they
are off by default and always carry their name, as in ``ndcg[comirec-master]@50``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Items
from tesserec.errors import ConfigError, UserError

PerUser = dict[str, NDArray[np.float64]]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_BLOCK = 8192


def ranking_metrics(
    ranked: Items, targets: Histories, ks: Sequence[int] = (10, 20, 50), compat: Sequence[str] = ()
) -> PerUser:
    """Every ranking metric of every user.

    Parameters
    ----------
    ranked
        Item indices, best first, ``(users, places)``; -1 where unfilled.
    targets
        What should have been found, one non-empty row a user.
    ks
        Cut-offs, each between 1 and ``places``.
    compat
        Names from :data:`COMPAT` of published NDCG variants to compute as well.

    Returns
    -------
    dict
        ``recall@k``, ``hit@k``, ``ndcg@k``, ``mrr@k`` and ``ndcg[name]@k``, each ``(users,)``.

    Raises
    ------
    ConfigError
        For a cut-off outside 1 to ``places`` or an unknown name in ``compat``.
    UserError
        For a user without targets, or lists and targets of different length.
    """
    _check(ranked, targets, ks, compat)
    blocks = [_block(ranked[rows], targets.take(rows), ks, compat) for rows in _rows(len(ranked))]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def recall(ranked: Items, targets: Histories, k: int) -> Floats:
    """Share of each user's targets among the first ``k`` items, ``(users,)``; see :func:`ranking_metrics`."""
    return ranking_metrics(ranked, targets, [k])[f"recall@{k}"]


def hits(ranked: Items, targets: Histories) -> Bools:
    """Where the list names a target of its own user, ``(users, places)``."""
    flat = targets.compact()
    stride = 1 + max(int(ranked.max(initial=0)), int(flat.values.max(initial=0)))
    wanted = _keys(np.repeat(np.arange(len(flat)), flat.lengths), flat.values, stride)
    found = _keys(np.arange(len(ranked))[:, None], ranked, stride)
    return np.isin(found, wanted) & (ranked >= 0)


def distinct(histories: Histories) -> NDArray[np.int64]:
    """Number of different items in each row, ``(rows,)``."""
    flat = histories.compact()
    rows = np.repeat(np.arange(len(flat)), flat.lengths)
    order = np.lexsort((flat.values, rows))
    row, item = rows[order], flat.values[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (item[1:] != item[:-1])
    return np.bincount(row[first], minlength=len(flat)).astype(np.int64)


def _check(ranked: Items, targets: Histories, ks: Sequence[int], compat: Sequence[str]) -> None:
    if len(ranked) != len(targets):
        raise UserError(f"{len(ranked)} lists but {len(targets)} rows of targets; there must be one list a user")
    if (empty := np.flatnonzero(targets.lengths < 1)).size:
        raise UserError(f"user row {empty[0]} has no targets, so it has no recall; leave such users out")
    if not ks or min(ks) < 1 or max(ks) > ranked.shape[1]:
        raise ConfigError(f"k = {list(ks)}; every k must lie between 1 and the list length {ranked.shape[1]}")
    for name in compat:
        if name not in COMPAT:
            raise ConfigError(f"NDCG variant {name!r} is unknown; choose from {', '.join(COMPAT)}")


def _rows(users: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, max(users, 1), _BLOCK))


def _keys(rows: NDArray[np.int64], items: Items, stride: int) -> NDArray[np.int64]:
    return rows * stride + items


def _discounts(n: int) -> Floats:
    return 1.0 / np.log2(np.arange(2, n + 2, dtype=np.float64))


def _ideals(n: int) -> Floats:
    """Best possible DCG by number of relevant places, ``(n + 1,)``."""
    return np.concatenate([[0.0], np.cumsum(_discounts(n))])


def _block(ranked: Items, targets: Histories, ks: Sequence[int], compat: Sequence[str]) -> PerUser:
    # Running sums are taken one column after the other, so a user's value does not depend on who shares the block.
    places = ranked.shape[1]
    hit = hits(ranked, targets)
    found = np.cumsum(hit, axis=1)
    dcg = np.cumsum(hit * _discounts(places), axis=1)
    wanted, ideals = distinct(targets), _ideals(places)
    first = np.where(found[:, -1] > 0, np.argmax(hit, axis=1), places)
    values: PerUser = {}
    for k in ks:
        values[f"recall@{k}"] = found[:, k - 1] / wanted
        values[f"hit@{k}"] = (found[:, k - 1] > 0).astype(np.float64)
        values[f"ndcg@{k}"] = dcg[:, k - 1] / ideals[np.minimum(wanted, k)]
        values[f"mrr@{k}"] = np.where(first < k, 1.0 / (first + 1.0), 0.0)
        for name in compat:
            values[f"ndcg[{name}]@{k}"] = COMPAT[name](ranked[:, :k], targets)
    return values


def ndcg_comirec_master(ranked: Items, targets: Histories) -> Floats:
    """NDCG of ComiRec's current code: discount by rank, but the ideal holds only as many items as were hit.

    One hit at rank 1 scores 1 however many targets were missed.

    References
    ----------
    github THUDM/ComiRec, branch ``master``, ``src/train.py``.
    """
    hit = hits(ranked, targets)
    dcg = np.cumsum(hit * _discounts(ranked.shape[1]), axis=1)[:, -1]
    return _ratio(dcg, _ideals(ranked.shape[1])[hit.sum(axis=1)])


def ndcg_comirec_paper(ranked: Items, targets: Histories) -> Floats:
    """NDCG as printed in the ComiRec paper: discounts a hit by its place among the *targets*, not in the list.

    The order of the recommended list plays no part. The ideal is that of ``comirec-master``. Repeated targets count
    as often as they occur, as in the source.

    References
    ----------
    github THUDM/ComiRec, branch ``paper``, ``src/train.py``.
    """
    flat = targets.compact()
    rows = np.repeat(np.arange(len(flat)), flat.lengths)
    place = np.arange(len(rows)) - np.repeat(flat.starts, flat.lengths)
    stride = 1 + max(int(ranked.max(initial=0)), int(flat.values.max(initial=0)))
    listed = _keys(np.arange(len(ranked))[:, None], ranked, stride)[ranked >= 0]
    hit = np.isin(_keys(rows, flat.values, stride), listed)
    longest = int(flat.lengths.max(initial=0))
    dcg: Floats = np.bincount(rows[hit], _discounts(longest)[place[hit]], minlength=len(flat)).astype(np.float64)
    return _ratio(dcg, _ideals(longest)[np.bincount(rows[hit], minlength=len(flat))])


def ndcg_remi(ranked: Items, targets: Histories) -> Floats:
    """NDCG of REMI's code: discounts a hit by its place in a Python *set* of the list; ideal as ``comirec-master``.

    A set has no order of its own. CPython iterates one of integers by their value modulo a table size, so the number
    mostly follows item ids, not ranks. This mode reproduces that with ids = 1 + item index, which is REMI's numbering
    (popularity rank from 1); where its tie order or the interpreter differs, so does the number.

    References
    ----------
    github Tokkiu/REMI, ``src/evalution.py``.
    """
    shuffled = np.full_like(ranked, -1)
    for row, items in enumerate(ranked):
        order = [item - 1 for item in {item + 1 for item in items.tolist() if item >= 0}]
        shuffled[row, : len(order)] = order
    return ndcg_comirec_master(shuffled, targets)


def _ratio(dcg: Floats, ideal: Floats) -> Floats:
    return np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)


COMPAT: dict[str, Callable[[Items, Histories], Floats]] = {
    "comirec-paper": ndcg_comirec_paper,
    "comirec-master": ndcg_comirec_master,
    "remi": ndcg_remi,
}
