"""ComiRec: what its interests are made of, that they differ, and that one interest is a single vector."""

import numpy as np
import pytest
import torch

from tesserec.evaluation.metrics import recall
from tesserec.index.bundle import Bundle
from tesserec.models import model_class
from tesserec.models.multi_interest import nearest_interest
from tesserec.models.publish import publish_bundle
from tesserec.nn.routing import squash
from tests.models.exports import PLAIN
from tests.models.worlds import SMALL, dataset, fitted

SETTINGS = [
    ("comirec-sa", {}),
    ("comirec-dr", {}),
    ("comirec-dr", {"maps": "position"}),
    ("mind", {"adaptive": False}),
    ("mind", {"relu": True}),
    ("remi", {}),
]


def network(name, **settings):
    """An untrained network of that name over 50 items."""
    torch.manual_seed(0)
    cls = model_class(name)
    return cls.network_class(50, cls.Config.model_validate(SMALL | settings), None).eval()


def causal(length):
    return torch.ones(1, length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_every_prefix_gets_the_interests_of_the_row_cut_there(name, settings):
    model, states = network(name, **settings), torch.randn(3, 9, 16)
    every = model.extract(states, causal(9))
    assert every.shape == (3, 9, 4, 16)
    for length in range(1, 10):
        cut = model.extract(states[:, :length], torch.ones(1, 1, length, dtype=torch.bool))
        assert torch.allclose(every[:, length - 1], cut[:, 0], atol=1e-5)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_padding_changes_no_interest(name, settings):
    model, vectors = network(name, **settings), torch.randn(2, 5, 16)
    padded = torch.cat([vectors, torch.randn(2, 4, 16)], 1)
    alone, among = (model.encode(given, torch.tensor([5, 3])) for given in (vectors, padded))
    for a, b in zip(alone, among, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("encoder", ["transformer", "mean", "none"])
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_one_interest_is_one_vector_of_at_most_unit_length(name, settings, encoder):
    model = network(name, interests=1, encoder=SMALL["encoder"] | {"kind": encoder}, **settings)
    share, interests = model.encode(torch.randn(2, 5, 16), torch.tensor([5, 3]))
    assert share.tolist() == [[1.0], [1.0]]
    vectors = model.read(torch.zeros(2, 1, dtype=torch.int64), torch.tensor([5, 3]), interests)
    lengths = vectors.norm(dim=-1) * model.config.temperature
    assert torch.allclose(lengths, torch.ones(2, 1), atol=1e-5) or (name == "comirec-dr" and (lengths < 1).all())


@pytest.mark.parametrize("name", ["comirec-sa", "comirec-dr", "mind", "remi"])
def test_interests_of_a_trained_model_differ_and_each_brings_items(name):
    model, part = fitted(name), dataset().test
    encoded = model.searcher.side.encode(part.histories)
    slots = np.tile(np.arange(4, dtype=np.int32), (len(part.histories), 1))
    vectors = model.searcher.side.read(encoded, slots)
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    assert np.abs(units[:, 0] - units[:, 1]).max() > 0.1
    brought = model.searcher.retrieve(part.histories, 20).interests
    assert (np.bincount(brought.ravel(), minlength=4) > 0).sum() >= 2


@pytest.mark.parametrize("name", ["comirec-sa", "comirec-dr", "mind", "remi"])
def test_one_interest_trains_and_answers(name):
    cls = model_class(name)
    short = SMALL | {"temperature": 0.2, "interests": 1, "training": SMALL["training"] | {"epochs": 3}}
    model = cls(cls.Config.model_validate(short)).fit(dataset(), seed=1)
    part = dataset().test
    found = model.searcher.retrieve(part.histories, 20)
    assert (found.interests == -1).all()
    assert recall(found.items, part.targets, 20).mean() > 0.2


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "settings"),
    [("comirec-dr", {"maps": "position"}), ("mind", {"relu": True})],
)
def test_a_bundle_of_other_settings_answers_as_the_model_does(name, settings, tmp_path):
    cls = model_class(name)
    short = SMALL | {"temperature": 0.2, "encoder": PLAIN, "training": SMALL["training"] | {"epochs": 2}}
    model = cls(cls.Config.model_validate(short | settings))
    model.fit(dataset(), seed=1)
    publish_bundle(model, tmp_path, {"fingerprint": dataset().fingerprint})
    histories = dataset().test.histories.take(np.arange(40))
    ours, theirs = (m.searcher.retrieve(histories, 10) for m in (model, Bundle.open(tmp_path)))
    assert np.allclose(ours.scores, theirs.scores, atol=1e-3)
    assert (ours.items == theirs.items).mean() > 0.99
    assert (ours.interests == theirs.interests).mean() > 0.99


def test_attention_sums_what_the_encoder_says():
    model, states = network("comirec-sa"), torch.randn(1, 6, 16)
    logits = torch.tanh(states[0] @ model.attention.hidden.weight.T) @ model.attention.out.weight.T
    found = model.extract(states, torch.ones(1, 1, 6, dtype=torch.bool))[0, 0]
    assert torch.allclose(found, logits.softmax(0).T @ states[0], atol=1e-5)


def test_the_paper_form_reads_items_and_positions():
    model, vectors = network("comirec-sa", encoder=SMALL["encoder"] | {"kind": "none"}), torch.randn(2, 5, 16)
    assert torch.allclose(model.states(vectors), 4 * vectors + model.encoder.position[:5], atol=1e-6)


def test_votes_are_mapped_by_position_and_interest():
    model, states = network("comirec-dr", iterations=1, maps="position"), torch.randn(1, 3, 16)
    maps = model.maps.view(20, 16, 4, 16)
    votes = torch.stack([states[0, place] @ maps[place, :, 2] for place in range(3)])
    found = model.extract(states, torch.ones(1, 1, 3, dtype=torch.bool))[0, 0, 2]
    assert torch.allclose(found, squash(votes.sum(0) / 4), atol=1e-5)
    assert network("comirec-dr").maps.numel() * 20 == model.maps.numel()


def test_the_interest_nearest_to_the_target_is_read_out():
    users, positives = torch.randn(30, 4, 8), torch.randn(30, 8)
    best = (users * positives[:, None]).sum(-1).argmax(-1)
    assert nearest_interest(users, positives).equal(users[torch.arange(30), best])


def test_more_diversity_takes_items_of_more_interests():
    model, part = fitted("comirec-sa"), dataset().test
    history = dataset().items.decode(np.asarray(part.histories[0])).to_list()
    plain, mixed = (model.recommend([history], k=8, diversity=d) for d in (0.0, 1000.0))
    assert plain.equals(model.recommend([history], k=8))
    largest = [listed["interest"].value_counts()["count"].max() for listed in (plain, mixed)]
    assert largest[1] < largest[0]
    assert mixed["interest"].n_unique() >= plain["interest"].n_unique()
