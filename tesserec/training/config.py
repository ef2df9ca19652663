"""Settings that every trained model shares."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How a model is trained.

    Attributes
    ----------
    epochs
        Passes over the training histories at most.
    batch_positions
        Positions to predict in a step; rows of a step have like lengths.
    learning_rate, weight_decay
        Of Adam; the decay is left out for the item table of large catalogues, which is updated sparsely.
    final_rate
        Learning rate at the end of the last epoch as a share of ``learning_rate``; it falls on a straight line.
    negatives
        Size of the pool of negatives that a step's positions share. Models of the whole catalogue's likelihood
        (tessera, and SASRec under the full softmax) read none of it.
    popular_share
        Share of negatives drawn by popularity, the rest uniformly; corrected by log-Q.
    patience
        Validations without a better result before training stops.
    validate_users
        Validation users that are ranked after each epoch, a seeded choice; every epoch the same.
    validate_k
        The list length whose recall decides.
    precision
        ``bf16`` runs matrix products in bfloat16, ``fp32`` does not; ``auto`` picks bf16 where the processor or GPU
        has units for it.
    checkpoint_minutes
        Longest time between checkpoints within an epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(50, ge=1)
    batch_positions: int = Field(1024, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    final_rate: float = Field(1.0, gt=0, le=1)
    negatives: int = Field(1024, ge=1)
    popular_share: float = Field(0.5, ge=0, le=1)
    patience: int = Field(5, ge=1)
    validate_users: int = Field(5000, ge=1)
    validate_k: int = Field(20, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_minutes: float = Field(5.0, gt=0)


class DotProductTraining(TrainingConfig):
    """The same for models whose scores are dot products of any length: three times slower than cosines suit."""

    learning_rate: float = Field(1e-3, gt=0)
