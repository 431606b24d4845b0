"""Checkpoints of trainings: a killed run goes on from the last epoch that was stored, with the same final weights.

They lie in the item store's folder (DVC deletes a stage's outputs before it runs), one safetensors file per training, replaced
atomically and gone when the training is done.  The name hashes everything the training depends on, so other parameters,
data or initial weights never go on from it; a checksum tells damage.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

from audio_from_video.runtime.digests import digest
from audio_from_video.storage.item_store import folder

VERSION = 1  # of what a checkpoint holds
MAX_SHARE = 0.05  # of the time, spent on writing


class Checkpoint:
    """Where a training stores its state.

    key: digest of the data and of whatever else the loss depends on (`fit` adds parameters, seed, rows and initial weights).
    generators: random generators that the loss draws from, besides PyTorch's own.  every_s: seconds between two checkpoints,
    at least; large models wait longer, so that writing takes at most MAX_SHARE of the time.
    """

    def __init__(
        self, key: str, generators: tuple[torch.Generator, ...] = (), every_s: float = 10.0
    ):
        self.key, self.generators, self.every_s = key, generators, every_s
        self.path = Path()

    def begin(self, model: torch.nn.Module, *parts) -> None:
        """Name the file after the key, the training's parts (JSON-able) and the model's initial weights."""
        weights = _checksum(model.state_dict())
        self.path = (
            folder()
            / "checkpoints"
            / f"{digest(VERSION, torch.__version__, self.key, weights, *parts)}.safetensors"
        )
        self._next = time.monotonic() + self.every_s

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """The stored tensors and facts, random generators set as they were; None where there is nothing, or nothing sound."""
        if not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            if _checksum(tensors) != facts.pop("checksum"):
                raise ValueError("wrong checksum")
        except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
            print(
                f"the checkpoint {self.path} is damaged ({error}): training begins anew",
                file=sys.stderr,
            )
            return None
        torch.set_rng_state(tensors.pop("random"))
        if torch.cuda.is_available() and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors.pop("random_cuda"))
        for number, generator in enumerate(self.generators):
            generator.set_state(tensors.pop(f"random_{number}"))
        return tensors, facts

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def save(self, tensors: dict[str, torch.Tensor], facts: dict) -> None:
        """Store tensors, facts (JSON-able) and the state of all random generators."""
        start = time.monotonic()
        states = {"random": torch.get_rng_state()} | {
            f"random_{n}": one.get_state() for n, one in enumerate(self.generators)
        }
        if torch.cuda.is_available():
            states["random_cuda"] = torch.cuda.get_rng_state()
        write_tensors(tensors | states, self.path, facts)
        self._next = time.monotonic() + max(self.every_s, (time.monotonic() - start) / MAX_SHARE)

    def keep_best(self, weights: dict[str, torch.Tensor]) -> Path:
        """Store the best weights of a training that failed, for whoever wants to look at them; their path."""
        path = self.path.with_name(f"{self.path.stem}-best.safetensors")
        write_tensors(weights, path, {})
        return path

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, facts: dict) -> None:
    """Write a safetensors file with facts and a checksum, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {
        name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()
    }  # tied weights share memory
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(save(own, {"facts": json.dumps(facts | {"checksum": _checksum(own)})}))
    os.replace(temporary, path)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
