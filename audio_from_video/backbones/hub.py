"""Pretrained Hugging Face models as frozen feature extractors: any vision model of the Auto classes, AST for sound.

A model is named in `params.yaml` by a local directory or a hub name.  Sizes come from its config, preprocessing from its
own processor.  On CUDA the models run in bfloat16 autocast, on CPU in float32 on one thread.
"""

import hashlib
import json
import os
import textwrap
from importlib.metadata import version
from pathlib import Path

from audio_from_video.runtime.errors import UserError

HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]  # no pickles


def locate(name: str) -> Path:
    """The local directory of a model: the name itself if it is one, else a snapshot of the hub's repository.

    Raises UserError, with what was looked for, where, and the two ways out.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=5))
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        raise UserError(
            f"the model '{name}' was found neither as a local directory with a config.json nor on the Hugging Face hub "
            f"({_first_line(error)}); give a local model directory in params.yaml, or run once where the hub can be reached"
        ) from None


def revision(name: str) -> str:
    """Digest of the model's files: what an item version names, so that other weights are other items."""
    return digest_of(locate(name))


def digest_of(directory: Path) -> str:
    """Digest of the settings and weights in a directory."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(directory.glob("*.json")) + sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def width_of(name: str) -> int:
    """D, the width of a model's outputs, from its config alone."""
    if isinstance(width := _config_file(name).get("hidden_size"), int):
        return width
    config = _config(name)
    width = (
        getattr(config, "hidden_size", None)
        or (getattr(config, "hidden_sizes", None) or [None])[-1]
    )
    if width is None:
        raise UserError(
            f"'{name}' ({type(config).__name__}) names no hidden size; give the directory of a single vision or audio encoder"
        )
    return width


def label_count_of(name: str) -> int:
    """How many labels a classification model has, from its config alone."""
    return len(_config_file(name).get("id2label", ())) or _config(name).num_labels


def labels_of(name: str) -> list[str]:
    """The names of a classification model's labels, by index."""
    names = _config(name).id2label
    return [names[i] for i in range(len(names))]


def _config_file(name: str) -> dict:
    """A model's config as it stands in its file, without the seconds that importing transformers takes; {} if unreadable."""
    try:
        found = json.loads((locate(name) / "config.json").read_text())
    except ValueError:  # `_config` says what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


def _config(name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(name), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"'{name}' has no config that transformers can read: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return textwrap.shorten(
        (str(error).strip() or type(error).__name__).splitlines()[0], 240, placeholder=" ..."
    )


def device() -> str:
    """Where models run: the environment's DEVICE, else cuda where there is one, else cpu."""
    if found := os.environ.get("DEVICE"):
        return found
    if version("torch").endswith("+cpu"):  # known without the seconds that importing it takes
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(name: str, loader: str, what: str, **options):
    directory = locate(name)
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, loader).from_pretrained(
            directory, local_files_only=True, **options
        )
    except RuntimeError:  # its text refers to a report that transformers only logs
        raise UserError(
            f"'{name}' cannot be loaded as {what}: its weights do not have the shapes that its config.json names"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"'{name}' cannot be loaded as {what}: {_first_line(error)}") from None


def _load_model(name: str, loader: str, what: str):
    """A frozen model on its device; weights that the directory lacks would be random, which is an error."""
    model, report = _load(name, loader, what, output_loading_info=True, use_safetensors=True)
    if missing := sorted(
        key for key in report["missing_keys"] if "pooler." not in key
    ):  # poolers are not used here
        raise UserError(
            f"'{name}' cannot be loaded as {what}: it has no weights for {missing[0]} (and {len(missing) - 1} others)"
        )
    return model.eval().requires_grad_(False).to(device())
