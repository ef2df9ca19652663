"""What the explorer computes agrees with the searcher and with slow answers."""

import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesserec.errors import DataError, UserError
from tesserec.index.bundle import Bundle
from tesserec.serving.explorer.health import codebook_health, generation_health, movement
from tesserec.serving.explorer.interests import interest_map, interest_page, why_no_interests
from tesserec.serving.explorer.placing import place_circles
from tesserec.serving.explorer.shown import Settings
from tesserec.serving.explorer.users import (
    find_items,
    invented_user,
    most_interests,
    own_settings,
    parse_history,
    user_page,
)
from tests.serving.films import (
    CELLS,
    DEAD,
    HOSTILE,
    ITEMS,
    cells_of_films,
    film_postings,
    film_searcher,
    in_memory,
    publish_films,
    without_interests,
)

KINDS_WITHOUT = ("popularity", "item-knn", "slots", "one vector")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_circles_lie_apart_and_in_the_same_places_each_time(count, dim, seed, coincident):
    rng = np.random.default_rng(seed)
    directions = unit(np.ones((count, dim)) if coincident else rng.normal(size=(count, dim)))
    radii = rng.uniform(0.05, 1, count)
    points = place_circles(directions, radii)
    np.testing.assert_array_equal(points, place_circles(directions, radii))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    touching = radii[:, None] + radii
    np.fill_diagonal(touching, 0)
    assert (distances >= touching).all()


def test_alike_interests_lie_near():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 6)
    directions = unit(rng.normal(size=(4, 20))[groups] + 0.2 * rng.normal(size=(24, 20)))
    points = place_circles(directions, np.full(24, 0.2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    nearest = np.argsort(distances, axis=1)[:, 1:3]
    assert (groups[nearest] == groups[:, None]).mean() > 0.7  # 5 in 23 by chance


def test_the_map_shows_every_living_interest_with_its_size_and_traffic():
    searcher = film_searcher()
    shown = interest_map(searcher)
    sizes = np.bincount(cells_of_films(), minlength=CELLS)
    assert shown.dead == [DEAD]
    assert shown.left_out == 0
    assert sorted(one.interest for one in shown.cells) == [code for code in range(CELLS) if code != DEAD]
    counts = np.bincount(cells_of_films(), weights=searcher.catalogue.counts, minlength=CELLS)
    for one in shown.cells:
        assert (one.items, one.traffic) == (sizes[one.interest], counts[one.interest])
        assert one.radius**2 / shown.cells[0].radius ** 2 == pytest.approx(one.items / shown.cells[0].items)
    assert sum(one.share for one in shown.cells) == pytest.approx(1)
    assert shown.traffic_of == "training events"


def test_traffic_of_a_service_colours_the_map():
    shown = interest_map(film_searcher(), {2: 30, 5: 10})
    assert shown.traffic_of == "recommendations"
    assert {one.interest: one.share for one in shown.cells if one.share} == {2: 0.75, 5: 0.25}
    assert interest_page(film_searcher(), 5, {5: 10}).traffic == 10
    searcher = film_searcher()
    assert interest_map(searcher, {}) == interest_map(searcher, {3: 0}) == interest_map(searcher)


def test_an_interest_shows_its_own_items():
    searcher = film_searcher()
    catalogue = searcher.catalogue
    page = interest_page(searcher, 2)
    inside = np.flatnonzero(cells_of_films() == 2)
    ids = {str(100 + item) for item in inside}
    assert page.items == len(inside)
    assert {item.id for item in [*page.typical, *page.newest]} <= ids
    assert page.typical[0].title == searcher.names["typical"][2][0]
    years = [int(item.when) for item in page.newest]
    assert page.newest_by == "year"
    assert years == sorted((catalogue.table["year"][int(item)] for item in inside), reverse=True)[: len(years)]
    for one in page.categories:
        has = [one.value in kinds for kinds in catalogue.table["kinds"].to_list()]
        assert one.share == pytest.approx(np.mean([has[item] for item in inside]))
        assert one.catalogue == pytest.approx(np.mean(has))


def test_neighbours_are_the_nearest_centres():
    searcher = film_searcher()
    postings = film_postings()
    living = [code for code in range(CELLS) if code != DEAD]
    means = np.array([postings.vectors_of(np.flatnonzero(cells_of_films() == code)).mean(axis=0) for code in living])
    cosines = unit(means - means.mean(axis=0)) @ unit(means - means.mean(axis=0)).T
    np.fill_diagonal(cosines, -2)
    for place, code in enumerate(living):
        page = interest_page(searcher, code)
        expected = [living[other] for other in np.argsort(-cosines[place])[: len(page.neighbours)]]
        assert [one.interest for one in page.neighbours] == expected
        assert page.neighbours[0].cosine == pytest.approx(cosines[place].max(), abs=1e-6)


def test_a_dead_interest_has_a_page_and_an_unknown_one_is_refused():
    page = interest_page(film_searcher(), DEAD)
    assert (page.items, page.typical, page.neighbours) == (0, [], [])
    with pytest.raises(UserError, match="interest 9 does not exist; this model has 0 to 8"):
        interest_page(film_searcher(), CELLS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=10),
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    st.integers(1, CELLS),
    st.sampled_from([1, 5, 20]),
)
def test_a_user_is_what_the_searcher_says(items, explore, interests, k):
    searcher = film_searcher(merge="quota")
    history = [100 + item for item in items]
    page = user_page(searcher, history, Settings(k=k, explore=explore, interests=interests))
    now = searcher.recommend([history], k, explore=explore, interests=interests)
    usual = searcher.recommend([history], k)
    assert [one.id for one in page.candidates] == [str(i) for i in now["item"]]
    for name in ("rank", "score", "interest", "probability", "explored"):
        assert [getattr(one, name) for one in page.candidates] == now[name].to_list()
    assert [one.entered for one in page.candidates] == [i not in set(usual["item"]) for i in now["item"]]
    assert [one.id for one in page.left] == [str(i) for i in usual["item"] if i not in set(now["item"])]

    believed = searcher.interests([history], CELLS)
    assert page.posterior == believed.sort("interest")["probability"].to_list()
    chances = dict(zip(believed["interest"], believed["probability"], strict=True))
    assert {one.interest: one.probability for one in page.beliefs}.items() <= chances.items()
    assert sum(one.probability for one in page.beliefs) + page.rest == pytest.approx(1, abs=1e-5)
    explored = {one.interest for one in page.candidates if one.explored}
    assert {one.interest for one in page.beliefs if one.role == "explored"} == explored
    assert [one.interest for one in page.history] == cells_of_films()[items].tolist()
    assert {one.interest for one in [*page.history, *page.candidates, *page.left]} == set(page.names)


@pytest.mark.parametrize("kind", KINDS_WITHOUT)
def test_models_without_interests_say_so_and_recommend_all_the_same(kind, tmp_path):
    searcher = without_interests(kind)
    assert why_no_interests(searcher).startswith("This model has no interests")
    with pytest.raises(UserError, match="no interests"):
        interest_map(searcher)
    history = [100, 105]
    page = user_page(searcher, history)
    assert (page.beliefs, page.posterior, page.rest) == ([], [], 0)
    assert [one.id for one in page.candidates] == [str(i) for i in searcher.recommend([history])["item"]]
    assert page.left == []
    assert generation_health(in_memory(searcher, tmp_path)).problem == why_no_interests(searcher)
    assert len(invented_user(searcher, 0)) == 12


def test_free_vectors_are_numbered():
    page = user_page(without_interests("slots"), [100, 105])
    assert set(page.names.values()) <= {f"Vector {n}" for n in range(1, 5)}
    assert page.names


def test_propensities_are_shown_where_the_searcher_has_them(monkeypatch):
    searcher = film_searcher()
    recommend = searcher.recommend
    monkeypatch.setattr(searcher, "recommend", lambda *a, **k: recommend(*a, **k).with_columns(propensity=pl.lit(0.25)))
    assert {one.propensity for one in user_page(searcher, [100]).candidates} == {0.25}
    assert {one.propensity for one in user_page(film_searcher(), [100]).candidates} == {1.0}


def test_a_long_history_shows_its_frequent_interests():
    searcher = film_searcher()
    history = [100 + item for item in range(ITEMS)]
    page = user_page(searcher, history[:-10])
    assert {one.interest for one in page.history} <= {one.interest for one in page.beliefs}


def test_the_slider_starts_where_the_model_stands():
    assert own_settings(film_searcher(explore=0.25, interests=2)) == Settings(k=20, explore=0.25, interests=2)
    assert most_interests(film_searcher()) == CELLS
    assert most_interests(without_interests("popularity")) == 1


def test_items_are_found_by_title_whatever_the_case():
    searcher = film_searcher()
    assert [item.title for item in find_items(searcher, "<IMG SRC")] == [HOSTILE]
    assert [item.id for item in find_items(searcher, "film 14")] == ["114", *(str(240 + n) for n in range(10))]
    assert find_items(searcher, " ") == []
    assert find_items(searcher, ".*") == []


def test_an_invented_user_likes_three_interests_and_stays_the_same():
    searcher = film_searcher()
    items = invented_user(searcher, 5)
    assert items == invented_user(searcher, 5) != invented_user(searcher, 6)
    cells = cells_of_films()[[int(item.id) - 100 for item in items]]
    assert len(set(cells)) == 3


@pytest.mark.parametrize(
    "ids",
    [
        pl.Series([f"é{n}" for n in range(ITEMS)]),
        pl.Series([datetime.date(2000, 1, 1) + datetime.timedelta(n) for n in range(ITEMS)]),
        pl.Series([n - 7.0 for n in range(ITEMS)]),
    ],
)
def test_ids_of_any_type_come_back_from_text(ids):
    searcher = film_searcher(ids=ids)
    texts = [item.id for item in invented_user(searcher, 1)]
    assert [event.id for event in user_page(searcher, parse_history(searcher, texts)).history] == texts


def test_an_id_of_another_type_is_refused():
    with pytest.raises(DataError, match="id 'x' cannot be Int64"):
        parse_history(film_searcher(), ["100", "x"])


@pytest.fixture
def two_generations(tmp_path):
    pytest.importorskip("onnx", reason="publishing a network needs onnx")
    publish_films(tmp_path / "bundles")
    return publish_films(tmp_path / "bundles", moved=30)


def test_health_counts_cells_and_movement_over_generations(two_generations):
    health = codebook_health(two_generations)
    first, second = health.generations
    assert (health.current, health.earlier, first.generation, second.generation) == (2, 0, 1, 2)
    sizes = np.bincount(cells_of_films(), minlength=CELLS)
    shares = sizes[sizes > 0] / ITEMS
    assert first.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert (first.dead, first.largest, first.moved) == (1, sizes.max(), None)
    assert (second.shared, second.moved) == (ITEMS, pytest.approx(30 / ITEMS))


def test_a_damaged_generation_is_named_and_the_others_shown(two_generations):
    damaged = two_generations.path.parent / "generation-000001" / "postings" / "vectors.npy"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    first, second = codebook_health(two_generations).generations
    assert "vectors.npy" in first.problem
    assert (second.problem, second.moved, second.cells) == (None, None, CELLS)


def test_renamed_codes_move_every_item_but_keep_its_company():
    before = film_searcher()
    after = film_searcher()
    renamed = (cells_of_films() + 1) % CELLS
    after.postings = type(after.postings).build(after.postings.vectors_of(np.arange(ITEMS)), renamed, CELLS)
    assert movement(before, after) == {"shared": ITEMS, "moved": 1.0, "regrouped": 0.0}
    assert movement(before, before) == {"shared": ITEMS, "moved": 0.0, "regrouped": 0.0}


def test_generations_without_common_items_or_interests_are_not_compared():
    others = film_searcher(ids=pl.Series(range(10_000, 10_000 + ITEMS)))
    assert movement(film_searcher(), others) == {"shared": 0}
    assert movement(film_searcher(), film_searcher(ids=pl.Series([str(n) for n in range(ITEMS)]))) == {}
    assert movement(film_searcher(), without_interests("popularity")) == {}


def test_a_bundle_reports_what_it_serves(two_generations):
    older = Bundle.open(two_generations.path.parent, 1)
    assert codebook_health(older).current == 1
