"""Drawn interests and the propensities that go with them."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy
from tesserec.index.exploration import propensity_of, race_weights, reshaped
from tesserec.index.filters import Filter
from tesserec.index.search import retrieve
from tesserec.index.visiting import known_cells
from tests.index.test_searcher import popularity
from tests.index.world import histories, searcher

DRAWN = Policy(interests=2, merge="quota", seed=3, repeats=200)


def exact_set_chances(chances, n):
    """Probability of each set of n codes drawn one by one, by adding up all orders."""
    sets = {}
    for order in permutations(range(len(chances)), n):
        p, left = 1.0, 1.0
        for code in order:
            p, left = p * chances[code] / left, left - chances[code]
        sets[frozenset(order)] = sets.get(frozenset(order), 0.0) + p
    return sets


def test_the_race_draws_without_replacement_in_proportion():
    chances = np.array([0.5, 0.3, 0.15, 0.05, 0.0], np.float32)
    weights = race_weights(chances[None], Histories.from_lists([[1, 2]]), 5, 20_000)[0]
    assert (weights[:, 4] == 0).all()
    drawn = np.argsort(-weights, axis=1)[:, :2]
    for codes, p in exact_set_chances(chances[:4].astype(float), 2).items():
        frequency = np.isin(drawn, list(codes)).all(axis=1).mean()
        assert abs(frequency - p) < 4 * np.sqrt(p * (1 - p) / len(drawn))


@pytest.mark.parametrize("merge", ["quota", "probability", "max"])
@pytest.mark.parametrize("explore", [0.0, 0.4])
def test_stated_propensities_are_the_frequencies_over_seeds(merge, explore):
    asked = searcher(4, items=80, cells=5)
    one = histories(1, 1, 80, longest=3)
    policy = replace(DRAWN, merge=merge, explore=explore, temperature=1.5)
    stated = asked.retrieve(one, 10, replace(policy, repeats=2000))
    lists = [asked.retrieve(one, 10, replace(policy, seed=1000 + s, repeats=0)).items[0] for s in range(1500)]
    frequency = np.array([np.mean([item in found for found in lists]) for item in stated.items[0]])
    assert 0.05 < frequency.min() < 0.95
    error = 5 * np.sqrt(frequency * (1 - frequency) * (1 / 1500 + 1 / 2000)) + 0.002
    assert (np.abs(frequency - stated.propensity[0]) < error).all()


def test_draws_do_not_depend_on_the_batch_or_the_number_of_repeats():
    asked, many = searcher(1), histories(2, 30, 60)
    together = asked.retrieve(many, 8, DRAWN)
    small = asked.retrieve(many, 8, DRAWN, budget_mb=1)
    for name in ("items", "scores", "interests", "propensity"):
        np.testing.assert_array_equal(getattr(together, name), getattr(small, name))
    for row in (0, 7, 29):
        alone = asked.retrieve(many.take(np.array([row])), 8, DRAWN)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_array_equal(alone.propensity[0], together.propensity[row])
    np.testing.assert_array_equal(asked.retrieve(many, 8, replace(DRAWN, repeats=0)).items, together.items)
    assert (asked.retrieve(many, 8, replace(DRAWN, seed=4)).items != together.items).any()


def test_without_draws_every_candidate_is_certain():
    for asked in (searcher(1), popularity()):
        found = asked.retrieve(histories(3, 5, 6), 4)
        assert (found.propensity[found.items >= 0] == 1).all()
    asked = searcher(1, interests=99)  # all interests are read whatever the draw
    found = asked.retrieve(histories(3, 5, 60), 9, replace(asked.policy, seed=1))
    assert (found.propensity == 1).all()


def test_propensities_hold_where_a_filter_sends_some_draws_everywhere():
    asked, one = searcher(2), histories(5, 1, 60)
    policy, few = replace(DRAWN, visit=0.5, interests=1, repeats=2000), Filter(allow=range(12))
    stated = asked.retrieve(one, 6, policy, only=few)
    assert (stated.items >= 0).all()
    lists = [asked.retrieve(one, 6, replace(policy, seed=s, repeats=0), only=few).items[0] for s in range(800)]
    frequency = np.array([np.mean([item in found for found in lists]) for item in stated.items[0]])
    assert 0.05 < frequency.min() < 0.95
    assert (np.abs(frequency - stated.propensity[0]) < 5 * np.sqrt(0.25 * (1 / 800 + 1 / 2000))).all()


def test_temperature_and_top_p_by_hand():
    posterior = np.array([[0.64, 0.32, 0.04, 0.0]], np.float32)
    nothing = np.zeros_like(posterior, dtype=np.bool_)
    warm = reshaped(posterior, nothing, Policy(temperature=2.0))
    np.testing.assert_allclose(warm, [[0.8, 0.565685, 0.2, 0]] / np.float32(1.565685), rtol=1e-5)
    sharp = np.array([[0.0, 1e-30, 1.0]], np.float32)
    assert reshaped(sharp, nothing[:, :3], Policy(temperature=0.01)).tolist() == [[0, 0, 1]]
    asked, many = searcher(1), histories(2, 20, 60)
    narrow = asked.retrieve(many, 8, Policy(interests=6, top_p=0.01))
    single = asked.retrieve(many, 8, Policy(interests=1))
    np.testing.assert_array_equal(narrow.items, single.items)
    cold = asked.retrieve(many, 8, replace(DRAWN, temperature=0.001, repeats=5))
    best = asked.retrieve(many, 8, replace(DRAWN, seed=None, temperature=0.001))
    np.testing.assert_array_equal(cold.items, best.items)


def test_known_interests_count_less_by_hand():
    posterior, known = np.array([[0.6, 0.3, 0.1]], np.float32), np.array([[True, False, False]])
    assert reshaped(posterior, known, Policy()) is posterior
    np.testing.assert_allclose(reshaped(posterior, known, Policy(known=0.5)), [[3 / 7, 3 / 7, 1 / 7]], rtol=1e-6)
    everything = np.ones_like(known)
    np.testing.assert_allclose(reshaped(posterior, everything, Policy(known=0.01)), posterior, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "last_is_known", "expected"),
    [
        ({"known": 1e-46}, True, [0.4, 0.4, 0.2]),  # all weighed alike
        ({"known": 1e39}, False, [0.5, 0.5, 0.0]),
        ({"temperature": 1e-320}, False, [0.5, 0.5, 0.0]),
        ({"temperature": 1e300}, False, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_extreme_settings_leave_a_posterior(setting, last_is_known, expected):
    posterior, known = np.array([[0.4, 0.4, 0.2]], np.float32), np.array([[True, True, last_is_known]])
    np.testing.assert_allclose(reshaped(posterior, known, Policy(**setting)), [expected], atol=1e-6)


def test_a_list_of_less_known_interests_is_that_of_a_user_side_that_believes_so():
    asked, many = searcher(1), histories(2, 40, 60, longest=4)
    cells, policy = asked.postings.cells_of(np.arange(60)), Policy(interests=6, reach="cell", normalise=True)
    known = known_cells(asked.postings, many)
    posterior = asked.side.encode(many).posterior
    shares = []
    for weight in (4.0, 1.0, 0.1, 1e-6):
        weighed = replace(policy, merge="probability", known=weight)
        found = asked.retrieve(many, 5, weighed)
        believed = reshaped(posterior, known, weighed)
        for row in range(len(many)):
            side = Believing(asked.side, believed[row])
            alone = many.take(np.array([row]))
            expected = retrieve(side, asked.postings, alone, 5, replace(weighed, known=1.0), exclude_seen=True)
            np.testing.assert_array_equal(found.items[row], expected.items[0])
        new = [~np.isin(cells[items], cells[np.asarray(h)]) for items, h in zip(found.items, many, strict=True)]
        shares.append(np.mean(new))
    assert shares == sorted(shares)
    assert shares[0] < shares[1] < shares[3]


class Believing:
    """A user side with another posterior."""

    def __init__(self, side, posterior):
        self.read, self.side, self.posterior = side.read, side, posterior

    def encode(self, history):
        return replace(self.side.encode(history), posterior=self.posterior[None])


def test_propensity_counts_the_given_list():
    lists = np.array([[3, 1], [1, -1], [4, 5]], np.int32)
    np.testing.assert_allclose(propensity_of(np.array([1, 9, -1], np.int32), lists), [3 / 4, 1 / 4, np.nan])


def test_proofs_about_drawn_cells_certify_nothing_else():
    asked, many = searcher(3), histories(2, 20, 60)
    policy = Policy(interests=2, reach="cell", normalise=True, merge="probability", seed=1, repeats=0)
    found = asked.retrieve(many, 5, policy)
    assert not found.visits.certified.any()


def test_settings_survive_json_and_bad_ones_are_named():
    policy = Policy(interests=3, temperature=0.5, top_p=0.9, seed=1 << 63, repeats=7, recall=0.9, max_items=5)
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert Policy.from_dict({}) == Policy()
    for settings, message in [
        ({"temprature": 1}, "no setting 'temprature'"),
        ({"interests": 2.5}, "interests = 2.5; expected a whole number"),
        ({"interests": True}, "interests = True"),
        ({"temperature": "hot"}, "temperature = 'hot'; expected a number"),
        ({"temperature": 0}, "temperature = 0"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"known": 0}, "known = 0; expected a weight above 0"),
        ({"seed": -1}, "seed = -1"),
        ({"repeats": -1}, "repeats = -1"),
        ({"normalise": 1}, "normalise = 1; expected true or false"),
        ({"merge": 1}, "merge = 1; expected a word"),
        ({"select": "history", "seed": 1}, "select = 'history' with temperature, known, top_p or seed"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Policy.from_dict(settings)


def test_draws_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="no interests that users share, so none to draw"):
        popularity().recommend([["i0"]], 3, seed=1)
    with pytest.raises(ConfigError, match=r"diversity = 0.1 re-ranks a drawn list"):
        searcher(1).recommend([["i0"]], 3, seed=1, diversity=0.1)
    unknown = searcher(1).recommend([["i0"]], 3, seed=1, diversity=0.1, repeats=0)
    assert unknown["propensity"].null_count() == 3
