"""Checkpoints: a killed training goes on from its last stored epoch, with the same final weights.

They lie in the item store's folder, because DVC deletes a stage's outputs before it runs.  There is
one safetensors file per training; it is replaced atomically, and removed when the training is done.
Its name hashes everything that the training depends on, so that other parameters, data or initial
weights never go on from it.  A checksum tells damage.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from audio_from_video.runtime.digests import digest, new_hash
from audio_from_video.storage.item_store import folder

VERSION = 1  # of what a checkpoint holds
MAX_SHARE = 0.05  # of the time, spent on writing


class Checkpoint:
    """Where a training stores its state.

    key: digest of the data and of whatever else the loss depends on; `fit` adds parameters, seed,
    indices and initial weights.  generators: random generators that the loss draws from, besides
    PyTorch's own.  every_s: seconds between two checkpoints, at least; large models wait longer, so
    that writing takes at most MAX_SHARE of the time.
    """

    def __init__(
        self, key: str, generators: tuple[torch.Generator, ...] = (), every_s: float = 10.0
    ):
        self.key = key
        self.generators = generators
        self.every_s = every_s
        self.path = Path()

    def begin(self, model: torch.nn.Module, *parts: Any) -> None:
        """Name the file after the key, the training's parts (JSON-able) and the initial weights."""
        weights = _checksum(model.state_dict())
        name = digest(VERSION, torch.__version__, self.key, weights, *parts)
        self.path = folder() / "checkpoints" / f"{name}.safetensors"
        self._next_s = time.monotonic() + self.every_s

    def load(self) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Return the stored tensors and facts, and set the random generators as they were.

        None where nothing is stored, or nothing sound.
        """
        if not self.path.is_file():
            return None
        try:
            tensors, facts = self._read()
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

    def _read(self) -> tuple[dict[str, torch.Tensor], dict]:
        with safetensors.safe_open(self.path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if _checksum(tensors) != facts.pop("checksum"):
            raise ValueError("wrong checksum")
        return tensors, facts

    def due(self) -> bool:
        """Return whether it is time to write a checkpoint."""
        return time.monotonic() >= self._next_s

    def save(self, tensors: dict[str, torch.Tensor], facts: dict) -> None:
        """Store tensors, facts (JSON-able) and the state of all random generators."""
        start_s = time.monotonic()
        states = {"random": torch.get_rng_state()}
        for number, generator in enumerate(self.generators):
            states[f"random_{number}"] = generator.get_state()
        if torch.cuda.is_available():
            states["random_cuda"] = torch.cuda.get_rng_state()
        write_tensors(tensors | states, self.path, facts)

        end_s = time.monotonic()
        self._next_s = end_s + max(self.every_s, (end_s - start_s) / MAX_SHARE)

    def keep_best(self, weights: dict[str, torch.Tensor]) -> Path:
        """Store the best weights of a training that failed, for people to look at; their path."""
        path = self.path.with_name(f"{self.path.stem}-best.safetensors")
        write_tensors(weights, path, {})
        return path

    def remove(self) -> None:
        """Delete the file, where there is one: the training is done."""
        self.path.unlink(missing_ok=True)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, facts: dict) -> None:
    """Write a safetensors file with facts (JSON-able) and a checksum, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Tied weights share memory, which safetensors refuses: each tensor gets memory of its own.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    metadata = {"facts": json.dumps(facts | {"checksum": _checksum(own)})}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(save(own, metadata))
    os.replace(temporary, path)


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    """Digest of names, types, shapes and values, whatever the order of the names."""
    total = new_hash()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
