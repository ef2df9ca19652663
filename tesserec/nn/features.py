"""What an item's features add to its vector."""

from __future__ import annotations

import numpy as np
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
        lists = {name: codes.astype(np.int64)[:, None] for name, codes in source.categorical.items()}
        lists |= {name: rows.padded(0) for name, rows in source.multi.items()}
        for number, (name, codes) in enumerate(lists.items()):
            table = nn.Embedding(source.sizes[name], dim, padding_idx=0)
            with torch.no_grad():
                table.weight.normal_(std=0.1 * dim**-0.5)[0] = 0
            self.tables.append(table)
            self.columns.append(f"codes_{number}")
            self.register_buffer(f"codes_{number}", torch.tensor(codes), persistent=False)
        numbers = np.concatenate([source.numeric, source.vector], axis=1)
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        self.linear = nn.Linear(numbers.shape[1], dim, bias=False) if numbers.shape[1] else None

    def forward(self, ids: Tensor) -> Tensor:
        """Feature vectors of item indices, ``(ids, dim)``; zero for an item without any."""
        total = torch.zeros((), device=ids.device)
        for name, table in zip(self.columns, self.tables, strict=True):
            codes = self.get_buffer(name)[ids]
            known = (codes > 0).sum(-1, keepdim=True).clamp(min=1)
            total = total + table(codes).sum(1) / known
        if self.linear is not None:
            total = total + self.linear(self.numbers[ids])
        return total
