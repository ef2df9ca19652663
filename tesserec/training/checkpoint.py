"""Checkpoints: one safetensors file that holds all a run needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tesserec.errors import ArtefactError
from tesserec.files import write_atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts into one file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(plain, metadata={"facts": json.dumps(facts)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of :func:`save_tensors`.

    Raises
    ------
    ArtefactError
        If the file is missing or damaged.
    """
    try:
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return load(content), json.loads(header["__metadata__"]["facts"])
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; there is no checkpoint to go on from") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtefactError(f"{path} is damaged ({error}); remove it and train again") from None


def optimiser_state(optimisers: list[torch.optim.Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain numbers of several optimisers under flat names."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for i, optimiser in enumerate(optimisers):
        for p, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                target: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
                target[f"optimiser.{i}.{p}.{name}"] = value
    return tensors, numbers


def restore_optimisers(
    optimisers: list[torch.optim.Optimizer], tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """Put back what :func:`optimiser_state` took out."""
    for i, optimiser in enumerate(optimisers):
        whole = optimiser.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**tensors, **numbers}.items():
            kind, number, parameter, name = (*key.split(".", 3), "", "", "")[:4]
            if kind == "optimiser" and int(number) == i:
                state.setdefault(int(parameter), {})[name] = value
        optimiser.load_state_dict({**whole, "state": state})


def random_state() -> dict[str, Tensor]:
    """State of PyTorch's generators."""
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`random_state` took out."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under ``network.`` names."""
    return {f"network.{name}": value for name, value in network.state_dict().items()}


def restore_network(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`network_tensors` took out."""
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
