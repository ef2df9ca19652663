"""Recall targets: kept on the users they were learned from, kept in the bundle, refused where they are not known."""

from dataclasses import replace

import numpy as np
import pytest

from tesserec.errors import ConfigError
from tesserec.index.calibrate import calibrate
from tesserec.index.contract import Calibration, Policy
from tesserec.index.search import retrieve
from tesserec.index.searcher import Searcher
from tests.index.world import catalogue, histories, searcher, world


@pytest.mark.parametrize("merge", ["max", "probability"])
def test_a_recall_target_is_met_with_the_least_mass(merge):
    side, postings = world(4, items=400, cells=40)
    users, policy = histories(4, 300, 400), Policy(interests=5, merge=merge)
    known = calibrate(side, postings, policy, users, 20, targets=(0.5, 0.9, 1.0))
    exact = retrieve(side, postings, users, 20, policy, exclude_seen=False).items

    def recall(visit):
        found = retrieve(side, postings, users, 20, replace(policy, visit=visit), exclude_seen=False).items
        return np.mean([len(np.intersect1d(*rows)) / 20 for rows in zip(found, exact, strict=True)])

    for target, mass in known.masses.items():
        assert recall(mass) >= target
        assert mass == 1 or recall(mass - 1e-6) < target + 1e-3
    assert known.masses[0.5] < known.masses[0.9] < known.masses[1.0]


def test_a_model_answers_by_recall_only_where_it_was_calibrated():
    side, postings = world(4, items=60, cells=6)
    model = Searcher(catalogue(60), side, postings, Policy(), calibration=Calibration(10, {0.9: 0.6}))
    by_mass = model.recommend([["i1"]], 10, visit=0.6)
    assert model.recommend([["i1"]], 10, recall=0.9).equals(by_mass)
    for asked, k in ((0.95, 10), (0.9, 11)):
        with pytest.raises(ConfigError, match=r"calibrated for the recalls 0.9 of lists of up to 10"):
            model.recommend([["i1"]], k, recall=asked)
    with pytest.raises(ConfigError, match="calibrated for the recalls none"):
        searcher().recommend([["i1"]], 5, recall=0.9)
    with pytest.raises(ConfigError, match="has no mass here"):
        retrieve(side, postings, histories(1, 2, 60), 5, Policy(recall=0.9), exclude_seen=True)


def test_targets_that_make_no_sense_are_refused():
    side, postings = world(1)
    with pytest.raises(ConfigError, match="0 users"):
        calibrate(side, postings, Policy(), histories(1, 0, 60))
    with pytest.raises(ConfigError, match="no cells to leave out"):
        calibrate(*world(1, slots=3), Policy(), histories(1, 2, 60))
    for fields in ({"recall": 0.0}, {"recall": 1.5}, {"max_items": 0}, {"max_items": 5, "exact": True}):
        with pytest.raises(ConfigError, match=r"recall|max_items"):
            Policy(**fields)
    with pytest.raises(ConfigError, match="max_items = 5, but this model has no cells"):
        retrieve(*world(1, slots=3), histories(1, 2, 60), 5, Policy(max_items=5), exclude_seen=True)
