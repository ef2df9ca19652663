"""The factorised softmax against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tesserec.nn import factorised
from tesserec.nn.factorised import Layout, LowRankReader, Moments, cell_softmax, padded_cell_softmax


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    return tuple(torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (37, 50))


def brute_force(users, items, targets, cells):
    inside = cells[targets][:, None] == cells
    return F.cross_entropy((users @ items.T).masked_fill(~inside, -torch.inf), targets)


def scattered():
    cells = torch.randint(7, (50,), generator=torch.Generator().manual_seed(1))
    return cells, 9  # cells 7 and 8 stay empty


def one_cell():
    return torch.full((50,), 3), 5


def an_item_each():
    return torch.randperm(50, generator=torch.Generator().manual_seed(1)), 50


@pytest.mark.parametrize("world", [scattered, one_cell, an_item_each])
@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_the_loss_inside_cells_equals_brute_force_in_value_and_every_gradient(vectors, world, chunk, monkeypatch):
    monkeypatch.setattr(factorised, "CHUNK_LOGITS", chunk)
    cells, n_cells = world()
    targets = torch.randint(50, (37,), generator=torch.Generator().manual_seed(2))
    plain = brute_force(*vectors, targets, cells)
    expected = torch.autograd.grad(3 * plain, vectors)
    for softmax in (cell_softmax, padded_cell_softmax):
        ours = softmax(*vectors, targets, Layout.of(cells, n_cells))
        assert torch.allclose(plain, ours, atol=1e-9)
        found = torch.autograd.grad(3 * ours, vectors)
        for a, b in zip(expected, found, strict=True):
            assert torch.allclose(a, b, atol=1e-9)


def test_a_layout_sorts_items_by_cell_and_counts_them():
    layout = Layout.of(torch.tensor([2, 0, 2, 1, 0]), 4)
    assert layout.order.tolist() == [1, 4, 3, 0, 2]
    assert layout.order[layout.place].tolist() == [0, 1, 2, 3, 4]
    assert layout.offsets.tolist() == [0, 2, 3, 5, 5]
    assert layout.sizes.tolist() == [2, 1, 2, 0]


@pytest.fixture(params=[1, 7, 10**6])
def block(request, monkeypatch):
    monkeypatch.setattr("tesserec.nn.blocks.BLOCK_ITEMS", request.param)


@pytest.mark.usefixtures("block")
def test_moments_are_mean_and_variance_of_the_items_of_a_cell(vectors):
    _, items = vectors
    cells, n_cells = scattered()
    moments = Moments.of(items, cells, n_cells)
    for cell in range(7):
        assert torch.allclose(moments.means[cell], items[cells == cell].mean(0))
        assert torch.allclose(moments.variances[cell], items[cells == cell].var(0, correction=0), atol=1e-12)
        assert moments.log_sizes[cell].exp().item() == pytest.approx((cells == cell).sum())
    assert moments.empty.tolist() == 7 * [False] + 2 * [True]
    assert torch.equal(moments.log_sizes[7:].exp(), torch.zeros(2, dtype=torch.float64))


@pytest.mark.usefixtures("block")
def test_moments_carry_gradients_to_items(vectors):
    users, items = vectors
    cells, n_cells = scattered()
    labels = cells[torch.arange(37)]

    def loss(items):
        return F.cross_entropy(Moments.of(items, cells, n_cells).log_mass(users), labels)

    assert torch.autograd.gradcheck(loss, items, atol=1e-4)


def test_a_cell_has_the_mass_and_the_mean_of_its_parts_and_one_of_empty_parts_none(vectors):
    users, items = vectors
    part_of, _ = scattered()
    moments = Moments.of(items, part_of, 10)  # five cells of two parts; 7, 8 and 9 are empty
    mass, means = moments.log_mass_of_cells(users, 5), moments.means_of_cells(5)
    for cell in range(4):
        assert torch.allclose(mass[:, cell].exp(), moments.log_mass(users)[:, 2 * cell : 2 * cell + 2].exp().sum(1))
        assert torch.allclose(means[cell], items[part_of // 2 == cell].mean(0))
    assert mass[:, 4].max() < -1000
    assert torch.equal(means[4], torch.zeros(6, dtype=torch.float64))
    (slope,) = torch.autograd.grad(F.cross_entropy(mass, part_of[:37] // 2), users)
    assert slope.isfinite().all()


def test_the_second_order_is_exact_for_alike_items_and_near_for_a_large_gaussian_cell():
    torch.manual_seed(0)
    users = torch.randn(20, 8, dtype=torch.float64)
    alike = torch.randn(1, 8, dtype=torch.float64).expand(30, 8)
    cloud = torch.randn(1, 8, dtype=torch.float64) + 0.3 * torch.randn(20_000, 8, dtype=torch.float64)
    for items, tolerance in ((alike, 1e-9), (cloud, 0.1)):
        moments = Moments.of(items, torch.zeros(len(items), dtype=torch.int64), 1)
        exact = (users @ items.T).logsumexp(-1)
        assert (moments.log_mass(users)[:, 0] - exact).abs().max() < tolerance
    first_order = moments.log_sizes + users @ moments.means.T
    assert (first_order[:, 0] - exact).abs().max() > 0.3


def test_a_fresh_reader_changes_nothing_and_a_trained_one_tells_interests_apart():
    torch.manual_seed(0)
    reader, users, means = LowRankReader(8, 3, 0.2).eval(), torch.randn(5, 1, 8), torch.randn(1, 7, 8)
    assert torch.equal(reader(users, means), users.expand(5, 7, 8))
    torch.nn.init.normal_(reader.out.weight)
    changed = reader(users, means) - users
    assert (changed[:, 0] - changed[:, 1]).abs().max() > 0.1
    assert torch.linalg.matrix_rank(changed.reshape(-1, 8)) == 3
