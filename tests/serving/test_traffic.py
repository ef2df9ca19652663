"""Counts by interest, alone and over several workers."""

import threading

import pytest

from tesserec.serving import traffic
from tesserec.serving.metrics import SHARED
from tesserec.serving.traffic import Traffic


def worker(monkeypatch, number, generation=1):
    """What a process of some number counts in."""
    monkeypatch.setattr(traffic.os, "getpid", lambda: number)
    return Traffic(generation, 4)


def test_alone_it_counts_in_memory(monkeypatch, tmp_path):
    monkeypatch.delenv(SHARED, raising=False)
    alone = Traffic(1, 4)
    alone.add([3, 3, None, 0, 4])
    assert alone.counts() == {3: 2, 0: 1}


def test_workers_are_added_up_and_generations_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setenv(SHARED, str(tmp_path))
    first, second, later = worker(monkeypatch, 1), worker(monkeypatch, 2), worker(monkeypatch, 1, generation=2)
    first.add([1, 1])
    second.add([1, 2])
    later.add([0])
    assert first.counts() == second.counts() == {1: 3, 2: 1}
    assert later.counts() == {0: 1}
    assert worker(monkeypatch, 1).counts() == {1: 3, 2: 1}  # rolled back to: its counts go on


@pytest.mark.parametrize("shared", [False, True])
def test_threads_lose_no_count(monkeypatch, tmp_path, shared):
    if shared:
        monkeypatch.setenv(SHARED, str(tmp_path))
    else:
        monkeypatch.delenv(SHARED, raising=False)
    counted = Traffic(1, 2)
    threads = [threading.Thread(target=lambda: [counted.add([1, 0, 1]) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.counts() == {0: 2000, 1: 4000}


def test_a_model_without_interests_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv(SHARED, str(tmp_path))
    nothing = Traffic(1, 0)
    nothing.add([0, None])
    assert nothing.counts() == {}
