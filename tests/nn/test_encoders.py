"""Encoders see the past and nothing else."""

import pytest
import torch

from tesserec.errors import ConfigError
from tesserec.nn.encoders import EncoderConfig, build_encoder


@pytest.mark.parametrize("kind", ["transformer", "windows", "mean"])
def test_a_state_depends_on_its_past_alone(kind):
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(kind=kind, dim=16, max_length=12)).eval()
    items = torch.randn(3, 9, 16)
    changed = items.clone()
    changed[:, 5:] = torch.randn(3, 4, 16)
    before, after = encoder(items), encoder(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)
    changed[:, 0] = 0
    assert not torch.allclose(encoder(changed)[:, 4], before[:, 4], atol=1e-3)


@pytest.mark.parametrize("kind", ["transformer", "windows", "mean", "none"])
def test_padding_and_company_change_nothing(kind):
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(kind=kind, dim=16, max_length=12)).eval()
    long, short = torch.randn(1, 8, 16), torch.randn(1, 3, 16)
    padded = torch.cat([short, torch.randn(1, 5, 16)], dim=1)
    together = encoder(torch.cat([long, padded]))
    assert torch.allclose(together[1, :3], encoder(short)[0], atol=1e-5)
    assert torch.allclose(together[0], encoder(long)[0], atol=1e-5)


def test_without_an_encoder_a_state_is_its_item_at_its_place():
    encoder = build_encoder(EncoderConfig(kind="none", dim=16, max_length=12)).eval()
    items = torch.randn(1, 4, 16).expand(3, -1, -1).clone()
    items[1, :3] += 1
    states = encoder(items)
    assert torch.equal(states[0, 3], states[1, 3])
    assert not torch.equal(encoder(items[:, 3:])[0, 0], states[0, 3])


def test_windows_start_as_a_mean_of_the_means_of_the_newest_events():
    encoder = build_encoder(EncoderConfig(kind="windows", dim=16, max_length=12)).eval()
    assert encoder.sizes == [1, 2, 4, 8, 12]
    items = torch.randn(1, 11, 16)
    for place in range(11):
        means = [items[0, max(0, place + 1 - size) : place + 1].mean(0) for size in encoder.sizes]
        assert torch.allclose(encoder(items)[0, place], torch.stack(means).mean(0), atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"encoder\.dim = 10 .* encoder\.heads = 4"):
        build_encoder(EncoderConfig(kind="transformer", dim=10, heads=4))
