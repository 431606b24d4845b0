"""Pretrained Hugging Face models as frozen feature extractors.

This module knows where they lie, how they are loaded and where they run.  A model is named in
`params.yaml` by a local directory or a hub name.  Sizes come from its config, preprocessing from
its own processor.  On CUDA the models run in bfloat16 autocast, on CPU in float32 on one thread.

transformers and torch are imported within functions here, in vision.py and in audio.py: together
that takes about 5 s, which a run whose items are all stored need not spend.
"""

import hashlib
import json
import os
import textwrap
from importlib.metadata import version
from pathlib import Path

from audio_from_video.runtime.errors import UserError

HUB_FILES = ["*.json", "*.txt", "*.jinja", "*.safetensors", "*.model"]  # no pickles
DIGESTED = ["*.json", "*.safetensors", "*.jinja"]  # chat templates are Jinja files
# What loading any model imports, in 4 s: the server of workers has it behind it when it forks them.
PRELOADED = "transformers.modeling_utils"
TIMM = "timm_wrapper"  # the kind that transformers gives to repositories of timm
LONGEST_CAUSE = 240  # characters of a library's message that an error sentence quotes


def locate(name: str, offline: bool = False) -> Path:
    """Return the local directory of a model: `name` itself if it is one, else a hub snapshot.

    offline: the hub's cache alone is asked, not the network.  Raises UserError, with what was
    looked for, where, and the two ways out.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=HUB_FILES, etag_timeout=5, local_files_only=offline
            )
        )
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        raise UserError(
            f"the model '{name}' was found neither as a local directory with a config.json "
            f"nor on the Hugging Face hub ({_first_line(error)}); "
            "give a local model directory in params.yaml, or run once where the hub can be reached"
        ) from None


def is_here(name: str) -> bool:
    """Return whether a model is on this machine, as a directory or in the hub's cache."""
    try:
        locate(name, offline=True)
    except UserError:
        return False
    return True


def revision(name: str) -> str:
    """Return the digest of a model's files.

    Item versions name it, so that other weights are other items.
    """
    return digest_of(locate(name))


def digest_of(directory: Path) -> str:
    """Return the digest (32 hex digits) of the settings and weights in a directory."""
    total = hashlib.blake2b(digest_size=16)
    paths = [path for kind in DIGESTED for path in sorted(directory.glob(kind))]
    for path in paths:
        with open(path, "rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def width_of(name: str) -> int:
    """Return D, the width of a model's outputs, from its config alone.

    Raises UserError when the config names none, as that of a model of two encoders.
    """
    width = read_config(name).get("hidden_size")
    if isinstance(width, int):
        return width

    # Models such as ResNet name a width per stage; others name theirs by defaults of transformers,
    # or in the config of their vision tower.
    config = transformers_config(name)
    config = getattr(config, "vision_config", config)
    width = getattr(config, "hidden_size", None)
    stage_widths = getattr(config, "hidden_sizes", None)
    if not width and stage_widths:
        width = stage_widths[-1]
    if width is None:
        raise UserError(
            f"'{name}' ({type(config).__name__}) names no hidden size; "
            "give the directory of a single vision or audio encoder"
        )
    return width


def label_count_of(name: str) -> int:
    """Return how many labels a classification model has, from its config alone."""
    return len(read_config(name).get("id2label", ())) or transformers_config(name).num_labels


def labels_of(name: str) -> list[str]:
    """Return the names of a classification model's labels, by index."""
    named = read_config(name).get("id2label")
    if not named:
        named = transformers_config(name).id2label
    names = {int(index): label for index, label in named.items()}
    return [names[index] for index in range(len(names))]


def model_type_of(name: str) -> str:
    """Return the kind of a model, as its config names it."""
    config = read_config(name)
    model_type = config.get("model_type")
    if isinstance(model_type, str):
        return model_type
    # timm's own configs name an architecture, and transformers reads them only beside timm.
    if "architecture" in config:
        return TIMM
    return transformers_config(name).model_type


def read_config(name: str) -> dict:
    """Return a model's config as its file has it, or {} where the file cannot be read.

    This spares the import of transformers, whose own reader says what is wrong with a broken file.
    """
    try:
        config = json.loads((locate(name) / "config.json").read_text())
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def transformers_config(name: str):
    """Return a model's config with the defaults that transformers adds (PretrainedConfig)."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(name), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"'{name}' has no config that transformers can read: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], LONGEST_CAUSE, placeholder=" ...")


def device() -> str:
    """Return where models run: the environment's DEVICE, else cuda where there is one, else cpu."""
    from_environment = os.environ.get("DEVICE")
    if from_environment:
        return from_environment

    # A build of torch for CPU alone says so in its version.  That is known without importing
    # torch (1.4 s), which a run whose items are all stored would do for this question alone.
    if version("torch").endswith("+cpu"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(device: str):
    """Return the context in which models run: bfloat16 autocast on CUDA, none on CPU."""
    import torch

    return torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda"))


def load_pretrained(loader, name: str, description: str, **options):
    """Return what a class of transformers (a model, a processor) loads from a model's directory.

    loader: the class; description: what it loads, for error sentences, such as "a vision model".
    Raises UserError when the directory holds no such thing, or holds it incomplete or damaged.
    """
    directory = locate(name)
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return loader.from_pretrained(directory, local_files_only=True, **options)
    except RuntimeError:  # its text refers to a report that transformers only logs
        raise UserError(
            f"'{name}' cannot be loaded as {description}: "
            "its weights do not have the shapes that its config.json names"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"'{name}' cannot be loaded as {description}: {_first_line(error)}"
        ) from None


def require_safetensors(name: str, loader) -> None:
    """Raise UserError, with the way to convert them, when a model's weights are only pickled ones.

    loader: the model's class in transformers.
    """
    if not any(locate(name).glob("*.safetensors")):
        raise UserError(
            f"'{name}' has no weights in safetensors form, and pickled ones are not loaded: "
            f"where you trust them, convert them once by {loader.__name__}"
            ".from_pretrained(...).save_pretrained(directory), and the processor likewise, "
            "and give that directory in params.yaml"
        )


def load_frozen_model(
    loader, name: str, description: str, device: str, unused: tuple[str, ...] = ("pooler.",)
):
    """Return a model in float32 and evaluation mode, without gradients, on a device.

    Checkpoints in half precision are widened: their layers would refuse float32 inputs.
    Arguments as for `load_pretrained`.  Weights that the directory lacks would be random, so they
    raise UserError, but for those whose names contain one of `unused`, which nothing here uses.
    """
    options = {"output_loading_info": True, "use_safetensors": True, "dtype": "float32"}
    model, report = load_pretrained(loader, name, description, **options)
    missing = sorted(
        key for key in report["missing_keys"] if not any(part in key for part in unused)
    )
    if missing:
        raise UserError(
            f"'{name}' cannot be loaded as {description}: "
            f"it has no weights for {missing[0]} (and {len(missing) - 1} others)"
        )
    return model.eval().requires_grad_(False).to(device)
