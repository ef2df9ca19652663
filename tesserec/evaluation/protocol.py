"""One way to measure a retriever: exact lists for every held-out user, metrics with intervals, facts that go along.

The evaluation knows a retriever only as a function from histories to candidates, so a model in memory, a bundle and
a remote service are measured alike. A number is never given without its protocol: dataset fingerprint, part, tie
rule, users and seed are saved beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.dataset import Dataset, Part
from tesserec.data.histories import Histories, Items
from tesserec.errors import ConfigError, UserError
from tesserec.evaluation import beyond
from tesserec.evaluation.intervals import LEVEL, Estimate, estimates
from tesserec.evaluation.metrics import PerUser, hits, ranking_metrics
from tesserec.evaluation.result import Evaluation, order, parse
from tesserec.evaluation.slices import Cells, Slice, SliceRules, cells_hash, slices
from tesserec.index.contract import Candidates

Retrieve = Callable[[Histories, int], Candidates]
Progress = Callable[[int, int], None]

SLICED = ("recall", "hit", "ndcg")


def evaluate(
    retrieve: Retrieve,
    dataset: Dataset,
    *,
    part: str = "test",
    ks: Sequence[int] = (10, 20, 50),
    cells: Cells | None = None,
    vectors: NDArray[np.floating[Any]] | None = None,
    compat: Sequence[str] = (),
    rules: SliceRules | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_users: int = 4096,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a retriever on every user of a held-out part, over the whole catalogue.

    Parameters
    ----------
    retrieve
        ``(histories, k)`` to candidates, ties in item order, without the history's items if ``dataset.exclude_seen``.
    dataset
        Gives the users, their histories and targets, training counts and item categories.
    part
        ``"test"`` or ``"valid"``.
    ks
        Cut-offs of every metric.
    cells
        Cell of each item, ``(items,)``; needed for the slice of novel interests.
    vectors
        Item vectors ``(items, dim)`` for intra-list diversity; by default it goes by the table's categories.
    compat
        Published NDCG variants to add, see :data:`~tesserec.evaluation.metrics.COMPAT`.
    rules
        Thresholds of the slices.
    bootstrap, seed
        Resamples of users for the 95 % intervals, and their seed.
    batch_users
        Users asked for at once; the result does not depend on it.
    progress
        Called with (users done, users in all) after each batch.

    Raises
    ------
    ConfigError
        For an unknown part, or a k that is not between 1 and the number of items.
    UserError
        For answers that are not lists of distinct items of the catalogue, or that hold items of the history although
        the protocol excludes them.
    """
    held = held_out(dataset, part)
    ks = cut_offs(ks, len(dataset.items))
    if not callable(retrieve):
        kind = type(retrieve).__name__
        raise ConfigError(f"retrieve is a {kind}; give what answers histories, such as model.searcher.retrieve")
    lists = _retrieve_all(retrieve, dataset, held, max(ks), batch_users, progress)
    chosen = slices(dataset, held, cells, rules)
    per_user = _per_user(lists, held, dataset, ks, compat, vectors)
    for name, one in chosen.items():
        per_user |= _sliced(lists, one, name, ks)
    omitted = _omitted(chosen, per_user)
    per_user = {name: values for name, values in per_user.items() if not np.isnan(values).all()}
    found = estimates(np.stack(list(per_user.values()), axis=1), resamples=bootstrap, seed=seed)
    metrics = dict(zip(per_user, found, strict=True)) | _of_all_lists(lists, ks, len(dataset.items))
    protocol = {
        "split": dataset.split,
        "part": part,
        "ks": ks,
        "users": len(held.users),
        "items": len(dataset.items),
        "exclude_seen": dataset.exclude_seen,
        "ties": "item order",
        "candidates": "full catalogue",
        "interval": {"method": "percentile bootstrap over users", "level": LEVEL, "resamples": bootstrap, "seed": seed},
        "slices": {name: {"users": len(one.rows), "rule": one.rule} for name, one in chosen.items()},
        "cells_sha256": None if cells is None else cells_hash(cells),
        "diversity": "categories" if vectors is None else "vectors",
        "compat": list(compat),
        "omitted": omitted,
    }
    ordered = {name: metrics[name] for name in sorted(metrics, key=order)}
    return Evaluation(dataset.fingerprint, protocol, ordered, held.users, per_user, lists, dataset.item_counts)


def _per_user(
    lists: Items,
    part: Part,
    dataset: Dataset,
    ks: Sequence[int],
    compat: Sequence[str],
    vectors: NDArray[np.floating[Any]] | None,
) -> PerUser:
    columns = ranking_metrics(lists, part.targets, ks, compat)
    columns |= beyond.mean_popularity(lists, dataset.item_counts, ks)
    columns |= _tail_recall(lists, part, dataset, ks)
    if vectors is None:
        return columns | beyond.category_diversity(lists, dataset, ks)
    return columns | beyond.vector_diversity(lists, vectors, ks)


def check_part(part: str) -> None:
    """Refuse a part that is not held out."""
    if part not in ("test", "valid"):
        raise ConfigError(f"part = {part!r}; choose 'test' or 'valid'")


def held_out(dataset: Dataset, part: str) -> Part:
    """The held-out part of that name, never empty."""
    check_part(part)
    held: Part = getattr(dataset, part)
    if len(held.users) == 0:
        raise UserError(f"the {part} part holds no users; prepare the dataset with a split that holds some out")
    return held


def cut_offs(ks: Sequence[int], items: int) -> list[int]:
    for k in ks:
        if not 1 <= k <= items:
            raise ConfigError(f"k = {k}; the catalogue has {items} items, so k must lie between 1 and {items}")
    if not ks:
        raise ConfigError("no k was given; name at least one cut-off, such as 10")
    return sorted(set(ks))


def _retrieve_all(
    retrieve: Retrieve, dataset: Dataset, part: Part, k: int, batch_users: int, progress: Progress | None
) -> Items:
    if batch_users < 1:
        raise ConfigError(f"batch_users = {batch_users}; at least one user must be asked for at a time")
    users = len(part.users)
    lists = np.empty((users, k), dtype=np.int32)
    for start in range(0, users, batch_users):
        histories = part.histories.take(slice(start, start + batch_users))
        found = retrieve(histories, k).items
        _check_lists(found, histories, k, dataset, start)
        lists[start : start + batch_users] = found
        if progress is not None:
            progress(min(start + batch_users, users), users)
    return lists


def _check_lists(found: Items, histories: Histories, k: int, dataset: Dataset, start: int) -> None:
    if found.shape != (len(histories), k):
        raise UserError(f"the retriever answered shape {found.shape} to {len(histories)} users and k = {k}")
    items = len(dataset.items)
    if ((found < -1) | (found >= items)).any():
        row, place = np.argwhere((found < -1) | (found >= items))[0]
        raise UserError(f"row {start + row}, rank {place + 1}: item {found[row, place]} is not in 0 to {items - 1}")
    ordered = np.sort(found, axis=1)
    if (repeated := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        row, place = np.argwhere(repeated)[0]
        raise UserError(
            f"row {start + row}: item {ordered[row, place]} is in the list twice; lists must be of distinct items"
        )
    if dataset.exclude_seen and (seen := hits(found, histories)).any():
        row, place = np.argwhere(seen)[0]
        raise UserError(
            f"row {start + row}, rank {place + 1}: item {found[row, place]} is in the user's history, which this "
            "dataset's protocol excludes; leave the history's items out of the answers"
        )


def _sliced(lists: Items, one: Slice, name: str, ks: Sequence[int]) -> PerUser:
    """The slice's metrics as columns over all users, NaN for users outside."""
    inside = ranking_metrics(lists[one.rows], one.targets, ks)
    columns = {}
    for key, values in inside.items():
        if parse(key)[0] in SLICED:
            columns[f"{key}/{name}"] = np.full(len(lists), np.nan)
            columns[f"{key}/{name}"][one.rows] = values
    return columns


def _tail_recall(lists: Items, part: Part, dataset: Dataset, ks: Sequence[int]) -> PerUser:
    targets = beyond.tail_targets(part.targets, dataset.item_counts)
    rows = np.flatnonzero(targets.lengths > 0)
    columns = {}
    inside = ranking_metrics(lists[rows], targets.take(rows), ks)
    for k in ks:
        columns[f"tail_recall@{k}"] = np.full(len(lists), np.nan)
        columns[f"tail_recall@{k}"][rows] = inside[f"recall@{k}"]
    return columns


def _of_all_lists(lists: Items, ks: Sequence[int], items: int) -> dict[str, Estimate]:
    found = {}
    for k in ks:
        exposed = beyond.exposure(lists, k, items)
        found[f"coverage@{k}"] = Estimate(beyond.coverage(exposed))
        if exposed.any():
            found[f"gini@{k}"] = Estimate(beyond.gini(exposed))
    return found


def _omitted(chosen: dict[str, Slice], per_user: PerUser) -> dict[str, str]:
    """What is not among the metrics, and why."""
    reasons = {name: f"no user has {one.rule}" for name, one in chosen.items() if len(one.rows) == 0}
    if "novel" not in chosen:
        reasons["novel"] = "the retriever has no cells of items"
    for metric, reason in (
        ("diversity", "the item table has no categorical or multi column, and no vectors were given"),
        ("tail_recall", f"no target lies in the least popular {beyond.TAIL:.0%} of items"),
    ):
        if all(np.isnan(values).all() for name, values in per_user.items() if parse(name)[0] == metric):
            reasons[metric] = reason
    return reasons
