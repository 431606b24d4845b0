"""Run the feature stages and the captions with models of the published sizes.

    python -m benchmarks.full_size [--clips-per-action 2]

Prints shapes, clips/s and peak memory on this machine's device. Writes ViT-base, AST-base and
BLIP-base of random weights as local Hugging Face directories, shaped like
`google/vit-base-patch16-224`, `MIT/ast-finetuned-audioset-10-10-0.4593` and
`Salesforce/blip-image-captioning-base`. It names them in a copy of params.yaml and runs the stages
on some clips of the current root. Weights do not change shapes, speed or memory, but random ones
write captions of the full length.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from audio_from_video.storage import shards

FEATURES = [
    "clips",
    "frames",
    "optical_flow",
    "audio",
    "video_features rgb",
    "video_features flow",
    "audio_features",
]
CAPTIONS = ["representative_frames", "captions"]
TIMED = ("video_features/rgb", "video_features/flow", "audio_features", "captions")
TOKENIZER = Path(__file__).parents[1] / "models/tiny/blip"


@dataclass(frozen=True)
class Settings:
    """What a run takes instead of params.yaml's values; where it is empty or 0, params.yaml's."""

    root: str = ""  # folder of clips
    clips_per_action: int = 0
    layers: int = 12  # of each model
    segments: str = ""  # `audio_features.segments`


def write_vit(folder: Path, layers: int = 12) -> Path:
    """Write a ViT-base: 224 px, patches of 16 px."""
    # Imported here: PyTorch and transformers take seconds, and the stages run in other processes.
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    ViTModel(ViTConfig(num_hidden_layers=layers)).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return folder


def write_ast(folder: Path, layers: int = 12) -> Path:
    """Write an AST-base: 1024 frames, 527 labels."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    ast = ASTForAudioClassification(ASTConfig(num_labels=527, num_hidden_layers=layers))
    ast.save_pretrained(folder)
    ASTFeatureExtractor().save_pretrained(folder)
    return folder


def write_blip(folder: Path, layers: int = 12) -> Path:
    """Write a BLIP-base: 384 px, 30,524 words; the vocabulary is the tiny model's."""
    import torch
    from transformers import (
        AutoTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    torch.manual_seed(0)
    text = {"num_hidden_layers": layers, "encoder_hidden_size": 768}
    vision = {"num_hidden_layers": layers, "image_size": 384}
    blip = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    blip.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    BlipProcessor(BlipImageProcessorPil(), tokenizer).save_pretrained(folder)
    return folder


def write_models(folder: Path, layers: int) -> dict[str, str]:
    """Write the three models; return their directories by section of params.yaml."""
    return {
        "video_features": str(write_vit(folder / "vit", layers)),
        "audio_features": str(write_ast(folder / "ast", layers)),
        "captions": str(write_blip(folder / "blip", layers)),
    }


def run(folder: Path, stages: list[str], settings: Settings) -> None:
    """Run stages in `folder` with the large models, on frames stored at 224 px."""
    p = yaml.safe_load(Path("params.yaml").read_text())
    p["clips"]["root"] = str(Path(settings.root or p["clips"]["root"]).absolute())
    p["clips"]["max_per_action"] = settings.clips_per_action
    p["frames"]["size_px"] = 224
    if settings.segments:
        p["audio_features"]["segments"] = settings.segments
    p["captions"]["finetune"] = "off"
    for section, model in write_models(folder, settings.layers).items():
        p[section]["model"] = model
    (folder / "params.yaml").write_text(yaml.safe_dump(p))

    environment = os.environ | {"ITEM_STORE": str(folder / "items"), "PYTHONPATH": str(Path.cwd())}
    for stage in stages:
        command = [sys.executable, "-m", *f"stages.{stage}".split()]
        subprocess.run(command, cwd=folder, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips-per-action", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, FEATURES + CAPTIONS, Settings(clips_per_action=arguments.clips_per_action))
        for path in TIMED:
            log = json.loads((folder / f"logs/{path}.json").read_text())
            shape = ""
            if path != "captions":
                shape = str(shards.tensor_shape(folder / "data" / path, "features"))
            speed = f"{log['items_per_s']:8.2f} clips/s"
            print(f"{path:20s} {shape:12s} {speed}   peak {log['peak_memory_mib']} MiB")
        print(f"clips: {pq.read_metadata(folder / 'data/clips.parquet').num_rows}")


if __name__ == "__main__":
    main()
