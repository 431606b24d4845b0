"""Run the feature stages and the captions with models of the published sizes: shapes, clips/s and memory on this machine's device.

    python -m benchmarks.full_size [--clips-per-action 2]

Writes ViT-base, AST-base and BLIP-base of random weights as local Hugging Face directories (what `google/vit-base-patch16-224`,
`MIT/ast-finetuned-audioset-10-10-0.4593` and `Salesforce/blip-image-captioning-base` look like), names them in a copy of
params.yaml and runs the stages on some clips of the current root.  Weights do not change shapes, speed or memory, but random
ones write captions of the full length.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
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


def write_models(folder: Path, layers: int = 12) -> dict[str, str]:
    """ViT-base (224 px, patch 16), AST-base (1024 frames, 527 labels) and BLIP-base (384 px, 30,524 words, the embedded one's
    vocabulary) of random weights; their directories by section."""
    import torch
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTForAudioClassification,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
        ViTConfig,
        ViTModel,
    )
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    ViTModel(ViTConfig(num_hidden_layers=layers)).save_pretrained(folder / "vit")
    ViTImageProcessorPil().save_pretrained(folder / "vit")
    ASTForAudioClassification(ASTConfig(num_labels=527, num_hidden_layers=layers)).save_pretrained(
        folder / "ast"
    )
    ASTFeatureExtractor().save_pretrained(folder / "ast")
    shape = {"num_hidden_layers": layers}
    blip = BlipConfig(
        text_config={**shape, "encoder_hidden_size": 768},
        vision_config={**shape, "image_size": 384},
    )
    BlipForConditionalGeneration(blip).save_pretrained(folder / "blip")
    words = BlipProcessor.from_pretrained(Path(__file__).parents[1] / "models/tiny/blip").tokenizer
    BlipProcessor(BlipImageProcessorPil(), words).save_pretrained(folder / "blip")
    return {
        "video_features": str(folder / "vit"),
        "audio_features": str(folder / "ast"),
        "captions": str(folder / "blip"),
    }


def run(
    folder: Path,
    stages: list[str],
    root: str | None = None,
    clips_per_action: int = 0,
    layers: int = 12,
    segments: str = "",
) -> None:
    """Run stages in `folder` on clips of `root` and with `audio_features.segments` (both params.yaml's), frames stored at 224 px."""
    p = yaml.safe_load(Path("params.yaml").read_text())
    p["clips"] |= {
        "root": str(Path(root or p["clips"]["root"]).absolute()),
        "max_per_action": clips_per_action,
    }
    p["frames"]["size_px"] = 224
    p["audio_features"]["segments"] = segments or p["audio_features"]["segments"]
    p["captions"]["finetune"] = "off"
    for section, model in write_models(folder, layers).items():
        p[section]["model"] = model
    (folder / "params.yaml").write_text(yaml.safe_dump(p))
    environment = os.environ | {"ITEM_STORE": str(folder / "items"), "PYTHONPATH": str(Path.cwd())}
    for stage in stages:
        subprocess.run(
            [sys.executable, "-m", *f"stages.{stage}".split()],
            cwd=folder,
            env=environment,
            check=True,
        )


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
        run(folder, FEATURES + CAPTIONS, clips_per_action=arguments.clips_per_action)
        for path in ("video_features/rgb", "video_features/flow", "audio_features", "captions"):
            log = json.loads((folder / f"logs/{path}.json").read_text())
            shape = (
                str(shards.tensor_shape(folder / "data" / path, "features"))
                if path != "captions"
                else ""
            )
            print(
                f"{path:20s} {shape:12s} {log['items_per_s']:8.2f} clips/s   peak {log['peak_memory_mib']} MiB"
            )
        print(f"clips: {pq.read_metadata(folder / 'data/clips.parquet').num_rows}")


if __name__ == "__main__":
    main()
