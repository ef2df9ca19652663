"""Calibration: by hand, on posteriors that are calibrated by construction, on the planted posterior of a world."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from tesserec.data.histories import Histories
from tesserec.data.world import World
from tesserec.evaluation.calibration import TOP_EDGES, Bins, Calibration, calibration

CELLS = 12


def sharpened(posterior: np.ndarray, power: float = 3.0) -> np.ndarray:
    return posterior**power / (posterior**power).sum(axis=1, keepdims=True)


def drawn(users: int = 20_000, seed: int = 0) -> tuple[np.ndarray, Histories]:
    """Posteriors, and as many targets a user as they say, one item a cell."""
    random = np.random.default_rng(seed)
    posterior = random.dirichlet(np.full(CELLS, 0.3), users)
    sizes = random.integers(1, 4, users)
    return posterior, Histories.from_lists(
        [random.choice(CELLS, n, p=p) for n, p in zip(sizes, posterior, strict=True)]
    )


def test_three_users_four_cells_by_hand() -> None:
    posterior = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.4, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5]])
    cell_of = np.array([0, 1, 2, 3, 3])
    found = calibration(posterior, cell_of, Histories.from_lists([[0], [0, 1], [4]])).figures()
    assert found["nll"] == pytest.approx(-np.log([0.7, 0.2, 0.4, 0.5]).mean())
    of_target = [(1 - 0.7) ** 2 + 3 * 0.01, 0.64 + 0.16 + 2 * 0.04, 0.36 + 3 * 0.04, 0.25 + 0.25]
    assert found["brier"] == pytest.approx(np.mean(of_target))
    assert found["accuracy_top"] == pytest.approx(2 / 4)
    assert found["confidence_top"] == pytest.approx((0.7 + 2 * 0.4 + 0.5) / 4)
    # Bins of 1/15: 0.7 holds one hit of one, 0.4 (ends a bin) one hit of two, 0.5 none of one.
    assert found["ece_top"] == pytest.approx((abs(0.7 - 1) + abs(2 * 0.4 - 1) + abs(0.5 - 0)) / 4)
    assert found["misplaced"] == pytest.approx(found["ece"] * 4 / 2)


def test_targets_that_are_ruled_out_are_counted_and_bounded() -> None:
    posterior = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = calibration(posterior, np.array([0, 1]), Histories.from_lists([[1], [0]])).figures()
    assert found["ruled_out"] == 0.5
    assert found["nll"] == pytest.approx((-np.log(1e-12) - np.log(0.5)) / 2)


def test_pairs_by_hand() -> None:
    posterior = np.array([[0.75, 0.25]])
    found = calibration(posterior, np.array([0, 1]), Histories.from_lists([[0, 0, 0, 1]]))
    assert found.pairs.error == pytest.approx(0.0)
    assert found.pairs.count.sum() == 8
    assert found.pairs.curve() == {"probability": [0.25, 0.75], "true": [0.25, 0.75], "count": [4.0, 4.0]}
    wrong = calibration(posterior[:, ::-1], np.array([0, 1]), Histories.from_lists([[0, 0, 0, 1]]))
    assert wrong.pairs.error == pytest.approx(0.5)
    assert wrong.figures()["misplaced"] == pytest.approx(0.5)


def test_bins_hold_their_upper_edge() -> None:
    bins = Bins.tally(np.array([0.0, 0.5, 0.51, 1.0]), np.ones(4), np.zeros(4), np.array([0.0, 0.5, 1.0]))
    assert bins.count.tolist() == [2, 2]


def test_draws_from_a_posterior_are_calibrated_and_a_sharper_one_is_not() -> None:
    posterior, targets = drawn()
    honest = calibration(posterior, np.arange(CELLS), targets).figures()
    bold = calibration(sharpened(posterior), np.arange(CELLS), targets).figures()
    assert honest["ece"] < 0.002
    assert honest["ece_top"] < 0.01
    assert bold["ece"] > 0.01
    assert bold["ece_top"] > 0.1
    assert honest["nll"] < bold["nll"]
    assert honest["brier"] < bold["brier"]


def test_blocks_add_up_and_cells_may_be_renamed() -> None:
    posterior, targets = drawn(500)
    cell_of, whole = np.arange(CELLS), calibration(posterior, np.arange(CELLS), targets)
    blocks = (slice(0, 7), slice(7, 300), slice(300, 500))
    parts: list[Calibration] = [calibration(posterior[rows], cell_of, targets.take(rows)) for rows in blocks]
    assert reduce(add, parts).figures() == pytest.approx(whole.figures())
    renamed = np.random.default_rng(5).permutation(CELLS)
    moved = np.empty_like(posterior)
    moved[:, renamed] = posterior
    assert calibration(moved, renamed, targets).figures() == pytest.approx(whole.figures())


def test_the_planted_posterior_of_a_world_is_calibrated() -> None:
    world = World.generate(users=4000, items=150, interests=10, seed=2, mean_length=8)
    index = {item: n for n, item in enumerate(world.items["item_id"])}
    last = world.log.group_by("user_id", maintain_order=True).last().sort("user_id")["item_id"]
    targets = Histories.from_lists([[index[item]] for item in last])
    truth = world.posterior()
    honest = calibration(truth, world.item_interest, targets).figures()
    bold = calibration(sharpened(truth), world.item_interest, targets).figures()
    flat = calibration(np.full_like(truth, 0.1), world.item_interest, targets).figures()
    assert honest["ece_top"] < 0.03 < 0.1 < bold["ece_top"]
    assert honest["misplaced"] < 0.03
    assert honest["nll"] < bold["nll"] < flat["nll"]
    assert honest["accuracy_top"] == pytest.approx(honest["confidence_top"], abs=0.03)


def test_edges_are_even_for_the_top() -> None:
    np.testing.assert_allclose(np.diff(TOP_EDGES), 1 / 15)
