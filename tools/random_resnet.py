"""Write a small ResNet of random weights as a local Hugging Face directory.

    python -m tools.random_resnet [/tmp/random-resnet]

It is a CNN backbone for machines that reach no hub: `microsoft/resnet-18` with fewer and narrower
layers. The experiment `backbones` names the default directory.
"""

import argparse
from pathlib import Path

PICTURE_PX = 96  # width and height, as of the rendered clips


def write(folder: Path) -> None:
    """Write weights (seed 0), config and preprocessing into a folder."""
    # PyTorch and transformers take seconds to import, which `--help` need not wait for.
    import torch
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ResNetConfig(
        layer_type="basic", embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1]
    )
    ResNetModel(config).save_pretrained(folder)
    size = {"height": PICTURE_PX, "width": PICTURE_PX}
    ViTImageProcessorPil(size=size).save_pretrained(folder)


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
