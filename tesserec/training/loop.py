"""The training loop, to be read from top to bottom.

It knows nothing of models: a :class:`Task` hands it a network, batches, named losses and a validation figure. The loop
steps, logs, checkpoints, stops early and goes on after an interruption exactly where it was: on one machine's CPU a
resumed run is bit-equal to one that was never stopped.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from tesserec.data.batches import Batch, SequenceBatches
from tesserec.errors import ArtefactError, TrainingRefused
from tesserec.files import write_atomic
from tesserec.nn.quantisers import Quantiser
from tesserec.training import checkpoint
from tesserec.training.config import TrainingConfig


class Task(Protocol):
    """What the loop needs to know of a model."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def batches(self) -> SequenceBatches:
        """What it is trained on."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, by name, in JSON's types; a checkpoint of anything else is refused."""
        ...

    @property
    def warmup_epochs(self) -> int:
        """Epochs at most that train a part of the network, which what follows is built on; 0 for none."""
        ...

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms of a batch; ``progress`` runs from 0 to 1 over all epochs."""
        ...

    def start(self, epoch: int) -> dict[str, Any]:
        """Start what follows the warm-up, such as a codebook; returns figures for the log."""
        ...

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Upkeep after every later epoch; returns figures for the log, may raise :class:`TrainingRefused`."""
        ...

    def validate(self) -> dict[str, float]:
        """Validation figures; the first one decides, larger is better."""
        ...


@dataclass
class Position:
    """Where a run is: all of its state that is not a tensor; ``warm`` counts the epochs of a finished warm-up."""

    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    warm: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    targets: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str) -> bool:
    """Whether matrix products run in bfloat16; ``auto`` asks the hardware."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))  # type: ignore[no-untyped-call,unused-ignore]
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


class Loop:
    """One training run.

    Parameters
    ----------
    task
        The model's side.
    config
        Budget and optimiser settings.
    seed
        Seeds dropout and all else that PyTorch draws; batches have their own seed.
    run
        Directory for ``log.jsonl`` and ``checkpoint/``; None keeps everything in memory.
    progress
        Show a progress bar.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, *, seed: int, run: Path | None = None, progress: bool = False
    ) -> None:
        self.task, self.config, self.seed, self.run, self.show = task, config, seed, run, progress
        self.position = Position()
        self.best: dict[str, Tensor] = {}
        self.optimisers = _optimisers(task.network, config)
        self._interrupted = False
        self._saved_at = time.monotonic()

    def train(self, resume: bool = False) -> list[dict[str, Any]]:
        """Run to the end, leave the network at its best epoch and return the log's rows.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, once the step is finished and a checkpoint is written.
        TrainingRefused
            If a loss is not finite or the task refuses to go on.
        """
        torch.manual_seed(self.seed)
        if resume:
            self._restore()
        with self._progress_bar() as bar, self._catch_interrupt():
            while not self._finished():
                self._epoch(bar)
        if self.best:
            checkpoint.restore_network(self.task.network, self.best)
        self.task.network.eval()
        return self.position.rows

    def go_on_after(self, epochs: int) -> None:
        """Take the network as the result of so many epochs, and as the best so far; training adds to them."""
        self.task.network.eval()
        value = next(iter(self.task.validate().values()))
        self.position = Position(epoch=epochs, best=value, best_epoch=epochs - 1, warm=epochs)
        self._keep_best()

    def _keep_best(self) -> None:
        self.best = {k: v.detach().clone() for k, v in checkpoint.network_tensors(self.task.network).items()}

    def _finished(self) -> bool:
        return self.position.epoch >= self.config.epochs or self._waited() >= self.config.patience

    def _waited(self) -> int:
        """Epochs without a better result."""
        return self.position.epoch - max(self.position.warm, self.position.best_epoch + 1)

    @property
    def _warming(self) -> bool:
        return self.task.warmup_epochs > 0 and not self.position.warm

    def _epoch(self, bar: Progress) -> None:
        at, total = self.position, self.task.batches.steps(self.position.epoch)
        line = bar.add_task(f"epoch {at.epoch + 1}", total=total, completed=at.step, note="")
        self.task.network.train()
        for batch in self.task.batches.epoch(at.epoch, at.step):
            started = time.monotonic()
            self._step(batch, (at.epoch + at.step / total) / self.config.epochs)
            at.seconds += time.monotonic() - started
            at.step += 1
            bar.update(line, advance=1, note=self._note())
            self._save_if_due()
        bar.remove_task(line)
        self._end_epoch(bar)

    def _step(self, batch: Batch, progress: float) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = self.config.learning_rate * (1 - (1 - self.config.final_rate) * progress)
        where = next(self.task.network.parameters()).device
        with torch.autocast(where.type, torch.bfloat16, enabled=use_bf16(self.config.precision)):
            terms = self.task.losses(batch, progress)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingRefused(
                    f"the {name} loss became {value} in epoch {self.position.epoch + 1}; "
                    "lower training.learning_rate, or set training.precision = 'fp32'"
                )
        total.backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.step()
        count = int(batch.lengths.sum())
        self.position.targets += count
        for name, value in values.items():
            self.position.sums[name] = self.position.sums.get(name, 0.0) + value * count

    def _end_epoch(self, bar: Progress) -> None:
        at = self.position
        self.task.network.eval()
        upkeep = {} if self._warming else self._keep_up(at.epoch)
        figures = self.task.validate()
        value = next(iter(figures.values()))
        if value > at.best:
            at.best, at.best_epoch = value, at.epoch
            self._keep_best()
        losses = {f"loss/{name}": total / at.targets for name, total in at.sums.items()}
        row = {"epoch": at.epoch + 1, **losses, **figures, **upkeep}
        row["targets_per_second"] = round(at.targets / max(at.seconds, 1e-9))
        row["seconds"] = round(at.seconds, 3)
        at.rows.append(row)
        if self.show:
            shown = "  ".join(f"{name} {figure:.4f}" for name, figure in figures.items())
            bar.console.print(f"epoch {at.epoch + 1:3d}  loss {sum(losses.values()):.4f}  {shown}  {self._note()}")
        at.epoch, at.step, at.sums, at.targets, at.seconds = at.epoch + 1, 0, {}, 0, 0.0
        if self._warming:
            self._end_warm_up_if_due()
        self._save(best=at.best_epoch == at.epoch - 1)

    def _keep_up(self, epoch: int) -> dict[str, Any]:
        figures = self.task.end_epoch(epoch)
        _forget_restarted(self.task.network, self.optimisers)
        return figures

    def _end_warm_up_if_due(self) -> None:
        """Start what follows the warm-up, whose epochs alone can be the best; a stalled one ends at its best."""
        at, stalled = self.position, self._waited() >= self.config.patience
        if not stalled and at.epoch < self.task.warmup_epochs:
            return
        if stalled:
            checkpoint.restore_network(self.task.network, self.best)
        at.rows[-1] |= self.task.start(at.epoch - 1)
        at.warm, at.best, at.best_epoch, self.best = at.epoch, -math.inf, -1, {}

    def _note(self) -> str:
        return f"{self.position.targets / max(self.position.seconds, 1e-9):,.0f} targets/s"

    def _save_if_due(self) -> None:
        due = time.monotonic() - self._saved_at > 60 * self.config.checkpoint_minutes
        if self._interrupted or due:
            self._save()
        if self._interrupted:
            raise KeyboardInterrupt

    def _save(self, best: bool = False) -> None:
        self._saved_at = time.monotonic()
        if self.run is None:
            return
        folder = self.run / "checkpoint"
        if best:
            checkpoint.save_tensors(folder / "best.safetensors", self.best, {})
        tensors, numbers = checkpoint.optimiser_state(self.optimisers)
        tensors |= checkpoint.network_tensors(self.task.network) | checkpoint.random_state()
        facts = {"position": asdict(self.position), "numbers": numbers, "identity": self._identity()}
        checkpoint.save_tensors(folder / "last.safetensors", tensors, facts)
        write_atomic(self.run / "log.jsonl", "".join(json.dumps(row) + "\n" for row in self.position.rows).encode())

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, **self.task.identity}

    def _restore(self) -> None:
        if self.run is None:
            raise ArtefactError("there is no run directory to resume from; name the one that was interrupted")
        folder = self.run / "checkpoint"
        tensors, facts = checkpoint.load_tensors(folder / "last.safetensors")
        for name, now in self._identity().items():
            if (before := facts.get("identity", {}).get(name)) != now:
                raise ArtefactError(
                    f"{folder} is of a training whose {name} is {before!r}, not {now!r}; resume it as it was begun, or "
                    "start anew"
                )
        try:
            checkpoint.restore_network(self.task.network, tensors)
        except RuntimeError as error:
            raise ArtefactError(f"{folder} is of a network of another shape: {error}; start anew") from None
        checkpoint.restore_optimisers(self.optimisers, tensors, facts["numbers"])
        checkpoint.restore_random(tensors)
        self.position = Position(**facts["position"])
        if self.position.best_epoch >= 0:
            self.best, _ = checkpoint.load_tensors(folder / "best.safetensors")

    def _progress_bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        note = TextColumn("{task.fields[note]}")
        # On stderr, so that stdout holds results only.
        return Progress(*columns, note, console=Console(stderr=True), disable=not self.show, transient=True)

    @contextmanager
    def _catch_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C end the step in hand first; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _optimisers(network: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Adam for dense parameters; lazy Adam, which touches only a step's rows, for sparse embedding tables."""
    sparse = [m.weight for m in network.modules() if isinstance(m, nn.Embedding) and m.sparse]
    taken = {id(p) for p in sparse}
    dense = [p for p in network.parameters() if id(p) not in taken]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(dense, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    ]
    if sparse:
        chosen.append(torch.optim.SparseAdam(sparse, lr=config.learning_rate))
    return chosen


def _forget_restarted(network: nn.Module, optimisers: list[torch.optim.Optimizer]) -> None:
    """Take the momentum off codes that were restarted: it would drag them on from where they died."""
    for module in network.modules():
        if isinstance(module, Quantiser):
            for optimiser in optimisers:
                for value in optimiser.state.get(module.codebooks, {}).values():
                    if value.shape == module.codebooks.shape:
                        value[module.restarted] = 0
            # Once: what they have learned since stays.
            module.restarted.zero_()
