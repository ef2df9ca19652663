"""Evaluation as a whole: facts, independence of batching, refusal of wrong lists, the directory it is kept in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tesserec.data.dataset import Part
from tesserec.errors import ArtefactError, ConfigError, TesserecError, UserError
from tesserec.evaluation.metrics import ranking_metrics
from tesserec.evaluation.protocol import evaluate
from tesserec.evaluation.result import Evaluation, parse
from tests.evaluation.worlds import answering, dataset, random_lists, random_world

CELLS = np.arange(60) % 11


def run(world: object = None, seed: int = 0, **changes: object) -> Evaluation:
    world = world or random_world()
    lists = random_lists(len(world.test.users), 60, 10, seed, unfilled=0.1)
    options = {"ks": (5, 10), "bootstrap": 50, "cells": CELLS} | changes
    return evaluate(answering(lists), world, **options)


def test_reports_every_metric_with_its_protocol() -> None:
    found = run(compat=["comirec-master"])
    kinds = {"recall", "hit", "ndcg", "mrr", "coverage", "gini", "popularity", "tail_recall", "diversity"}
    whole = {f"{kind}@{k}" for kind in kinds for k in (5, 10)} | {f"ndcg[comirec-master]@{k}" for k in (5, 10)}
    parts = {f"{kind}@{k}/{part}" for kind in ("recall", "hit", "ndcg") for k in (5, 10)
             for part in ("short", "cold", "novel")}  # fmt: skip
    assert set(found.metrics) == whole | parts
    assert found.protocol["users"] == 300
    assert found.protocol["ks"] == [5, 10]
    assert found.protocol["slices"]["novel"]["users"] > 0
    assert found.protocol["omitted"] == {}
    for name, estimate in found.metrics.items():
        if parse(name)[0] in ("coverage", "gini"):
            assert estimate.low is None
        else:
            assert estimate.low <= estimate.value <= estimate.high


def test_values_are_means_over_users() -> None:
    found = run()
    expected = ranking_metrics(found.lists, random_world().test.targets, (5, 10))
    for name, values in expected.items():
        np.testing.assert_array_equal(found.per_user[name], values)
        assert found.metrics[name].value == pytest.approx(values.mean())


@pytest.mark.parametrize("batch_users", [1, 7, 299, 10_000])
def test_batches_change_nothing(batch_users: int) -> None:
    assert run(batch_users=batch_users).to_dict() == run().to_dict()


def test_doubling_every_user_keeps_the_means() -> None:
    world = random_world()
    rows = np.repeat(np.arange(300), 2)
    part = world.test
    doubled = random_world(test=Part(part.users[rows], part.histories.take(rows), part.targets.take(rows)))
    lists = random_lists(300, 60, 10)
    once = evaluate(answering(lists), world, ks=(5,), cells=CELLS, bootstrap=0)
    twice = evaluate(answering(lists[rows]), doubled, ks=(5,), cells=CELLS, bootstrap=0)
    assert {n: e.value for n, e in twice.metrics.items()} == pytest.approx(
        {n: e.value for n, e in once.metrics.items()}
    )


def test_omits_with_a_reason() -> None:
    world = dataset([[0] * 9, [1] * 9], [[0] * 9], [[1]], 10)
    found = evaluate(answering(np.array([[0, 1]])), world, ks=(2,), bootstrap=10)
    assert set(found.protocol["omitted"]) == {"diversity", "tail_recall", "novel", "cold", "short"}
    assert "no categorical" in found.protocol["omitted"]["diversity"]
    assert not {parse(name)[2] for name in found.metrics} - {"all"}


def test_vectors_give_diversity() -> None:
    world = dataset([[0]], [[0]], [[1]], 4)
    found = evaluate(answering(np.array([[0, 1]])), world, ks=(2,), bootstrap=10, vectors=np.eye(4))
    assert found.metrics["diversity@2"].value == 1.0
    assert found.protocol["diversity"] == "vectors"


def test_progress_counts_users() -> None:
    seen: list[tuple[int, int]] = []
    run(batch_users=128, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(128, 300), (256, 300), (300, 300)]


WRONG = [
    ([[0, 1, 2]], {}, "answered shape"),
    ([[0, 60]], {}, "row 0, rank 2: item 60 is not in 0 to 59"),
    ([[-2, 1]], {}, "row 0, rank 1: item -2"),
    ([[3, 3]], {}, "item 3 is in the list twice"),
    ([[9, 4]], {"exclude_seen": True}, "row 0, rank 2: item 4 is in the user's history"),
]


@pytest.mark.parametrize(("answer", "changes", "message"), WRONG)
def test_refuses_wrong_lists(answer: list[list[int]], changes: dict[str, bool], message: str) -> None:
    world = dataset([[0]], [[4, 5]], [[7]], 60, **changes)
    retrieve = answering(np.array(answer))
    with pytest.raises(UserError, match=message):
        evaluate(lambda histories, k: retrieve(histories, 99), world, ks=(2,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": (61,)}, "k = 61; the catalogue has 60 items"),
        ({"ks": (0,)}, "k = 0"),
        ({"ks": ()}, "no k was given"),
        ({"part": "train"}, "part = 'train'; choose 'test' or 'valid'"),
        ({"batch_users": 0}, "batch_users = 0"),
        ({"compat": ["best"]}, "'best' is unknown"),
    ],
)
def test_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(**options)


def test_refuses_an_empty_part() -> None:
    with pytest.raises(UserError, match="the test part holds no users"):
        evaluate(answering(np.empty((0, 1))), dataset([[0]], [], [], 3), ks=(1,))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    found = run()
    found.save(tmp_path / "evaluation")
    back = Evaluation.load(tmp_path / "evaluation")
    assert back.to_dict() == found.to_dict()
    np.testing.assert_array_equal(back.lists, found.lists)
    np.testing.assert_array_equal(back.users, found.users)
    np.testing.assert_array_equal(back.item_counts, found.item_counts)
    assert set(back.per_user) == set(found.per_user)
    for name, values in found.per_user.items():
        np.testing.assert_array_equal(back.per_user[name], values)
    stored = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert stored["fingerprint"] == "f00d"
    assert set(stored["metrics"]["recall@10"]) == {"value", "low", "high"}


def test_damaged_directories_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "evaluation"
    run().save(path)
    (path / "lists.npy").write_bytes((path / "lists.npy").read_bytes()[:-4])
    with pytest.raises(ArtefactError, match=r"lists\.npy"):
        Evaluation.load(path)
    with pytest.raises(TesserecError, match="exists already"):
        run().save(path)
    run().save(path, overwrite=True)
    Evaluation.load(path)


def test_table_has_a_row_a_metric() -> None:
    found = run()
    table = found.table()
    assert table.columns == ["metric", "k", "slice", "value", "low", "high"]
    assert table.height == len(found.metrics)
    assert table.row(0)[:3] == ("recall", 5, "all")
    cold = table.filter(metric="recall", k=10, slice="cold")
    assert cold["value"].item() == found.metrics["recall@10/cold"].value
