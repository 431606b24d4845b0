"""The embedded backbones' architectures: published model classes at a size that can be kept in git.

Their preprocessors carry the numpy/PIL class names, since torchvision and torchaudio are not
required.
"""

import re
from string import ascii_lowercase

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from audio_from_video.audioset.labels import load_labels

SIZE_PX = 96
PATCH_PX = 16
HIDDEN = 128
SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
NORMALISATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
MEL_BINS = 64
MEL_FRAMES = 320  # 10 ms each; a clip of 3 s fills 298


def new_vit() -> tuple[ViTModel, ViTImageProcessorPil]:
    """Return a ViT with random weights (Dosovitskiy et al. 2021) and its image processor."""
    model = ViTModel(ViTConfig(image_size=SIZE_PX, patch_size=PATCH_PX, **SHAPE))
    return model, ViTImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, **NORMALISATION)


def new_ast(mean: float, std: float) -> tuple[ASTForAudioClassification, ASTFeatureExtractor]:
    """Return an AST with random weights (Gong et al. 2021) and its feature extractor.

    mean, std: of the log-mel values, by which the published configuration, too, scales them.
    """
    names = {label.index: label.display_name for label in load_labels()}
    config = ASTConfig(
        num_mel_bins=MEL_BINS,
        max_length=MEL_FRAMES,
        patch_size=16,
        frequency_stride=10,
        time_stride=10,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        problem_type="multi_label_classification",
        **SHAPE,
    )
    extractor = ASTFeatureExtractor(
        num_mel_bins=MEL_BINS, max_length=MEL_FRAMES, mean=mean, std=std
    )
    return ASTForAudioClassification(config), extractor


def vocabulary(captions: set[str]) -> dict[str, int]:
    """Return token -> id of all words of captions and of the 527 labels.

    Letters and word pieces of one letter stand for words that are not among them.
    """
    words = set()
    for text in [*captions, *(label.display_name for label in load_labels())]:
        words.update(re.findall(r"[a-z]+|[^a-z\s]", text.lower()))
    pieces = [f"##{letter}" for letter in ascii_lowercase]
    tokens = [*SPECIAL_TOKENS, *sorted(words), *ascii_lowercase, *pieces]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def new_blip(captions: set[str]) -> tuple[BlipForConditionalGeneration, BlipProcessor]:
    """Return a BLIP with random weights (Li et al. 2022) and its processor.

    captions: texts whose words its vocabulary holds, beside those of the labels.
    """
    tokens = vocabulary(captions)
    tokenizer = BertTokenizer(vocab=tokens, do_lower_case=True, bos_token="[DEC]")
    text = {
        "vocab_size": len(tokens),
        "encoder_hidden_size": HIDDEN,
        "max_position_embeddings": 32,
        "pad_token_id": tokens["[PAD]"],
        "sep_token_id": tokens["[SEP]"],
        "eos_token_id": tokens["[SEP]"],
        "bos_token_id": tokens["[DEC]"],
        **SHAPE,
        "num_hidden_layers": 2,
    }
    vision = {
        "image_size": SIZE_PX,
        "patch_size": PATCH_PX,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        **SHAPE,
    }
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config=vision, projection_dim=HIDDEN)
    )
    images = BlipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, **NORMALISATION)
    return model, BlipProcessor(images, tokenizer)


def copy_vit_to_blip(source: ViTModel, target: BlipForConditionalGeneration) -> None:
    """Start BLIP's picture encoder from the ViT: the same layers under other names."""
    old = source.state_dict()
    names = {
        "embeddings.class_embedding": old["embeddings.cls_token"],
        "embeddings.position_embedding": old["embeddings.position_embeddings"],
    }
    for kind in ("weight", "bias"):
        names[f"embeddings.patch_embedding.{kind}"] = old[
            f"embeddings.patch_embeddings.projection.{kind}"
        ]
        names[f"post_layernorm.{kind}"] = old[f"layernorm.{kind}"]
        for i in range(SHAPE["num_hidden_layers"]):
            layer = f"layers.{i}."
            to = f"encoder.layers.{i}."
            # Queries, keys and values are three layers of the ViT and one of BLIP's encoder.
            parts = [old[f"{layer}attention.{letter}_proj.{kind}"] for letter in "qkv"]
            names[f"{to}self_attn.qkv.{kind}"] = torch.cat(parts)
            names[f"{to}self_attn.projection.{kind}"] = old[f"{layer}attention.o_proj.{kind}"]
            names[f"{to}layer_norm1.{kind}"] = old[f"{layer}layernorm_before.{kind}"]
            names[f"{to}layer_norm2.{kind}"] = old[f"{layer}layernorm_after.{kind}"]
            for part in ("fc1", "fc2"):
                names[f"{to}mlp.{part}.{kind}"] = old[f"{layer}mlp.{part}.{kind}"]
    target.vision_model.load_state_dict(names)
