"""Text models for tests: the published one by name, and a tiny BERT of random weights."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from audio_from_video.audioset.labels import load_labels

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["a dog barks", "rain", "", "a dog barks", "two people clap their hands in a large hall"]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(folder: Path, weights: str = "safetensors") -> str:
    """Write a plain Hugging Face BERT of random weights, and return its folder.

    It knows the words of TEXTS and of AudioSet's labels. `weights`: "safetensors" or "pickle".
    """
    labels = [label.display_name for label in load_labels()]
    text = " ".join([*TEXTS, *labels]).lower().replace(",", " ")
    words = sorted(set(text.split()))
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *words]))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = BertModel(config)
    model.save_pretrained(folder)
    if weights == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)
