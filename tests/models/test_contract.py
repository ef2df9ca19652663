"""What every retriever must do, whatever it is."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import tesserec
from tesserec.data.ids import IdMap
from tesserec.errors import ArtefactError, ConfigError, DataError, UserError
from tesserec.evaluation.metrics import recall
from tesserec.evaluation.protocol import evaluate
from tesserec.index.bundle import Bundle
from tesserec.index.living import add_items
from tesserec.models import MODELS, load_model, model_class
from tesserec.models.tables import TableRetriever
from tests.models.worlds import dataset, few_users, fitted, published, world

MOMENTS = "tessera, moments"
ALL = [*MODELS, MOMENTS]
TRAINED = [*(name for name in MODELS if not issubclass(model_class(name), TableRetriever)), MOMENTS]


def test_another_models_directory_is_refused_by_name(tmp_path):
    fitted("popularity").save(tmp_path / "model")
    for other in ("popularity-recent", "two-tower"):
        with pytest.raises(ArtefactError, match=f"of kind 'popularity', not '{other}'"):
            model_class(other).load(tmp_path / "model")


def test_a_model_does_not_train_on_with_other_items():
    before = fitted("two-tower")
    with pytest.raises(DataError, match="are not the 120 of the model"):
        before.fine_tune(replace(dataset(), items=IdMap(dataset().items.values.reverse())), 1)


@pytest.mark.parametrize("name", ["sparc", "gemirec", "all-to-all"])
def test_a_loss_of_no_terms_is_refused(name):
    weights = dict.fromkeys(model_class(name).Config().weights.model_dump(), 0.0)
    with pytest.raises(ValueError, match="nothing would be learned"):
        model_class(name).Config.model_validate({"weights": weights})


@pytest.fixture(params=ALL)
def model(request):
    return fitted(request.param)


def some_histories(n=5):
    part = dataset().test
    return [dataset().items.decode(np.asarray(part.histories[row])).to_list() for row in range(n)]


def test_candidates_come_ranked_in_the_users_own_ids_without_what_was_given(model):
    histories = some_histories()
    answer = model.recommend(histories, k=7)
    assert answer.columns[:7] == ["user", "rank", "item", "score", "interest", "probability", "explored"]
    assert answer["item"].dtype == pl.String
    for user in range(5):
        rows = answer.filter(pl.col("user") == user)
        assert rows["rank"].to_list() == list(range(1, 8))
        assert rows["item"].n_unique() == 7
        assert rows["score"].to_list() == sorted(rows["score"], reverse=True)


def test_seen_items_are_left_out_on_request_and_only_then(model):
    histories = some_histories()
    without = model.recommend(histories, k=50, exclude_seen=True)
    for user, history in enumerate(histories):
        assert not set(history) & set(without.filter(pl.col("user") == user)["item"])
    included = model.recommend(histories, k=120, exclude_seen=False)
    lists = model.name in ("item-knn", "sparcode")  # which need not name every item
    assert lists or set(histories[0]) <= set(included.filter(pl.col("user") == 0)["item"])


def test_one_user_at_a_time_gives_what_a_batch_gives(model):
    histories = some_histories()
    together = model.recommend(histories, k=10)
    for user, history in enumerate(histories):
        alone = model.recommend([history], k=10)
        assert alone["item"].to_list() == together.filter(pl.col("user") == user)["item"].to_list()


def test_a_saved_model_answers_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.recommend(some_histories(), k=10).equals(model.recommend(some_histories(), k=10))
    with pytest.raises(UserError, match="exists already"):
        model.save(tmp_path / "model")
    victim = next(path for path in sorted((tmp_path / "model").rglob("*")) if path.suffix in (".parquet", ".npy"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=victim.name):
        load_model(tmp_path / "model")


def publishable(names):
    """As parameters; all-to-all has no index to publish, see SparCode's tests, and tessera has another export."""
    deep = {MOMENTS: pytest.mark.deep}
    return [pytest.param(name, marks=deep.get(name, ())) for name in names if name != "all-to-all"]


@pytest.mark.parametrize("name", publishable(ALL))
def test_a_bundle_answers_as_the_model_does(name):
    model, bundle = fitted(name), Bundle.open(published(name))
    ours, theirs = model.recommend(some_histories(), k=10), bundle.recommend(some_histories(), k=10)
    assert ours["item"].to_list() == theirs["item"].to_list()
    assert np.allclose(ours["score"], theirs["score"], atol=1e-3)
    assert ours["interest"].to_list() == theirs["interest"].to_list()


# SparCode has lists instead of cells, see its own tests.
@pytest.mark.parametrize("name", publishable(name for name in TRAINED if name != "sparcode"))
def test_a_bundle_gains_items_that_lie_where_their_like_do(name, tmp_path):
    shutil.copytree(published(name), tmp_path, dirs_exist_ok=True)
    like = dataset().items.values.to_list()[::9]
    new = [f"new-{item}" for item in like]
    add_items(tmp_path, pl.DataFrame({"id": new, "like": [[item] for item in like]}))
    searcher = Bundle.open(tmp_path).searcher
    items = searcher.catalogue.items
    places = items.encode(like), items.encode(new)
    network = fitted(name).network
    nearest = network.place(network.items.all())[places[0]].numpy()  # of a full cell (tessera), not where it lies
    assert np.array_equal(searcher.postings.cells_of(places[1]), nearest if network.item_codes() else 0 * nearest)
    assert (nearest == searcher.postings.cells_of(places[0])).mean() > 0.7
    assert np.allclose(*(searcher.postings.vectors_of(at) for at in places), atol=1e-5)


def test_a_stranger_needs_only_a_history(model):
    items = dataset().items.values.to_list()
    answer = model.recommend([[items[3]], [items[5], "never-heard-of", items[9]]], k=5)
    assert answer.height == 10
    with pytest.raises(DataError, match="empty"):
        model.recommend([[]], k=5)
    with pytest.raises(DataError, match=r"none of its 1 items is in the catalogue.*never-heard-of"):
        model.recommend([["never-heard-of"]], k=5)


def test_k_beyond_the_catalogue_gives_what_there_is_and_k_zero_is_refused(model):
    answer = model.recommend(some_histories(1), k=500, exclude_seen=False)
    assert 0 < answer.height <= 120
    assert answer["item"].n_unique() == answer.height
    with pytest.raises(ConfigError, match="k = 0"):
        model.recommend(some_histories(1), k=0)


def test_similar_items_exclude_the_item_itself(model):
    items = dataset().items.values.to_list()[:3]
    if model.name.startswith("popularity") or model.name in ("sparcode", "all-to-all"):
        with pytest.raises(UserError, match="does not compare items"):
            model.similar_items(items, k=4)
        return
    answer = model.similar_items(items, k=4)
    assert all(row["item"] != row["similar"] for row in answer.iter_rows(named=True))
    interest = dict(zip(dataset().items.values.to_list(), planted(), strict=True))
    same = [interest[row["item"]] == interest[row["similar"]] for row in answer.iter_rows(named=True)]
    assert np.mean(same) > 0.5


def test_it_beats_or_is_popularity(model):
    part = dataset().test
    ours = recall(model.searcher.retrieve(part.histories, 20).items, part.targets, 20).mean()
    base = recall(fitted("popularity").searcher.retrieve(part.histories, 20).items, part.targets, 20).mean()
    assert ours > base + 0.1 or model.name.startswith("popularity")


@pytest.mark.parametrize("name", TRAINED)
def test_equal_seeds_give_equal_models_and_others_do_not(name):
    cls = type(fitted(name))
    short = {"training": SHORT} | ({"warmup_epochs": 1} if "warmup_epochs" in cls.Config.model_fields else {})
    config = cls.Config.model_validate(fitted(name).config.model_dump() | short)
    first, second, third = (cls(config).fit(few_users(), seed=seed) for seed in (4, 4, 5))
    states = [model.network.state_dict() for model in (first, second, third)]
    assert all(states[0][key].equal(states[1][key]) for key in states[0])
    assert not all(states[0][key].equal(states[2][key]) for key in states[0])


SHORT = {"epochs": 2, "batch_positions": 128, "learning_rate": 0.01, "negatives": 128, "precision": "fp32"}


def planted():
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    return [int(world().item_interest[row[item]]) for item in dataset().items.values]


@pytest.mark.parametrize("name", MODELS)
def test_what_has_learned_nothing_says_so(name):
    model = model_class(name)()
    for ask in (model.recommend, model.interests):
        with pytest.raises(UserError, match=r"has learned nothing; call fit\(dataset\)"):
            ask([["i1"]])
    with pytest.raises(ConfigError, match=r"retrieve is a .*; give what answers histories, such as model\.searcher"):
        evaluate(model, dataset())


def test_every_model_is_a_name_of_the_package():
    assert {name for _, name in MODELS.values()} <= set(tesserec.__all__)
    assert all(getattr(tesserec, name) is not None for name in tesserec.__all__)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'sasrec'"):
        model_class("sasrek")
