"""MRIF: windows of a history, their aggregates, and what a user wants at each."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tesserec.models.mrif import MrifConfig, MrifNetwork, newest, window_maxima, windows
from tests.models.exports import PLAIN, assert_exported
from tests.models.worlds import SMALL, dataset, fitted

SETTINGS = [
    {"aggregator": aggregator, "fusion": fusion}
    for aggregator in ("mean", "max", "attention")
    for fusion in ("slots", "attention")
]


def network(**settings):
    torch.manual_seed(0)
    return MrifNetwork(50, MrifConfig.model_validate(SMALL | settings), None).eval()


def causal(length):
    return torch.ones(1, length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_prefix_gets_the_interests_of_the_row_cut_there(settings):
    model, states = network(**settings), torch.randn(3, 9, 16)
    every = model.extract(states, causal(9))
    for length in (1, 2, 5, 9):
        cut = model.extract(states[:, :length], torch.ones(1, 1, length, dtype=torch.bool))
        assert torch.allclose(every[:, length - 1], cut[:, 0], atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_padding_changes_no_interest(settings):
    model, vectors = network(**settings), torch.randn(2, 5, 16)
    padded = torch.cat([vectors, torch.randn(2, 4, 16)], 1)
    _, alone = model.encode(vectors, torch.tensor([5, 3]))
    _, among = model.encode(padded, torch.tensor([5, 3]))
    assert torch.allclose(alone, among, atol=1e-5)


def test_aggregates_are_those_of_the_newest_events():
    states = torch.randn(2, 7, 16)
    mean = network(aggregator="mean").extract(states, causal(7))
    greatest = network(aggregator="max").extract(states, causal(7))
    for last in range(7):
        for scale, size in enumerate((1, 2, 4, 8)):
            window = states[:, max(0, last + 1 - size) : last + 1]
            assert torch.allclose(mean[:, last, scale], window.mean(1), atol=1e-5)
            assert torch.equal(greatest[:, last, scale], window.amax(1))


def test_attention_weighs_the_events_of_its_window_by_the_newest():
    model, states = network(aggregator="attention"), torch.randn(1, 6, 16)
    window = states[0, 2:]
    weights = (window @ model.aggregate_query(states[0, 5]) / 4).softmax(0)
    found = model.extract(states, torch.ones(1, 1, 6, dtype=torch.bool))[0, 0, 2]
    assert torch.allclose(found, weights @ window, atol=1e-5)


def test_the_first_resolution_is_the_last_event_alone_and_one_resolution_is_a_single_vector():
    states = torch.randn(2, 7, 16)
    for aggregator in ("mean", "max", "attention"):
        single = network(aggregator=aggregator, interests=1).extract(states, causal(7))
        assert torch.allclose(single, states[:, :, None], atol=1e-6)


def test_fusion_lies_among_the_resolutions_and_is_one_vector():
    slots, fused = network(), network(fusion="attention")
    states = torch.randn(2, 7, 16)
    resolutions, one = slots.extract(states, causal(7)), fused.extract(states, causal(7))
    assert fused.codes == 1
    assert one.shape == (2, 7, 1, 16)
    assert (one <= resolutions.amax(2, keepdim=True) + 1e-5).all()
    assert (one >= resolutions.amin(2, keepdim=True) - 1e-5).all()


@pytest.mark.deep
@pytest.mark.parametrize("settings", [SETTINGS[3], SETTINGS[4]])
def test_every_way_to_aggregate_is_exported(settings, tmp_path):
    assert_exported(network(encoder=PLAIN, **settings), tmp_path)


def test_windows_hold_the_newest_and_no_padding():
    prefixes = torch.tensor([[[True, True, True, False]]])
    assert windows(prefixes, (1, 2, 8)).int().tolist() == [[[[0, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]]]]
    values = torch.tensor([[[3.0], [1.0], [2.0], [9.0]]])
    assert newest(values, prefixes).item() == 2.0
    assert [found.flatten().tolist() for found in window_maxima(values, (1, 3))] == [[3, 1, 2, 9], [3, 3, 3, 9]]


def test_windows_that_would_be_equal_are_refused():
    assert MrifConfig(interests=7).sizes == (1, 2, 4, 8, 16, 32, 50)
    with pytest.raises(ValidationError, match=r"interests = 8 windows.*max_length = 50 more than once"):
        MrifConfig(interests=8)


def test_short_and_long_resolutions_bring_different_items():
    model = fitted("mrif")
    part = dataset().test
    encoded = model.searcher.side.encode(part.histories)
    slots = np.tile(np.arange(4, dtype=np.int32), (len(part.histories), 1))
    vectors = model.searcher.side.read(encoded, slots)
    best = (vectors @ model.network.item_vectors().numpy().T).argmax(-1)
    assert (best[:, 0] != best[:, 3]).mean() > 0.2
