"""Tokenizers and the naming of tuples against brute force."""

import itertools

import pytest
import torch

from tesserec.nn.encoders import EncoderConfig
from tesserec.nn.tokens import (
    TOKENIZERS,
    TokensConfig,
    agreement,
    build_tokenizer,
    nearest_listed,
    tuple_words,
)

ENCODER = EncoderConfig(dim=8, heads=2, dropout=0.0)


def tokenizer(kind, count=3):
    torch.manual_seed(2)
    return build_tokenizer(TokensConfig(kind=kind, count=count, hidden=16, layers=2), ENCODER).eval()


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("count", [1, 3])
def test_tokens_at_a_position_depend_on_its_past_alone(kind, count):
    made = tokenizer(kind, count)
    items, states = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    before = made(items, states)
    assert before.shape == (2, 6, count, 8)
    items[:, 4:] += 1
    states[:, 4:] += 1
    after = made(items, states)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax((-1, -2)).min() > 1e-3


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_of_a_user_differ(kind):
    tokens = tokenizer(kind)(torch.randn(2, 6, 8), torch.randn(2, 6, 8))
    assert (tokens[:, -1, 0] - tokens[:, -1, 1]).abs().max() > 1e-2


def test_pooled_tokens_forget_the_order_of_the_past():
    items = torch.randn(1, 5, 8)
    tokens, turned = (tokenizer("dnn")(one, one)[:, -1] for one in (items, items.flip(1)))
    assert torch.allclose(tokens, turned, atol=1e-5)


def test_tokens_that_lose_the_same_agree_and_tokens_that_lose_what_others_keep_do_not():
    lost = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [-1.0, 0.0]]])
    assert [agreement(one[None]).item() for one in lost] == pytest.approx([1.0, 0.0, -1.0])
    assert agreement(lost).item() == pytest.approx(0.0, abs=1e-6)
    assert agreement(lost[:, :1]).item() == pytest.approx(0.0, abs=1e-6)


def test_numbers_name_tuples_one_to_one():
    codes = torch.tensor(list(itertools.product(range(4), repeat=3)))
    books = torch.randn(3, 4, 2)
    words = torch.cat([books[part][codes[:, part]] for part in range(3)], -1)
    assert torch.equal(tuple_words(torch.arange(64), books), words)


def test_a_tuple_without_a_list_takes_the_nearest_listed_one(monkeypatch):
    monkeypatch.setattr("tesserec.nn.tokens.BLOCK", 5)
    torch.manual_seed(3)
    books, listed = torch.randn(2, 4, 3), torch.tensor([1, 6, 11, 15])
    words = tuple_words(torch.arange(16), books)
    distances = (words[:, None] - words[listed]).square().sum(-1)
    assert torch.equal(nearest_listed(listed, books), distances.argmin(-1))
    assert nearest_listed(listed, books)[listed].tolist() == [0, 1, 2, 3]
    assert nearest_listed(torch.arange(16), books).tolist() == list(range(16))


def test_equal_codewords_still_read_their_own_lists():
    books = torch.zeros(2, 2, 3)
    assert nearest_listed(torch.tensor([0, 3]), books)[[0, 3]].tolist() == [0, 1]


def test_item_tokens_are_the_newest_items_and_a_vector_of_their_own_where_there_are_none():
    made = tokenizer("items")
    items, states = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    tokens = made(items, states)
    assert torch.allclose(tokens[:, 2, 1], items[:, 2] * 8**0.5)
    assert torch.allclose(tokens[:, 2, 2], items[:, 1] * 8**0.5)
    assert torch.equal(tokens[0, 0, 2], made.none[1])
