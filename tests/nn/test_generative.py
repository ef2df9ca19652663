"""The autoregressive posterior against brute force over all tuples."""

import itertools

import numpy as np
import pytest
import torch

from tesserec.errors import ConfigError
from tesserec.models.export import _export
from tesserec.nn.generative import AutoregressivePosterior, number_of, tuple_of
from tesserec.nn.losses import NEVER

ROWS = 3


def posterior_and_states(levels=2, codes=5, seed=0):
    torch.manual_seed(seed)
    posterior = AutoregressivePosterior(8, levels, codes).eval()
    for head in posterior.heads:
        torch.nn.init.normal_(head.weight, std=1.0)
    torch.nn.init.normal_(posterior.earlier)
    base = torch.randn(ROWS, codes**levels)
    return posterior, torch.randn(ROWS, 8), base


def all_tuples(levels, codes):
    return torch.tensor(list(itertools.product(range(codes), repeat=levels)))


@pytest.mark.parametrize(("levels", "codes"), [(1, 7), (2, 5), (3, 4)])
def test_a_tuple_and_its_number_name_each_other(levels, codes):
    tuples = all_tuples(levels, codes)
    assert number_of(tuples, codes).tolist() == list(range(codes**levels))
    assert tuple_of(torch.arange(codes**levels), codes, levels).equal(tuples)


@pytest.mark.parametrize(("levels", "codes"), [(1, 7), (2, 5), (3, 4)])
@torch.no_grad()
def test_the_joint_sums_to_one_and_gives_each_tuple_its_own_log_probability(levels, codes):
    posterior, states, base = posterior_and_states(levels, codes)
    joint = posterior.joint(states, base)
    assert torch.allclose(joint.exp().sum(-1), torch.ones(ROWS), atol=1e-5)
    one_by_one = [posterior.log_prob(states, row.expand(ROWS, -1), base) for row in all_tuples(levels, codes)]
    assert torch.allclose(joint, torch.stack(one_by_one, 1), atol=1e-5)


@torch.no_grad()
def test_a_fresh_posterior_is_its_base():
    torch.manual_seed(0)
    base = torch.randn(ROWS, 25)
    fresh = AutoregressivePosterior(8, 2, 5)
    assert torch.allclose(fresh.joint(torch.randn(ROWS, 8), base), base.log_softmax(-1), atol=1e-5)
    alike = fresh.joint(torch.randn(ROWS, 8), base[:1])
    assert torch.allclose(alike, base[:1].log_softmax(-1).expand(ROWS, -1), atol=1e-5)


@torch.no_grad()
def test_tuples_ruled_out_have_no_probability_even_if_a_whole_branch_is():
    posterior, states, base = posterior_and_states()
    never = torch.zeros(25, dtype=torch.bool)
    never[5:10] = never[[0, 13, 24]] = True
    chances = posterior.joint(states, base.masked_fill(never, NEVER)).exp()
    assert (chances[:, never] == 0).all()
    assert (chances[:, ~never] > 0).all()
    assert torch.allclose(chances.sum(-1), torch.ones(ROWS), atol=1e-5)


@pytest.mark.parametrize(("levels", "codes"), [(1, 7), (2, 5), (3, 4)])
@torch.no_grad()
def test_a_full_beam_finds_the_likeliest_tuples_in_order(levels, codes):
    posterior, states, base = posterior_and_states(levels, codes)
    joint = posterior.joint(states, base)
    tuples, scores = posterior.beam(states, codes**levels, codes**levels, base)
    best, number = joint.sort(descending=True)
    assert number_of(tuples, codes).equal(number)
    assert torch.allclose(scores, best, atol=1e-5)


@pytest.mark.parametrize("levels", [2, 3])
@torch.no_grad()
def test_a_beam_holds_at_most_so_many_tuples_of_a_first_code_and_these_are_its_best(levels):
    posterior, states, base = posterior_and_states(levels, 4)
    tuples, scores = posterior.beam(states, 8, 2, base)
    joint = posterior.joint(states, base)
    assert (scores.diff() <= 0).all()
    assert torch.allclose(joint.gather(1, number_of(tuples, 4)), scores, atol=1e-5)
    for row in range(ROWS):
        counts = torch.bincount(tuples[row, :, 0], minlength=4)
        assert counts.tolist() == [2, 2, 2, 2]
        assert len(torch.unique(tuples[row], dim=0)) == 8
    if levels == 2:
        best = joint.view(ROWS, 4, 4).topk(2).values.flatten(1).sort(descending=True).values
        assert torch.allclose(scores, best, atol=1e-5)


@torch.no_grad()
def test_samples_come_as_often_as_the_joint_says():
    posterior, states, base = posterior_and_states()
    drawn = number_of(posterior.sample(states, 40_000, base, generator=torch.Generator().manual_seed(1)), 5)
    chances = posterior.joint(states, base).exp()
    for row in range(ROWS):
        share = torch.bincount(drawn[row], minlength=25) / 40_000
        assert (share - chances[row]).abs().max() < 4 * (0.25 / 40_000) ** 0.5


@torch.no_grad()
def test_a_low_temperature_draws_the_likeliest_and_a_prefix_is_kept():
    posterior, states, base = posterior_and_states()
    prefix = torch.tensor([[1], [4], [0]])
    drawn = posterior.sample(states, 50, base, temperature=1e-3, prefix=prefix)
    assert (drawn[..., 0] == prefix).all()
    likeliest = posterior.next_level(states, prefix[:, None], base)[:, 0].argmax(-1)
    assert (drawn[..., 1] == likeliest[:, None]).all()


def test_no_gradient_is_lost_or_broken_where_tuples_are_ruled_out():
    posterior, states, base = posterior_and_states()
    base[:, 3:20] = NEVER
    (-posterior.log_prob(states, torch.tensor([[0, 1], [4, 2], [4, 0]]), base)).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in posterior.parameters())
    assert posterior.heads[1].weight.grad.abs().sum() > 0
    assert posterior.earlier.grad[1, 0, [0, 4]].abs().sum() > 0


def test_joint_and_beam_are_the_same_in_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    posterior, states, base = posterior_and_states()

    class Serve(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.posterior = posterior

        def forward(self, states, base):
            tuples, scores = self.posterior.beam(states, 6, 2, base)
            return self.posterior.joint(states, base), tuples, scores

    rows, outputs = {0: torch.export.Dim.DYNAMIC}, ["joint", "tuples", "scores"]
    with torch.no_grad():
        _export(Serve(), (states, base), tmp_path / "posterior.onnx", ["states", "base"], outputs, (rows, rows))
    session = onnxruntime.InferenceSession(tmp_path / "posterior.onnx")
    wider = torch.cat([states, states.flip(0)]), torch.cat([base, base.flip(0)])
    got = session.run(outputs, {"states": wider[0].numpy(), "base": wider[1].numpy()})
    with torch.no_grad():
        expected = Serve()(*wider)
    for ours, theirs in zip(expected, got, strict=True):
        assert np.allclose(ours.numpy(), theirs, atol=1e-5)


def test_a_dictionary_too_large_to_list_is_refused():
    with pytest.raises(ConfigError, match=r"4 levels of 64 codes make 16,777,216 interests.*depth"):
        AutoregressivePosterior(8, 4, 64)
