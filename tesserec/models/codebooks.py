"""What codebook methods share: a warm-up as a single-vector model, and user vectors that carry their denominator."""

from __future__ import annotations

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from tesserec.errors import ConfigError
from tesserec.models.network import Network, NeuralConfig


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
