"""Write a small ResNet of random weights as a local Hugging Face directory: a CNN backbone where no hub can be reached.

    python -m tools.random_resnet [/tmp/random-resnet]

What `microsoft/resnet-18` looks like, with fewer and narrower layers.  The experiment `backbones` names the default directory.
"""

import argparse
from pathlib import Path


def write(folder: Path) -> None:
    """Weights (seed 0), config and preprocessing for pictures of 96 px."""
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1]}
    ResNetModel(ResNetConfig(layer_type="basic", **sizes)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 96, "width": 96}).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.random_resnet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("/tmp/random-resnet"))
    folder = parser.parse_args().folder
    write(folder)
    print(f"{folder}: name it as video_features.model, with video_features.attention: frame")


if __name__ == "__main__":
    main()
