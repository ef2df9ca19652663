"""Intervals over users: one seeded percentile bootstrap for all metrics at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tesserec.evaluation.metrics import Floats

LEVEL = 0.95
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; ``low`` and ``high`` are None where a metric has no value of its own a user."""

    value: float
    low: float | None = None
    high: float | None = None


def estimates(values: Floats, *, resamples: int = 1000, seed: int = 0) -> list[Estimate]:
    """Mean and percentile bootstrap interval of each column.

    Users are drawn with replacement; all columns share the same draws, so differences of columns are paired.

    Parameters
    ----------
    values
        One row a user, one column a metric, NaN where the metric is not defined for the user.
    resamples
        Bootstrap resamples; 0 gives no intervals.
    seed
        Seed of the draws.
    """
    means = column_means(values)
    if resamples == 0 or len(values) == 0:
        return [Estimate(float(mean)) for mean in means]
    drawn = bootstrap_means(values, resamples=resamples, seed=seed)
    tail = 100 * (1 - LEVEL) / 2
    return [
        Estimate(float(mean), *(float(edge) for edge in np.nanpercentile(column, [tail, 100 - tail])))
        if np.isfinite(mean)
        else Estimate(float("nan"))
        for mean, column in zip(means, drawn.T, strict=True)
    ]


def column_means(values: Floats) -> Floats:
    """Mean of the defined entries of each column, NaN where there are none, ``(columns,)``."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0))


def bootstrap_means(values: Floats, *, resamples: int, seed: int) -> Floats:
    """Column means of each resample, ``(resamples, columns)``; NaN where a resample drew no defined entry."""
    defined = ~np.isnan(values)
    masks, mask_of = np.unique(defined, axis=1, return_inverse=True)  # metrics of one slice share their users
    factors = np.concatenate([np.where(defined, values, 0.0), masks], axis=1)
    drawn = np.concatenate([weights @ factors for weights in _resample(len(values), resamples, seed)])
    sums, users = np.split(drawn, [values.shape[1]], axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / users[:, mask_of.ravel()])


def _resample(users: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each user was drawn, in blocks of resamples, ``(block, users)``."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_BYTES // (8 * users))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        yield np.stack([np.bincount(random.integers(users, size=users), minlength=users) for _ in range(rows)]).astype(
            np.float64
        )
