"""SPARC: what moves what, and what it learns of a planted world."""

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tesserec.errors import ArtefactError, ConfigError, TrainingRefused
from tesserec.evaluation.metrics import recall
from tesserec.models.neural import FitTask
from tesserec.models.sparc import Sparc, SparcConfig, SparcNetwork
from tests.models.worlds import SPARC, dataset, fitted, world

TERMS = ("softmax", "single", "bce", "rq", "shuffle", "user_item", "item_item", "interest")


def network_and_batch(settings=None, **weights):
    """A started SPARC network whose reader listens, and one batch."""
    config = SparcConfig.model_validate(SPARC | (settings or {}) | {"weights": weights})
    model = Sparc(config)
    torch.manual_seed(0)
    model.network = SparcNetwork(len(dataset().items), config, None)
    task = FitTask.__new__(FitTask)
    FitTask.__init__(task, prepared(model), dataset(), 0)
    torch.nn.init.normal_(model.network.reader.mlp[-1].weight, std=0.1)
    model.network.start(0, seed=0)
    return model.network.train(), task, next(task.batches.epoch(0))


def prepared(model):
    from tesserec.index.catalogue import Catalogue

    model.catalogue = Catalogue.from_dataset(dataset())
    return model


def only(name, weight=1.0):
    return {term: 0.0 for term in TERMS} | {name: weight}


def gradients(network, terms):
    network.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("term", ["softmax", "bce", "shuffle", "user_item"])
def test_ranking_alone_moves_the_chosen_codewords(term):
    network, task, batch = network_and_batch(**only(term))
    torch.manual_seed(1)
    moved = gradients(network, task.losses(batch, 1.0))["quantiser.codebooks"]
    assert moved.isfinite().all()
    used = network.quantiser(network.items.all()[torch.from_numpy(batch.targets[batch.targets >= 0])]).codes[:, 0]
    assert (moved[0, used.unique()].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("coupling", ["stop-gradient", "frozen"])
@pytest.mark.parametrize("term", ["softmax", "bce", "shuffle", "user_item", "item_item"])
def test_without_joint_coupling_ranking_moves_no_codeword(term, coupling):
    network, task, batch = network_and_batch({"coupling": coupling}, **only(term))
    torch.manual_seed(1)
    assert "quantiser.codebooks" not in gradients(network, task.losses(batch, 1.0))


@pytest.mark.parametrize(("coupling", "moves"), [("joint", True), ("stop-gradient", True), ("frozen", False)])
def test_their_own_loss_moves_codewords_unless_they_are_frozen(coupling, moves):
    network, task, batch = network_and_batch({"coupling": coupling}, **only("rq"))
    assert ("quantiser.codebooks" in gradients(network, task.losses(batch, 1.0))) == moves


def test_moving_averages_that_no_loss_reaches_are_not_called_joint():
    with pytest.raises(ValidationError, match=r"no loss reaches codewords .* set coupling = 'stop-gradient'"):
        SparcConfig.model_validate({"codebook": {"update": "ema"}})


def test_the_codebook_divides_the_catalogue_not_the_traffic():
    codebook = SPARC["codebook"] | {"update": "ema", "decay": 0.0}
    changes = {"codebook": codebook, "coupling": "stop-gradient"}
    network, task, batch = network_and_batch(changes, **only("rq"))
    taken = batch.targets[batch.targets >= 0].tolist()
    once = torch.tensor(sorted({*taken, *batch.negatives.tolist()}))
    assert len(once) < len(taken) + len(batch.negatives)
    z = network.items.all()[once]
    codes = network.quantiser.assign(z)
    expected = network.quantiser.loss(z, network.quantiser(z))
    torch.testing.assert_close(task.losses(batch, 1.0)["rq"], expected)
    used = torch.stack([torch.bincount(level, minlength=network.codes) for level in codes.T])
    torch.testing.assert_close(network.quantiser.counts, used.float())


def test_terms_of_no_weight_cost_nothing(monkeypatch):
    network, task, batch = network_and_batch(**only("single"))
    for part in ("interest_vectors", "posterior_logits"):
        monkeypatch.setattr(network, part, None)
    assert list(task.losses(batch, 1.0)) == ["single"]


def test_drawn_codes_follow_the_posterior_and_take_the_place_of_the_target():
    network, task, batch = network_and_batch({"query_drawn_share": 1.0}, **only("softmax"))
    read = []
    network.interest_vectors = lambda states, queries, valid: read.append(queries) or network.user(states)[valid]
    with torch.no_grad():
        network.posterior.codes.bias[3] = 50.0
        task.losses(batch, 1.0)
    assert torch.allclose(read[0], network.quantiser.codebooks[0, 3].detach().expand_as(read[0]))


def test_a_codebook_of_another_size_is_refused_with_the_setting_and_both_sizes(tmp_path):
    model = copy.copy(fitted("sparc"))
    model.config = Sparc.Config.model_validate(SPARC | {"codebook": {"levels": 2, "codes": 16}})
    model.save(tmp_path / "model")
    with pytest.raises(ArtefactError, match=r"codebook\.codes\) is \(2, 8\) in codebook.*\(2, 16\) in config\.json"):
        Sparc.load(tmp_path / "model")


def test_the_served_score_is_the_trained_one():
    network, _, batch = network_and_batch()
    network.eval()
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    lengths = (targets >= 0).sum(1)
    last = torch.zeros_like(targets, dtype=torch.bool).scatter(1, lengths[:, None] - 1, True)
    with torch.no_grad():
        z = network.items.all()
        quantised = network.quantiser(z[targets[last]])
        states = network.states(z[inputs])
        trained = network.interest_vectors(states, quantised.codewords[:, 0], last) / network.config.temperature
        posterior, state = network.encode(network.item_vectors()[inputs], lengths)
        served = network.read(quantised.codes[:, :1], lengths, state)[:, 0]
        logits = network.posterior_logits(states)[last]
    assert torch.allclose(served[:, :-1], trained, atol=1e-4)
    assert torch.allclose(posterior, logits.softmax(-1), atol=1e-5)


def test_a_tied_posterior_starts_as_what_the_single_vector_model_believes_of_cells():
    network, _, batch = network_and_batch({"posterior": "tied"})
    near = torch.randn(8, 16)[torch.arange(120) % 7] + 0.05 * torch.randn(120, 16)
    network.items.table.weight.data = near
    network.eval().start(5, 0)
    with torch.no_grad():
        items = network.items.all()
        states = network.states(items[torch.from_numpy(batch.inputs)])
        believed = network.posterior_logits(states).softmax(-1).flatten(0, 1)
        share = torch.softmax(network.user(states).flatten(0, 1) @ items.T / network.config.temperature, -1)
    mass = torch.zeros_like(believed).index_add(1, network.cells(), share)
    assert mass.amax() > 0.3
    assert (believed - mass).abs().max() < 0.02


@pytest.mark.parametrize("term", TERMS)
def test_every_weight_changes_the_gradient_it_names(term):
    named = {
        "interest": "posterior.codes.weight",
        "softmax": "reader.mlp.0.weight",
        "single": "items.table.weight",
        "bce": "reader.mlp.0.weight",
    }
    found = []
    for weight in (1.0, 10.0):
        network, task, batch = network_and_batch(**only(term, weight))
        torch.manual_seed(1)
        terms = task.losses(batch, 1.0)
        assert list(terms) == [term]
        found.append(gradients(network, terms)[named.get(term, "quantiser.codebooks")])
    assert torch.allclose(10 * found[0], found[1], rtol=1e-3, atol=1e-6)
    assert found[0].abs().sum() > 0


def test_the_posterior_is_taught_without_moving_items_through_its_labels():
    network, task, batch = network_and_batch(**only("interest"))
    moved = gradients(network, task.losses(batch, 1.0))
    assert "quantiser.codebooks" not in moved
    assert moved["posterior.codes.weight"].abs().sum() > 0


def test_shuffled_interests_ramp_up_to_their_weight():
    network, _, _ = network_and_batch(shuffle=10.0)
    assert network._weight("shuffle", 0.0) == pytest.approx(1.0)
    assert network._weight("shuffle", 0.6) == network._weight("shuffle", 1.0) == pytest.approx(10.0)
    assert network._weight("rq", 0.0) == 1.0


def test_it_finds_the_planted_interests_and_comes_near_the_optimum():
    model, part = fitted("sparc"), dataset().test
    cells = model.network.cells().numpy()
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    planted = np.array([world().item_interest[row[item]] for item in dataset().items.values])
    warm = dataset().item_counts > 0
    shares = [np.bincount(planted[warm & (cells == cell)]).max() for cell in np.unique(cells[warm])]
    assert sum(shares) / warm.sum() > 0.95
    ours = recall(model.searcher.retrieve(part.histories, 20).items, part.targets, 20).mean()
    assert ours > 0.8 * world().optimal_recall(20)


def test_interests_differ_and_are_likelier_where_the_history_is():
    model = fitted("sparc")
    histories = dataset().test.histories.take(np.arange(100))
    encoded = model.searcher.side.encode(histories)
    assert np.allclose(encoded.posterior.sum(1), 1, atol=1e-5)
    known = np.zeros_like(encoded.posterior, bool)
    cells = model.network.cells().numpy()
    for user, history in enumerate(histories):
        known[user, cells[history]] = True
    assert encoded.posterior[known].mean() > 2 * encoded.posterior[~known].mean()
    vectors = model.searcher.side.read(encoded, np.tile(np.arange(4, dtype=np.int32), (100, 1)))
    assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 0.1


def test_scores_of_different_interests_are_comparable_log_probabilities():
    model = fitted("sparc")
    encoded = model.searcher.side.encode(dataset().test.histories.take(np.arange(50)))
    vectors = model.searcher.side.read(encoded, np.tile(np.arange(8, dtype=np.int32), (50, 1)))
    total = np.log(np.exp(vectors @ model.network.item_vectors().numpy().T).sum(-1))
    assert np.abs(total).max() < 0.5
    plain = np.log(np.exp(vectors[..., :-1] @ model.network.items.all().numpy().T).sum(-1))
    assert np.abs(total).max() < np.ptp(plain)


def test_exploration_is_the_stated_share_and_leaves_the_history():
    model = fitted("sparc")
    cells, ids = model.network.cells().numpy(), dataset().items
    history = dataset().test.histories[0]
    answer = model.recommend([ids.decode(np.asarray(history)).to_list()], k=10, explore=0.3)
    explored = answer.filter("explored")
    assert explored.height == 3
    assert not set(cells[ids.encode(explored["item"].to_list())]) & set(cells[history])


def test_a_codebook_too_large_for_the_catalogue_is_refused():
    config = SparcConfig.model_validate(SPARC | {"codebook": {"codes": 100}})
    with pytest.raises(ConfigError, match=r"codebook\.codes = 100 for 120 items.*at most 60"):
        Sparc(config).fit(dataset())


def test_a_collapsing_codebook_stops_the_run_with_level_and_figure(monkeypatch):
    monkeypatch.setattr("tesserec.nn.quantisers.ResidualQuantiser.restart_dead", lambda self, z, g: [0, 0])
    monkeypatch.setattr("tesserec.nn.codebook.COLLAPSED_SHARE", 0.99)
    with pytest.raises(TrainingRefused, match=r"collapsed in epoch 2: level \d uses \d\.\d of 8 codes"):
        Sparc(SparcConfig.model_validate(SPARC)).fit(dataset())
