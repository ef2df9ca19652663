"""Product quantiser: the width is cut into parts, and every part has a codebook of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tesserec.errors import ConfigError
from tesserec.nn.quantisers import CodebookConfig, Quantised, Quantiser


@dataclass(frozen=True)
class ProductQuantised(Quantised):
    """A :class:`~tesserec.nn.quantisers.Quantised` whose levels are parts; ``residuals`` are the parts themselves."""

    @property
    def rebuilt(self) -> Tensor:
        """The codewords side by side, ``(rows, dim)``."""
        return self.concat


class ProductQuantiser(Quantiser):
    """The nearest code, in squared distance, of each of M parts of a vector (Jegou et al. 2011; SparCode section 3).

    Vectors of several kinds (all tokens of a user) share the codebooks if they come as rows of one tensor. The
    interface is that of :mod:`tesserec.nn.quantisers`, with parts in the place of levels.

    Parameters
    ----------
    config
        ``levels`` is the number of parts.
    dim
        Width of the vectors, a multiple of the parts.

    Raises
    ------
    ConfigError
        If the parts do not divide the width.
    """

    def __init__(self, config: CodebookConfig, dim: int) -> None:
        if dim % config.levels:
            raise ConfigError(
                f"codebook.levels = {config.levels} parts do not divide a width of {dim}; choose a divisor of it"
            )
        super().__init__(config, dim // config.levels)

    def _too_few(self, distinct: int, level: int) -> str:
        return (
            f"codebook.codes = {self.config.codes}, but part {level} of the vectors has only {distinct} distinct "
            "values; use fewer codes"
        )

    def _apply_codes(self, z: Tensor, soft: bool) -> Quantised:
        parts = z.view(z.shape[0], self.config.levels, self.codebooks.shape[-1])
        chosen = [self._choose(parts[:, part], part, soft) for part in range(self.config.levels)]
        codes, words = (torch.stack(column, 1) for column in zip(*chosen, strict=True))
        return ProductQuantised(codes, words, parts.detach(), self.config.estimator)
