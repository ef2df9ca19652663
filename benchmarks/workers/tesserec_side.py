"""A tesserec model in timed rounds of the library's own loop; started by ``training.py``.

A round is an epoch to the loop, cut by time. SPARC's codebook is started after the first round, as its warm-up ends.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rounds import Rounds, read_settings

from tesserec.data.batches import Batch
from tesserec.data.dataset import Dataset
from tesserec.models.neural import FitTask, NeuralRetriever
from tesserec.models.sasrec import SASRec
from tesserec.models.sparc import Sparc
from tesserec.models.two_tower import TwoTower
from tesserec.training.loop import Loop, use_bf16

MODELS: dict[str, type[NeuralRetriever]] = {model.name: model for model in (TwoTower, SASRec, Sparc)}
ENDLESS = 1_000_000


class TimedTask:
    """A model's own task, but with rounds for epochs and without validation."""

    def __init__(self, task: FitTask, rounds: Rounds) -> None:
        self.task, self.network, self.batches = task, task.network, self
        self.rounds = rounds
        self.source = itertools.chain.from_iterable(task.batches.epoch(number) for number in itertools.count())
        self.losses, self.end_epoch, self.complete = task.losses, task.end_epoch, task.complete

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one round."""
        return self.rounds.batches(self.source)

    def steps(self, number: int) -> int:
        """Steps of a true epoch."""
        return self.task.batches.steps(number)

    def validate(self) -> dict[str, float]:
        """Nothing is validated."""
        return {"none": 0.0}


def size(batch: Batch) -> tuple[int, int, int]:
    """See :class:`Rounds`."""
    return int(batch.lengths.sum()), len(batch.lengths), batch.inputs.size


def main() -> None:
    """Train until the parent asks for no more."""
    settings = read_settings()
    dataset = Dataset.open(settings["dataset"])
    torch.manual_seed(0)
    model = MODELS[settings["model"]]
    settings["config"]["training"] |= {"epochs": ENDLESS, "patience": ENDLESS}
    config: Any = model.Config.model_validate(settings["config"])
    retriever = model(config)
    retriever.network = model.network_class(len(dataset.items), config, None)
    task = FitTask(retriever, dataset, seed=0)
    facts = {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "items": len(dataset.items),
        "epoch_targets": task.batches.positions,
        "precision": "bf16" if use_bf16(config.training.precision) else "fp32",
    }
    timed: Any = TimedTask(task, Rounds(facts, size))
    Loop(timed, config.training, seed=0).train()


if __name__ == "__main__":
    main()
