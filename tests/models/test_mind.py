"""MIND: random starts that stay, as many interests as a history's length allows, and label-aware attention."""

import numpy as np
import pytest
import torch

from tesserec.models.mind import Mind, MindConfig, interests_used, label_aware
from tesserec.models.multi_interest import nearest_interest
from tests.models.test_comirec import causal, network
from tests.models.worlds import SMALL, dataset


def test_a_history_of_n_events_has_log_n_interests():
    events = torch.tensor([1, 2, 3, 4, 7, 8, 15, 16, 50])
    assert interests_used(events, 4).sum(-1).tolist() == [1, 1, 1, 2, 2, 3, 3, 4, 4]
    assert interests_used(events, 1).sum(-1).tolist() == [1] * 9


def test_interests_out_of_use_have_no_share_and_repeat_the_first():
    model = network("mind")
    share, flat = model.encode(torch.randn(3, 16, 16), torch.tensor([16, 5, 1]))
    assert torch.allclose(share, torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]]))
    interests = flat.view(3, 4, 16)
    assert interests[1, 2].equal(interests[1, 0])
    assert not interests[0, 2].equal(interests[0, 0])


def test_a_short_history_is_routed_as_by_a_model_of_fewer_interests():
    many, few = network("mind"), network("mind", interests=2, adaptive=False)
    few.load_state_dict(many.state_dict() | {"logits": many.logits[:2]})
    states = torch.randn(2, 7, 16)
    assert torch.allclose(many.extract(states, causal(7))[:, 3:, :2], few.extract(states, causal(7))[:, 3:], atol=1e-6)


def test_starts_are_drawn_by_the_seed_and_kept_with_the_weights(tmp_path):
    first, again = network("mind"), network("mind")
    assert first.logits.equal(again.logits)
    assert "logits" in first.state_dict()
    states = torch.randn(2, 7, 16)
    assert first.extract(states, causal(7)).equal(first.extract(states, causal(7)))
    assert 0.7 < first.logits.std() < 1.3
    assert torch.allclose(network("mind", logit_std=3.0).logits, 3 * first.logits)


def test_without_random_starts_all_interests_are_one():
    model = network("mind", adaptive=False)
    model.logits.zero_()
    interests = model.extract(torch.randn(2, 7, 16), causal(7))
    assert torch.allclose(interests, interests[:, :, :1].expand_as(interests), atol=1e-6)


def test_the_layer_after_capsules_is_a_relu_or_none():
    states = torch.randn(2, 7, 16)
    assert (network("mind", relu=True).extract(states, causal(7)) >= 0).all()
    plain = network("mind").extract(states, causal(7))
    assert (plain < 0).any()
    assert (plain.norm(dim=-1) < 1).all()


def test_label_aware_attention_goes_from_the_mean_to_the_hard_read_out():
    users, positives = torch.randn(30, 4, 8), torch.randn(30, 8)
    assert torch.allclose(label_aware(users, positives, 0.0), users.mean(1), atol=1e-6)
    assert torch.allclose(label_aware(users, positives, 1e4), nearest_interest(users, positives), atol=1e-3)
    weights = np.exp(0.5 * np.einsum("nkd,nd->nk", users, positives))
    by_hand = np.einsum("nk,nkd->nd", weights / weights.sum(1, keepdims=True), users)
    assert np.allclose(label_aware(users, positives, 0.5), by_hand, atol=1e-5)


def test_repeated_interests_count_once_in_label_aware_attention():
    users, positives = torch.randn(30, 2, 8), torch.randn(30, 8)
    repeated = torch.cat([users, users[:, :1]], 1)
    assert torch.allclose(label_aware(repeated, positives, 0.7), label_aware(users, positives, 0.7), atol=1e-6)


@pytest.mark.parametrize("settings", [{"readout": "attention"}, {"relu": True, "adaptive": False}])
def test_every_setting_trains(settings):
    short = SMALL | {"temperature": 0.2, "training": SMALL["training"] | {"epochs": 4}}
    model = Mind(MindConfig.model_validate(short | settings)).fit(dataset(), seed=1)
    found = model.searcher.retrieve(dataset().test.histories, 5)
    if model.config.adaptive:
        lengths = np.minimum(dataset().test.histories.lengths, 20)
        allowed = interests_used(torch.from_numpy(lengths), 4).sum(-1).numpy()
        assert (found.interests < allowed[:, None]).all()
