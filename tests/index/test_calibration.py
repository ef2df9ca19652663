"""A recall target: what is measured in validation holds on other users, and is refused where nothing was measured."""

import numpy as np
import pytest

from tesserec.errors import ConfigError
from tesserec.index.calibration import Calibration, before_items, calibrate, from_masses
from tesserec.index.contract import Policy
from tests.index.world import histories, searcher

POLICY = Policy(interests=3, merge="probability")


def test_a_target_holds_on_other_users():
    model = searcher(3, items=600, cells=40, interests=3, merge="probability")
    calibration = calibrate(model, histories(1, 400, 600), POLICY, k=20)
    model.calibration = calibration
    asked = histories(2, 400, 600)
    exact = model.retrieve(asked, 20, POLICY).items
    for target in (0.5, 0.9, 0.95):
        found = model.retrieve(asked, 20, Policy(interests=3, merge="probability", recall=target))
        share = np.mean([np.isin(one, other).mean() for one, other in zip(exact, found.items, strict=True)])
        assert abs(share - target) < 0.02
        assert (found.visits.mass_left <= 1.0001 - calibration.mass_for(target)).all()


def test_the_mass_is_the_quantile_of_what_lies_before():
    model = searcher(3, items=100, cells=10, interests=3, merge="probability")
    asked = histories(1, 30, 100)
    exact = model.retrieve(asked, 7, POLICY)
    before = before_items(model, asked, exact.items)
    calibration = from_masses(before, 7, 30)
    for recall, mass in zip(calibration.recalls, calibration.masses, strict=True):
        assert (before < mass).mean() >= recall
    assert calibration.mass_for(0.9999) == 1.0
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_targets_need_a_calibration():
    model = searcher()
    with pytest.raises(ConfigError, match=r"recall = 0\.9.*never calibrated"):
        model.retrieve(histories(1, 2, 60), 5, Policy(recall=0.9))
    for bad in (0.0, 1.0, 2.0):
        with pytest.raises(ConfigError, match="recall"):
            Policy(recall=bad)
    with pytest.raises(ConfigError, match="max_items"):
        Policy(max_items=0)
    with pytest.raises(ValueError, match="both must rise"):
        Calibration.from_json({"recalls": [0.9, 0.5], "masses": [0.1, 0.2], "k": 1, "users": 1})
