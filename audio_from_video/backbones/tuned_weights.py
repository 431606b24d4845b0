"""Weights of a fine-tuned text decoder, as a file beside the published model."""

import safetensors.torch
import torch


def dump_weights(decoder: torch.nn.Module) -> bytes:
    """Return a decoder's weights as safetensors; those tied to the word embeddings stand once."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in decoder.named_parameters()
    }
    return safetensors.torch.save(weights)


def load_weights(decoder: torch.nn.Module, weights: bytes) -> None:
    """Set a decoder's weights to those that `dump_weights` returned."""
    # Not strict: the names of tied weights are missing.
    decoder.load_state_dict(safetensors.torch.load(weights), strict=False)
