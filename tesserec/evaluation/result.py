"""The outcome of an evaluation: estimates, values of each user, lists and the protocol, as one directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tesserec.data.histories import Ints, Items
from tesserec.errors import ArtefactError
from tesserec.evaluation.intervals import Estimate
from tesserec.evaluation.metrics import PerUser
from tesserec.files import open_directory, publish_directory, read_json, write_json

_KINDS = ("recall", "hit", "ndcg", "mrr", "ndcg[", "coverage", "gini", "popularity", "tail_recall", "diversity")


@dataclass(frozen=True)
class Evaluation:
    """What was measured, on what and how.

    Attributes
    ----------
    fingerprint
        Of the dataset; only evaluations with the same one can be compared.
    protocol
        Split, part, ks, tie rule, users, seed, slices, and what was left out and why.
    metrics
        Estimates by name: ``recall@10``, ``ndcg[comirec-master]@10``, ``coverage@10``, ``recall@10/cold``.
    users
        Indices of the users in the dataset, ``(rows,)``.
    per_user
        Value of each user, ``(rows,)``, for the metrics that have one; NaN where it is not defined.
    lists
        The ranked lists, ``(rows, max(ks))``, -1 where unfilled.
    item_counts
        Training events of each item, ``(items,)``.
    """

    fingerprint: str
    protocol: dict[str, Any]
    metrics: dict[str, Estimate]
    users: Ints
    per_user: PerUser
    lists: Items
    item_counts: Ints

    def table(self) -> pl.DataFrame:
        """One row a metric: ``metric``, ``k``, ``slice``, ``value``, ``low``, ``high``."""
        rows = [{**dict(zip(("metric", "k", "slice"), parse(name), strict=True)), **asdict(estimate)}
                for name, estimate in self.metrics.items()]  # fmt: skip
        floats = dict.fromkeys(("value", "low", "high"), pl.Float64)
        return pl.DataFrame(rows, schema={"metric": pl.String, "k": pl.Int64, "slice": pl.String, **floats})

    def to_dict(self) -> dict[str, Any]:
        """``{"fingerprint", "protocol", "metrics": {name: {"value", "low", "high"}}}``, ready for JSON."""
        metrics = {name: asdict(estimate) for name, estimate in self.metrics.items()}
        return {"fingerprint": self.fingerprint, "protocol": self.protocol, "metrics": metrics}

    def save(self, directory: Path, *, overwrite: bool = False) -> None:
        """Publish as a sealed directory of ``metrics.json``, ``users.parquet``, ``items.parquet`` and ``lists.npy``."""
        with publish_directory(
            Path(directory), "evaluation", {"fingerprint": self.fingerprint}, overwrite=overwrite
        ) as d:
            write_json(d / "metrics.json", self.to_dict())
            pl.DataFrame({"user": self.users, **self.per_user}).fill_nan(None).write_parquet(d / "users.parquet")
            pl.DataFrame({"train_events": self.item_counts}).write_parquet(d / "items.parquet")
            np.save(d / "lists.npy", self.lists)

    @classmethod
    def load(cls, directory: Path) -> Evaluation:
        """Open what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            Names the file that is missing, damaged or foreign.
        """
        directory = Path(directory)
        open_directory(directory, "evaluation")
        stored = read_json(directory / "metrics.json")
        users = pl.read_parquet(directory / "users.parquet")
        values = users.drop("user").fill_null(float("nan"))
        try:
            return cls(
                fingerprint=stored["fingerprint"],
                protocol=stored["protocol"],
                metrics={name: Estimate(**estimate) for name, estimate in stored["metrics"].items()},
                users=users["user"].to_numpy(),
                per_user={name: values[name].to_numpy() for name in values.columns},
                lists=np.load(directory / "lists.npy", allow_pickle=False),
                item_counts=pl.read_parquet(directory / "items.parquet")["train_events"].to_numpy(),
            )
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"{directory / 'metrics.json'} lacks {error}; evaluate the run again") from None


def main_k(ks: Sequence[int]) -> int:
    """The cut-off that stands for all: 20 where it is among them, else the middle one."""
    return 20 if 20 in ks else ks[len(ks) // 2]


def same_cells(evaluations: Iterable[Evaluation]) -> bool:
    """Whether evaluations with cells have the same, so that what is novel to a user is so in all of them."""
    return len({one.protocol["cells_sha256"] for one in evaluations} - {None}) <= 1


def parse(name: str) -> tuple[str, int, str]:
    """Split ``"recall@10/cold"`` into metric, k and slice (``"all"`` where none is named)."""
    metric, _, rest = name.partition("@")
    k, _, part = rest.partition("/")
    return metric, int(k), part or "all"


def order(name: str) -> tuple[str, int, str, int]:
    """Sort key of metric names: whole part before slices, then by kind, then by k."""
    metric, k, part = parse(name)
    group = _KINDS.index("ndcg[" if metric.startswith("ndcg[") else metric)
    return part if part != "all" else "", group, metric, k
