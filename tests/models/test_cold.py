"""Items that came after training, with features and without a click, in bundles of trained models."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from tesserec.data.features import ItemFeatures
from tesserec.data.prepare import prepare
from tesserec.errors import ConfigError
from tesserec.index.bundle import Bundle
from tesserec.index.catalogue import Catalogue
from tesserec.index.living import add_items
from tesserec.models import model_class
from tesserec.models.publish import publish_bundle
from tests.models.worlds import dataset, published, settings, world


def test_items_with_numbers_alone_are_encoded_in_a_bundle(tmp_path):
    rows = [(f"u{n}", f"i{(n * 7 + m * m) % 30:02}", m) for n in range(60) for m in range(6)]
    log = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    items = pl.DataFrame({"id": [f"i{n:02}" for n in range(30)], "price": [float(n) for n in range(30)]})
    cls = model_class("two-tower")
    model = cls(cls.Config.model_validate({"features": True, "encoder": {"kind": "none"}}))
    data = prepare(log, items=items, roles={"price": "numeric"})
    model.catalogue = Catalogue.from_dataset(data)
    model.network = cls.network_class(30, model.config, ItemFeatures.from_dataset(data)).eval()
    publish_bundle(model, tmp_path, {})
    add_items(tmp_path, pl.DataFrame({"id": ["new"], "price": [3.0]}))
    assert "new" in Bundle.open(tmp_path).recommend([["i00"]], 31)["item"].to_list()


def test_features_that_are_not_there_are_refused():
    cls = model_class("two-tower")
    log = pl.DataFrame([(u, i, i) for u in "abcd" for i in range(6)], schema=["user", "item", "time"], orient="row")
    with pytest.raises(ConfigError, match="features = true, but the items have no"):
        cls(cls.Config.model_validate({"features": True})).fit(prepare(log))


@pytest.mark.parametrize("name", ["sparc", "tessera"])
def test_an_item_that_nobody_took_lies_in_its_interest_and_is_found(name, tmp_path):
    assert settings(name)["features"]
    shutil.copytree(published(name), tmp_path, dirs_exist_ok=True)
    new = [f"new {interest}" for interest in world().interest_names]
    add_items(tmp_path, pl.DataFrame({"id": new, "category": world().interest_names}))
    bundle, interests = Bundle.open(tmp_path), np.arange(len(new))
    catalogue, postings = bundle.searcher.catalogue, bundle.searcher.postings
    planted = dict(zip(world().items["item_id"], world().item_interest.tolist(), strict=True))
    of_item = np.array([planted[item] for item in dataset().items.values])
    # Codes are more than interests, so an interest may have several cells, but a cell has one interest.
    cells = postings.cells_of(np.arange(len(of_item)))
    owner = np.array([np.bincount(of_item[cells == cell]).argmax() for cell in range(postings.cells)])
    placed = postings.cells_of(catalogue.items.encode(new))
    assert np.array_equal(owner[placed], interests)
    histories = [dataset().items.decode(np.flatnonzero(of_item == interest)[::4]).to_list() for interest in interests]
    # An interest has 20 items, 5 of which are the history: with the new one 16 are left.
    found = bundle.recommend(histories, 16)
    brought = found.filter(pl.col("item").is_in(new))
    assert brought["user"].to_list() == interests.tolist()
    assert brought["item"].to_list() == new
