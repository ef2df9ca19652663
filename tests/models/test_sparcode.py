"""SparCode: what moves what, lists against brute force, and its place between two-tower and all-to-all."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from tesserec.data.features import ItemFeatures
from tesserec.errors import ConfigError, UserError
from tesserec.evaluation.metrics import recall
from tesserec.index.bundle import Bundle
from tesserec.index.catalogue import Catalogue
from tesserec.index.living import add_items
from tesserec.models.all_to_all import CrossNetwork, HistoryVectors
from tesserec.models.publish import publish_bundle
from tesserec.models.sparcode import SparCode, SparCodeConfig
from tesserec.nn.tokens import agreement, tuple_words
from tests.models.worlds import dataset, fitted, settings

TERMS = ("cross", "single", "commitment")


def config(**changes):
    given = settings("sparcode")
    merged = {name: {**given.get(name, {}), **new} if isinstance(new, dict) else new for name, new in changes.items()}
    return SparCodeConfig.model_validate(given | merged)


def started(**changes):
    """A SparCode network with a codebook, what the loop would give it, and one batch."""
    model = SparCode(config(**changes))
    model.catalogue = Catalogue.from_dataset(dataset())
    torch.manual_seed(0)
    model.network = model.network_class(len(dataset().items), model.config, None)
    task = model.task(dataset(), 0)
    with torch.no_grad():
        for each in model.network.tokenizer.parameters():
            each += 0.3 * torch.randn_like(each)
        torch.nn.init.normal_(model.network.scorer.weight, std=0.1)
    model.network.warm.fill_(True)
    model.network.quantiser.start(model.network.rows(model.tokens(task.sample)), seed=0)
    return model, task, next(task.batches.epoch(0))


def gradients(model, task, batch):
    torch.manual_seed(1)
    model.network.train().zero_grad()
    terms = task.losses(batch, 0.0)
    sum(terms.values()).backward()
    return terms, {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


def only(name, weight=1.0):
    return {term: 0.0 for term in TERMS} | {name: weight}


@pytest.mark.parametrize("term", TERMS)
def test_every_weight_scales_the_gradient_it_names(term):
    named = {"cross": "scorer.item.weight", "single": "items.table.weight"}.get(term, "tokenizer.maps.weight")
    once, tenfold = (gradients(*started(weights=only(term, weight))) for weight in (1.0, 10.0))
    assert list(once[0]) == [term]
    assert once[1][named].abs().sum() > 0
    assert torch.allclose(10 * once[1][named], tenfold[1][named], rtol=1e-3, atol=1e-6)


def test_ranking_reaches_the_tokenizer_through_the_codes():
    _, moved = gradients(*started(weights=only("cross")))
    assert moved["tokenizer.maps.weight"].abs().sum() > 0
    assert moved["bias"].abs() > 0
    assert "quantiser.codebooks" not in moved


@pytest.mark.parametrize("shared", [True, False])
def test_tokens_are_scored_at_their_nearest_codewords(shared):
    model, task, _ = started(codebook={"shared": shared}, reads=3)
    tokens = model.tokens(task.sample)[:20]
    words, weights = read_by(model.network.eval(), tokens)
    assert torch.allclose(words[:, ::3], nearest_words(tokens, model.network.books), atol=1e-5)
    shares = weights.unflatten(1, (4, 3)) / model.network.token_weights[:, None]
    assert torch.allclose(shares.sum(-1), torch.ones(20, 4), atol=1e-5)
    rebuilt = (words.unflatten(1, (4, 3)) * shares[..., None]).sum(2)
    lost, of_nearest = ((tokens - one).square().sum(-1) for one in (rebuilt, words[:, ::3]))
    assert (lost <= of_nearest + 1e-5).all()
    assert lost.mean() < 0.9 * of_nearest.mean()


@pytest.mark.parametrize("shared", [True, False])
def test_score_and_commitment_see_the_same_codewords_and_the_averages_move_them_afterwards(shared):
    model, task, _ = started(codebook={"shared": shared}, reads=1)
    tokens = model.tokens(task.sample) + 0.1
    network = model.network.train()
    before = network.books.clone()
    seen, terms = network.prepare(tokens)
    scored = seen.words[seen.places]
    assert torch.allclose(terms["commitment"], (tokens - scored).square().sum(-1).mean(), rtol=1e-4)
    assert torch.allclose(scored, nearest_words(tokens, before), atol=1e-5)
    assert not torch.equal(before, network.books)


def gradients_of(network, scores, **leaves):
    """Gradients of scores under random slopes, to leaves and to all that scores."""
    torch.manual_seed(5)
    network.zero_grad()
    (scores * torch.randn_like(scores)).sum().backward()
    named = ((name, p.grad) for name, p in network.named_parameters() if name.startswith(("scorer", "shares", "bias")))
    return {name: leaf.grad for name, leaf in leaves.items()} | dict(named)


def scored_apart(network, tokens, items):
    """Scores of every user's codewords, each by itself, with the gradient of their product for tokens."""
    seen, _ = network.eval().prepare(tokens)
    copies = seen.words[seen.places].detach()
    values = network.values(network.scorer(copies.flatten(0, 1), items)).view(*copies.shape[:2], -1)
    worth = network.token_weights[:, None]
    shares = seen.weights.detach().view(*tokens.shape[:2], -1) / worth.detach()
    rebuilt = (copies.view(*shares.shape, -1) * shares[..., None]).sum(2)
    query = (network.scorer.pull(rebuilt + tokens - tokens.detach()) * worth.detach()).sum(1)
    return (values * (shares * worth).flatten(1)[..., None]).sum(1) + query @ items.detach().T


@pytest.mark.parametrize("reads", [1, 3])
def test_codes_scored_once_are_scored_as_each_user_has_them(reads):
    """All as if the codewords of each user were scored apart; gradients to tokens are those of the product alone."""
    model, task, _ = started(reads=reads)
    network = model.network
    network.quantiser.freeze()
    found = []
    for score in (scored_apart, lambda network, *given: network.score(network.train().prepare(given[0])[0], given[1])):
        tokens = model.tokens(task.sample)[:30].clone().requires_grad_()
        items = network.item_vectors().detach().requires_grad_()
        scores = score(network, tokens, items)
        found.append({"scores": scores.detach()} | gradients_of(network, scores, tokens=tokens, items=items))
    assert len(network.prepare(tokens)[0].words) < 30 * 4 * reads
    for name, one in found[0].items():
        assert one.abs().sum() > 0, name
        assert torch.allclose(one, found[1][name], rtol=1e-3, atol=1e-4), name


def test_an_item_of_ones_own_is_scored_as_among_all_and_pulls_as_much():
    model, task, _ = started()
    tokens = model.tokens(task.sample)[:20].clone().requires_grad_()
    seen, _ = model.network.train().prepare(tokens)
    items = model.network.item_vectors().detach()[:20]
    both = model.network.own(seen, items), model.network.score(seen, items).diagonal()
    assert torch.allclose(*both, atol=1e-4)
    one, other = (torch.autograd.grad(scores.sum(), tokens, retain_graph=True)[0] for scores in both)
    assert one.abs().sum() > 0
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_training_sees_the_scores_that_serve_to_the_last_bit():
    model, task, _ = started()
    tokens, items = model.tokens(task.sample)[:20].clone().requires_grad_(), model.network.item_vectors()
    evaluated, trained = (model.network.train(mode).prepare(tokens)[0] for mode in (False, True))
    assert evaluated.pull is None
    assert torch.equal(trained.pull, torch.zeros(20, 16))
    assert torch.equal(model.network.score(trained, items), model.network.score(evaluated, items))


def read_by(network, tokens):
    """Codewords ``(users, tokens * reads, dim)`` that tokens read, and their weights."""
    seen, _ = network.prepare(tokens)
    return seen.words[seen.places], seen.weights


def nearest_words(tokens, books):
    """Codewords ``(users, tokens, dim)`` of tokens, part by part, from ``(codebooks, parts, codes, width)``."""
    found = []
    for token in range(tokens.shape[1]):
        book = books[token % len(books)]
        parts = tokens[:, token].unflatten(-1, (len(book), -1)).unbind(1)
        found.append(
            torch.cat([codes[torch.cdist(x, codes).argmin(-1)] for x, codes in zip(parts, book, strict=True)], 1)
        )
    return torch.stack(found, 1)


@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
def test_every_estimator_sees_the_codewords_that_serve_and_lets_the_ranking_reach_the_tokenizer(estimator):
    reads = 1 if estimator == "gumbel" else 3
    model, task, batch = started(weights=only("cross"), codebook={"estimator": estimator}, reads=reads)
    tokens, network = model.tokens(task.sample)[:20], model.network.eval()
    words, _ = read_by(network, tokens)
    assert torch.allclose(words[:, ::reads], nearest_words(tokens, network.books), atol=1e-5)
    assert gradients(model, task, batch)[1]["tokenizer.maps.weight"].abs().sum() > 0


def test_bias_and_relu_are_trained_as_they_serve():
    network = started()[0].network
    scores = torch.linspace(-3, 3, 7)
    with torch.no_grad():
        network.bias.fill_(0.5)
    assert torch.equal(network.train().values(scores), network.eval().values(scores))
    assert torch.equal(network.values(scores), (scores + 0.5).clamp_min(0))


def with_settings(**changes):
    """The fitted model under other settings of serving."""
    model = SparCode(config(**changes))
    model.catalogue = fitted("sparcode").catalogue
    model.network = model.network_class(120, model.config, None)
    model.network.load_state_dict(fitted("sparcode").network.state_dict())
    return model


def brute_force(model, histories):
    """Training scores of every item: codewords of the users' tokens through the scorer, bias, ReLU, sum."""
    network = model.network.eval()
    with torch.no_grad():
        seen, _ = network.prepare(network.last_tokens(*HistoryVectors(network)(histories)))
        return network.score(seen, network.item_vectors()).numpy()


def test_lists_added_up_are_the_training_scores():
    model, part = with_settings(list_length=120), dataset().test
    scores = brute_force(model, part.histories)
    found = model.searcher.retrieve(part.histories, 120, exclude_seen=False)
    for user in range(0, len(scores), 37):
        held = found.items[user] >= 0
        assert np.allclose(found.scores[user, held], scores[user, found.items[user, held]], rtol=1e-5, atol=1e-4)
        assert held.sum() == (scores[user] > 0).sum()
        assert np.all(np.diff(found.scores[user, held]) <= 0)


def test_a_posting_is_the_score_of_its_tuple_and_item():
    model = fitted("sparcode")
    network, postings = model.network.eval(), model.searcher.postings
    with torch.no_grad():
        words = torch.cat([tuple_words(torch.arange(64), book) for book in network.books])
        values = network.values(network.scorer(words, network.item_vectors())).numpy()
    assert not network.cuts.any()
    assert postings.codes == int(network.listed.sum()) == 4 * 64
    for code in range(0, 4 * 64, 9):
        items, scores = postings.of(code)
        assert np.allclose(scores, values[code, items], rtol=1e-5, atol=1e-5)
        assert (scores > 0).all()


def test_no_list_is_longer_than_asked_and_each_keeps_its_best_less_the_best_that_it_leaves_out():
    short, full = with_settings(list_length=7), with_settings(list_length=120)
    for code in range(short.searcher.postings.codes):
        items, scores = short.searcher.postings.of(code)
        of_all, values = full.searcher.postings.of(code)
        cut = values[7] if len(values) > 7 else 0.0
        assert len(items) == min(7, len(of_all))
        assert np.array_equal(items, of_all[:7])
        assert np.allclose(scores, values[:7] - cut, atol=1e-5)
        assert short.network.cuts[code] == pytest.approx(cut, abs=1e-5)


def test_short_lists_rank_nearly_as_whole_ones():
    """Cut off at what their last items are worth, lists of a third lose a user whose best items are not on all."""
    short, full = (with_settings(list_length=length).searcher for length in (40, 120))
    histories = dataset().test.histories
    ours, theirs = (searcher.retrieve(histories, 10).items for searcher in (short, full))
    shared = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(ours, theirs, strict=True)])
    assert shared > 0.95


def test_tuples_nobody_had_read_the_list_of_the_nearest_that_somebody_had():
    model = with_settings(all_tuples=0)
    few = dataset().train.take(np.arange(5))
    model.list_tuples(few)
    network = model.network
    listed = network.listed.nonzero()[:, 0]
    assert listed.tolist() == network.numbers(network.read_tuples(model.tokens(few))[0]).unique().tolist()
    assert model.searcher.postings.codes == len(listed) < 4 * 64
    whole = fitted("sparcode").searcher.retrieve(few, 10)
    assert np.array_equal(model.searcher.retrieve(few, 10).items, whole.items)
    for place, book in enumerate(network.books):
        words, own = tuple_words(torch.arange(64), book), listed[listed // 64 == place]
        nearest = own[torch.cdist(words, words[own % 64]).argmin(-1)]
        assert torch.equal(listed[network.list_of.view(4, 64)[place].long()], nearest)


def test_what_tokens_lose_is_reported():
    model, task, _ = started()
    tokens = model.tokens(task.sample)
    figures = model.network.quantise(tokens, epoch=9, seed=0)
    lost = tokens - nearest_words(tokens, model.network.books)
    assert figures["tokens/agreement"] == pytest.approx(agreement(lost).item(), abs=1e-5)
    assert {"codebook/perplexity/0", "codebook/dead/7", "codebook/restarted/0"} <= set(figures)


def test_training_leaves_tokens_that_say_more_than_one_does():
    """One codebook for all makes them one: each is drawn to the nearest codes, which are soon the same (0.98 here)."""
    model = fitted("sparcode")
    tokens = model.tokens(dataset().train)
    lost = tokens - nearest_words(tokens, model.network.books)
    assert agreement(lost) < 0.9
    assert lost.mean(1).square().sum(-1).mean() < 0.9 * lost.square().sum(-1).mean()


@pytest.mark.deep
def test_one_token_is_a_tuple_and_its_list_the_answer(tmp_path):
    model = SparCode(config(tokens={"count": 1}, reads=2, training={"epochs": 3})).fit(dataset(), seed=1)
    part = dataset().test
    lists, _ = model.searcher.side.weigh(part.histories)
    assert lists.shape == (len(part.users), model.config.reads)
    publish_bundle(model, tmp_path, {})
    ours, theirs = (one.retrieve(part.histories, 10) for one in (model.searcher, Bundle.open(tmp_path).searcher))
    assert (ours.items == theirs.items).mean() > 0.99


def test_quantised_users_come_near_the_bound_and_the_bound_to_the_two_tower():
    part = dataset().test
    found = {
        name: recall(fitted(name).searcher.retrieve(part.histories, 20).items, part.targets, 20).mean()
        for name in ("two-tower", "sparcode", "all-to-all")
    }
    assert found["sparcode"] > 0.95 * found["all-to-all"]
    assert found["all-to-all"] > 0.95 * found["two-tower"]


def test_all_to_all_scores_the_whole_catalogue_and_is_not_served(tmp_path):
    model, part = fitted("all-to-all"), dataset().test
    found = model.searcher.retrieve(part.histories.take(np.arange(5)), 120, exclude_seen=False)
    assert all(sorted(row) == list(range(120)) for row in found.items)
    with pytest.raises(UserError, match="no index to publish"):
        publish_bundle(model, tmp_path, {})
    assert not list(tmp_path.glob("generation-*"))


def test_features_reach_items_and_tokens():
    torch.manual_seed(0)
    network = CrossNetwork(120, config(), ItemFeatures.from_dataset(dataset())).eval()
    histories = dataset().test.histories.take(np.arange(5))
    tables = network.items.features.tables
    found = []
    for _ in range(2):
        inputs = HistoryVectors(network)
        found.append((inputs.vectors, network.last_tokens(*inputs(histories)).detach()))
        with torch.no_grad():
            tables[0].weight[1:] += 1.0
    assert all((before - after).abs().amax(-1).min() > 1e-3 for before, after in zip(*found, strict=True))


def test_a_new_item_gets_a_place_in_lists_as_the_network_scores_it(tmp_path):
    changes = {"tokens": {"count": 2}, "reads": 2, "training": {"epochs": 3}}
    model = SparCode(config(features=True, list_length=40, **changes)).fit(dataset(), seed=1)
    publish_bundle(model, tmp_path, {})
    base = Bundle.open(tmp_path).searcher
    rows = base.catalogue.table.head(3)
    new = [f"new-{item}" for item in rows["id"]]
    add_items(tmp_path, rows.with_columns(id=pl.Series(new)))
    add_items(tmp_path, pl.DataFrame({"id": ["twin"], "like": [[rows["id"][0]]]}))
    searcher, network = Bundle.open(tmp_path).searcher, model.network.cpu().eval()
    features, n = network.items.features, len(base.catalogue)
    with torch.no_grad():
        columns = [torch.from_numpy(codes[:3]) for codes in features.source.padded().values()]
        vectors = network.items.of_features(columns, torch.from_numpy(features.source.numbers[:3]))
        values = network.values(network.scorer(network.words(), network.items.scaled(vectors)))
        scores = (values - network.cuts[:, None]).numpy()
    assert np.allclose(searcher.side.vectors_of(n + np.arange(3)), vectors.numpy(), atol=1e-5)
    taken = 0
    for code in range(base.postings.codes):
        items, found = searcher.postings.of(code)
        held = dict(zip(items.tolist(), found.tolist(), strict=True))
        for row, score in enumerate(scores[code]):
            if abs(score) > 1e-4:
                assert (n + row in held) == (score > 0)
            if n + row in held:
                assert abs(held[n + row] - score) < 1e-3
                taken += 1
        assert (n + 3 in held) == (0 in held) or held.get(0, 0.0) < 1e-4
    assert taken
    histories = [[new[0], new[1]], ["twin"]]
    assert searcher.recommend(histories, 5).height == 10


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"warmup_epochs = 12 leaves none"):
        config(warmup_epochs=12)
    with pytest.raises(ValueError, match=r"make 67108864 tuples of 4 codebooks, more than"):
        config(codebook={"levels": 4, "codes": 64})
    with pytest.raises(ValueError, match=r"3 parts do not divide encoder.dim = 16"):
        config(codebook={"levels": 3})
    with pytest.raises(ValueError, match=r"reads = 65, but a token has 64 tuples to read"):
        config(reads=65)
    with pytest.raises(ValueError, match=r"reads = 2 with codebook.estimator = 'gumbel'"):
        config(reads=2, codebook={"estimator": "gumbel"})
    few = replace(dataset(), train=dataset().train.take(np.arange(50)), train_users=dataset().train_users[:50])
    with pytest.raises(ConfigError, match=r"codebook\.codes = 64, but the 50 training users have only 50 tokens"):
        SparCode(config(codebook={"levels": 1, "codes": 64})).fit(few)
