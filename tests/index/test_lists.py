"""Score postings: sums over lists equal brute force whatever the blocks, and files that do not fit are named."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tesserec.index.lists
from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError
from tesserec.index.filters import NOTHING, Filter
from tesserec.index.lists import ARGUMENTS, sum_lists
from tesserec.index.native import native
from tesserec.index.score_postings import BLOCK, ScorePostings
from tests.index.world import catalogue

SIZE, CODES = 3 * BLOCK + 100, 8


class Weighed:
    """Codes and weights as given, whatever the history."""

    def __init__(self, codes, weights):
        self.codes, self.weights = np.asarray(codes, np.int32), np.asarray(weights, np.float32)

    def weigh(self, histories):
        return self.codes, self.weights


def brute_force(triples, codes, weights, k, unwanted):
    """Items and float32 scores of a user, from ``(code, item, score)`` triples."""
    table, sums = {(code, item): score for code, item, score in triples}, {}
    for code, weight in zip(codes, weights, strict=True):
        for item in {item for own, item in table if own == code}:
            sums[item] = sums.get(item, 0.0) + float(np.float32(weight)) * float(table[code, item])
    scores = {item: np.float32(total) + np.float32(0) for item, total in sums.items() if item not in unwanted}
    best = sorted(scores, key=lambda item: (-scores[item], item))[:k]
    return best, [scores[item] for item in best]


def draw_world(rng, ties):
    """Postings of items that lie around the edges of blocks, as triples and as lists."""
    pool = np.unique(rng.choice([0, BLOCK - 20, BLOCK, 2 * BLOCK, 3 * BLOCK], 60) + rng.integers(0, 40, 60))
    code, place = np.nonzero(rng.random((CODES, len(pool))) < rng.uniform(0.05, 0.9))
    scores = rng.integers(-1, 4, len(code)) if ties else rng.normal(0.5, 1, len(code))
    return code, pool[place], scores.astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30),
    ties=st.booleans(),
    negative=st.booleans(),
    k=st.integers(1, 70),
    width=st.integers(1, 9),
)
def test_sums_equal_brute_force(seed, ties, negative, k, width):
    """Only without negative numbers the C kernel answers, where there is one."""
    rng = np.random.default_rng(seed)
    code, item, scores = draw_world(rng, ties)
    scores = scores if negative else abs(scores)
    build = dict(n_codes=CODES, size=SIZE)
    order = rng.permutation(len(code))
    lists = ScorePostings.build(code[order], item[order], scores[order], **build)
    users, held = 3, np.unique(item)
    codes = rng.integers(-1, CODES, (users, width))
    weights = rng.choice([1.0, 1.0, 0.3, 2.0, 0.0, -0.7 if negative else 1e-9], (users, width))
    seen = [rng.choice(held, min(4, len(held)), replace=False) for _ in range(users)]
    denied, gone, changed = (rng.choice(held, n) for n in (5, 2, 3))
    gone = np.setdiff1d(gone, changed)
    exclude_seen, filtered, living = rng.random(3) < 0.6
    if living:
        now = np.isin(item, changed)
        scores = scores + now.astype(np.float32)
        delta = ScorePostings.build(code[now], item[now], scores[now], **build)
        lists = lists.with_delta(delta, gone)
    blocked = Filter(deny=denied).resolve(catalogue(SIZE).table[:, :1]) if filtered else NOTHING
    found = sum_lists(Weighed(codes, weights), lists, Histories.from_lists(seen), k, bool(exclude_seen), blocked)
    triples = list(zip(code.tolist(), item.tolist(), scores, strict=True))
    for user in range(users):
        unwanted = {*(seen[user] if exclude_seen else ()), *(denied if filtered else ()), *(gone if living else ())}
        best, values = brute_force(triples, codes[user], weights[user], k, unwanted)
        assert found.items[user, : len(best)].tolist() == best
        assert found.scores[user, : len(best)].tolist() == values
        assert (found.items[user, len(best) :] == -1).all()
    assert found.visits.certified.all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_full_blocks_equal_a_plain_sum(sign):
    rng, size = np.random.default_rng(3), 2 * BLOCK + 999
    code, item = np.nonzero(rng.random((4, size)) < 0.4)
    scores = rng.integers(1, 1000, len(code)).astype(np.float32) / 8
    lists = ScorePostings.build(code, item, scores, n_codes=4, size=size)
    weights = sign * np.array([[1, 0.5, 2, 0.25], [1, 1, 1, 1]], np.float32)
    found = sum_lists(
        Weighed([[0, 1, 2, 3], [3, 2, 3, 1]], weights), lists, Histories.from_lists([[1], [2]]), 300, False
    )
    table = np.zeros((4, size))
    table[code, item] = scores
    for user, (own, weight) in enumerate(zip([[0, 1, 2, 3], [3, 2, 3, 1]], weights, strict=True)):
        total = (table[own] * weight[:, None].astype(np.float64)).sum(axis=0)
        listed = np.flatnonzero(table[own].any(axis=0))
        best = listed[np.lexsort((listed, -total[listed]))][:300]
        assert found.items[user].tolist() == best.tolist()
        assert found.scores[user].tolist() == total[best].tolist()


@pytest.mark.parametrize("before", [1023, 1040, 1049, 1050, 1053, 1056, 1057])
def test_a_dense_block_after_one_that_a_single_list_names(before):
    """What is noted of the first leaves little room or none for a whole run of the second."""
    rng = np.random.default_rng(before)
    item = np.concatenate([rng.permutation(BLOCK)[:before], *(BLOCK + rng.permutation(BLOCK)[:2000] for _ in range(2))])
    code = np.repeat([0, 1, 2], [before, 2000, 2000])
    scores = rng.uniform(1, 2, len(item)).astype(np.float32)
    lists = ScorePostings.build(code, item, scores, n_codes=3, size=SIZE)
    found = sum_lists(Weighed([[0, 1, 2]], [[1e-3, 1, 1]]), lists, Histories.from_lists([[0]]), 20, False)
    total = np.zeros(SIZE)
    np.add.at(total, item, scores * np.array([np.float32(1e-3), 1, 1], np.float64)[code])
    assert found.items[0].tolist() == np.lexsort((np.arange(SIZE), -total))[:20].tolist()


def test_the_c_kernel_keeps_the_bits_of_numba(monkeypatch):
    """Lists as long as in service: many blocks, near ties at the k-th place, a long history."""
    if native("lists", "tesserec_sum_lists", ARGUMENTS) is None:
        pytest.skip("no C compiler or no AVX-512")
    rng, size, users = np.random.default_rng(11), 5 * BLOCK + 7, 20
    code, item = np.nonzero(rng.random((40, size)) < rng.uniform(0.0005, 0.05, (40, 1)))
    scores = rng.exponential(1, len(code)).astype(np.float32)
    lists = ScorePostings.build(code, item, scores, n_codes=40, size=size)
    codes = np.stack([rng.choice(40, 24) for _ in range(users)])
    side = Weighed(codes, rng.uniform(0, 1.5, codes.shape))
    seen = Histories.from_lists([rng.choice(item, 500) for _ in range(users)])

    def refuse(*arguments):
        raise AssertionError("Numba was asked")

    with monkeypatch.context() as patch:
        patch.setattr(tesserec.index.lists, "_sum_rows", refuse)
        ours = sum_lists(side, lists, seen, 100, True)
    monkeypatch.setattr(tesserec.index.lists, "native", lambda *arguments: None)
    plain = sum_lists(side, lists, seen, 100, True)
    np.testing.assert_array_equal(ours.items, plain.items)
    np.testing.assert_array_equal(ours.scores, plain.scores)


def test_a_list_over_blocks_is_read_best_first(tmp_path):
    item = np.array([5, BLOCK + 1, 7, 2 * BLOCK, 6])
    scores = np.array([1, 9, 4, 4, 1], np.float32)
    lists = ScorePostings.build(np.ones(5, int), item, scores, n_codes=3, size=SIZE)
    lists.save(tmp_path)
    for part in (lists, ScorePostings.open(tmp_path)):
        part.verify()
        items, values = part.of(1)
        assert items.tolist() == [BLOCK + 1, 7, 2 * BLOCK, 5, 6]
        assert values.tolist() == [9, 4, 4, 1, 1]
        assert [len(part.of(code)[0]) for code in range(3)] == [0, 5, 0]
        assert isinstance(part.places, np.memmap) == (part is not lists)


def test_popularity_reads_the_head_of_each_block():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 50, SIZE).astype(np.float32)
    lists = ScorePostings.build(np.zeros(SIZE, int), np.arange(SIZE), scores, n_codes=1, size=SIZE)
    found = sum_lists(Weighed([[0]], [[1.0]]), lists, Histories.from_lists([[3]]), 500, False)
    best = np.lexsort((np.arange(SIZE), -scores))[:500]
    assert found.items[0].tolist() == best.tolist()
    assert found.scores[0].tolist() == scores[best].tolist()


def written(directory):
    rng = np.random.default_rng(1)
    code, item, scores = draw_world(rng, ties=False)
    lists = ScorePostings.build(code, item, scores, n_codes=CODES, size=SIZE)
    lists.save(directory)
    return lists


def test_every_changed_number_is_found(tmp_path):
    last = int(np.argmax(written(tmp_path).items))
    for file in ("places", "scores", "blocks", "counts", "ranges", "offsets"):
        path = tmp_path / f"{file}.npy"
        array = np.load(path)
        for at in (last,) if file == "places" else (0, len(array) // 2, len(array) - 1):
            damaged = array.copy()
            damaged[at] = np.nan if file == "scores" else damaged[at] ^ 0xF000
            np.save(path, damaged)
            with pytest.raises(ArtefactError, match=r"\.npy"):
                ScorePostings.open(tmp_path).verify()
        for torn in (array[:-1], array.astype(np.float64)):
            np.save(path, torn)
            with pytest.raises(ArtefactError, match=r"\.npy"):
                ScorePostings.open(tmp_path)
        path.unlink()
        with pytest.raises(ArtefactError, match=rf"{file}\.npy is missing"):
            ScorePostings.open(tmp_path)
        np.save(path, array)
    ScorePostings.open(tmp_path).verify()


def test_lists_of_an_earlier_version_are_read(tmp_path):
    lists = written(tmp_path)
    pairs = [lists.of(code) for code in range(CODES)]
    np.save(tmp_path / "items.npy", np.concatenate([items for items, _ in pairs]))
    np.save(tmp_path / "scores.npy", np.concatenate([scores for _, scores in pairs]))
    (tmp_path / "postings.json").write_text(json.dumps({"kind": "scores", "size": SIZE, "keyed_by_item": False}))
    opened = ScorePostings.open(tmp_path)
    opened.verify()
    for name in ("places", "scores", "blocks", "counts", "ranges", "offsets"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(lists, name))
    np.save(tmp_path / "items.npy", np.concatenate([items for items, _ in pairs]) + SIZE)
    with pytest.raises(ArtefactError, match=r"items\.npy or scores\.npy is damaged"):
        ScorePostings.open(tmp_path)


def test_another_block_is_refused(tmp_path):
    written(tmp_path)
    facts = json.loads((tmp_path / "postings.json").read_text())
    (tmp_path / "postings.json").write_text(json.dumps(facts | {"block": 1024}))
    with pytest.raises(ArtefactError, match="block = 1024; expected 65536"):
        ScorePostings.open(tmp_path)
