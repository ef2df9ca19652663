"""Quantisers against vector-quantize-pytorch on equal state: codes, reconstructions, moving averages, gradients."""

import pytest
import torch

from tesserec.nn.estimators import rotation
from tesserec.nn.product import ProductQuantiser
from tesserec.nn.quantisers import CodebookConfig, ResidualQuantiser

oracle = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch, the oracle, is not installed")

DIM, CODES, LEVELS, DECAY = 8, 10, 3, 0.9


def residual_pair():
    theirs = oracle.ResidualVQ(
        dim=DIM, num_quantizers=LEVELS, codebook_size=CODES, decay=DECAY, rotation_trick=False, commitment_weight=0.0
    )
    ours = ResidualQuantiser(CodebookConfig(levels=LEVELS, codes=CODES, update="ema", decay=DECAY), DIM)
    return ours, theirs, [layer._codebook for layer in theirs.layers]


def product_pair():
    theirs = oracle.VectorQuantize(
        dim=DIM, heads=2, codebook_dim=DIM // 2, separate_codebook_per_head=True, codebook_size=CODES, decay=DECAY,
        rotation_trick=False,
    )  # fmt: skip
    ours = ProductQuantiser(CodebookConfig(levels=2, codes=CODES, update="ema", decay=DECAY), DIM)
    return ours, theirs, [theirs._codebook]


@pytest.mark.parametrize("pair", [residual_pair, product_pair])
def test_codes_reconstructions_and_moving_averages_are_theirs(pair):
    torch.manual_seed(0)
    ours, theirs, codebooks = pair()
    start = torch.cat([book.embed for book in codebooks]).clone()
    ours.codebooks.data = start.clone()
    ours.sums.copy_(start)
    for _ in range(30):
        z = torch.randn(50, DIM) * 0.5
        found = ours(z)
        ours.update(found)
        rebuilt, codes, *_ = theirs(z[None])
        assert torch.equal(found.codes, codes[0])
        assert torch.allclose(found.rebuilt, rebuilt[0], atol=1e-4)
        assert torch.allclose(ours.codebooks, torch.cat([book.embed for book in codebooks]), atol=1e-4)
    assert not torch.allclose(ours.codebooks, start, atol=0.1)


def test_the_rotation_has_their_gradient():
    theirs = oracle.VectorQuantize(dim=DIM, codebook_size=CODES, rotation_trick=True, commitment_weight=0.0)
    ours = ResidualQuantiser(CodebookConfig(levels=1, codes=CODES, estimator="rotation"), DIM)
    ours.codebooks.data = theirs._codebook.embed.clone()
    z, slope = torch.randn(2, 40, DIM)
    gradients = []
    for quantise in (lambda z: theirs(z[None])[0][0], lambda z: ours(z).straight_through(z)):
        free = z.clone().requires_grad_()
        (quantise(free) * slope).sum().backward()
        gradients.append(free.grad)
    assert torch.allclose(*gradients, atol=1e-5)


def test_vectors_opposite_to_their_codeword_keep_finite_gradients():
    z = torch.eye(3, requires_grad=True)
    rotation(z, -torch.eye(3)).sum().backward()
    assert z.grad.isfinite().all()
