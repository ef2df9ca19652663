"""The cross scorer against the network it stands for, written out."""

import pytest
import torch
from torch.nn import functional as F

from tesserec.nn import cross
from tesserec.nn.cross import CrossScorer, hidden_scores


def written_out(left, right, weight):
    return F.relu(left[:, None] + right) @ weight


def sides(rows=7, columns=11, hidden=5, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((rows, hidden), (columns, hidden), (hidden,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("units", [1, 80, 200, 10**6])
def test_chunks_of_any_size_score_and_learn_as_the_network_written_out(monkeypatch, units):
    monkeypatch.setattr(cross, "CHUNK_UNITS", units)
    given = sides()
    slope = torch.randn(7, 11, dtype=torch.float64)
    ours = torch.autograd.grad(hidden_scores(*given), given, slope)
    theirs = torch.autograd.grad(written_out(*given), given, slope)
    assert torch.allclose(hidden_scores(*given), written_out(*given))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other)


def test_gradients_agree_with_finite_differences():
    assert torch.autograd.gradcheck(hidden_scores, sides(4, 3, 2))


def scorer(hidden=6, dim=4):
    torch.manual_seed(1)
    made = CrossScorer(dim, hidden, scale=3.0)
    torch.nn.init.normal_(made.weight)
    torch.nn.init.normal_(made.query.weight)
    return made


def test_the_score_is_an_mlp_of_the_pair_plus_a_scaled_cosine():
    made, tokens, items = scorer(), torch.randn(5, 4), torch.randn(9, 4)
    pair = torch.cat([tokens[:, None].expand(-1, 9, -1), items.expand(5, -1, -1)], -1)
    first = torch.cat([made.token.weight, made.item.weight], 1)
    mlp = F.relu(pair @ first.T + made.token.bias) @ made.weight
    query = tokens @ made.query.weight.T
    dots = 3.0 * (query / query.norm(dim=-1, keepdim=True)) @ items.T
    assert torch.allclose(made(tokens, items), mlp + dots, atol=1e-5)


def test_a_token_scores_its_own_item_as_among_all():
    made, tokens, items = scorer(), torch.randn(5, 3, 4), torch.randn(5, 4)
    among = made(tokens.flatten(0, 1), items).view(5, 3, 5)
    assert torch.allclose(made.own(tokens, items[:, None]), among[torch.arange(5), :, torch.arange(5)], atol=1e-5)


def test_a_fresh_scorer_ranks_by_cosine_with_the_token():
    made, tokens, items = CrossScorer(4, 6, 2.0), torch.randn(5, 4), torch.randn(9, 4)
    assert torch.allclose(made(tokens, items), 2.0 * F.normalize(tokens, dim=-1) @ items.T, atol=1e-5)


def test_the_pull_is_nothing_and_moves_tokens_as_the_product_does():
    torch.manual_seed(4)
    scorer, items = CrossScorer(6, 5, scale=3.0), torch.randn(7, 6)
    torch.nn.init.normal_(scorer.query.weight)
    tokens = torch.randn(4, 6, requires_grad=True)
    pulled = scorer.pull(tokens) @ items.T
    assert not pulled.any()
    slopes = torch.randn(4, 7)
    # The hidden layer starts at zero, so the product is all of the score.
    one, other = (torch.autograd.grad((x * slopes).sum(), tokens)[0] for x in (pulled, scorer(tokens, items)))
    assert one.abs().sum() > 0
    assert torch.allclose(one, other, atol=1e-5)
