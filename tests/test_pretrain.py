"""The embedded backbones: Hugging Face directories that load and know what they should."""

import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
)

from audio_from_video.audioset.labels import load_labels
from audio_from_video.world import tiny_models
from audio_from_video.world.actions import ACTIONS
from audio_from_video.world.pretraining_data import (
    FARNEBACK,
    PICTURES,
    SEEN,
    Scenes,
    draw_scenes,
    draw_sounds,
    flow_image,
)
from audio_from_video.world.sounds import RATE_HZ
from stages.pretrain import caption_figures, pixels
from tests.support.closure import ROOT

TINY = ROOT / "models/tiny"
SIZE_PX = tiny_models.SIZE_PX


@pytest.fixture(scope="module")
def shown() -> Scenes:
    return draw_scenes(77, "unseen", 24)


def test_together_they_are_small_and_hold_no_pickle():
    files = [f for f in TINY.rglob("*") if f.is_file()]
    assert {f.suffix for f in files} == {".json", ".safetensors"}
    assert sum(f.stat().st_size for f in files) <= 25e6


def test_vit_loads_and_its_processor_does_what_pretraining_did():
    model = AutoModel.from_pretrained(TINY / "vit")
    processor = AutoImageProcessor.from_pretrained(TINY / "vit")
    assert type(model).__name__ == "ViTModel" and model.config.hidden_size >= 128
    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
    given = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(given, pixels(image[None]), atol=1e-5)
    assert model(given).last_hidden_state.shape == (1, 37, model.config.hidden_size)


def test_ast_knows_the_527_labels_and_hears_what_is_there():
    model = AutoModelForAudioClassification.from_pretrained(TINY / "ast")
    extractor = AutoFeatureExtractor.from_pretrained(TINY / "ast")
    assert [model.config.id2label[i] for i in range(527)] == [
        label.display_name for label in load_labels()
    ]
    waves, labels = draw_sounds(77, "unseen", 40)
    spectra = extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
    with torch.no_grad():
        best = model(spectra).logits.numpy().argmax(1)
    audible = labels.sum(1) > 0
    assert labels[audible, best[audible]].mean() > 0.8


def test_blip_says_what_is_seen_and_nothing_of_actions(shown):
    model = BlipForConditionalGeneration.from_pretrained(TINY / "blip")
    processor = AutoProcessor.from_pretrained(TINY / "blip")
    inputs = processor(images=list(shown.pictures[:, 0]), return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=16)
    captions = processor.batch_decode(tokens, skip_special_tokens=True)
    assert caption_figures(captions, shown.captions)["word_accuracy"] > 0.6
    assert not words_of(captions) & set(ACTIONS)


def words_of(captions: list[str]) -> set[str]:
    return set(" ".join(captions).split())


def test_blip_vocabulary_holds_all_words_of_the_labels():
    tokenizer = AutoTokenizer.from_pretrained(TINY / "blip")
    for label in load_labels():
        pieces = tokenizer.tokenize(label.display_name)
        assert not any(piece == "[UNK]" or piece.startswith("##") for piece in pieces), (
            label.display_name
        )


def test_scenes_for_pretraining_leave_out_three_actions(shown):
    assert len(SEEN) == len(ACTIONS) - 3
    assert shown.pictures.shape == (24, PICTURES + 1, SIZE_PX, SIZE_PX, 3)
    assert np.allclose(shown.patches.astype(np.float32).sum(-1), 1, atol=5e-3)
    assert not words_of(shown.captions) & {"ball", "wheel"}


def test_flow_images_are_those_of_the_stage():
    """The backbone learns what optical_flow draws; its settings are in params.yaml."""
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())["optical_flow"]
    shared = {name: settings[name] for name in FARNEBACK}
    assert shared == FARNEBACK
    assert settings.keys() - FARNEBACK.keys() == {"full_scale_px", "jpeg_quality", "store"}


def test_figures_of_captions_compare_words_where_they_stand():
    captions = ["a red drum", "a blue drum here", "a ball"]
    references = ["a red drum", "a red drum", "a ball above the floor"]
    figures = caption_figures(captions, references)
    assert figures["word_accuracy"] == pytest.approx((3 + 2 + 2) / (3 + 4 + 5))
    assert figures["caption_accuracy"] == pytest.approx(1 / 3)


def test_flow_image_shows_direction_as_hue_and_stillness_as_black():
    texture = np.random.default_rng(1).integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
    texture = np.repeat(np.repeat(texture[::6, ::6], 6, 0), 6, 1)
    assert flow_image(texture, texture, 8.0).max() <= 12
    moved = flow_image(texture, np.roll(texture, 3, 1), 8.0)[20:-20, 20:-20]
    assert abs(np.median(moved.max(-1)) - 3 / 8 * 255) < 30  # to the right: hue 0, red
    assert np.median(moved[..., 0]) > 60 > np.median(moved[..., 2])


def test_blip_starts_from_the_vit_with_the_same_answers():
    torch.manual_seed(0)
    vit, _ = tiny_models.new_vit()
    blip, _ = tiny_models.new_blip({"a red drum"})
    tiny_models.copy_vit_to_blip(vit, blip)
    images = torch.randn(2, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        of_vit = vit.eval()(images).last_hidden_state
        of_blip = blip.vision_model.eval()(images).last_hidden_state
    assert torch.allclose(of_vit, of_blip, atol=1e-4)
