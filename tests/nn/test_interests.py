"""Posterior and reader."""

import torch

from tesserec.nn.encoders import EncoderConfig, causal_mask
from tesserec.nn.interests import Posterior, Reader

CONFIG = EncoderConfig(dim=16, max_length=10)


def test_a_fresh_reader_answers_with_the_state():
    reader = Reader(CONFIG).eval()
    states = torch.randn(2, 7, 16)
    assert torch.equal(reader(states, states, torch.randn(2, 7, 16), causal_mask(7, states.device)), states)


def test_a_trained_reader_listens_to_its_query_and_to_its_past_only():
    torch.manual_seed(0)
    reader = Reader(CONFIG).eval()
    torch.nn.init.normal_(reader.mlp[-1].weight)
    states, query = torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    mask = causal_mask(7, states.device)
    before = reader(states, states, query, mask)
    assert not torch.allclose(before, reader(states, states, query.roll(1, 0), mask), atol=1e-3)
    later = states.clone()
    later[:, 4:] += 1
    assert torch.allclose(before[:, :4], reader(later, later, query, mask)[:, :4], atol=1e-5)


def test_the_posterior_is_causal():
    torch.manual_seed(0)
    posterior = Posterior(CONFIG, codes=5).eval()
    states = torch.randn(2, 7, 16)
    later = states.clone()
    later[:, 4:] += 1
    assert torch.allclose(posterior(states)[:, :4], posterior(later)[:, :4], atol=1e-5)
    assert posterior(states).shape == (2, 7, 5)
