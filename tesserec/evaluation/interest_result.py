"""The outcome of measuring a model's interests: figures and curves with their protocol, as one JSON file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tesserec.errors import ArtefactError
from tesserec.evaluation.intervals import estimates
from tesserec.evaluation.metrics import PerUser
from tesserec.files import read_json, write_json


@dataclass(frozen=True)
class Figure:
    """A number; a mean over users also has its 95 % interval, median and 90th percentile."""

    value: float
    low: float | None = None
    high: float | None = None
    median: float | None = None
    p90: float | None = None


@dataclass(frozen=True)
class InterestEvaluation:
    """What was measured of a model's interests.

    Attributes
    ----------
    fingerprint
        Of the dataset.
    protocol
        Part, sampled users and their seed, length of the lists, kind of interests, the policy.
    figures
        Numbers by name, such as ``concentration/cells@100``, ``collapse/cosine``, ``calibration/ece``.
    curves
        Data of the plots: ``reliability``, ``usage``, ``map``, ``ranks``, ``frontier``; those that apply.
    omitted
        What does not apply to this model, and why.
    """

    fingerprint: str
    protocol: dict[str, Any]
    figures: dict[str, Figure]
    curves: dict[str, Any]
    omitted: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; what a figure does not have is left out of it."""
        kept = {
            name: {key: value for key, value in asdict(figure).items() if value is not None}
            for name, figure in self.figures.items()
        }
        return {**vars(self), "figures": kept}

    def save(self, path: Path) -> None:
        """Write one JSON file, replaced at once."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: Path) -> InterestEvaluation:
        """Open what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            If the file is missing, damaged or something else.
        """
        stored = read_json(Path(path))
        try:
            figures = {name: Figure(**one) for name, one in stored["figures"].items()}
            return cls(stored["fingerprint"], stored["protocol"], figures, stored["curves"], stored["omitted"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{path} is not an evaluation of interests ({error}); evaluate the run again") from None


def summarise(per_user: PerUser, *, resamples: int, seed: int) -> dict[str, Figure]:
    """Mean with interval, median and 90th percentile of each column; columns that no user has are left out."""
    defined = {name: values for name, values in per_user.items() if not np.isnan(values).all()}
    if not defined:
        return {}
    means = estimates(np.stack(list(defined.values()), axis=1), resamples=resamples, seed=seed)
    return {
        name: Figure(mean.value, mean.low, mean.high, *(float(p) for p in np.nanpercentile(values, [50, 90])))
        for (name, values), mean in zip(defined.items(), means, strict=True)
    }


def plain(numbers: dict[str, float]) -> dict[str, Figure]:
    """Numbers of a whole model; those that are not finite are left out."""
    return {name: Figure(value) for name, value in numbers.items() if math.isfinite(value)}
