"""Paired comparison of runs: differences with intervals, a randomisation test and Holm's correction.

Runs are compared user by user, so only evaluations of the same users, targets and protocol are let in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tesserec.errors import ConfigError, UserError
from tesserec.evaluation.intervals import estimates
from tesserec.evaluation.metrics import Floats
from tesserec.evaluation.result import Evaluation, parse

DEFAULT = ("recall", "ndcg")
_GROUPS = 16_384
_BLOCK_BYTES = 1 << 26
_SAME = ("split", "part", "exclude_seen", "ties", "items")


@dataclass(frozen=True)
class Comparison:
    """How each run differs from the first.

    Attributes
    ----------
    baseline
        Name of the first run.
    table
        One row a run and metric: ``run``, ``metric``, ``value``, ``baseline``, ``difference``, ``low``, ``high``
        (95 % bootstrap interval of the difference), ``p`` (paired randomisation test, two-sided) and ``p_holm``
        (corrected for all rows of the table).
    protocol
        What was compared and how.
    """

    baseline: str
    table: pl.DataFrame
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """``{"baseline", "protocol", "rows": [...]}``, ready for JSON."""
        return {"baseline": self.baseline, "protocol": self.protocol, "rows": self.table.to_dicts()}


def compare(
    evaluations: Mapping[str, Evaluation],
    metrics: Sequence[str] | None = None,
    *,
    seed: int = 0,
    bootstrap: int = 1000,
    draws: int = 10_000,
) -> Comparison:
    """Compare runs with the first of them.

    Parameters
    ----------
    evaluations
        At least two, by name; the first is the baseline.
    metrics
        Names such as ``"recall@10"`` or ``"ndcg@20/cold"``; by default recall and NDCG at every k.
    seed, bootstrap, draws
        Seed, resamples of the interval and draws of the test.

    Raises
    ------
    UserError
        If the evaluations differ in dataset, protocol or users.
    ConfigError
        If a metric is missing in a run or has no value a user.
    """
    if len(evaluations) < 2:
        raise UserError(f"{len(evaluations)} evaluation given; a comparison needs at least two")
    (baseline, first), *others = evaluations.items()
    for name, other in others:
        _check_same(baseline, first, name, other)
    chosen = _common(evaluations) if metrics is None else list(metrics)
    rows: list[dict[str, Any]] = []
    for name, other in others:
        pairs = [_paired(metric, {baseline: first, name: other}) for metric in chosen]
        differences = np.stack([theirs - ours for ours, theirs in pairs], axis=1)
        changes = estimates(differences, resamples=bootstrap, seed=seed)
        p_values = randomisation_test(differences, draws=draws, seed=seed)
        for metric, change, p in zip(chosen, changes, p_values, strict=True):
            rows.append({
                "run": name, "metric": metric, "value": other.metrics[metric].value,
                "baseline": first.metrics[metric].value, "difference": change.value,
                "low": change.low, "high": change.high, "p": float(p),
            })  # fmt: skip
    table = pl.DataFrame(rows).with_columns(p_holm=holm(np.array([row["p"] for row in rows])))
    facts = {"fingerprint": first.fingerprint, "users": len(first.users), "seed": seed, "resamples": bootstrap,
             "test": f"paired sign-flip randomisation, {draws} draws", "correction": "Holm over all rows"}  # fmt: skip
    return Comparison(baseline, table, facts | {key: first.protocol.get(key) for key in _SAME})


def randomisation_test(differences: Floats, *, draws: int = 10_000, seed: int = 0) -> Floats:
    """Two-sided p-value of a mean paired difference of zero, for each column.

    If the two runs were interchangeable, each user's difference could as well have the other sign. Beyond 16,384
    users, random groups of users share a sign, which keeps the test exact and its cost bounded.

    Parameters
    ----------
    differences
        One row a user, one column a metric; NaN where it is not defined for the user.
    draws
        Random sign vectors; the smallest possible p is 1 / (draws + 1).

    Returns
    -------
    p
        ``(columns,)``.
    """
    random = np.random.default_rng(seed)
    sums = np.nan_to_num(differences)
    if len(sums) > _GROUPS:
        group = random.permutation(len(sums)) % _GROUPS
        sums = np.stack([np.bincount(group, column, minlength=_GROUPS) for column in sums.T], axis=1)
    observed = np.abs(sums.sum(axis=0))
    slack = 1e-9 * np.abs(sums).sum(axis=0)  # equal sums may differ in the last bits
    beaten = np.zeros(sums.shape[1])
    block = max(1, _BLOCK_BYTES // (8 * len(sums)))
    for start in range(0, draws, block):
        size = (min(block, draws - start), len(sums))
        flipped = (2.0 * random.integers(2, size=size, dtype=np.int8) - 1.0) @ sums
        beaten += (np.abs(flipped) >= observed - slack).sum(axis=0)
    return np.asarray((beaten + 1) / (draws + 1))


def holm(p: Floats) -> Floats:
    """Holm's step-down correction of p-values, in their order."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def _check_same(baseline: str, first: Evaluation, name: str, other: Evaluation) -> None:
    if first.fingerprint != other.fingerprint:
        raise UserError(
            f"{name!r} was measured on dataset {other.fingerprint}, {baseline!r} on {first.fingerprint}; "
            "train and evaluate both on the same dataset"
        )
    for key in _SAME:
        if (ours := first.protocol.get(key)) != (theirs := other.protocol.get(key)):
            raise UserError(f"{name!r} has {key} = {theirs!r}, {baseline!r} has {ours!r}; evaluate both the same way")
    if not np.array_equal(first.users, other.users):
        raise UserError(f"{name!r} and {baseline!r} were measured on different users; evaluate both on the same part")


def _common(evaluations: Mapping[str, Evaluation]) -> list[str]:
    shared = [name for name in next(iter(evaluations.values())).per_user
              if parse(name)[0] in DEFAULT and parse(name)[2] == "all"
              and all(name in other.per_user for other in evaluations.values())]  # fmt: skip
    if not shared:
        raise UserError("the evaluations share no recall or NDCG at the same k; evaluate them with the same ks")
    return shared


def _rule(metric: str, of: Evaluation) -> Any:
    """What a metric goes by beside the protocol of all: what diversity compares, or the rule of a slice."""
    base, _, part = parse(metric)
    return of.protocol.get("diversity") if base == "diversity" else of.protocol["slices"].get(part, {}).get("rule")


def _paired(metric: str, evaluations: Mapping[str, Evaluation]) -> list[Floats]:
    for name, evaluation in evaluations.items():
        if metric not in evaluation.per_user:
            known = ", ".join(evaluation.per_user)
            raise ConfigError(f"{name!r} has no values a user for {metric!r}, so it has no paired test; it has {known}")
    (baseline, first), (name, other) = evaluations.items()
    if metric.endswith("/novel") and first.protocol["cells_sha256"] != other.protocol["cells_sha256"]:
        raise UserError(
            f"{metric} of {name!r} and {baseline!r} rest on different cells, so on different targets; "
            "evaluate both with the cells of one of them"
        )
    if (ours := _rule(metric, first)) != (theirs := _rule(metric, other)):
        raise UserError(f"{metric} of {name!r} goes by {theirs}, of {baseline!r} by {ours}; evaluate both alike")
    return [first.per_user[metric], other.per_user[metric]]
