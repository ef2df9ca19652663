"""What codebook methods share: a warm-up, user vectors that carry their denominator, a posterior that is calibrated."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.data.dataset import Dataset
from tesserec.errors import ConfigError
from tesserec.models.network import Network, NeuralConfig
from tesserec.models.neural import NeuralRetriever, TorchSide, some_users
from tesserec.nn.losses import TINY


class LossWeights(BaseModel):
    """Weights of the terms of a loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _one_above_zero(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError(f"weights = {self.model_dump()}, so that nothing would be learned; set one above 0")
        return self


class WarmConfig(NeuralConfig):
    """Settings of models that start as a single-vector model; see :class:`~tesserec.models.network.NeuralConfig`.

    Attributes
    ----------
    warmup_epochs
        Epochs as a plain single-vector model, before what the method adds is started; it is started sooner, from the
        best of them, once ``training.patience`` epochs were no better.
    """

    warmup_epochs: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _leaves_epochs(self) -> Self:
        if self.warmup_epochs >= self.training.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs} leaves none of training.epochs = {self.training.epochs} for "
                "what comes after it; use fewer warm-up epochs or more epochs"
            )
        return self


class InterestNetwork(Network):
    """A network whose user vector of an interest scores items by ``log p(item | interest, user)``.

    The last coordinate of a user vector is minus its log-denominator (see :func:`tesserec.nn.interests.cell_logits`),
    that of an item vector is 1, so that lists of different interests can be merged.
    """

    @property
    def width(self) -> int:
        """One more than the encoder's."""
        return super().width + 1

    def searched(self, vectors: Tensor) -> Tensor:
        """Item vectors followed by a 1, ``(items, width)``."""
        return F.pad(vectors, (0, 1), value=1.0)


def check_codes(codes: int, items: int) -> None:
    """Refuse a codebook with fewer than two items a code.

    Raises
    ------
    ConfigError
        Names the setting and the largest codebook that the catalogue fills.
    """
    if codes > items // 2:
        raise ConfigError(
            f"codebook.codes = {codes} for {items} items leaves under two items a code; use at most {items // 2}"
        )


BLOCK_USERS = 256
"""Users whose posterior is asked for at a time."""
HEATS = torch.logspace(-0.5, 0.5, 101)
"""Temperatures that a posterior may be given afterwards: a third to three."""


def calibrate(model: NeuralRetriever, dataset: Dataset, seed: int) -> None:
    """Set the temperature of a network's posterior, its buffer ``heat``, by the held-out items of validation users."""
    network: Network = model.network
    part = some_users(dataset.valid, model.config.training.validate_users, seed)
    heat = network.get_buffer("heat").fill_(1.0)
    side = TorchSide(network)
    blocks = np.array_split(np.arange(len(part.users)), -(-len(part.users) // BLOCK_USERS))
    posterior = torch.cat([torch.from_numpy(side.encode(part.histories.take(b)).posterior) for b in blocks])
    owner = torch.from_numpy(np.repeat(np.arange(len(part.targets)), part.targets.lengths))
    wanted = network.cells().cpu()[torch.from_numpy(part.targets.compact().values).long()]
    heat.fill_(best_heat(posterior[owner], wanted))
    model.__dict__.pop("searcher", None)


@torch.no_grad()
def best_heat(posterior: Tensor, wanted: Tensor) -> float:
    """The temperature under which a posterior gives held-out cells the largest likelihood (Guo et al. 2017).

    Parameters
    ----------
    posterior
        Probabilities ``(rows, cells)`` at temperature 1.
    wanted
        Cell of each row's held-out item, ``(rows,)``.
    """
    logits = posterior.clamp_min(TINY).log()
    losses = [F.cross_entropy(logits / heat, wanted) for heat in HEATS]
    return float(HEATS[int(torch.stack(losses).argmin())])
