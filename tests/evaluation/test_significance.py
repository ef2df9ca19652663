"""Comparison: what is refused, and tests that find a difference only where there is one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from tesserec.errors import ConfigError, UserError
from tesserec.evaluation import significance
from tesserec.evaluation.protocol import evaluate
from tesserec.evaluation.result import Evaluation
from tesserec.evaluation.significance import compare, holm, randomisation_test
from tesserec.evaluation.slices import SliceRules
from tests.evaluation.worlds import answering, random_lists, random_world

WORLD = random_world()
RANDOM = random_lists(300, 60, 10, 1)
POPULAR = np.tile(np.arange(10, dtype=np.int32), (300, 1))


def measured(lists: np.ndarray, world: Any = WORLD, **options: Any) -> Evaluation:
    return evaluate(answering(lists), world, ks=(5, 10), bootstrap=20, cells=np.arange(60) % 7, **options)


def test_finds_the_better_run() -> None:
    found = compare({"random": measured(RANDOM), "popular": measured(POPULAR)}, ["recall@10", "recall@5/short"])
    assert found.baseline == "random"
    assert found.table["metric"].to_list() == ["recall@10", "recall@5/short"]
    for row in found.table.to_dicts():
        assert row["difference"] == pytest.approx(row["value"] - row["baseline"])
        assert 0 < row["low"] < row["difference"] < row["high"]
        assert row["p"] <= row["p_holm"] < 0.01
    assert found.to_dict()["rows"] == found.table.to_dicts()


def test_defaults_to_recall_and_ndcg_of_all_users() -> None:
    found = compare({"a": measured(RANDOM), "b": measured(POPULAR), "c": measured(RANDOM)})
    assert set(found.table["metric"]) == {"recall@5", "recall@10", "ndcg@5", "ndcg@10"}
    same = found.table.filter(run="c")
    assert same["difference"].to_list() == [0.0] * 4
    assert same["p"].to_list() == [1.0] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "beef"}, "measured on dataset beef, 'a' on f00d"),
        ({"users": np.arange(1, 301)}, "different users"),
        ({"part": "valid"}, "part = 'valid', 'a' has 'test'"),
        ({"exclude_seen": True}, "exclude_seen = True"),
        ({"split": {"name": "time"}}, "split = "),
        ({"ties": "random"}, "ties = 'random'"),
    ],
)
def test_refuses_runs_that_differ_in_protocol(change: dict[str, Any], message: str) -> None:
    first = measured(RANDOM)
    fields = {key: value for key, value in change.items() if key in ("fingerprint", "users")}
    other = replace(first, **fields, protocol=first.protocol | {k: v for k, v in change.items() if k not in fields})
    with pytest.raises(UserError, match=message):
        compare({"a": first, "b": other})


def test_refuses_metrics_without_pairs() -> None:
    runs = {"a": measured(RANDOM), "b": measured(POPULAR)}
    with pytest.raises(ConfigError, match="'a' has no values a user for 'coverage@10'"):
        compare(runs, ["coverage@10"])
    with pytest.raises(UserError, match="at least two"):
        compare({"a": measured(RANDOM)})


def test_novel_interests_need_the_same_cells() -> None:
    other = evaluate(answering(POPULAR), WORLD, ks=(5,), bootstrap=20, cells=np.arange(60) % 5)
    runs = {"a": measured(RANDOM), "b": other}
    with pytest.raises(UserError, match="rest on different cells"):
        compare(runs, ["recall@5/novel"])
    compare(runs, ["recall@5/cold"])


def test_slices_and_diversity_need_the_same_rule() -> None:
    ours = measured(RANDOM)
    shorter = evaluate(answering(POPULAR), WORLD, ks=(5,), bootstrap=20, rules=SliceRules(short=2))
    with pytest.raises(UserError, match=r"recall@5/short of 'b' goes by .*, of 'a' by"):
        compare({"a": ours, "b": shorter}, ["recall@5/short"])
    compare({"a": ours, "b": shorter}, ["recall@5"])
    diverse = {"diversity@5": np.zeros(300)}
    alike = replace(ours, protocol=ours.protocol | {"diversity": "vectors"}, per_user=ours.per_user | diverse)
    other = replace(alike, protocol=alike.protocol | {"diversity": "categories"})
    with pytest.raises(UserError, match=r"diversity@5 of 'b' goes by categories, of 'a' by vectors"):
        compare({"a": alike, "b": other}, ["diversity@5"])


def test_p_equals_all_sign_flips() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, size=(10, 2))
    signs = np.array(list(product([-1, 1], repeat=10)))
    exact = (np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-12).mean(axis=0)
    np.testing.assert_allclose(randomisation_test(differences, draws=40_000), exact, atol=0.01)


@pytest.mark.parametrize("groups", [16_384, 60])
def test_p_is_uniform_without_a_difference(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_GROUPS", groups)
    columns = np.random.default_rng(1).normal(size=(150, 400))
    p = randomisation_test(columns, draws=500, seed=2)
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.08)
    assert randomisation_test(columns[:, :1] + 1, draws=500)[0] == pytest.approx(1 / 501)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.9])), [0.09, 0.04, 0.09, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])
