"""What codebook methods share: the temperature that a posterior is given after training."""

import copy

import pytest
import torch

from tesserec.models.codebooks import best_heat, calibrate
from tesserec.models.network import TensorBatch
from tesserec.models.neural import FitTask
from tests.models.worlds import dataset, fitted


def test_the_heat_of_an_overconfident_posterior_is_found():
    torch.manual_seed(0)
    logits = torch.randn(20_000, 12)
    wanted = torch.distributions.Categorical(logits=logits).sample()
    assert best_heat(torch.softmax(2 * logits, -1), wanted) == pytest.approx(2.0, rel=0.05)
    assert best_heat(torch.softmax(logits, -1), wanted) == pytest.approx(1.0, rel=0.05)


@pytest.fixture(params=["sparc", "tessera"])
def model(request):
    return copy.deepcopy(fitted(request.param))


def test_a_fitted_model_has_its_heat_and_finds_the_same_from_any_other(model):
    found = model.network.heat.item()
    assert found != 1.0
    model.network.heat.fill_(3.0)
    calibrate(model, dataset(), seed=0)
    assert model.network.heat.item() == pytest.approx(found, rel=1e-6)


def test_heat_flattens_what_serves_and_nothing_that_trains(model):
    network = model.network.eval()
    task = FitTask(model, dataset(), seed=0)
    batch = TensorBatch(next(iter(task.batches.epoch(0))), task.log_q)
    losses, sureness = [], []
    for heat in (1.0, 2.0):
        network.heat.fill_(heat)
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append({name: value.item() for name, value in network.losses(batch, 0.5).items()})
        model.__dict__.pop("searcher", None)
        sureness.append(model.searcher.side.encode(dataset().test.histories).posterior.max(1).mean())
    assert losses[0] == losses[1]
    assert sureness[1] < sureness[0]
