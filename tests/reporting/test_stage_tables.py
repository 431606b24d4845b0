"""What the stages' tables say of their inputs."""

import numpy as np
import pytest

from audio_from_video.evaluation.told_apart import told_apart
from audio_from_video.reporting.stage_tables import told_apart_sentence

ACTIONS = np.repeat(np.arange(4), 10)
SOURCES = np.arange(40)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [(2.0, "shuffled actions would give taken off."), (0.0, "no better than chance")],
)
def test_a_table_says_whether_captions_tell_actions_apart(signal, expected):
    noise = np.random.default_rng(3).normal(size=(40, 8))
    vectors = noise + signal * np.eye(8)[ACTIONS]
    sentence = told_apart_sentence("captions", told_apart(vectors, ACTIONS, SOURCES))
    assert expected in sentence
    assert ("nothing rests on them" in sentence) == (signal == 0)


def test_too_few_clips_say_so():
    figures = told_apart(np.ones((1, 3)), np.array(["a"]), np.array(["x"]))
    assert "Too few training clips" in told_apart_sentence("labels", figures)
