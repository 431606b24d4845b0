"""The reward of captions."""

import numpy as np

from audio_from_video.captioning.reward import Reward
from audio_from_video.meaning.attention import CaptionReader
from tests.support.text_models import MINILM


def test_a_caption_that_names_what_is_heard_is_rewarded():
    reader = CaptionReader(MINILM, ["Drum", "Water", "Speech"], top_k=1, temperature=0.05)
    reward = Reward(reader, np.eye(3, dtype=np.float32))
    sound = np.array([[2.0, 0, 0], [2.0, 0, 0], [0, 0, 0]], np.float32)
    rewards = reward(["drum with a stick", "a glass of water", "drum"], sound)
    assert np.allclose(rewards, [1, 0, 0])
