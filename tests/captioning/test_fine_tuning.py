"""Fine-tuning towards sounds: what it learns, what it leaves alone, and the reward."""

import numpy as np
import pytest
import torch

from audio_from_video.backbones import captioners
from audio_from_video.backbones.captioners import TUNABLE, Tunable
from audio_from_video.backbones.settings import TAGS_PROMPT, CaptionerSettings
from audio_from_video.backbones.tuned_weights import dump_weights
from audio_from_video.captioning.fine_tuning import (
    GREEDY,
    Example,
    Material,
    fine_tune,
    mean_reward,
    self_critical,
)
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.meaning.label_words import tagged
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage.row_file import RowFile
from tests.support.tiny_backbones import write_blip
from tests.support.tiny_captioners import write_git

PLAIN = ["a red ball", "a blue drum in the street"]  # captions of the two kinds of frames


def training(**changes) -> TrainingParams:
    settings = {
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "batch_size": 4,
        "epochs": 2,
        "patience": 2,
        "averaging": 0.0,
    }
    return TrainingParams(**settings | changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    writers = {"blip": write_blip, "git": write_git}
    assert set(writers) == set(TUNABLE)
    return {kind: str(write(folder / kind)) for kind, write in writers.items()}


@pytest.fixture(params=TUNABLE)
def captioner(request, folders) -> Tunable:
    settings = CaptionerSettings(folders[request.param], beams=1, max_tokens=12)
    return captioners.load_tunable(settings, "cpu")


@pytest.fixture
def outputs(captioner, tmp_path) -> RowFile:
    """Picture outputs of 16 frames of two kinds in turn, dark and bright."""
    one_thread()
    pictures = [np.full((32, 32, 3), 60 + 120 * (i % 2) + i, np.uint8) for i in range(16)]
    values = captioner.encode(captioner.prepare(pictures)).numpy()
    return RowFile(tmp_path / "outputs", values.shape[1:]).write(values)


def examples(tags: list[list[str]]) -> list[Example]:
    """Examples of the 16 frames; tags: of each kind, the sounds that its frames have in turn."""
    rows = []
    for i in range(16):
        kind = i % 2
        sound = tags[kind][i // 2 % len(tags[kind])]
        rows.append(Example(i, PLAIN[kind], tagged(PLAIN[kind], [sound])))
    return rows


@pytest.mark.slow
def test_it_learns_to_name_sounds_and_keeps_the_captions(captioner, outputs):
    learned = examples([["Knock"], ["Tap"]])
    before = {name: value.clone() for name, value in captioner.model.state_dict().items()}
    material = Material(outputs, learned, learned)
    decoder, curve = fine_tune(captioner, material, training(epochs=30, patience=30))

    pictures = outputs.read(range(len(learned)))
    for prompt, texts in (
        (TAGS_PROMPT, [example.tagged for example in learned]),
        ("", [example.caption for example in learned]),
    ):
        ids = captioner.generate(decoder, pictures, prompt, **GREEDY)
        assert captioner.texts(ids, prompt) == [text.replace(" ,", ",") for text in texts]
    assert curve[-1]["validation_loss"] < 0.1 * curve[0]["training_loss"]

    # The original stays, and all of the copy has changed.
    for name, value in captioner.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    old_parameters = captioner.decoder().parameters()
    for new, old in zip(decoder.parameters(), old_parameters, strict=True):
        assert (new - old).abs().max() > 0


def test_it_is_the_same_twice(captioner, outputs):
    learned = examples([["Knock"], ["Tap"]])
    material = Material(outputs, learned, learned)
    torch.manual_seed(0)  # of dropout
    first, _ = fine_tune(captioner, material, training())
    torch.manual_seed(0)
    second, _ = fine_tune(captioner, material, training())
    assert dump_weights(first) == dump_weights(second)


@pytest.mark.slow
def test_reward_raises_the_caption_it_prefers(captioner, outputs):
    """Three in four captions name a knock; the reward is 1 for a tap."""
    learned = examples([["Knock", "Knock", "Tap", "Knock"], ["Knock", "Tap", "Knock", "Knock"]])
    material = Material(outputs, learned, learned)
    decoder, _ = fine_tune(captioner, material, training(epochs=15, patience=15))
    means: list[float] = []

    def reward(texts: list[str], rows: list[int]) -> np.ndarray:
        rewards = np.array([float("tap" in text) for text in texts])
        means.append(rewards.mean())
        return rewards

    torch.manual_seed(0)
    p = training(batch_size=16, learning_rate=0.003)
    before, after = self_critical(captioner, decoder, material, reward, 40, p)
    assert before < 0.5
    assert after > before + 0.4
    assert after == mean_reward(captioner, decoder, outputs, learned, reward)
    sampled = means[1:-1:2]  # of the batches' sampled captions
    assert np.mean(sampled[30:]) > np.mean(sampled[:5]) + 0.2


def test_training_by_reward_never_leaves_a_worse_decoder(captioner, outputs):
    learned = examples([["Knock"], ["Tap"]])
    material = Material(outputs, learned, learned)
    decoder, _ = fine_tune(captioner, material, training())
    weights = dump_weights(decoder)
    falling = iter(range(1000, 0, -1))

    def reward(texts: list[str], rows: list[int]) -> np.ndarray:
        return np.full(len(texts), next(falling), float)

    before, after = self_critical(captioner, decoder, material, reward, 3, training())
    assert before == after
    assert dump_weights(decoder) == weights
