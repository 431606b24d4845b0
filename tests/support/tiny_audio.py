"""Audio models of random weights of every kind, small enough to write in a test."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from audio_from_video.audioset.labels import load_labels
from tests.support.tiny_backbones import _save, write_ast

WIDTH = 32
CONVOLUTIONS = {  # as wav2vec 2 has them, with fewer channels
    "conv_dim": [16] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
}
ENCODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def write_audioset_ast(folder: Path) -> Path:
    """Write an AST that hears 2 s and names AudioSet's labels in another order."""
    names = [label.display_name for label in load_labels()][::-1]
    return write_ast(
        folder,
        max_length=200,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


def write_clap(folder: Path, fused: bool = False) -> Path:
    """Write a CLAP whose audio tower reads 10 s, in as many stages as the published one."""
    torch.manual_seed(11)
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 64,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [2, 2, 2, 2],
        "projection_dim": 24,
        "enable_fusion": fused,
    }
    text = {**ENCODER, "vocab_size": 300, "max_position_embeddings": 80, "projection_dim": 24}
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=24)
    _save(transformers.ClapModel(config), folder)
    truncation = "fusion" if fused else "rand_trunc"
    transformers.ClapFeatureExtractor(truncation=truncation).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> transformers.RobertaTokenizer:
    """Return a tokeniser of RoBERTa's kind whose tokens are bytes."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *bytes_to_unicode().values()]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.RobertaTokenizer(vocab=vocabulary, merges=[])


def write_whisper(folder: Path) -> Path:
    """Write a Whisper that hears 4 s."""
    torch.manual_seed(12)
    config = transformers.WhisperConfig(
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=200,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    _save(transformers.WhisperForConditionalGeneration(config), folder)
    transformers.WhisperFeatureExtractor(chunk_length=4).save_pretrained(folder)
    return folder


def write_wav2vec2(folder: Path) -> Path:
    """Write a wav2vec 2 with the norm over time that the published base model has."""
    torch.manual_seed(13)
    config = transformers.Wav2Vec2Config(
        **ENCODER, **CONVOLUTIONS, feat_extract_norm="group", vocab_size=20
    )
    _save(transformers.Wav2Vec2ForCTC(config), folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def write_hubert(folder: Path) -> Path:
    torch.manual_seed(14)
    config = transformers.HubertConfig(
        **ENCODER, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True
    )
    _save(transformers.HubertModel(config), folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def write_wavlm(folder: Path) -> Path:
    torch.manual_seed(15)
    config = transformers.WavLMConfig(**ENCODER, **CONVOLUTIONS)
    _save(transformers.WavLMModel(config), folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def write_labelled_wavlm(folder: Path) -> Path:
    """Write a WavLM with a head that names all but six of AudioSet's labels, in another order."""
    torch.manual_seed(18)
    names = [label.mid for label in load_labels()][:5:-1]
    config = transformers.WavLMConfig(
        **ENCODER,
        **CONVOLUTIONS,
        classifier_proj_size=20,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    _save(transformers.WavLMForSequenceClassification(config), folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return folder


def write_yamnet(folder: Path, channels: int = 1) -> Path:
    """Write a MobileNetV1 of log-mel patches that names all but six of AudioSet's labels."""
    torch.manual_seed(16)
    names = [label.display_name for label in load_labels()][6:]
    config = transformers.MobileNetV1Config(
        num_channels=channels,
        image_size=96,
        depth_multiplier=0.25,
        hidden_act="relu",
        layer_norm_eps=1e-4,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    model = transformers.MobileNetV1ForImageClassification(config)
    _save(model, folder)
    return folder


def write_pe_audio(folder: Path) -> Path:
    torch.manual_seed(17)
    dac = {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "downsampling_ratios": [2, 8, 10, 12],
        "hidden_size": 16,
        "codebook_dim": 8,
    }
    audio = {**ENCODER, "num_key_value_heads": 2, "head_dim": 16, "dac_config": dac}
    text = {
        **ENCODER,
        "model_type": "modernbert",
        "vocab_size": 300,
        "pad_token_id": 1,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config = transformers.PeAudioConfig(audio_config=audio, text_config=text)
    model = transformers.PeAudioModel(config)
    model.text_audio_logit_scale.data.fill_(0.1)
    _save(model, folder)
    transformers.PeAudioFeatureExtractor().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "ast": write_audioset_ast,
    "clap": write_clap,
    "clap fused": lambda folder: write_clap(folder, fused=True),
    "whisper": write_whisper,
    "wav2vec2": write_wav2vec2,
    "hubert": write_hubert,
    "wavlm": write_wavlm,
    "wavlm with a head": write_labelled_wavlm,
    "yamnet": write_yamnet,
    "pe_audio": write_pe_audio,
}
