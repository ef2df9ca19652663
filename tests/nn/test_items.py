"""The item tower: shared rows, sparse gradients, features."""

import numpy as np
import polars as pl
import torch

from tesserec.data.features import ItemFeatures
from tesserec.nn import items
from tesserec.nn.features import FeatureEncoder
from tesserec.nn.items import ItemTower


def test_lookup_equals_direct_indexing_in_value_and_gradient():
    tower = ItemTower(20, 4, normalise=True)
    a, b = torch.tensor([[1, 2], [2, 3]]), torch.tensor([3, 3, 19])
    first, second = tower.lookup(a, b)
    every = tower.every()
    assert torch.allclose(first, every[a])
    assert torch.allclose(second, every[b])
    (gradient,) = torch.autograd.grad(first.sum() + 2 * second.square().sum() + second[0, 0], tower.table.weight)
    (plain,) = torch.autograd.grad(every[a].sum() + 2 * every[b].square().sum() + every[3, 0], tower.table.weight)
    assert torch.allclose(gradient, plain, atol=1e-5)


def test_large_catalogues_touch_only_the_rows_of_a_step(monkeypatch):
    monkeypatch.setattr(items, "SPARSE_FROM", 10)
    tower = ItemTower(20, 4, normalise=False)
    tower.lookup(torch.tensor([5, 5, 7]))[0].sum().backward()
    gradient = tower.table.weight.grad
    assert gradient.is_sparse
    assert sorted(gradient.coalesce().indices()[0].tolist()) == [5, 7]


def test_features_add_up_and_absent_ones_add_nothing():
    table = pl.DataFrame(
        {"id": [1, 2, 3], "kind": ["a", None, "b"], "tags": [["x", "y"], [], ["y"]], "size": [1.0, None, 3.0]}
    )
    features = ItemFeatures.from_table(table, {"kind": "categorical", "tags": "multi", "size": "numeric"})
    encoder = FeatureEncoder(features, 4)
    found = encoder(torch.tensor([0, 1, 2])).detach()
    kind, tags = (t.weight.detach() for t in encoder.tables)
    numbers = torch.from_numpy(np.concatenate([features.numeric, features.vector], 1)) @ encoder.linear.weight.T
    code = features.categorical["kind"].tolist()
    rows = [row.tolist() for row in features.multi["tags"]]
    assert torch.allclose(found[0], kind[code[0]] + tags[rows[0]].mean(0) + numbers[0].detach(), atol=1e-6)
    assert torch.allclose(found[1], numbers[1].detach(), atol=1e-6)
    assert torch.allclose(found[2], kind[code[2]] + tags[rows[2]].mean(0) + numbers[2].detach(), atol=1e-6)
