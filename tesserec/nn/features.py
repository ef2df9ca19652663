"""What an item's features add to its vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tesserec.data.features import ItemFeatures


class FeatureEncoder(nn.Module):
    """Sum of an embedding of each category, the mean embedding of each list, and a linear map of the numbers.

    Parameters
    ----------
    source
        The catalogue's features; held in buffers that are not saved with the weights.
    dim
        Width of the output.
    """

    numbers: Tensor

    def __init__(self, source: ItemFeatures, dim: int) -> None:
        super().__init__()
        self.source = source
        self.tables = nn.ModuleList()
        self.columns: list[str] = []
        for number, (name, codes) in enumerate(source.padded().items()):
            table = nn.Embedding(source.sizes[name], dim, padding_idx=0)
            with torch.no_grad():
                table.weight.normal_(std=0.1 * dim**-0.5)[0] = 0
            self.tables.append(table)
            self.columns.append(f"codes_{number}")
            self.register_buffer(f"codes_{number}", torch.tensor(codes), persistent=False)
        self.register_buffer("numbers", torch.tensor(source.numbers), persistent=False)
        self.linear = nn.Linear(source.numbers.shape[1], dim, bias=False) if source.numbers.shape[1] else None

    def forward(self, ids: Tensor) -> Tensor:
        """Feature vectors of item indices, ``(ids, dim)``; zero for an item without any."""
        return self.read([self.get_buffer(name)[ids] for name in self.columns], self.numbers[ids])

    def read(self, codes: list[Tensor], numbers: Tensor) -> Tensor:
        """Feature vectors of items that may be outside the catalogue.

        Parameters
        ----------
        codes
            Codes of each column with a vocabulary, ``(items, most)``, padded with 0.
        numbers
            ``(items, numbers)``.
        """
        total = numbers.new_zeros(())
        for column, table in zip(codes, self.tables, strict=True):
            known = (column > 0).sum(-1, keepdim=True).clamp(min=1)
            total = total + table(column).sum(1) / known
        if self.linear is not None:
            total = total + self.linear(numbers)
        return total
