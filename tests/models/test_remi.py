"""REMI: what its two terms change, and that without them it is ComiRec-SA."""

import numpy as np
import torch

from tesserec.data.batches import NegativeSampler, SequenceBatches
from tesserec.models import model_class
from tesserec.models.network import TensorBatch
from tests.models.worlds import SMALL, dataset, fitted


def losses(name, **settings):
    """A fresh network's loss terms and their gradients."""
    torch.manual_seed(0)
    cls = model_class(name)
    network = cls.network_class(120, cls.Config.model_validate(SMALL | settings), None)
    sampler = NegativeSampler(dataset().item_counts, 0.5)
    batches = SequenceBatches(dataset().train, 20, 128, sampler=sampler, negatives=64)
    terms = network.losses(TensorBatch(next(batches.epoch(0)), torch.from_numpy(sampler.log_q)), 0.0)
    sum(terms.values()).backward()
    return terms, {name: p.grad for name, p in network.named_parameters()}


def test_without_its_two_terms_it_is_comirec_exactly():
    ours, our_slopes = losses("remi", hardness=0.0, spread_weight=0.0)
    theirs, their_slopes = losses("comirec-sa")
    assert list(ours) == ["softmax"]
    assert ours["softmax"].equal(theirs["softmax"])
    assert all(our_slopes[name].equal(their_slopes[name]) for name in their_slopes)


def test_hard_negatives_change_the_softmax_and_nothing_else():
    plain, _ = losses("remi", hardness=0.0)
    hard, _ = losses("remi", hardness=0.5)
    assert hard["softmax"] > plain["softmax"]
    assert hard["spread"].equal(plain["spread"])


def test_the_spread_moves_attention_and_goes_by_its_weight():
    light, _ = losses("remi", spread_weight=1.0)
    heavy, slopes = losses("remi", spread_weight=10.0)
    assert torch.allclose(10 * light["spread"], heavy["spread"])
    assert heavy["spread"] > 0
    _, without = losses("remi", spread_weight=0.0)
    assert not slopes["attention.out.weight"].equal(without["attention.out.weight"])
    assert slopes["items.table.weight"].isfinite().all()


def test_its_attention_stays_more_even_than_comirecs():
    part = dataset().test
    spread = {}
    for name in ("comirec-sa", "remi"):
        network = fitted(name).network
        items = torch.from_numpy(part.histories.last(10).padded(0))
        whole = torch.ones(1, 1, items.shape[1], dtype=torch.bool)
        with torch.no_grad():
            weights = network.attention(network.states(network.item_vectors()[items]), whole)
        spread[name] = float(np.var(weights.numpy(), axis=-1).mean())
    assert spread["remi"] < spread["comirec-sa"]
