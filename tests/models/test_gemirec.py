"""GemiRec: what moves what, which version of the dictionary speaks, and what it learns of a planted world."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tesserec.errors import ConfigError
from tesserec.evaluation.calibration import calibration
from tesserec.index.catalogue import Catalogue
from tesserec.models.gemirec import GemiRec, GemiRecConfig, GemiRecNetwork
from tesserec.models.neural import FitTask
from tesserec.nn.generative import number_of, tuple_of
from tests.models.test_planted import mutual_information
from tests.models.worlds import GEMIREC, dataset, fitted, world

TERMS = ("retrieval", "single", "posterior", "dictionary", "shuffle")


def network_and_batch(weights=(("single", 1.0),), **settings):
    """A network with a dictionary, a reader and a posterior that listen, and one batch."""
    given = GEMIREC | {"shared": True, "weights": dict.fromkeys(TERMS, 0.0) | dict(weights)} | settings
    model = GemiRec(GemiRecConfig.model_validate(given))
    model.catalogue = Catalogue.from_dataset(dataset())
    torch.manual_seed(0)
    model.network = GemiRecNetwork(len(dataset().items), model.config, None)
    for layer in (model.network.reader.mlp[-1], *model.network.posterior.heads):
        torch.nn.init.normal_(layer.weight, std=0.1)
    model.network.start(0, seed=0)
    task = FitTask(model, dataset(), 0)
    return model.network.train(), task, next(task.batches.epoch(0))


def gradients(network, terms):
    network.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


GRADIENT = {"codebook": {"levels": 2, "codes": 6, "update": "gradient"}}


def test_the_dictionary_moves_nothing_but_itself():
    network, task, batch = network_and_batch({"dictionary": 1.0}, **GRADIENT)
    moved = gradients(network, task.losses(batch, 0.5))
    assert all(name.startswith("dictionary.") for name in moved)
    assert {"dictionary.quantiser.codebooks", "dictionary.encoder.mlp.2.weight"} <= set(moved)


@pytest.mark.parametrize("term", ["retrieval", "single", "posterior", "shuffle"])
def test_nothing_but_the_dictionary_moves_the_codewords(term):
    network, task, batch = network_and_batch({term: 1.0}, **GRADIENT)
    moved = gradients(network, task.losses(batch, 0.5))
    assert not [name for name in moved if name.startswith("dictionary.")]
    assert "items.table.weight" in moved


@pytest.mark.parametrize("term", TERMS)
def test_every_weight_scales_its_own_term(term):
    values = []
    for weight in (1.0, 10.0):
        _, task, batch = network_and_batch({term: weight})
        torch.manual_seed(1)
        terms = task.losses(batch, 0.5)
        assert list(terms) == [term]
        values.append(float(terms[term].detach()))
    assert values[1] == pytest.approx(10 * values[0], rel=1e-4)
    assert values[0] > 0


def test_without_sharing_the_single_vector_alone_trains_encoder_and_items():
    network, task, batch = network_and_batch(dict.fromkeys(("retrieval", "posterior", "shuffle"), 1.0), shared=False)
    moved = gradients(network, task.losses(batch, 0.5))
    assert not [name for name in moved if name.startswith(("items.", "encoder."))]
    assert {"reader.mlp.2.weight", "posterior.heads.1.weight", "pair.weight", "query.weight"} <= set(moved)


def test_averages_move_codewords_in_training_and_not_in_evaluation():
    network, task, batch = network_and_batch({"dictionary": 1.0})
    before = network.dictionary.quantiser.codebooks.clone()
    network.eval()
    task.losses(batch, 0.5)
    assert network.dictionary.quantiser.codebooks.equal(before)
    network.train()
    task.losses(batch, 0.5)
    assert not network.dictionary.quantiser.codebooks.equal(before)


def test_an_interest_is_the_concatenation_of_its_entries():
    network, _, _ = network_and_batch()
    dictionary, dim = network.dictionary, network.config.encoder.dim
    one, other = dictionary.embed(torch.tensor([[2, 3], [2, 5]]))
    assert one[:dim].equal(dictionary.quantiser.codebooks[0, 2])
    assert one[dim:].equal(dictionary.quantiser.codebooks[1, 3])
    assert one[:dim].equal(other[:dim])
    assert not one[dim:].equal(other[dim:])


def test_versions_rise_with_every_assignment_and_tuples_stay_in_between():
    network, _, _ = network_and_batch(reassign_every=2)
    warmup, dictionary = network.config.warmup_epochs, network.dictionary
    assert int(dictionary.version) == 1
    first = dictionary.codes.clone()
    with torch.no_grad():
        network.items.table.weight.copy_(network.items.table.weight.roll(7, 0))
    assert network.end_epoch(warmup, seed=0) == {}
    assert int(dictionary.version) == 1
    assert dictionary.codes.equal(first)
    figures = network.end_epoch(warmup + 1, seed=0)
    assert int(dictionary.version) == figures["dictionary/version"] == 2
    assert figures["dictionary/churn"] == pytest.approx(float((dictionary.codes != first).any(-1).float().mean()))
    assert figures["dictionary/churn"] > 0.3
    assert figures["dictionary/tuples"] == len(dictionary.codes.unique(dim=0))


def test_labels_queries_and_cells_are_of_the_stored_version():
    network, task, batch = network_and_batch({"posterior": 1.0})
    network.dictionary.codes[:] = torch.tensor([4, 1])
    network._measure_cells(network.items.all())
    assert (network.cells() == 4 * 6 + 1).all()
    assert float(task.losses(batch, 0.5)["posterior"].detach()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("swap", [0.0, 1.0])
def test_swapped_queries_share_the_first_code_and_are_not_told_the_second(swap):
    network, _, _ = network_and_batch(swap=swap)
    wanted = network.dictionary.codes.repeat(5, 1)
    hidden = torch.randn(len(wanted), 16)
    torch.manual_seed(2)
    queried = network._queried(wanted, hidden, network._mass(torch.randn(len(wanted), 16)))
    assert queried[:, 0].equal(wanted[:, 0])
    assert bool((queried != wanted).any()) == bool(swap)
    occurring = set(network.cells().tolist())
    assert set(number_of(queried, 6).tolist()) <= occurring


@pytest.mark.parametrize("depth", [1, 2])
def test_the_posterior_names_interests_that_have_items_and_sums_to_one(depth):
    network, _, _ = network_and_batch(depth=depth, decode="exact")
    posterior, _ = network.eval().encode(network.item_vectors()[torch.arange(30).view(5, 6)], torch.full((5,), 6))
    assert posterior.shape == (5, 6**depth)
    assert torch.allclose(posterior.sum(1), torch.ones(5), atol=1e-5)
    sizes = torch.bincount(network.cells(), minlength=network.codes)
    assert (posterior[:, sizes == 0] == 0).all()
    assert (posterior[:, sizes > 0] > 0).all()


def test_a_beam_keeps_two_tuples_of_a_first_code_and_all_of_its_probability():
    network, _, _ = network_and_batch()
    given = network.item_vectors()[torch.arange(30).view(5, 6)], torch.full((5,), 6)
    with torch.no_grad():
        beam = network.eval().encode(*given)[0].view(5, 6, 6)
        object.__setattr__(network.config, "decode", "exact")
        exact = network.encode(*given)[0].view(5, 6, 6)
    assert torch.allclose(beam.sum(2), exact.sum(2), atol=1e-5)
    assert (beam > 0).sum(2).max() == 2
    best = exact.topk(2, dim=2)
    assert torch.allclose(beam.gather(2, best.indices), best.values / best.values.sum(2, True) * exact.sum(2, True))


def test_an_interest_that_is_not_trusted_leaves_the_users_own_vector():
    network, _, _ = network_and_batch(trust=0.0)
    vectors = network.item_vectors()[torch.arange(30).view(5, 6)]
    lengths, interests = torch.full((5,), 6), torch.arange(8).expand(5, 8)
    with torch.no_grad():
        _, states = network.eval().encode(vectors, lengths)
        read = network.read(interests, lengths, states)[..., :-1]
        own = network.user(states[:, -1]) / network.config.temperature
        assert torch.allclose(read, own[:, None].expand_as(read), atol=1e-5)
        object.__setattr__(network.config, "trust", 1.0)
        assert (network.read(interests, lengths, states)[..., :-1] - read).abs().max() > 0.1


def test_a_higher_temperature_makes_the_posterior_less_sure_and_no_other():
    network, _, _ = network_and_batch(decode="exact")
    for head in network.posterior.heads:
        torch.nn.init.zeros_(head.weight)
    given = network.item_vectors()[torch.arange(30).view(5, 6)], torch.full((5,), 6)
    entropies = []
    for temperature in (1.0, 2.0, 4.0):
        object.__setattr__(network.config, "posterior_temperature", temperature)
        with torch.no_grad():
            chances = network.eval().encode(*given)[0]
        entropies.append(-torch.xlogy(chances, chances).sum(1))
    assert (entropies[0] < entropies[1]).all()
    assert (entropies[1] < entropies[2]).all()


def planted():
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    return np.array([world().item_interest[row[item]] for item in dataset().items.values])


def test_first_codes_are_the_planted_interests_and_their_probability_is_calibrated():
    model, part = fitted("gemirec"), dataset().test
    codes = model.network.dictionary.codes
    warm = dataset().item_counts > 0
    assert mutual_information(codes[warm, 0].numpy(), planted()[warm]) >= 0.9
    posterior = model.searcher.side.encode(part.histories).posterior
    first = posterior.reshape(len(posterior), 6, 6).sum(2)
    figures = calibration(first, codes[:, 0].numpy(), part.targets).figures()
    assert figures["ece"] <= 0.05
    assert figures["ece_top"] <= 0.1


def test_scores_of_different_interests_are_comparable_log_probabilities():
    model = fitted("gemirec")
    encoded = model.searcher.side.encode(dataset().test.histories.take(np.arange(50)))
    used = np.unique(model.network.cells().numpy())[:8].astype(np.int32)
    vectors = model.searcher.side.read(encoded, np.tile(used, (50, 1)))
    total = np.log(np.exp(vectors @ model.network.item_vectors().numpy().T).sum(-1))
    plain = np.log(np.exp(vectors[..., :-1] @ model.network.items.all().numpy().T).sum(-1))
    assert np.abs(total).max() < min(0.5, np.ptp(plain))


def test_served_interests_differ_by_first_code():
    model = fitted("gemirec")
    answer = model.recommend([dataset().items.decode(np.asarray(dataset().test.histories[0])).to_list()], k=20)
    interests = torch.tensor(answer["interest"].unique().to_list())
    assert torch.bincount(tuple_of(interests, 6, 2)[:, 0]).max() <= 2


def test_within_cells_an_interest_brings_its_own_items_alone():
    model = fitted("gemirec")
    inside = GemiRec(model.config.model_copy(update={"within_cell": True}))
    inside.network, inside.catalogue = model.network, model.catalogue
    answer = inside.recommend([dataset().items.decode(np.asarray(dataset().test.histories[0])).to_list()], k=20)
    cells = model.network.cells().numpy()[dataset().items.encode(answer["item"].to_list())]
    assert answer["interest"].to_list() == cells.tolist()
    assert len(set(cells.tolist())) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"warmup_epochs": 12}, "warmup_epochs = 12 leaves none"), ({"depth": 3}, r"depth = 3 with codebook\.levels = 2")],
)
def test_settings_that_do_not_fit_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        GemiRecConfig.model_validate(GEMIREC | settings)


def test_a_dictionary_too_large_for_the_catalogue_is_refused():
    config = GemiRecConfig.model_validate(GEMIREC | {"codebook": {"codes": 100}})
    with pytest.raises(ConfigError, match=r"codebook\.codes = 100 for 120 items.*at most 60"):
        GemiRec(config).fit(dataset())
