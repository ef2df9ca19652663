"""Interests as a whole: cells, slots and neither, against loops over users; batches, names of codes and samples."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, ConfigError
from tesserec.evaluation.frontier import distinct_cells, frontier
from tesserec.evaluation.interest_result import InterestEvaluation
from tesserec.evaluation.interests import take_sample
from tesserec.evaluation.metrics import recall
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide
from tests.evaluation.models import CELLS, DATA, ITEMS, cells_model, measure, slots_model
from tests.evaluation.worlds import random_world
from tests.index.world import catalogue, scores_of, world


def alone(searcher: Searcher, user: int, code: int) -> list[int]:
    """Unseen items in the order of one interest, by scoring them all."""
    assert isinstance(searcher.postings, VectorPostings)
    history = DATA.test.histories[user]
    query = searcher.side.vectors[history[-1], code]  # type: ignore[union-attr]
    values = scores_of(query, searcher.postings.vectors_of(np.arange(ITEMS)))
    return [item for item in np.argsort(-values, kind="stable").tolist() if item not in set(history.tolist())]


def likeliest(searcher: Searcher, user: int, n: int = 3) -> list[int]:
    chances = searcher.side.posterior[DATA.test.histories[user][-1]]  # type: ignore[union-attr]
    return np.argsort(-chances, kind="stable")[:n].tolist()


def test_a_model_with_cells_is_measured_in_full() -> None:
    found = measure(cells_model())
    groups = {name.partition("/")[0] for name in found.figures}
    assert groups == {"concentration", "collapse", "calibration", "codebook"}
    assert set(found.curves) == {"ranks", "frontier", "reliability", "usage", "map"}
    assert found.omitted == {}
    assert found.protocol["kind"] == "cells"
    assert found.protocol["interests_read"] == 3
    for figure in found.figures.values():
        assert figure.low is None or figure.low <= figure.value <= figure.high


def test_overlap_of_interests_agrees_with_a_loop() -> None:
    model = cells_model()
    found = measure(model).figures
    cosines, overlaps = [], []
    for user in range(80):
        codes = likeliest(model, user)
        vectors = model.side.vectors[DATA.test.histories[user][-1], codes]  # type: ignore[union-attr]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines.append(np.mean([a @ b for a, b in combinations(vectors, 2)]))
        lists = [set(alone(model, user, code)[:50]) for code in codes]
        overlaps.append(np.mean([len(a & b) / len(a | b) for a, b in combinations(lists, 2)]))
    assert found["collapse/cosine"].value == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found["collapse/jaccard@50"].value == pytest.approx(np.mean(overlaps))


def test_concentration_agrees_with_a_loop() -> None:
    model = cells_model(Policy(interests=3, merge="probability", visit=0.4, explore=0.3))
    found = measure(model).figures
    exact = model.retrieve(DATA.test.histories, ITEMS, Policy(interests=3, merge="probability")).items
    needed = []
    for user in range(80):
        best = exact[user][exact[user] >= 0]
        held = np.cumsum([(model.cells[best] == cell).sum() for cell in likeliest(model, user, CELLS)])
        needed.append(1 + np.argmax(held >= np.ceil(round(0.99 * len(best), 9))))
    assert found[f"concentration/cells@{ITEMS}"].value == pytest.approx(np.mean(needed))
    assert found[f"concentration/cell_share@{ITEMS}"].value == pytest.approx(np.mean(needed) / CELLS)


@pytest.mark.parametrize("limit", [{"max_items": 5}, {"new_share": 0.5}, {"seed": 1}])
def test_what_concentration_holds_a_search_against_has_no_limits(limit: Any) -> None:
    plain = Policy(interests=3, merge="probability")
    free, limited = (measure(cells_model(policy)).figures for policy in (plain, replace(plain, **limit)))
    for name in (f"concentration/cells@{ITEMS}", f"concentration/fewest_cells@{ITEMS}"):
        assert limited[name].value == free[name].value


def test_ranks_agree_with_a_loop() -> None:
    model = cells_model(Policy(interests=3, merge="probability", explore=0.25))
    rows = measure(model).curves["ranks"]
    final = model.retrieve(DATA.test.histories, 8)
    places, hit, own = np.zeros(4), np.zeros(4), np.zeros((80, 3))
    for user in range(80):
        codes, wanted = likeliest(model, user), set(DATA.test.targets[user].tolist())
        for item, code in zip(final.items[user], final.interests[user], strict=True):
            rank = codes.index(code) if code in codes else 3
            places[rank] += item >= 0
            hit[rank] += item in wanted
        own[user] = [len(wanted & set(alone(model, user, code)[:8])) / len(wanted) for code in codes]
    assert places[3] > 0
    np.testing.assert_allclose([row["places"] for row in rows], places / places.sum())
    np.testing.assert_allclose([row["hits"] for row in rows], hit / hit.sum())
    np.testing.assert_allclose([row["recall"] for row in rows[:3]], own.mean(axis=0))
    assert [row["rank"] for row in rows] == [1, 2, 3, None]


def test_a_coordinate_that_ranks_nothing_has_no_part_in_the_cosine() -> None:
    plain, biased = (measure(cells_model(bias=bias)).figures["collapse/cosine"].value for bias in (None, 40.0))
    assert biased == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("batch_users", [1, 7, 79])
@pytest.mark.parametrize("model", [cells_model, slots_model])
def test_batches_change_nothing(model: Any, batch_users: int) -> None:
    parts, whole = measure(model(), batch_users=batch_users), measure(model())
    assert parts.figures.keys() == whole.figures.keys()
    for name, figure in whole.figures.items():
        assert vars(parts.figures[name]) == pytest.approx(vars(figure)), name
    assert parts.curves["ranks"] == whole.curves["ranks"]


def test_renaming_the_codes_changes_nothing() -> None:
    renamed = np.array([3, 5, 0, 1, 4, 2])
    before, after = measure(cells_model()), measure(cells_model(renamed=renamed))
    for name, figure in before.figures.items():
        assert vars(after.figures[name]) == pytest.approx(vars(figure)), name
    for curve in ("ranks", "frontier", "usage"):
        assert after.curves[curve] == before.curves[curve]
    order = np.argsort(before.curves["map"]["x"]), np.argsort(after.curves["map"]["x"])
    for axis in ("x", "y", "items", "traffic"):
        one, other = (np.array(found.curves["map"][axis])[at] for found, at in zip((before, after), order, strict=True))
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_slots_have_no_posterior_to_judge() -> None:
    found = measure(slots_model())
    assert {name.partition("/")[0] for name in found.figures} == {"collapse"}
    assert "collapse/interests_in_posterior" not in found.figures
    assert set(found.curves) == {"ranks", "frontier"}
    assert set(found.omitted) == {"concentration", "calibration", "codebook", "frontier/cells"}
    assert {point["varied"] for point in found.curves["frontier"]} == {None, "interests"}
    assert [point["interests"] for point in found.curves["frontier"]] == [4, 1, 2]
    assert found.figures["collapse/interests_in_list@8"].value > 1


def test_slots_are_ranked_by_their_best_item() -> None:
    model = slots_model()
    first = []
    for user in range(80):
        best = [
            scores_of(model.side.vectors[DATA.test.histories[user][-1], code], model.postings.vectors_of([top]))[0]
            for code in range(4)
            for top in alone(model, user, code)[:1]
        ]
        wanted = set(DATA.test.targets[user].tolist())
        first.append(len(wanted & set(alone(model, user, int(np.argmax(best)))[:8])) / len(wanted))
    assert measure(model).curves["ranks"][0]["recall"] == pytest.approx(np.mean(first))


def test_slots_take_the_cells_of_another_model() -> None:
    found = measure(slots_model(), cells=np.arange(ITEMS) % 5)
    assert "frontier/cells" not in found.omitted
    assert all(1 <= point["cells"] <= 5 for point in found.curves["frontier"])


def test_interests_that_search_their_own_cell_have_no_overlap() -> None:
    model = cells_model(Policy(interests=CELLS, merge="probability", reach="cell"))
    found = measure(model)
    assert not any(name.startswith("collapse/jaccard") for name in found.figures)
    assert "own cell" in found.omitted["collapse/jaccard"]
    own = np.zeros(80)
    for user in range(80):
        (code,) = likeliest(model, user, 1)
        wanted = set(DATA.test.targets[user].tolist())
        inside = [item for item in alone(model, user, code) if model.cells[item] == code][:8]
        own[user] = len(wanted & set(inside)) / len(wanted)
    assert found.curves["ranks"][0]["recall"] == pytest.approx(own.mean())


def test_models_without_interests_say_why() -> None:
    items = np.arange(ITEMS)
    scores = ScorePostings.build(items * 0, items, items.astype(np.float32), n_codes=1, size=ITEMS)
    lists = Searcher(catalogue(ITEMS), ConstantSide(), scores, Policy())
    side, postings = world(items=ITEMS, cells=1)
    single = Searcher(catalogue(ITEMS), side, postings, Policy(interests=1))
    for model, reason in ((lists, "without reading a vector"), (single, "one vector a user")):
        found = measure(model)
        assert (found.figures, found.curves) == ({}, {})
        assert reason in found.omitted["interests"]


def test_one_interest_has_no_pairs() -> None:
    found = measure(cells_model(Policy(interests=1)))
    assert set(found.omitted) == {"collapse/cosine", "collapse/jaccard"}
    assert not any(name.startswith(tuple(found.omitted)) for name in found.figures)
    assert found.figures["collapse/largest_share@8"].value == 1


def test_without_categories_variety_is_left_out() -> None:
    found = measure(cells_model(), random_world(users=20, items=ITEMS, roles={}))
    assert set(found.omitted) == {"frontier/diversity"}
    assert not any("diversity" in point for point in found.curves["frontier"])


def test_codes_of_several_levels_are_counted_by_level() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 7, (ITEMS, 3))
    found = measure(cells_model(), codes=(codes, 9))
    assert found.figures["codebook/dead/2"].value == 9 - len(set(codes[:, 2]))
    assert found.figures["codebook/tuples"].value == len({tuple(row) for row in codes.tolist()})
    assert [sum(level) for level in found.curves["usage"]] == [ITEMS] * 3
    assert all(level == sorted(level, reverse=True) for level in found.curves["usage"])


def test_the_posterior_is_held_against_the_popularity_of_cells() -> None:
    model = cells_model()
    traffic = np.bincount(model.cells, DATA.item_counts, CELLS) + 1
    chance = (traffic / traffic.sum())[model.cells[DATA.test.targets.compact().values]]
    assert measure(model).figures["calibration/nll_popularity"].value == pytest.approx(-np.log(chance).mean())


def test_frontier_measures_lists_of_each_policy() -> None:
    model = cells_model()
    points = frontier(model, DATA, DATA.test, 8, codes=CELLS, cells=model.cells)
    settings = [(point["varied"], point["interests"], point["explore"]) for point in points]
    assert settings == [
        (None, 3, 0.0), ("interests", 1, 0.0), ("interests", 2, 0.0), ("interests", 4, 0.0),
        ("explore", 3, 0.1), ("explore", 3, 0.2), ("explore", 3, 0.4),
    ]  # fmt: skip
    for (_, interests, explore), point in zip(settings, points, strict=True):
        policy = Policy(interests=interests, merge="probability", explore=explore)
        lists = model.retrieve(DATA.test.histories, 8, policy).items
        assert point["recall"] == recall(lists, DATA.test.targets, 8).mean()
        assert point["coverage"] == len(set(lists[lists >= 0].tolist())) / ITEMS
        assert point["cells"] == np.mean([len(set(model.cells[row[row >= 0]])) for row in lists])
        assert 0 < point["diversity"] <= 1


def test_distinct_cells_by_hand() -> None:
    found = distinct_cells(np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1]]), np.array([4, 4, 0, 0]))
    assert found.tolist() == [2, 1, 0]


def test_samples_are_seeded_and_in_order() -> None:
    some = take_sample(DATA.test, 30, seed=1)
    assert len(set(some.users.tolist())) == 30
    assert (np.diff(some.users) > 0).all()
    np.testing.assert_array_equal(some.users, take_sample(DATA.test, 30, seed=1).users)
    assert some.users.tolist() != take_sample(DATA.test, 30, seed=2).users.tolist()
    assert len(take_sample(DATA.test, 999, seed=1).users) == 80
    found = measure(cells_model(), users=30, seed=1).protocol
    assert (found["users"], found["of_users"]) == (30, 80)
    histories = Histories.from_lists([DATA.test.histories[user] for user in some.users])
    np.testing.assert_array_equal(some.histories.compact().values, histories.values)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    found = measure(cells_model())
    found.save(tmp_path / "interests.json")
    back = InterestEvaluation.load(tmp_path / "interests.json")
    assert back.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert back.figures == found.figures
    (tmp_path / "other.json").write_text('{"figures": {}}')
    with pytest.raises(ArtefactError, match=r"other\.json is not an evaluation of interests"):
        InterestEvaluation.load(tmp_path / "other.json")


@pytest.mark.parametrize("name", ["k", "users", "batch_users"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        measure(cells_model(), **{name: 0})
