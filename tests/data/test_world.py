"""The synthetic world: its truth must be the truth of the log that it writes."""

import numpy as np
import polars as pl
import pytest

from tesserec.data import world as world_module
from tesserec.data.world import COLD_SPAN, SPAN, START, World
from tesserec.errors import ConfigError


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(users=3000, items=300, interests=10, seed=3, mean_length=15)


@pytest.fixture(scope="module")
def last_items(world: World) -> np.ndarray:
    """Item index of each user's last event."""
    last = world.log.group_by("user_id", maintain_order=True).agg(pl.col("item_id").last())
    assert last["user_id"].is_sorted()
    return last["item_id"].str.slice(1).cast(pl.Int64).to_numpy()


def test_equal_seeds_give_equal_worlds_and_others_do_not(world):
    again = World.generate(users=3000, items=300, interests=10, seed=3, mean_length=15)
    assert again.log.equals(world.log)
    assert again.items.equals(world.items)
    other = World.generate(users=3000, items=300, interests=10, seed=4, mean_length=15)
    assert not other.log.equals(world.log)


def test_log_is_ordered_inside_users_and_complete(world):
    log = world.log
    assert log.columns == ["user_id", "item_id", "timestamp"]
    assert log["user_id"].n_unique() == 3000
    assert log.group_by("user_id").len()["len"].min() >= 5
    steps = log.select(pl.col("timestamp").diff().over("user_id"))["timestamp"]
    assert steps.min() >= 0
    assert log["timestamp"].is_between(START, START + SPAN).all()
    assert set(log["item_id"]) <= set(world.items["item_id"])


def test_cold_items_appear_only_at_the_end(world):
    cold = world.items["item_id"].to_numpy()[world.cold]
    assert len(cold) == 9
    times = world.log.filter(pl.col("item_id").is_in(cold))["timestamp"]
    assert len(times) > 0
    assert times.min() >= START + int(SPAN * (1 - COLD_SPAN))


def test_distributions_sum_to_one(world):
    users = np.arange(0, 3000, 7)
    np.testing.assert_allclose(world.posterior(users).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(world.next_item_probabilities(users).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(world.successors.sum(axis=1), 1)


def test_last_interests_follow_the_posterior(world, last_items):
    posterior = world.posterior()
    drawn = np.bincount(world.item_interest[last_items], minlength=10)
    expected, spread = posterior.sum(axis=0), np.sqrt((posterior * (1 - posterior)).sum(axis=0))
    assert (np.abs(drawn - expected) < 4 * spread).all()
    # Calibration: among (user, interest) pairs the share that happens is the probability that was stated.
    happened = np.eye(10)[world.item_interest[last_items]]
    for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 1.0)):
        inside = (posterior > low) & (posterior <= high)
        assert happened[inside].mean() == pytest.approx(posterior[inside].mean(), abs=0.03)


def test_last_items_follow_the_item_distribution(world, last_items):
    chances = world.next_item_probabilities(np.arange(3000))
    drawn = np.bincount(last_items, minlength=300)
    expected, spread = chances.sum(axis=0), np.sqrt((chances * (1 - chances)).sum(axis=0))
    # Largest of 300 standardised deviations.
    assert (np.abs(drawn - expected) < 5 * spread + 1).all()


@pytest.mark.parametrize("k", [1, 10, 50])
def test_optimum_is_met_by_its_own_lists_and_by_no_popularity(world, last_items, k):
    chances = world.next_item_probabilities(np.arange(3000))
    best = np.argsort(-chances, axis=1)[:, :k]
    optimum, noise = world.optimal_recall(k), 4 * 0.5 / np.sqrt(3000)
    assert (best == last_items[:, None]).any(axis=1).mean() == pytest.approx(optimum, abs=noise)
    popular = world.log.group_by("item_id").len().sort("len", "item_id", descending=True)["item_id"][:k]
    indices = popular.str.slice(1).cast(pl.Int64).to_numpy()
    assert chances[:, indices].sum(axis=1).mean() < optimum * 0.8


def test_optimum_of_whole_catalogue_is_one(world):
    assert world.optimal_recall(10_000) == pytest.approx(1)


def test_catalogue_reads_well(world):
    items = world.items
    assert items.columns == ["item_id", "title", "category", "tags"]
    assert items["title"].n_unique() == len(items)
    truth = np.array(world.interest_names)[world.item_interest]
    assert 0.8 < (items["category"].to_numpy() == truth).mean() < 0.99
    assert World.generate(users=1, items=70, interests=70).interest_names[32] == "Jazz vinyl 2"


def test_written_in_chunks_equals_the_log(world, tmp_path, monkeypatch):
    monkeypatch.setattr(world_module, "CHUNK", 1000)
    chunked = World.generate(users=2500, items=300, interests=10, seed=3, mean_length=8)
    log, items = chunked.write(tmp_path)
    assert len(list(log.iterdir())) == 3
    assert pl.read_parquet(log).equals(chunked.log)
    assert pl.read_parquet(items).equals(chunked.items)
    assert len(chunked.hidden.late) == 2500


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"items": 3}, "3 items"),
        ({"mean_length": 2}, "mean_length"),
        ({"drift": 1.5}, "drift"),
        ({"users": 0}, "users"),
    ],
)
def test_impossible_worlds_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        World.generate(**wrong)
