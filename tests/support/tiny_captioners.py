"""Captioning models of random weights, one of each kind, with a tokeniser of a few words.

Their images are 32 pixels wide, so that a test can write and run all of them.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.support.tiny_backbones import write_blip

WORDS = [
    *("a", "red", "blue", "ball", "drum", "in", "the", "street", "photo", "of"),
    *("describe", "this", "image", "one", "short", "sentence", "what", "does"),
    *("user", "assistant", ":", ".", "?"),
]
SOUND_WORDS = ["sound", "with", "knock", "tap", ","]  # of captions that name sounds
SPECIAL_TOKENS = [
    *("<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>"),
    *("<end_of_utterance>", "<global-img>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
QWEN_TOKENS = ("vision_start", "vision_end", "image_pad", "video_pad")
PAD, BEGIN, END, IMAGE = 0, 1, 2, 4  # places in SPECIAL_TOKENS
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
TEXT_LAYERS = {
    **LAYERS,
    "hidden_size": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": len(SPECIAL_TOKENS) + len(WORDS),
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(
    begins: bool = False, ends: bool = False, more_words: Sequence[str] = (), **settings
) -> transformers.PreTrainedTokenizerFast:
    """Return a tokeniser of whole words, which adds <s> and </s> where asked to."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *WORDS, *more_words])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    template = " ".join(["<s>"] * begins + ["$A"] + ["</s>"] * ends)
    words.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL_TOKENS[4:],
        **settings,
    )


def write_git(folder: Path) -> Path:
    torch.manual_seed(2)
    vision = {"hidden_size": 32, "image_size": 32, "patch_size": 8, **LAYERS}
    words = tokenizer(True, True, SOUND_WORDS)
    text = TEXT_LAYERS | {"max_position_embeddings": 64, "vocab_size": len(words)}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.GitConfig(vision_config=vision, **text, **dropout)
    save(transformers.GitForCausalLM(config), folder)
    transformers.GitProcessor(clip_images(), words).save_pretrained(folder)
    return folder


def write_blip2(folder: Path, language_model: str = "opt") -> Path:
    torch.manual_seed(4)
    texts = {
        "opt": transformers.OPTConfig(
            ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=True, **TEXT_LAYERS
        ),
        "t5": transformers.T5Config(
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=PAD,
            vocab_size=len(SPECIAL_TOKENS) + len(WORDS),
            pad_token_id=PAD,
            eos_token_id=END,
        ),
    }
    vision = {"hidden_size": 32, "image_size": 32, "patch_size": 8, **LAYERS}
    bridge = {"hidden_size": 32, "encoder_hidden_size": 32, **LAYERS}
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config=bridge,
        text_config=texts[language_model].to_dict(),
        num_query_tokens=4,
        image_token_index=IMAGE,
    )
    save(transformers.Blip2ForConditionalGeneration(config), folder)
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    words = tokenizer(begins=language_model == "opt", ends=language_model == "t5")
    transformers.Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder


def clip_images() -> CLIPImageProcessorPil:
    """Return CLIP's processor of images, for models that see 32 x 32 pixels."""
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def write_florence2(folder: Path) -> Path:
    torch.manual_seed(4)
    vision = {
        "depths": (1,),
        "patch_size": (7,),
        "patch_stride": (4,),
        "patch_padding": (3,),
        "patch_prenorm": (False,),
        "embed_dim": (16,),
        "num_heads": (2,),
        "num_groups": (2,),
        "window_size": 4,
        "projection_dim": 32,
    }
    text = transformers.BartConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(WORDS),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=256,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
        decoder_start_token_id=END,
        forced_eos_token_id=None,
    )
    config = transformers.Florence2Config(
        vision_config=vision, text_config=text.to_dict(), image_token_id=IMAGE
    )
    save(transformers.Florence2ForConditionalGeneration(config), folder)
    words = tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = clip_images()
    images.image_seq_length = 65  # a token for each of 8 x 8 patches, and their mean
    transformers.Florence2Processor(images, words).save_pretrained(folder)
    return folder


def write_smolvlm(folder: Path, generation: str = "2") -> Path:
    """Write SmolVLM2, or with another generation SmolVLM, which is an Idefics3."""
    torch.manual_seed(4)
    vision = {"hidden_size": 32, "image_size": 32, "patch_size": 8, **LAYERS}
    text = transformers.LlamaConfig(**TEXT_LAYERS).to_dict()
    settings = {
        "vision_config": vision,
        "text_config": text,
        "image_token_id": IMAGE,
        "scale_factor": 2,
    }
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    model: torch.nn.Module
    if generation == "2":
        config = transformers.SmolVLMConfig(**settings)
        model = transformers.SmolVLMForConditionalGeneration(config)
        SmolVLMImageProcessorPil(**sizes).save_pretrained(folder)
    else:
        older_config = transformers.Idefics3Config(**settings)
        model = transformers.Idefics3ForConditionalGeneration(older_config)
        Idefics3ImageProcessorPil(**sizes).save_pretrained(folder)
    save(model, folder)
    tokenizer().save_pretrained(folder)
    write_processor(folder, "SmolVLMProcessor", image_seq_len=4)
    return folder


def write_qwen(folder: Path, generation: str = "2") -> Path:
    torch.manual_seed(5)
    ids = {name: SPECIAL_TOKENS.index(f"<|{name}|>") for name in QWEN_TOKENS}
    tokens = {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
    }
    rotary = {"rope_type": "default", "mrope_section": [2, 3, 3]}
    text = {**TEXT_LAYERS, "rope_parameters": rotary}
    vision: dict[str, int | list[int]] = {
        "depth": 1,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
    }
    model: torch.nn.Module
    if generation == "2":
        vision |= {"embed_dim": 32, "hidden_size": 32}
        model = transformers.Qwen2VLForConditionalGeneration(
            transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
        )
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        vision |= {"window_size": 16, "fullatt_block_indexes": [0]}
        model = transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        )
    save(model, folder)
    Qwen2VLImageProcessorPil(patch_size=4, min_pixels=16 * 16, max_pixels=32 * 32).save_pretrained(
        folder
    )
    tokenizer().save_pretrained(folder)
    name = "Qwen2VLProcessor" if generation == "2" else "Qwen2_5_VLProcessor"
    write_processor(folder, name)
    return folder


def write_processor(folder: Path, name: str, **settings) -> None:
    """Write the chat template and the settings of a processor that needs torchvision to be made."""
    image = (
        "<image>" if name == "SmolVLMProcessor" else "<|vision_start|><|image_pad|><|vision_end|>"
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("IMAGE", image))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name, **settings}))


def save(model: torch.nn.Module, folder: Path) -> None:
    """Draw larger weights than the initial ones, with which images would hardly matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=3 / math.sqrt(parameter[0].numel()))
    model.save_pretrained(folder)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "BLIP": write_blip,
    "BLIP-2 with OPT": write_blip2,
    "BLIP-2 with T5": partial(write_blip2, language_model="t5"),
    "GIT": write_git,
    "Florence-2": write_florence2,
    "SmolVLM": partial(write_smolvlm, generation="1"),
    "SmolVLM2": write_smolvlm,
    "Qwen2-VL": write_qwen,
    "Qwen2.5-VL": partial(write_qwen, generation="2.5"),
}
