"""tessera: one likelihood for training and serving, cells that keep their identity, and what it is worth."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tesserec.errors import ConfigError
from tesserec.evaluation.metrics import recall
from tesserec.models.network import TensorBatch
from tesserec.models.neural import FitTask
from tesserec.models.tessera import Tessera, TesseraConfig, TesseraNetwork
from tesserec.nn.factorised import Moments
from tests.models.worlds import dataset, fitted, settings, world

OWN = settings("tessera") | {"reader_rank": 4}
EXACT = {"reader_rank": 0, "normaliser": "exact"}


def network_with_cells(**changes):
    """A network whose corrections and reader are off zero, with cells and moments as an epoch leaves them."""
    torch.manual_seed(0)
    config = TesseraConfig.model_validate(OWN | changes)
    network = TesseraNetwork(len(dataset().items), config, None)
    reader = network.reader.out.parameters() if network.reader else ()
    for parameter in (network.tilt.weight, network.lift, *reader):
        torch.nn.init.normal_(parameter, std=0.3)
    network.start(0, seed=0)
    return network.eval()


def batches_of(network):
    """Those of an epoch."""
    model = Tessera(network.config)
    model.network = network
    task = FitTask(model, dataset(), seed=0)
    return (TensorBatch(batch, task.log_q) for batch in task.batches.epoch(0))


def some_batch(network):
    return next(batches_of(network))


@torch.no_grad()
def served(model_network, histories):
    """``log p(item | user)`` of all items as the served parts give it, by brute force, ``(users, items)``."""
    network = model_network
    vectors, cells = network.item_vectors(), network.cells()
    lengths = torch.tensor([len(h) for h in histories])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(h) for h in histories], batch_first=True)
    posterior, *state = network.encode(vectors[padded], lengths)
    users = network.read(torch.arange(network.codes).expand(len(histories), -1), lengths, *state)
    answer = torch.empty(len(histories), len(vectors))
    for cell in range(network.codes):
        inside = cells == cell
        within = users[:, cell] @ vectors[inside].T
        within = within if network.exact else F.log_softmax(within, -1)
        answer[:, inside] = posterior[:, cell, None].log() + within
    return answer


def test_the_served_probability_is_the_trained_one_and_sums_to_one():
    network = network_with_cells(spread=0.0)
    batch = some_batch(network)
    with torch.no_grad():
        trained = sum(network.losses(batch, 0.0).values())
    rows, columns = torch.nonzero(batch.valid, as_tuple=True)
    histories = [batch.inputs[r, : c + 1].tolist() for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]
    probabilities = served(network, histories)
    assert torch.allclose(probabilities.exp().sum(1), torch.ones(len(histories)), atol=1e-4)
    wanted = probabilities.gather(1, batch.wanted[:, None])
    assert -wanted.mean().item() == pytest.approx(trained.item(), abs=1e-4)


@pytest.mark.parametrize("trust", [0.0, 0.4, 2.0])
@torch.no_grad()
def test_beside_the_full_softmax_an_item_has_its_score_there_and_trust_times_the_correction_of_its_cell(trust):
    network = network_with_cells(**EXACT, trust=trust)
    network.heat.fill_(1.7)
    history, items = torch.tensor([[3, 5, 8, 13]]), network.items.all()
    users = network.user(network.states(items[history])[:, -1]) / network.config.temperature
    moments = network.moments(items)
    correction = network.cell_logits(users, moments) - moments.log_mass_of_cells(users, network.codes)
    assert correction.std() > 0.1
    wanted = (users @ items.T + trust * correction[:, network.cells()]) / 1.7
    found = served(network, history.tolist())
    assert torch.allclose(found - found.mean(), wanted - wanted.mean(), atol=1e-4)


@pytest.mark.parametrize("heat", [1.0, 1.7])
@torch.no_grad()
def test_beside_the_full_softmax_probabilities_sum_to_one_at_any_temperature(heat):
    network = network_with_cells(**EXACT, codes=4, parts=30, balance=1.0)  # parts of one item, whose moments are exact
    assert network.variances.abs().max() < 1e-6
    network.heat.fill_(heat)
    probabilities = served(network, [[3, 5, 8, 13], [2], [7, 1]]).exp()
    assert torch.allclose(probabilities.sum(1), torch.ones(3), atol=1e-4)


@torch.no_grad()
def test_a_new_item_goes_to_the_nearest_cell_that_has_items_and_its_nearest_part():
    network = network_with_cells()
    new, parts = torch.tensor([0]), network.config.parts
    left, other = int(network.cells()[0]), (int(network.cells()[0]) + 1) % network.codes
    network.part_of[network.cells() == left] = other * parts  # a cell and some parts hold nothing now
    network._measure(network.items.all())
    middles = Moments.of(network.items.all(), network.cells(), network.codes).means
    nearest = int(network.cells()[1])
    for row, wanted in ((torch.zeros(middles.shape[1]), None), (middles[nearest].clone(), nearest)):
        network.items.table.weight[0] = row
        empty = network._kept_moments.empty
        away = torch.cdist(network.items.all()[:1], network.means)[0].masked_fill(empty, torch.inf)
        network.welcome(new)
        assert network.part_of[0] == parts * network.cells()[0] + away.view(-1, parts)[network.cells()[0]].argmin()
        assert (network.part_of == network.part_of[0]).sum() > 1
        assert network.cells()[0] == network.place(network.items.all()[:1])[0] != left
        assert wanted is None or network.cells()[0] == wanted


@pytest.mark.parametrize(("name", "exact"), [("tessera", True), ("tessera, moments", False)])
def test_the_search_answers_with_these_probabilities_best_first(name, exact):
    model = fitted(name)
    assert model.network.exact == exact
    histories = [np.asarray(h).tolist() for h in dataset().test.histories.take(np.arange(20))]
    found = model.searcher.retrieve(dataset().test.histories.take(np.arange(20)), 10, exclude_seen=False)
    best = served(model.network, [h[-20:] for h in histories]).topk(10)
    assert np.allclose(found.scores, best.values.numpy(), atol=1e-4)
    assert np.mean(found.items == best.indices.numpy()) > 0.98  # ties aside


def test_before_the_cells_start_the_model_is_the_full_softmax():
    torch.manual_seed(0)
    network = TesseraNetwork(len(dataset().items), TesseraConfig.model_validate(OWN), None).eval()
    batch = some_batch(network)
    with torch.no_grad():
        (loss,) = network.losses(batch, 0.0).values()
        states = network.states(network.items.all()[batch.inputs])[batch.valid]
        users = network.user(states) / network.config.temperature
        full = F.cross_entropy(users @ network.items.all().T, batch.wanted)
        posterior, *_ = network.encode(network.item_vectors()[batch.inputs], batch.valid.sum(1))
    assert loss.item() == pytest.approx(full.item(), abs=1e-3)
    assert torch.equal(posterior[:, 0], torch.ones(len(posterior)))


def test_a_fresh_posterior_is_the_mass_that_the_single_vector_softmax_gives_cells():
    network = network_with_cells()
    for parameter in (network.tilt.weight, network.lift):
        torch.nn.init.zeros_(parameter)
    items, cells = network.item_vectors(), network.cells()
    histories = items[:12].view(3, 4, -1)
    with torch.no_grad():
        posterior, users = network.encode(histories, torch.tensor([4, 2, 3]))
        exact = torch.zeros_like(posterior).index_add(1, cells, torch.softmax(users @ items.T, -1))
    blind = torch.bincount(cells, minlength=network.codes) / len(cells)
    assert (posterior - exact).abs().mean() < 0.5 * (blind - exact).abs().mean()


def test_posterior_and_items_learn_from_both_factors():
    network = network_with_cells().train()
    terms = network.losses(some_batch(network), 0.0)
    assert set(terms) == {"cell", "item", "spread"}
    tables = {n: torch.autograd.grad(t, network.items.table.weight, retain_graph=True)[0] for n, t in terms.items()}
    assert all((slope.abs().sum(1) > 0).float().mean() > 0.9 for slope in tables.values())
    (tilt,) = torch.autograd.grad(terms["cell"], network.tilt.weight)
    assert tilt.abs().sum() > 0


def test_the_pull_to_the_middle_of_parts_is_the_same_in_an_epoch_of_any_length():
    network = network_with_cells(spread=2.0)
    batch, items = some_batch(network), network.items.all()
    middles = torch.stack([items[network.part_of == part].mean(0) for part in network.part_of])
    away = float((items - middles).square().sum())
    assert away > 1
    positions = sum(int((batch.targets >= 0).sum()) for batch in batches_of(network))
    assert network.losses(batch, 0.0)["spread"].item() * positions == pytest.approx(2.0 * away, rel=1e-4)


def test_with_the_exact_normaliser_items_learn_from_the_full_softmax_alone_and_the_posterior_beside_it():
    network = network_with_cells(**EXACT, spread=0.0).train()
    batch = some_batch(network)
    network.eval()
    terms = network.losses(batch, 0.0)
    users = network.user(network.states(network.items.all()[batch.inputs])[batch.valid]) / network.config.temperature
    full = F.cross_entropy(users @ network.items.all().T, batch.wanted)
    assert terms["item"].item() == pytest.approx(full.item(), abs=1e-3)
    reached = {n for n, p in network.named_parameters() if slope(terms["cell"], p) > 0}
    assert reached == {"tilt.weight", "lift"}


def test_with_the_exact_normaliser_the_posterior_learns_from_positions_evenly_among_those_of_a_step(monkeypatch):
    network = network_with_cells(**EXACT).eval()
    batch = some_batch(network)
    monkeypatch.setattr("tesserec.models.tessera.HEAD_POSITIONS", len(batch.wanted) // 3)
    users = network.user(network.states(network.items.all()[batch.inputs])[batch.valid]) / network.config.temperature
    logits = network.cell_logits(users[::3], network.moments(network.items.all()))
    wanted = F.cross_entropy(logits, network.cells()[batch.wanted[::3]])
    assert network.losses(batch, 0.0)["cell"].item() == pytest.approx(wanted.item(), abs=1e-5)


def slope(term, parameter):
    """Size of a term's gradient; 0 where it does not reach."""
    (gradient,) = torch.autograd.grad(term, parameter, retain_graph=True, allow_unused=True)
    return 0.0 if gradient is None else gradient.abs().sum().item()


def test_the_normaliser_follows_the_catalogue_unless_it_is_chosen(monkeypatch):
    def exact(**changes):
        return TesseraNetwork(120, TesseraConfig.model_validate(OWN | {"reader_rank": 0} | changes), None).exact

    assert exact()
    assert not exact(normaliser="moments")
    assert not exact(reader_rank=4)
    monkeypatch.setattr("tesserec.models.tessera.EXACT_ITEMS", 119)
    assert not exact()
    assert exact(normaliser="exact")


def test_a_reader_under_the_exact_normaliser_is_refused():
    with pytest.raises(ValueError, match=r"normaliser = 'exact' with reader_rank = 4"):
        TesseraConfig.model_validate(OWN | {"normaliser": "exact"})


def test_cells_keep_within_their_cap_and_their_identity_between_epochs():
    network = network_with_cells(balance=1.2)
    first = network.cells().clone()
    with torch.no_grad():
        network.items.table.weight += 0.06 * torch.randn_like(network.items.table.weight)
    figures = network.end_epoch(OWN["warmup_epochs"], seed=0)
    assert torch.bincount(network.cells(), minlength=8).max() <= 1.2 * 120 / 8
    assert 0 < figures["codebook/churn"] < 0.25
    assert figures["codebook/churn"] == pytest.approx((network.cells() != first).float().mean().item())
    assert figures["codebook/version"] == 2


def test_cells_rest_once_they_have_settled():
    network = network_with_cells(settle_epochs=0)
    with torch.no_grad():
        network.items.table.weight.normal_()
    before = network.cells().clone()
    assert "codebook/churn" not in network.end_epoch(OWN["warmup_epochs"], seed=0)
    assert torch.equal(network.cells(), before)


def test_more_cells_than_items_are_refused_with_the_setting():
    with pytest.raises(ConfigError, match=r"codes = 41 of parts = 3 make 123 parts .* only 120 items"):
        Tessera(TesseraConfig.model_validate(OWN | {"codes": 41})).fit(dataset())


def test_a_warm_up_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"warmup_epochs = 4 leaves none of training\.epochs = 4"):
        TesseraConfig.model_validate(OWN | {"warmup_epochs": 4})


def test_a_cell_for_every_item_is_a_softmax_over_means():
    network = network_with_cells(codes=120, parts=1, balance=1.0)
    assert torch.equal(network.cells().sort().values, torch.arange(120))
    terms = network.losses(some_batch(network), 0.0)
    assert terms["item"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["spread"].item() == pytest.approx(0.0, abs=1e-5)
    assert network.variances.abs().max() < 1e-6


@pytest.mark.parametrize("changes", [{}, EXACT])
@torch.no_grad()
def test_one_temperature_flattens_both_factors_alike(changes):
    network = network_with_cells(**changes)
    history = network.item_vectors()[:4][None]
    cold, *state = network.encode(history, torch.tensor([4]))
    read = network.read(torch.tensor([[2, 5]]), torch.tensor([4]), *state)
    network.heat.fill_(2.0)
    warm, *state = network.encode(history, torch.tensor([4]))
    assert torch.allclose(torch.softmax(cold.log() / 2, -1), warm, atol=1e-6)
    differences = network.read(torch.tensor([[2, 5]]), torch.tensor([4]), *state) - read / 2
    assert torch.allclose(differences - differences[:, :1], torch.zeros(1), atol=1e-6)  # what sums to one is the user's


def test_calibration_raises_the_likelihood_of_held_out_cells():
    model, part = fitted("tessera"), dataset().valid
    network = copy.deepcopy(model.network)
    cells = network.cells()[torch.tensor([int(targets[0]) for targets in part.targets])]
    lengths = torch.from_numpy(part.histories.last(20).lengths)
    vectors = network.item_vectors()[torch.from_numpy(part.histories.last(20).padded(0)).long()]
    losses = {}
    with torch.no_grad():
        for heat in (1.0, network.heat.item(), 3.0):
            network.heat.fill_(heat)
            losses[heat] = F.nll_loss(network.encode(vectors, lengths)[0].log(), cells).item()
    assert losses[model.network.heat.item()] == min(losses.values())


def test_it_finds_the_planted_interests_and_comes_near_the_optimum():
    model, part = fitted("tessera"), dataset().test
    cells = model.network.cells().numpy()
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    planted = np.array([world().item_interest[row[item]] for item in dataset().items.values])
    warm = dataset().item_counts > 0
    shares = [np.bincount(planted[warm & (cells == cell)]).max() for cell in np.unique(cells[warm])]
    assert sum(shares) / warm.sum() > 0.9
    ours = recall(model.searcher.retrieve(part.histories, 20).items, part.targets, 20).mean()
    assert ours > 0.8 * world().optimal_recall(20)
