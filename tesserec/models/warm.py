"""A trained network on a later dataset: the same weights, with a row for each item that has come since."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tesserec.data.dataset import Dataset
from tesserec.data.histories import Histories
from tesserec.index.catalogue import Catalogue
from tesserec.models.neural import NeuralRetriever
from tesserec.training.loop import device

NEAR = 3
"""Events to either side of a new item whose items say where it lies."""
ALIKE = 0.1
"""Share of the known items, those with about as many events, of which one lends a new item its row."""
BLOCK = 256
"""New items that are compared at a time."""


def warm_start(trained: NeuralRetriever, dataset: Dataset) -> NeuralRetriever:
    """The trained model on another catalogue; no weight of it changes.

    Items keep their rows by id, in whatever order the dataset has them. A new item starts at the row of a known one:
    of those that are taken about as often, the nearest to the mean of the items beside it in training histories, or of
    all where there is none. The mean itself lies among the rows of all, near every user, and would be in every list. To
    the row comes what its features say where the model reads them, and it gets the code that the codebook as it is
    gives such a vector. So does a known item whose features are others now.

    Features are read by the vocabulary of the first training: a category that it lacks counts as missing until the
    model is trained anew.
    """
    place = trained.catalogue.items.encode(dataset.items.values.to_list())
    known = torch.from_numpy(place >= 0).to(device())
    model = type(trained)(trained.config)
    model.catalogue = Catalogue.from_dataset(dataset)
    read = trained.network.items.features
    features = None if read is None else read.source.vocabulary.read(dataset.item_table)
    model.network = model.network_class(len(dataset.items), model.config, features).to(device())
    weights = trained.network.state_dict()
    rows = torch.from_numpy(np.maximum(place, 0).astype(np.int64)).to(device())
    weights |= {name: weights[name][rows] for name in model.network.per_item}
    table = weights["items.table.weight"]
    table[~known] = _lent(_beside(dataset.train, place, table), table, place, dataset.item_counts)
    model.network.load_state_dict(weights)
    same = torch.isclose(model.network.items.all(), trained.network.items.all()[rows], atol=1e-5).all(-1)
    model.network.eval().welcome((~(known & same)).nonzero()[:, 0])
    return model


def _beside(histories: Histories, place: NDArray[np.int32], table: Tensor) -> Tensor:
    """Mean row of the known items within a few events of each new item, ``(new, dim)``."""
    known, number = place >= 0, np.cumsum(place < 0) - 1
    flat = histories.compact()
    user = np.repeat(np.arange(len(flat)), flat.lengths)
    new, old = [], []
    for shift in range(1, NEAR + 1):
        for one, other in ((flat.values[shift:], flat.values[:-shift]), (flat.values[:-shift], flat.values[shift:])):
            pair = (user[shift:] == user[:-shift]) & ~known[one] & known[other]
            new.append(number[one[pair]])
            old.append(other[pair])
    whose = torch.from_numpy(np.concatenate(new)).to(table.device)
    beside = torch.from_numpy(np.concatenate(old).astype(np.int64)).to(table.device)
    sums = torch.zeros(int((~known).sum()), table.shape[1], device=table.device).index_add_(0, whose, table[beside])
    counts = torch.bincount(whose, minlength=len(sums))[:, None]
    middle = table[torch.from_numpy(np.flatnonzero(known)).to(table.device)].mean(0)
    return torch.where(counts > 0, sums / counts.clamp_min(1), middle)


def _lent(means: Tensor, table: Tensor, place: NDArray[np.int32], counts: NDArray[np.int64]) -> Tensor:
    """For each new item the row, nearest in cosine to its mean, of a known item with about as many events."""
    known, new = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    known = known[np.argsort(counts[known], kind="stable")]
    like, size = counts[known], max(1, math.ceil(ALIKE * len(known)))
    rows = torch.empty_like(means)
    for count in np.unique(counts[new]):
        middle = (np.searchsorted(like, count, "left") + np.searchsorted(like, count, "right")) // 2
        first = int(np.clip(middle - size // 2, 0, len(known) - size))
        lenders = table[torch.from_numpy(known[first : first + size]).to(table.device)]
        directions = F.normalize(lenders, dim=-1).T
        asking = torch.from_numpy(np.flatnonzero(counts[new] == count)).to(table.device)
        for some in torch.split(asking, BLOCK):
            rows[some] = lenders[(F.normalize(means[some], dim=-1) @ directions).argmax(1)]
    return rows
