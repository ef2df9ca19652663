"""Updates: the same model on more data, new items findable, codes kept, and the change counted."""

import json

import numpy as np
import polars as pl
import pytest

from tesserec.data.dataset import Dataset
from tesserec.data.merge import prepare_more
from tesserec.data.prepare import prepare
from tesserec.errors import ConfigError, DataError
from tesserec.index.bundle import Bundle
from tesserec.runs import load_run
from tests.cli.conftest import QUICK, QUICK_SPARC, run_cli, sets


@pytest.fixture(scope="module")
def later(log, tmp_path_factory):
    """A log of some users who go on with two items that nobody has seen, and one new user."""
    events = pl.read_parquet(log[0])
    user, item, time = events.columns[:3]
    last = events[time].max()
    rows = []
    for number, name in enumerate(events[user].unique(maintain_order=True)[:60].to_list()):
        known = events.filter(pl.col(user) == name)[item].to_list()[-1]
        for step, one in enumerate(["new-a" if number % 2 else "new-b", known, known]):
            rows.append((name, one, last + 10 * number + step + 1))
    rows += [("somebody-new", "new-a", last + 5_000), ("somebody-new", rows[0][1], last + 5_001)]
    path = tmp_path_factory.mktemp("later") / "later.parquet"
    pl.DataFrame(rows, schema=[user, item, time], orient="row").with_columns(
        pl.col(time).cast(events[time].dtype)
    ).write_parquet(path)
    return path


def items_of(log, tmp_path):
    table = pl.read_parquet(log[1])
    rows = [dict.fromkeys(table.columns) | {table.columns[0]: name} for name in ("new-a", "new-b")]
    pl.DataFrame(rows, schema=table.schema).write_parquet(tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def trained(shop, model, out, settings):
    run_cli("train", shop, "--model", model, "--out", out, *sets(settings))
    return out


TESSERA = [*QUICK, "encoder.kind=mean", "training.epochs=5", "codes=8", "warmup_epochs=2", "settle_epochs=1"]
GEMIREC = [*QUICK, "training.epochs=5", "codebook.codes=4", "warmup_epochs=3"]


@pytest.mark.parametrize(
    ("model", "settings"),
    [("sparc", QUICK_SPARC), ("tessera", [*TESSERA, "features=true"]), ("gemirec", GEMIREC)],
)
def test_known_items_keep_vectors_and_codes_and_new_ones_are_found(log, shop, later, tmp_path, model, settings):
    before = trained(shop, model, tmp_path / "run", settings)
    told = ["--interactions", later, "--items", items_of(log, tmp_path), "--json"]
    done = json.loads(run_cli("update", before, *told, "--out", tmp_path / "next"))
    assert (done["items"], done["users"], done["churn"], done["moved"]) == (2, 1, 0.0, 0)
    old, new = load_run(before).model.searcher, load_run(tmp_path / "next").model.searcher
    ids = old.catalogue.items.values.to_list()
    place = new.catalogue.items.encode(ids)
    np.testing.assert_array_equal(
        old.postings.vectors_of(np.arange(len(ids))), new.postings.vectors_of(place.astype(np.int64))
    )
    np.testing.assert_array_equal(old.cells, new.cells[place])
    assert "new-b" in new.recommend([["new-a"]], len(new.catalogue))["item"].to_list()
    assert new.similar_items(["new-a"], 20)["score"].max() > 0.3


def test_new_items_are_no_more_in_lists_than_items_like_them(log, shop, later, tmp_path):
    """The mean of what is beside them lies near every user, and would lead nearly every list."""
    run = trained(shop, "two-tower", tmp_path / "run", QUICK)
    frame = pl.read_parquet(later)
    user, item, time = frame.columns
    rare = pl.DataFrame({user: frame[user].head(8), item: [f"r{n}" for n in range(8)], time: frame[time].max()})
    pl.concat([frame, rare.cast(frame.schema)]).write_parquet(tmp_path / "later.parquet")
    run_cli("update", run, "--interactions", tmp_path / "later.parquet", "--out", tmp_path / "next")
    model, dataset = load_run(tmp_path / "next").model, load_run(tmp_path / "next").dataset()
    new = np.array([name.startswith(("r", "new-")) for name in dataset.items.values])
    assert new.sum() == 10
    found = model.searcher.retrieve(dataset.test.histories, 10).items
    assert new[found].mean() < 4 * new.mean()


def test_fine_tuning_goes_on_where_training_ended_and_reports_churn(log, shop, later, tmp_path):
    before = trained(shop, "tessera", tmp_path / "run", TESSERA)
    told = ["--interactions", later, "--items", items_of(log, tmp_path), "--fine-tune", 2, "--json"]
    told += ["--bundles", tmp_path / "bundles"]
    done = json.loads(run_cli("update", before, *told, "--out", tmp_path / "next"))
    assert done["fine_tuned"] == 2
    assert 0 <= done["churn"] < 0.5
    run = load_run(tmp_path / "next")
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "next" / "log.jsonl").read_text().splitlines()]
    assert epochs == [6, 7]
    assert json.loads((tmp_path / "next" / "update.json").read_text()) == done
    bundle = Bundle.open(tmp_path / "bundles")
    served, trained_on = (one.recommend([["new-a"]], 5)["item"].to_list() for one in (bundle, run.model))
    assert served == trained_on
    run_cli("evaluate", tmp_path / "next")
    again = ["--interactions", later, "--out", tmp_path / "third", "--json"]
    repeated = json.loads(run_cli("update", tmp_path / "next", *again))
    assert (repeated["events"], repeated["dropped"]["earlier events"]) == (0, pl.read_parquet(later).height)


def test_features_are_read_as_in_training_however_often_a_model_is_updated(log, shop, later, tmp_path):
    before = trained(shop, "sparc", tmp_path / "run", [*QUICK_SPARC, "features=true"])
    old = load_run(before).model
    table = pl.read_parquet(log[1])
    names = table["category"].unique().sort().to_list()
    turned = table.filter(pl.col("category") == names[0]).head(1)
    fresh = pl.DataFrame(
        [("new-a", "A", names[1], ["rare", "unheard"]), ("new-b", "B", "Unheard", None)], table.schema, orient="row"
    )
    pl.concat([fresh, turned.with_columns(category=pl.lit(names[2]))]).write_parquet(tmp_path / "items.parquet")
    told = ["--interactions", later, "--items", tmp_path / "items.parquet", "--json"]
    done = json.loads(run_cli("update", before, *told, "--out", tmp_path / "next"))
    assert done["items"] == 2
    assert done["moved"] <= 1  # the item whose category is another now
    new = load_run(tmp_path / "next").model
    place = new.catalogue.items.encode(["new-a", "new-b", turned["item_id"][0]])
    features = new.network.items.features.source
    assert features.vocabulary == old.network.items.features.source.vocabulary
    assert features.categorical["category"][place].tolist() == [2, 0, 3]
    assert (features.padded()["tags"][place[:2]] > 0).sum(1).tolist() == [1, 0]
    run_cli("update", tmp_path / "next", *told, "--out", tmp_path / "third", "--fine-tune", 1)
    network = load_run(tmp_path / "third").model.network
    assert bool(network.quantiser.started)
    third = network.items.features.source
    assert third.vocabulary == features.vocabulary
    assert third.categorical["category"].tolist() == features.categorical["category"].tolist()


def test_counted_models_equal_a_count_of_everything(log, shop, later, tmp_path):
    run = trained(shop, "item-knn", tmp_path / "run", [])
    run_cli("update", run, "--interactions", later, "--out", tmp_path / "next")
    updated = load_run(tmp_path / "next")
    events = pl.read_parquet(log[0])
    everything = pl.concat([events.select(events.columns[:3]), pl.read_parquet(later)])
    repeats = "first" if Dataset.open(shop).exclude_seen else "keep"
    fresh = prepare(everything, items=Dataset.open(shop).item_table, split="leave-one-out", repeats=repeats)
    known = updated.dataset()
    assert known.items.values.to_list() == fresh.items.values.to_list()
    assert sorted(known.users.values.to_list()) == sorted(fresh.users.values.to_list())
    found = {user: known.train[row].tolist() for row, user in enumerate(known.train_users.tolist())}
    assert found == {user: fresh.train[row].tolist() for row, user in enumerate(fresh.train_users.tolist())}


def test_what_the_dataset_leaves_out_an_update_leaves_out(tmp_path):
    rows = [(f"u{u}", f"i{i}", 1700000000 + i, "buy", 4.0) for u in range(4) for i in range(5)]
    rows += [("u0", "i9", 1700000009, "gift", 4.0)]
    columns = ["user", "item", "time", "event", "rating"]
    known = prepare(pl.DataFrame(rows, columns, orient="row"), events=["buy", "gift"], min_weight=3, out=tmp_path / "d")
    more = [(1, "view", 5.0), (2, "buy", 1.0), (3, "buy", 5.0)]
    more = pl.DataFrame([(f"u{n}", f"new{n}", 1700009000, *rest) for n, *rest in more], columns, orient="row")
    later = prepare_more(known, more, out=tmp_path / "e")
    assert [name for name in later.items.values if name.startswith("new")] == ["new3"]
    assert later.report.dropped == {"event type": 1, "weight": 1, "earlier events": 0, "repeats": 0}
    assert later.report.rows == len(rows) + len(more)
    again = prepare_more(Dataset.open(tmp_path / "e"), more.with_columns(user=pl.lit("u9")))
    assert len(again.train.values) == len(later.train.values) + 1
    with pytest.raises(DataError, match="no column that is known as the event"):
        prepare_more(known, more.drop("event"))


def test_text_files_are_read_as_the_first_ones_were(tmp_path):
    """Ids of digits alone, lists cut at a bar, and postal codes, in a CSV whose ids are text like the log's."""
    log = "user,item,time\n" + "".join(
        f"u{u},{i},{1700000000 + u + t}\n" for u in range(4) for t, i in enumerate("ab1")
    )
    (tmp_path / "log.csv").write_text(log)
    (tmp_path / "items.csv").write_text("item,zip,tags\na,00501,x|y\nb,00502,y\n1,10001,x\n")
    known = prepare(tmp_path / "log.csv", items=tmp_path / "items.csv", roles={"tags": "multi"})
    (tmp_path / "later.csv").write_text("user,item,time\nu0,1,1700009000\n7,2,1700009001\n")
    (tmp_path / "more.csv").write_text("item,zip,tags\n2,00503,y|x\n1,10002,y\n")
    later = prepare_more(known, tmp_path / "later.csv", items=tmp_path / "more.csv")
    rows = {row["id"]: (row["zip"], row["tags"]) for row in later.item_table.iter_rows(named=True)}
    assert rows == {
        "a": ("00501", ["x", "y"]),
        "b": ("00502", ["y"]),
        "1": ("10002", ["y"]),
        "2": ("00503", ["y", "x"]),
    }
    assert "7" in later.users.values


def test_what_cannot_be_merged_is_refused(shop, later, tmp_path):
    dataset, frame = Dataset.open(shop), pl.read_parquet(later)
    _, item, time = frame.columns
    with pytest.raises(DataError, match="has ids of type Int32 such as 5, expected String"):
        prepare_more(dataset, frame.with_columns(pl.lit(5).alias(item)))
    with pytest.raises(DataError, match="has times and the other"):
        prepare_more(dataset, frame.drop(time))
    with pytest.raises(DataError, match="the new items lack the columns"):
        prepare_more(dataset, frame, items=pl.DataFrame({"item": ["new-a"]}))
    by_time = prepare(frame, split="time")
    with pytest.raises(ConfigError, match="split by 'time'"):
        prepare_more(by_time, frame)
    run = trained(shop, "popularity", tmp_path / "run", [])
    told = ["--interactions", later, "--out", tmp_path / "next"]
    assert "is counted, not trained" in run_cli("update", run, *told, "--fine-tune", 1, code=2)
    assert not (tmp_path / "next").exists()
    run_cli("update", run, *told)
    assert "exists already" in run_cli("update", run, "--interactions", later, "--out", run, code=2)
