"""RecBole's SASRec in timed rounds of its own trainer; started by ``training.py`` in RecBole's environment.

All of the log is training data. A round is a call of the trainer's ``_train_epoch``, cut by time.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.utils import get_dataloader
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from rounds import Rounds, read_settings


class TimedLoader:
    """RecBole's training loader, round by round."""

    def __init__(self, loader: Any, rounds: Rounds) -> None:
        self.loader, self.rounds = loader, rounds

    def __iter__(self) -> Iterator[Any]:
        return self.rounds.batches(self.loader)


def size(batch: Any) -> tuple[int, int, int]:
    """See :class:`Rounds`; one target a padded prefix."""
    return len(batch), len(batch), batch["item_id_list"].numel()


def main() -> None:
    """Train until the parent asks for no more."""
    config = Config(model="SASRec", dataset="log", config_dict=read_settings()["config"])
    init_seed(0, True)
    log = create_dataset(config)
    training = log.build()[0]
    loader = get_dataloader(config, "train")(config, training, None, shuffle=True)
    trainer = Trainer(config, SASRec(config, training))
    versions = {"recbole": recbole.__version__, "torch": torch.__version__, "numpy": np.__version__}
    facts = {
        "versions": versions | {"python": platform.python_version()},
        "items": training.item_num - 1,
        "epoch_targets": len(training),
        "precision": "bf16" if config["enable_amp"] else "fp32",
    }
    timed, epoch = TimedLoader(loader, Rounds(facts, size)), 0
    while True:
        trainer._train_epoch(timed, epoch)
        epoch += 1


if __name__ == "__main__":
    main()
