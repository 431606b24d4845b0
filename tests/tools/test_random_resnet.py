"""The CNN backbone that a benchmark writes serves as video_features.model."""

import numpy as np

from audio_from_video.backbones.hub import width_of
from audio_from_video.backbones.vision import VisionBackbone
from tests.support.tiny_backbones import images
from tools import random_resnet


def test_the_written_resnet_serves_as_a_vision_model_and_is_the_same_every_time(tmp_path):
    for name in ("first", "second"):
        random_resnet.write(tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    model = VisionBackbone(str(tmp_path / "first"), "frame")
    features = model.encode(model.fit(np.stack(images(3, 96, 96)))[None])[0]
    assert width_of(str(tmp_path / "first")) == 128 and features.shape == (3, 128)
    assert np.isfinite(features).all() and not np.allclose(features[0], features[1])
