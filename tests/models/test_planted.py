"""Worlds whose interests are planted: every model with a codebook must find them, know how sure it is, and use it.

A model joins by an entry in ``PLANTED``: its name, the settings that fit it in seconds, and what it promises.

The bound on recall knows each user's weights of interests, which no history tells. In this world nobody drifts, so
counting the interests of a history comes within 3 % of the bound (held below), and a model has the rest of 5 % to lose.
Lists are judged by the true chances of their items rather than by the one item that came, which would add noise of the
size of what is asked. Items repeat, so the split leaves seen ones in the answer, as the bound does.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tesserec.data.dataset import Dataset
from tesserec.data.prepare import prepare
from tesserec.data.world import World
from tesserec.evaluation.calibration import calibration
from tesserec.models import model_class
from tesserec.models.neural import NeuralRetriever

INTERESTS, K = 6, 20
SHARED = {
    "encoder": {"kind": "mean", "dim": 16, "layers": 1, "heads": 1, "max_length": 50, "dropout": 0.0},
    "training": {
        "epochs": 6, "batch_positions": 256, "learning_rate": 0.015, "final_rate": 0.1, "negatives": 128,
        "precision": "fp32",
    },
    "temperature": 0.2,
    "horizon": 4,
}  # fmt: skip
PLANTED: dict[str, dict[str, object]] = {
    "sparc": SHARED | {"codebook": {"levels": 2, "codes": 6}, "warmup_epochs": 3, "interests": 4, "contrast_rows": 64},
    "gemirec": SHARED | {"codebook": {"levels": 2, "codes": 6}, "depth": 1, "warmup_epochs": 3, "interests": 4},
    "tessera": SHARED | {"normalise": True, "codes": 6, "parts": 4, "warmup_epochs": 3, "spread": 500.0, "horizon": 5},
}
"""Settings of models whose cells are planted interests and whose posterior is a probability of cells."""


@cache
def world() -> World:
    """Six interests of twenty items, all equally likely within one; nobody drifts and no item is cold."""
    return World.generate(users=800, items=120, interests=INTERESTS, seed=3, mean_length=40, skew=0, drift=0, cold=0)


@cache
def dataset() -> Dataset:
    return prepare(world().log, items=world().items, split="leave-one-out")


@cache
def fitted(name: str) -> NeuralRetriever:
    cls = model_class(name)
    model = cls(cls.Config.model_validate(PLANTED[name])).fit(dataset(), seed=0)
    assert isinstance(model, NeuralRetriever)
    return model


def planted() -> np.ndarray:
    """Planted interest of each item of the dataset."""
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    return np.array([world().item_interest[row[item]] for item in dataset().items.values])


def expected_recall(lists: np.ndarray) -> float:
    """Mean true chance that a test user's next item is in the user's list ``(users, K)``, as a share of the bound."""
    users = np.array([int(name[1:]) for name in dataset().users.decode(dataset().test.users)])
    names = dataset().items.values.to_list()
    row = {item: i for i, item in enumerate(world().items["item_id"])}
    columns = np.array([row[name] for name in names])
    chances = world().next_item_probabilities(users)[:, columns]
    return float(np.take_along_axis(chances, lists.astype(np.int64), axis=1).sum(1).mean()) / world().optimal_recall(K)


def entropy(shares: np.ndarray) -> float:
    used = shares[shares > 0]
    return float(-(used * np.log(used)).sum())


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised by the mean of both entropies: 1 if each label tells the other, 0 if they are independent."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    each = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return 2 * (each - entropy(joint.ravel())) / each


@pytest.fixture(params=list(PLANTED))
def model(request):
    return fitted(request.param)


def test_mutual_information_by_hand():
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == pytest.approx(1.0)
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    assert mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])) == pytest.approx(2 / 3)


def test_counting_a_history_comes_near_the_bound():
    part, interest = dataset().test, planted()
    assert not dataset().exclude_seen
    counts = np.stack([np.bincount(interest[np.asarray(h)], minlength=INTERESTS) for h in part.histories])
    best = np.argsort(-counts[:, interest], axis=1, kind="stable")[:, :K]
    assert expected_recall(best) > 0.97


def test_cells_are_the_planted_interests(model):
    assert mutual_information(model.network.cells().numpy(), planted()) >= 0.9


def test_the_posterior_is_calibrated(model):
    part = dataset().test
    posterior = model.searcher.side.encode(part.histories).posterior
    figures = calibration(posterior, model.network.cells().numpy(), part.targets).figures()
    assert figures["ece"] <= 0.05
    assert figures["ece_top"] <= 0.1
    assert figures["accuracy_top"] > 0.4


def test_recall_comes_within_a_twentieth_of_the_bound(model):
    part = dataset().test
    assert expected_recall(model.searcher.retrieve(part.histories, K).items) >= 0.95
