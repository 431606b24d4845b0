"""Captions, outputs and losses against BLIP's own code."""

import shutil

import numpy as np
import pytest
import torch
import transformers

from audio_from_video.backbones import text as text_backbone
from audio_from_video.backbones.blip import BlipCaptioner
from audio_from_video.backbones.settings import TAGS_PROMPT, CaptionerSettings
from audio_from_video.backbones.tuned_weights import dump_weights
from audio_from_video.runtime.errors import UserError
from tests.support.closure import ROOT
from tests.support.stock_blip import rgb, stock_blip, stock_caption
from tests.support.text_models import MINILM
from tests.support.tiny_backbones import blip_tokenizer, images, write_blip

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture
def captioner(models) -> BlipCaptioner:
    return BlipCaptioner(CaptionerSettings(str(models["blip"]), beams=1, max_tokens=12))


@pytest.mark.parametrize("height, wide", [(32, 32), (48, 64)])
def test_pictures_reach_the_model_as_its_processor_has_them(models, captioner, height, wide):
    pictures = images(3, height, wide)
    model, processor = stock_blip(models["blip"])
    values = processor([rgb(picture) for picture in pictures], return_tensors="pt")
    with torch.no_grad():
        expected = model.vision_model(values["pixel_values"]).last_hidden_state
    assert torch.allclose(captioner.encode(captioner.prepare(pictures)), expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_batched_captions_are_the_stock_models_one_by_one(models, beams):
    pictures = images(5, 32, 32)
    captioner = BlipCaptioner(CaptionerSettings(str(models["blip"]), beams, 12))
    captions = captioner.captions(captioner.prepare(pictures))
    assert captions == [stock_caption(models["blip"], picture, beams=beams) for picture in pictures]
    assert len(set(captions)) > 1
    assert all(text == text.lower() for text in captions)


def test_tuned_captions_are_the_stock_models_after_the_prompt(models, captioner, tmp_path):
    other_model, _ = stock_blip(write_blip(tmp_path / "other", seed=8))
    file = tmp_path / "weights"
    file.write_bytes(dump_weights(other_model.text_decoder))
    captioner.save(tmp_path / "saved", str(file))
    pictures = images(4, 32, 32)
    prepared = captioner.prepare(pictures)
    captions = captioner.captions(prepared, str(file))
    assert captions == [
        stock_caption(tmp_path / "saved", picture, TAGS_PROMPT) for picture in pictures
    ]
    published = BlipCaptioner(CaptionerSettings(str(models["blip"]), 1, 12, TAGS_PROMPT))
    assert captions != published.captions(prepared)


def test_a_caption_ends_where_positions_do(models):
    captioner = BlipCaptioner(CaptionerSettings(str(models["blip"]), beams=1, max_tokens=500))
    outputs = captioner.encode(captioner.prepare(images(2, 32, 32)))
    ids = captioner.generate(
        captioner.decoder(), outputs, TAGS_PROMPT, num_beams=1, do_sample=False
    )
    assert ids.shape[1] <= 24


@pytest.mark.parametrize("prompt", ["", TAGS_PROMPT])
def test_loss_on_stored_outputs_is_the_models_own_on_pictures(models, captioner, prompt):
    pictures = images(3, 32, 32)
    texts = ["a red ball", "a blue drum in the street", "a ball"]
    model, processor = stock_blip(models["blip"])
    prompted = [f"{prompt} {text}" for text in texts]
    inputs = processor(
        [rgb(picture) for picture in pictures], prompted, padding=True, return_tensors="pt"
    )
    ids = inputs["input_ids"].clone()
    ids[:, 0] = 5  # [DEC]
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, : 1 + len(prompt.split())] = -100
    expected = model(inputs["pixel_values"], ids, inputs["attention_mask"], labels=labels).loss
    outputs = captioner.encode(captioner.prepare(pictures))
    loss = captioner.loss(captioner.decoder(), outputs, texts, prompt)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.slow
def test_blip_base_fits_with_its_published_sizes(tmp_path):
    """One layer each: 384 px, 577 picture tokens, 768 wide, 30,524 words."""
    layers = {"num_hidden_layers": 1}
    config = transformers.BlipConfig(
        text_config={**layers, "encoder_hidden_size": 768},
        vision_config={**layers, "image_size": 384},
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    processor = transformers.BlipProcessor(transformers.BlipImageProcessorPil(), blip_tokenizer())
    processor.save_pretrained(tmp_path)
    captioner = BlipCaptioner(CaptionerSettings(str(tmp_path), beams=2, max_tokens=5))
    prepared = captioner.prepare(images(2, 96, 128))
    assert captioner.encode(prepared).shape == (2, 577, 768)
    assert len(captioner.captions(prepared)) == 2


def test_unusable_weights_are_sentences(models, tmp_path):
    folder = shutil.copytree(models["blip"], tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    pickled = "pickled' has no weights in safetensors form, and pickled ones are not loaded"
    with pytest.raises(UserError, match=pickled):
        BlipCaptioner(CaptionerSettings(str(folder), 1, 10)).model  # noqa: B018

    (folder / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="cannot be loaded as a BLIP captioning model"):
        BlipCaptioner(CaptionerSettings(str(folder), 1, 10)).model  # noqa: B018


def test_the_embedded_model_names_things(monkeypatch):
    monkeypatch.chdir(ROOT)
    captioner = BlipCaptioner(CaptionerSettings("models/tiny/blip", 1, 12))
    captions = captioner.captions(captioner.prepare([np.zeros((96, 96, 3), np.uint8)]))
    assert captions[0].startswith(("a ", "an ", "wooden "))
    assert text_backbone.embed(MINILM, captions).shape == (1, 384)
