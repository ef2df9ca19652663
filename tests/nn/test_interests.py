"""Posterior and reader."""

import torch

from tesserec.nn.encoders import EncoderConfig, causal_mask
from tesserec.nn.interests import Posterior, Reader, cell_logits

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


def listening_reader():
    torch.manual_seed(0)
    reader = Reader(CONFIG).eval()
    torch.nn.init.normal_(reader.mlp[-1].weight)
    return reader


def test_reading_along_a_history_is_reading_after_each_of_its_prefixes():
    reader, states = listening_reader(), torch.randn(2, 5, 16)
    lengths = torch.tensor([5, 3])
    valid = torch.arange(5) < lengths[:, None]
    queries = torch.randn(int(valid.sum()), 16)
    along = reader.along(states, queries, valid)
    for number, (row, place) in enumerate(valid.nonzero().tolist()):
        # What follows the prefix, or pads it, must not matter.
        rest = torch.cat([states[row, : place + 1], torch.randn(3, 16)])[None]
        after = reader.after(rest, states[row, place][None], queries[number][None, None], torch.tensor([place + 1]))
        assert torch.allclose(along[number], after[0, 0], atol=1e-5)


def test_cells_whose_items_coincide_get_exactly_the_mass_of_their_items():
    torch.manual_seed(0)
    centres, sizes, users = torch.randn(4, 16), torch.tensor([3, 1, 5, 2]), torch.randn(6, 16)
    items, cells = centres.repeat_interleave(sizes, 0), torch.arange(4).repeat_interleave(sizes)
    mass = torch.zeros(6, 4).index_add_(1, cells, (users @ items.T).exp())
    logits = cell_logits(users, centres, sizes.log())
    assert torch.allclose(logits.exp(), mass, rtol=1e-4)
    assert torch.allclose(logits.logsumexp(-1), (users @ items.T).logsumexp(-1), atol=1e-5)
