"""A codebook's health, and what is done for it between epochs.

A model with a codebook calls :func:`upkeep` once at the end of an epoch, with the vectors that its codes have to tell
apart, and hands the figures on to the log. A codebook that collapses is reported while it happens and, if it goes on,
ends the run: its cells would tell nothing apart, whatever the loss says.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tesserec.errors import TrainingRefused
from tesserec.nn.quantisers import Quantiser

POOR_SHARE, POOR_DEAD = 0.2, 0.2
"""A level whose perplexity is below, or whose dead codes are above, this share of its codes is warned of."""

COLLAPSED_SHARE = 0.05
"""A level whose perplexity is below this share of its codes tells vectors apart no longer; the run ends."""


class CodebookWarning(UserWarning):
    """A codebook is losing its codes; training goes on."""


@dataclass(frozen=True)
class LevelHealth:
    """How evenly one level's codes are used: perplexity is the effective number of codes."""

    perplexity: float
    dead: int


def codebook_health(codes: NDArray[np.integer], size: int) -> list[LevelHealth]:
    """Perplexity and dead codes of each level for codes ``(vectors, levels)`` out of ``size`` a level."""
    levels = []
    for column in codes.T:
        share = np.bincount(column, minlength=size) / len(column)
        used = share[share > 0]
        levels.append(LevelHealth(float(np.exp(-(used * np.log(used)).sum())), int(size - len(used))))
    return levels


@torch.no_grad()
def upkeep(quantiser: Quantiser, z: Tensor, epoch: int, seed: int) -> dict[str, Any]:
    """Measure a started codebook, warn of or refuse a collapse, and restart dead codes.

    Parameters
    ----------
    quantiser
        Its codes are judged as the epoch left them, then its dead ones are moved.
    z
        Vectors ``(rows, dim)`` that it quantises: a catalogue, or a large sample of tokens.
    epoch, seed
        Fix where restarted codes go; ``epoch`` counts from 0.

    Returns
    -------
    dict
        ``codebook/perplexity/<level>``, ``codebook/dead/<level>`` and ``codebook/restarted/<level>`` for the log.

    Raises
    ------
    TrainingRefused
        If a level uses fewer than 5 % of its codes effectively.
    """
    rows = judge(quantiser.assign(z).cpu().numpy(), quantiser.config.codes, epoch)
    restarted = quantiser.restart_dead(z, torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return rows | {f"codebook/restarted/{level}": moved for level, moved in enumerate(restarted)}


def judge(codes: NDArray[np.integer], size: int, epoch: int) -> dict[str, Any]:
    """Figures of codes ``(vectors, levels)`` as :func:`upkeep` gives them; warns of a collapse and refuses it."""
    rows: dict[str, Any] = {}
    for level, figures in enumerate(codebook_health(codes, size)):
        _judge(figures, size, level, epoch)
        rows |= {f"codebook/perplexity/{level}": figures.perplexity, f"codebook/dead/{level}": figures.dead}
    return rows


def _judge(figures: LevelHealth, size: int, level: int, epoch: int) -> None:
    used = f"level {level} uses {figures.perplexity:.1f} of {size} codes effectively"
    if figures.perplexity < COLLAPSED_SHARE * size:
        raise TrainingRefused(
            f"the codebook collapsed in epoch {epoch + 1}: {used}; lower codebook.codes, train the vectors longer "
            "before the codebook starts, or give its own loss more weight"
        )
    if figures.perplexity < POOR_SHARE * size or figures.dead > POOR_DEAD * size:
        warnings.warn(
            f"the codebook is collapsing in epoch {epoch + 1}: {used} and {figures.dead} of them are dead (warned of "
            f"below {POOR_SHARE * size:g} or above {POOR_DEAD * size:g}, refused below {COLLAPSED_SHARE * size:g}); "
            "lower codebook.codes",
            CodebookWarning,
            stacklevel=3,
        )
