"""The item tower: an embedding a item, plus what its features say, touched only where a step needs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.nn.features import FeatureEncoder

SPARSE_FROM = 50_000
"""Catalogues at least this large get sparse gradients: a dense optimiser step would cost more than the model."""


class ItemTower(nn.Module):
    """Item vectors ``(ids,) -> (ids, dim)``.

    Parameters
    ----------
    items
        Catalogue size.
    dim
        Width.
    normalise
        Give every vector length one, so that dot products are cosines.
    features
        Feature encoder whose output is added to the embedding, or None.
    """

    def __init__(self, items: int, dim: int, *, normalise: bool, features: FeatureEncoder | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(items, dim, sparse=items >= SPARSE_FROM)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.normalise = normalise
        self.features = features

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of distinct item indices."""
        vectors = self.table(ids)
        if self.features is not None:
            vectors = vectors + self.features(ids)
        return self.scaled(vectors)

    def of_features(self, codes: list[Tensor], numbers: Tensor) -> Tensor:
        """Vectors of items that nobody has used yet: the mean embedding, plus what their features say.

        See :meth:`tesserec.nn.features.FeatureEncoder.read`.
        """
        assert self.features is not None
        return self.scaled(self.table.weight.mean(0) + self.features.read(codes, numbers))

    def scaled(self, vectors: Tensor) -> Tensor:
        """Vectors of length one where the tower normalises."""
        return F.normalize(vectors, dim=-1) if self.normalise else vectors

    def lookup(self, *ids: Tensor) -> tuple[Tensor, ...]:
        """Vectors for several index tensors of any shape; each distinct item is computed once.

        Gradients of repeated items are summed densely over the distinct ones, so the table itself sees each row once.
        """
        distinct, place = torch.unique(torch.cat([i.reshape(-1) for i in ids]), return_inverse=True)
        vectors = F.embedding(place, self(distinct))
        parts = torch.split(vectors, [i.numel() for i in ids])
        return tuple(part.view(*i.shape, -1) for part, i in zip(parts, ids, strict=True))

    def every(self) -> Tensor:
        """Vectors of the whole catalogue with their gradients, ``(items, dim)``."""
        vectors: Tensor = self(torch.arange(self.table.num_embeddings, device=self.table.weight.device))
        return vectors

    @torch.no_grad()
    def all(self, block: int = 65_536) -> Tensor:
        """Vectors of the whole catalogue, ``(items, dim)``."""
        ids = torch.arange(self.table.num_embeddings, device=self.table.weight.device)
        return torch.cat([self(part) for part in torch.split(ids, block)])
