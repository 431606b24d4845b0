"""Hugging Face model directories of random weights, small enough to write in a test."""

from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

LABELS = 9


def write_vit(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    _save(transformers.ViTModel(config, add_pooling_layer=False), folder)
    ViTImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    ).save_pretrained(folder)
    return folder


def write_dinov2(folder: Path) -> Path:
    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    _save(transformers.Dinov2Model(config), folder)
    BitImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)
    return folder


def write_resnet(folder: Path) -> Path:
    torch.manual_seed(2)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    _save(transformers.ResNetModel(config), folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def write_ast(folder: Path, seed: int = 3, **changes) -> Path:
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_length": 400,
        "num_labels": LABELS,
    }
    config = transformers.ASTConfig(**settings | changes)
    _save(transformers.ASTForAudioClassification(config), folder)
    transformers.ASTFeatureExtractor(max_length=config.max_length).save_pretrained(folder)
    return folder


BLIP_TOKENS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"),
    *("a", "red", "blue", "ball", "drum", "in", "the", "street"),
    *("sound", "of", "with", "knock", "tap", ",", "label"),
    *"012345678",
]


def write_blip(folder: Path, seed: int = 5) -> Path:
    """Write a BLIP that knows BLIP_TOKENS and takes pictures of 32 x 32 pixels."""
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    text = {
        "vocab_size": len(BLIP_TOKENS),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 32,
        "pad_token_id": 0,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "bos_token_id": 5,
        **shape,
    }
    vision = {"image_size": 32, "patch_size": 8, **shape}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    _save(transformers.BlipForConditionalGeneration(config), folder)
    images = transformers.BlipImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    transformers.BlipProcessor(images, blip_tokenizer()).save_pretrained(folder)
    return folder


def blip_tokenizer() -> transformers.BertTokenizer:
    """Return a tokeniser of BLIP_TOKENS."""
    vocabulary = {token: i for i, token in enumerate(BLIP_TOKENS)}
    return transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True, bos_token="[DEC]")


def _save(model: torch.nn.Module, folder: Path) -> None:
    draw_weights(model)
    model.save_pretrained(folder)


def draw_weights(model: torch.nn.Module) -> None:
    """Draw larger weights than the initial ones, with which attention would hardly matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            torch.nn.init.normal_(parameter, std=1.5 / np.sqrt(fan_in))


def images(count: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    """Return smooth BGR images [H, W, 3] uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None]
    pictures = []
    for _ in range(count):
        a, b, c = rng.uniform(0.05, 0.4, (3, 1, 1, 3))
        waves = np.sin(a * x + 6 * c) * np.cos(b * y)
        pictures.append(np.rint(127 + 120 * waves).astype(np.uint8))
    return pictures
