"""The embedded backbones' architectures: published model classes at a size that can be kept in git.

Their preprocessors carry the numpy/PIL class names, since torchvision and torchaudio are not required.
"""

import re

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


def vit() -> tuple[ViTModel, ViTImageProcessorPil]:
    model = ViTModel(ViTConfig(image_size=SIZE_PX, patch_size=PATCH_PX, **SHAPE))
    return model, ViTImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, **NORMALISATION)


def ast(mean: float, std: float) -> tuple[ASTForAudioClassification, ASTFeatureExtractor]:
    """`mean` and `std` of the log-mel values, as in the published configuration."""
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
    return ASTForAudioClassification(config), ASTFeatureExtractor(
        num_mel_bins=MEL_BINS, max_length=MEL_FRAMES, mean=mean, std=std
    )


def vocabulary(captions: set[str]) -> dict[str, int]:
    """Token -> id: all words of captions and of the 527 labels, letters and word pieces of one letter for the rest."""
    texts = [*captions, *(label.display_name for label in load_labels())]
    words = sorted(
        {word for text in texts for word in re.findall(r"[a-z]+|[^a-z\s]", text.lower())}
    )
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*SPECIAL_TOKENS, *words, *letters, *("##" + letter for letter in letters)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def blip(captions: set[str]) -> tuple[BlipForConditionalGeneration, BlipProcessor]:
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
    old, names = source.state_dict(), {}
    names["embeddings.class_embedding"] = old["embeddings.cls_token"]
    names["embeddings.position_embedding"] = old["embeddings.position_embeddings"]
    for kind in ("weight", "bias"):
        names[f"embeddings.patch_embedding.{kind}"] = old[
            f"embeddings.patch_embeddings.projection.{kind}"
        ]
        names[f"post_layernorm.{kind}"] = old[f"layernorm.{kind}"]
        for i in range(SHAPE["num_hidden_layers"]):
            layer, to = f"layers.{i}.", f"encoder.layers.{i}."
            names[f"{to}self_attn.qkv.{kind}"] = torch.cat(
                [old[f"{layer}attention.{x}_proj.{kind}"] for x in "qkv"]
            )
            names[f"{to}self_attn.projection.{kind}"] = old[f"{layer}attention.o_proj.{kind}"]
            names[f"{to}layer_norm1.{kind}"] = old[f"{layer}layernorm_before.{kind}"]
            names[f"{to}layer_norm2.{kind}"] = old[f"{layer}layernorm_after.{kind}"]
            for part in ("fc1", "fc2"):
                names[f"{to}mlp.{part}.{kind}"] = old[f"{layer}mlp.{part}.{kind}"]
    target.vision_model.load_state_dict(names)
