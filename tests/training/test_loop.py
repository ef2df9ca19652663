"""The loop: interrupted runs end as uninterrupted ones, and worthless runs are refused by name."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from tesserec.errors import ArtefactError, TrainingRefused
from tesserec.models import model_class
from tesserec.models.sasrec import SASRec, SASRecConfig
from tesserec.models.sparc import Sparc, SparcConfig, SparcNetwork
from tesserec.models.two_tower import TwoTower
from tesserec.nn.quantisers import CodebookConfig, ResidualQuantiser
from tesserec.training import loop
from tesserec.training.checkpoint import load_tensors, save_tensors
from tests.models.worlds import SPARC, dataset, few_users

CONFIG = SparcConfig.model_validate(
    SPARC | {"warmup_epochs": 2, "encoder": SPARC["encoder"] | {"dropout": 0.2}}
    | {"training": SPARC["training"] | {"epochs": 5, "batch_positions": 250}}
)  # fmt: skip


@pytest.fixture
def stop_after(monkeypatch):
    """Make the loop meet Ctrl-C after its n-th step."""

    def arrange(steps):
        taken, step = [0], loop.Loop._step

        def counted(self, batch, progress):
            step(self, batch, progress)
            taken[0] += 1
            self._interrupted = taken[0] == steps

        monkeypatch.setattr(loop.Loop, "_step", counted)

    return arrange


def log(run):
    drop = ("seconds", "targets_per_second")
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in drop} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model that was not interrupted, and its log."""
    run = tmp_path_factory.mktemp("whole")
    return Sparc(CONFIG).fit(few_users(), seed=2, run=run), log(run)


@pytest.mark.parametrize("steps", [1, 9, 17, 26])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(whole, tmp_path, stop_after, monkeypatch, steps):
    with monkeypatch.context():
        stop_after(steps)
        with pytest.raises(KeyboardInterrupt):
            Sparc(CONFIG).fit(few_users(), seed=2, run=tmp_path)
        monkeypatch.undo()
    resumed = Sparc(CONFIG).fit(few_users(), seed=2, run=tmp_path, resume=True)
    model, rows = whole
    expected, found = model.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert log(tmp_path) == rows


@pytest.mark.parametrize("name", ["two-tower", "sasrec"])
def test_sparse_tables_of_large_catalogues_train_and_resume_alike(tmp_path, stop_after, monkeypatch, name):
    monkeypatch.setattr("tesserec.nn.items.SPARSE_FROM", 10)
    cls = model_class(name)
    training = SPARC["training"] | {"epochs": 3}
    config = cls.Config.model_validate({"encoder": SPARC["encoder"], "training": training, "temperature": 0.2})
    whole = cls(config).fit(dataset(), seed=2)
    assert whole.network.items.table.sparse
    with monkeypatch.context():
        stop_after(50)
        with pytest.raises(KeyboardInterrupt):
            cls(config).fit(dataset(), seed=2, run=tmp_path)
        monkeypatch.undo()
    monkeypatch.setattr("tesserec.nn.items.SPARSE_FROM", 10)
    resumed = cls(config).fit(dataset(), seed=2, run=tmp_path, resume=True)
    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_checkpoint_is_whole_or_absent_and_says_so(tmp_path):
    with pytest.raises(ArtefactError, match="no checkpoint to go on from"):
        Sparc(CONFIG).fit(dataset(), seed=2, run=tmp_path, resume=True)
    path = tmp_path / "checkpoint" / "last.safetensors"
    save_tensors(path, {"a": torch.arange(5)}, {"seed": 1})
    assert load_tensors(path)[1] == {"seed": 1}
    for cut in (0, 1, 20, -1):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ArtefactError, match="cut is damaged"):
            load_tensors(tmp_path / "cut")


def test_a_restarted_code_loses_its_momentum_once():
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=3), 2)
    optimiser = torch.optim.Adam([quantiser.codebooks])
    for restarted, kept in ((True, False), (False, True)):
        quantiser.restarted[0, 1] |= restarted
        quantiser.codebooks.grad = torch.ones_like(quantiser.codebooks)
        optimiser.step()
        loop._forget_restarted(quantiser, [optimiser])
        momentum = optimiser.state[quantiser.codebooks]["exp_avg"][0]
        assert momentum.all(-1).tolist() == [True, kept, True]


def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path):
    data, config = dataset(), SASRecConfig.model_validate({"training": {"epochs": 1, "patience": 1}})
    with suppress(TrainingRefused):  # one epoch may be too few, and leaves a checkpoint all the same
        SASRec(config).fit(data, run=tmp_path)
    wider = SASRecConfig.model_validate(config.model_dump() | {"encoder": {"dim": 32}})
    same_items = replace(data, fingerprint="0123")
    for model, on, seed, named in (
        (SASRec(wider), data, 0, "encoder.dim is 64, not 32"),
        (SASRec(config), same_items, 0, "fingerprint is .*, not '0123'"),
        (SASRec(config), data, 1, "seed is 0, not 1"),
        (TwoTower(), data, 0, "model is 'sasrec', not 'two-tower'"),
    ):
        with pytest.raises(ArtefactError, match=f"checkpoint is of a training whose {named}; resume it as it was"):
            model.fit(on, seed=seed, run=tmp_path, resume=True)
    last = tmp_path / "checkpoint" / "last.safetensors"
    tensors, facts = load_tensors(last)
    save_tensors(last, {name: tensor for name, tensor in tensors.items() if "encoder" not in name}, facts)
    with pytest.raises(ArtefactError, match="checkpoint is of a network of another shape"):
        SASRec(config).fit(data, run=tmp_path, resume=True)
    save_tensors(last, tensors, {"seed": 0})
    with pytest.raises(ArtefactError, match="seed is None, not 0"):
        SASRec(config).fit(data, run=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name(monkeypatch):
    monkeypatch.setattr(
        "tesserec.models.sasrec.full_softmax", lambda *a: torch.tensor(float("nan"), requires_grad=True)
    )
    with pytest.raises(TrainingRefused, match=r"the softmax loss became nan in epoch 1.*learning_rate"):
        SASRec().fit(dataset())


def test_a_run_below_popularity_is_refused():
    config = SASRecConfig.model_validate(
        {
            "training": {"epochs": 1, "learning_rate": 1e-9, "batch_positions": 100_000},
            "encoder": {"dim": 8, "heads": 1},
        }
    )
    with pytest.raises(TrainingRefused, match=r"sasrec reached recall@20 .* popularity alone"):
        SASRec(config).fit(dataset())


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    figures = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.95])
    states = []

    def validate(self):
        states.append({k: v.clone() for k, v in self.network.state_dict().items()})
        return {"valid/recall@20": next(figures)}

    monkeypatch.setattr("tesserec.models.neural.FitTask.validate", validate)
    config = SASRecConfig.model_validate({"training": {"epochs": 9, "patience": 2}, "encoder": {"dim": 8, "heads": 1}})
    model = SASRec(config).fit(dataset(), run=tmp_path)
    assert len(log(tmp_path)) == 4
    assert all(torch.equal(value, states[1][key]) for key, value in model.network.state_dict().items())


def test_a_warm_up_that_stalls_ends_at_its_best_epoch_and_no_epoch_of_it_is_the_models(tmp_path, monkeypatch):
    figures = iter([0.5, 0.9, 0.8, 0.7, 0.3, 0.4, 0.35, 0.2])
    states = []

    def validate(self):
        states.append({k: v.clone() for k, v in self.network.state_dict().items()})
        return {"valid/recall@20": next(figures)}

    started = []
    monkeypatch.setattr("tesserec.models.neural.FitTask.validate", validate)
    monkeypatch.setattr("tesserec.models.neural.FitTask.refuse_if_below_popularity", lambda self, best: None)
    start = SparcNetwork.start

    def watched(self, epoch, seed):
        started.append((epoch, self.items.table.weight.clone()))
        return start(self, epoch, seed)

    monkeypatch.setattr(SparcNetwork, "start", watched)
    training = SPARC["training"] | {"epochs": 12, "patience": 2}
    model = Sparc(SparcConfig.model_validate(SPARC | {"warmup_epochs": 8, "training": training}))
    model.fit(dataset(), run=tmp_path)
    ((epoch, table),) = started
    assert epoch == 3
    assert table.equal(states[1]["items.table.weight"])
    assert len(log(tmp_path)) == 8
    trained = {key: value for key, value in model.network.state_dict().items() if key != "heat"}  # fitted afterwards
    assert all(torch.equal(value, states[5][key]) for key, value in trained.items())


def test_the_learning_rate_falls_on_a_straight_line_to_its_final_share(monkeypatch):
    rates, step = [], loop.Loop._step

    def watched(self, batch, progress):
        step(self, batch, progress)
        rates.append((progress, self.optimisers[0].param_groups[0]["lr"]))

    monkeypatch.setattr(loop.Loop, "_step", watched)
    training = SPARC["training"] | {"epochs": 2, "learning_rate": 0.01, "final_rate": 0.1}
    cls = model_class("two-tower")
    cls(cls.Config.model_validate({"encoder": SPARC["encoder"], "training": training})).fit(dataset(), seed=2)
    assert rates[0] == (0.0, 0.01)
    assert all(rate == pytest.approx(0.01 * (1 - 0.9 * progress)) for progress, rate in rates)
    assert rates[-1][1] < 0.0012
