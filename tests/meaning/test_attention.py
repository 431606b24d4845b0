"""Attention of captions over labels against a loop."""

import numpy as np
import torch

from audio_from_video.meaning.attention import mapped_audio
from audio_from_video.meaning.similarity import unit


def test_mapped_audio_is_the_attended_mean_of_the_closest_labels():
    rng = np.random.default_rng(0)
    captions = unit(rng.normal(size=(4, 8)))
    labels = unit(rng.normal(size=(6, 8)))
    audio = rng.normal(size=(6, 3)).astype(np.float32)
    found = mapped_audio(captions.astype(np.float32), labels.astype(np.float32), audio, 3, 0.05)
    for caption, row in zip(captions, found, strict=True):
        cosines, closest = torch.tensor(labels @ caption).topk(3)
        expected = (cosines / 0.05).softmax(0).numpy() @ audio[closest.numpy()]
        assert np.allclose(row, expected, atol=1e-4)
    assert np.allclose(mapped_audio(labels, labels, audio, 1, 0.05), audio)
    assert np.isfinite(mapped_audio(labels, labels, audio, 6, 1e-6)).all()
