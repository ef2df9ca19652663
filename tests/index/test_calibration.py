"""A recall target: what is measured in validation holds on other users, and is refused where nothing was measured."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from tesserec.errors import ConfigError
from tesserec.index.calibration import Calibration, Measured, calibrate, from_measured, refined, share_found
from tesserec.index.contract import Policy
from tesserec.index.filters import Filter
from tesserec.index.order import Order
from tests.index.world import histories, searcher

POLICY = Policy(interests=3, merge="probability")


@pytest.fixture(scope="module")
def calibrated():
    model = searcher(3, items=600, cells=40, interests=3, merge="probability")
    model.calibration = calibrate(model, histories(1, 400, 600), POLICY, k=20)
    return model


@pytest.mark.parametrize("places", [True, False])
def test_a_target_holds_on_other_users(calibrated, places):
    model = copy(calibrated)
    assert model.calibration.slacks
    if not places:
        model.calibration = replace(model.calibration, slacks=())
    asked = histories(2, 400, 600)
    exact = model.retrieve(asked, 20, POLICY).items
    posterior = model.side.encode(asked).posterior
    for target in (0.5, 0.9, 0.95):
        found = model.retrieve(asked, 20, replace(POLICY, recall=target))
        assert abs(share_found(found.items, exact) - target) < 0.02
        assert (found.visits.by_place == places).all()
        assert found.visits.items.mean() < 600
        if not places:
            assert (found.visits.mass_left <= 1.0001 - model.calibration.mass_for(target)).all()
        assert ((found.visits.mass_left > 0) | (found.visits.cells == 40) | (posterior == 0).any(axis=1)).all()


def test_quotas_and_exploration_go_by_mass():
    model = searcher(3, items=600, cells=40, interests=3, merge="probability")
    model.calibration = calibrate(model, histories(1, 50, 600), POLICY, k=20)
    assert model.calibration.slacks
    for policy in (replace(POLICY, merge="quota"), replace(POLICY, explore=0.2)):
        found = model.retrieve(histories(2, 30, 600), 20, replace(policy, recall=0.9))
        assert not found.visits.by_place.any()
        assert (found.visits.mass_left <= 1.0001 - model.calibration.mass_for(0.9)).all()
    assert calibrate(model, histories(1, 50, 600), replace(POLICY, merge="quota"), k=20).slacks == ()


def test_a_filter_and_a_cap_hold_beside_a_target():
    model = searcher(3, items=600, cells=40, interests=3, merge="probability")
    model.calibration = calibrate(model, histories(1, 100, 600), POLICY, k=20)
    asked = histories(2, 40, 600)
    allowed = np.arange(0, 600, 7)
    found = model.retrieve(asked, 20, replace(POLICY, recall=0.5), only=Filter(allow=allowed))
    assert np.isin(found.items, allowed).all()
    free = model.retrieve(asked, 20, replace(POLICY, recall=0.5))
    assert found.visits.items.mean() > free.visits.items.mean()
    capped = model.retrieve(asked, 20, replace(POLICY, recall=0.95, max_items=60))
    assert ((capped.visits.items <= 60) | (capped.visits.cells == 1)).all()


def test_the_mass_and_the_slack_are_quantiles():
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.full(10, 0.3), 30).astype(np.float32)
    cells = rng.integers(-1, 10, (30, 7)).astype(np.int32)
    heights, worst = rng.normal(size=(30, 10)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    calibration = from_measured(Measured(posterior, heights, cells, worst), np.full(10, 5))
    order = np.argsort(-posterior, axis=1, kind="stable")
    before = [
        posterior[user, order[user, : list(order[user]).index(cell)]].sum(dtype=np.float64)
        for user in range(30)
        for cell in cells[user]
        if cell >= 0
    ]
    for recall, mass in zip(calibration.recalls, calibration.masses, strict=True):
        assert (np.array(before) < mass).mean() >= recall
        assert (np.array(before) < mass - 1e-6).mean() < recall or mass == 1.0
    assert calibration.mass_for(0.9999) == 1.0
    assert calibration.order_for(0.9999) is None
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_the_way_that_visits_less_is_taken():
    """Answers lie where the posterior says, or where the heights say."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 50, (100, 5)).astype(np.int32)
    noise, told = rng.random((100, 50)).astype(np.float32), np.full((100, 50), 1e-4, np.float32)
    np.put_along_axis(told, cells.astype(np.int64), 1.0, axis=1)
    told /= told.sum(axis=1, keepdims=True)
    noise /= noise.sum(axis=1, keepdims=True)
    worst, sizes = np.zeros(100, np.float32), np.full(50, 3)
    by_posterior = from_measured(Measured(told, np.zeros_like(noise), cells, worst), sizes)
    by_place = from_measured(Measured(noise, np.log(told), cells, worst), sizes)
    assert by_posterior.slacks == ()
    assert len(by_place.slacks) == len(by_place.recalls)
    assert from_measured(Measured(noise, np.log(told), cells, worst), sizes, places=False).slacks == ()


def test_slacks_are_refined_to_what_the_search_finds():
    """A search that finds more than was thought gets by with less slack."""
    calibration = Calibration((0.5, 0.9, 0.99), (0.1, 0.2, 0.3), 10, 10, 0.5, (1.0, 2.0, 3.0))
    asked: list[float] = []

    def share(order: Order) -> float:
        assert order.weight == 0.5
        asked.append(order.slack)
        return 1 - float(np.exp(-2 * max(order.slack + 1, 0)))

    slacks = refined(calibration, share).slacks
    assert np.allclose(1 - np.exp(-2 * (np.array(slacks) + 1)), calibration.recalls, atol=0.002)
    assert refined(replace(calibration, slacks=()), share).slacks == ()


def test_targets_need_a_calibration():
    model = searcher()
    with pytest.raises(ConfigError, match=r"recall = 0\.9.*never calibrated"):
        model.retrieve(histories(1, 2, 60), 5, Policy(recall=0.9))
    for bad in (0.0, 1.0, 2.0):
        with pytest.raises(ConfigError, match="recall"):
            Policy(recall=bad)
    with pytest.raises(ConfigError, match="max_items"):
        Policy(max_items=0)
    good = {"recalls": [0.5, 0.9], "masses": [0.1, 0.2], "k": 1, "users": 1, "weight": 0.0, "slacks": []}
    assert Calibration.from_json(good).order_for(0.5) is None
    for bad_facts in ({"recalls": [0.9, 0.5]}, {"slacks": [0.2, 0.1]}, {"slacks": [0.1]}, {"weight": np.nan}):
        with pytest.raises(ValueError, match=r"all must rise|inhomogeneous"):
            Calibration.from_json(good | bad_facts)
