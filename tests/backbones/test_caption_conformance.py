"""Captioning models of every kind: against the stock models, alone and in batches.

tests/support/caption_conformance.py decodes greedily, without a cache.  The models have random
weights (tests/support/tiny_captioners.py).
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.captioners import KINDS
from audio_from_video.backbones.prompted_captioners import QUESTION, PromptedCaptioner
from audio_from_video.backbones.settings import CaptionerSettings
from audio_from_video.runtime.errors import UserError
from tests.support import caption_conformance, conformance
from tests.support.caption_conformance import (
    PICTURES,
    CaptionFindings,
    captioner,
    captions,
    prompts,
)
from tests.support.stock_blip import rgb
from tests.support.tiny_backbones import write_vit
from tests.support.tiny_captioners import WRITERS

pytestmark = pytest.mark.usefixtures("on_cpu")

NAMES = list(WRITERS)
CHAT = ["SmolVLM", "SmolVLM2", "Qwen2-VL", "Qwen2.5-VL"]
WITH_PROCESSOR = [name for name in NAMES if name not in ("BLIP", *CHAT)]  # BLIP's: test_blip.py


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model directory of every kind, by name."""
    folder = tmp_path_factory.mktemp("captioners")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(params=NAMES)
def model(request, folders) -> str:
    return str(folders[request.param])


@pytest.fixture(scope="module")
def found(folders) -> Callable[[str], CaptionFindings]:
    """What a model says; it is computed once."""
    return cache(lambda name: caption_conformance.findings(name, folders[name]))


def test_every_kind_is_tested_here(folders):
    assert {hub.model_type_of(str(folder)) for folder in folders.values()} == set(KINDS)


# ---- what captions are ----


@pytest.mark.parametrize("name", NAMES)
def test_a_caption_does_not_depend_on_its_batch(found, name):
    assert found(name).together == found(name).alone
    for texts in found(name).together.values():
        assert len(set(texts)) > 1
        assert all(text == " ".join(text.lower().split()) for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_matters(found, name):
    first, second = found(name).together.values()
    assert first != second


@pytest.mark.parametrize("name", NAMES)
def test_captions_are_greedy_decoding_by_the_stock_model(found, name):
    assert found(name).together == found(name).stock


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_in_bfloat16(found, name):
    assert found(name).runs_in_bfloat16, found(name).bfloat16


def test_the_page_has_what_is_found(found, folders):
    table = caption_conformance.caption_table({name: found(name) for name in NAMES}, folders)
    assert conformance.table_on_page("captions") == table, "run python -m benchmarks.conformance"


def test_max_tokens_ends_a_caption(model):
    longer = captions(model)
    for text, begun in zip(longer, captions(model, tokens=2), strict=True):
        assert len(begun.split()) <= 2
        assert text.startswith(begun)


def test_beams_are_searched(model):
    assert len(captions(model, beams=3)) == len(PICTURES)
    assert captions(model, beams=3) != captions(model)


# ---- what the models read ----


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_inputs_are_those_of_the_stock_processor(folders, name):
    """GIT's processor ends a prompt, after which nothing could follow: its end is cut off."""
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    default = "<CAPTION>" if name == "Florence-2" else ""
    for prompt in prompts(folders[name]):
        own = captioner(folders[name], prompt)
        assert isinstance(own, PromptedCaptioner)
        inputs = own.inputs(own.prepare(PICTURES))
        texts = [prompt or default] * len(PICTURES)
        expected = processor(
            images=[rgb(picture) for picture in PICTURES], text=texts, return_tensors="pt"
        )
        ids = expected["input_ids"][:, :-1] if name == "GIT" else expected["input_ids"]
        assert torch.equal(inputs["input_ids"], ids)
        assert torch.allclose(inputs["pixel_values"], expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("name", CHAT)
def test_chat_models_get_their_own_image_processor(folders, name):
    processor = transformers.AutoImageProcessor.from_pretrained(folders[name])
    pictures = [rgb(picture) for picture in PICTURES]
    nested = [[picture] for picture in pictures] if "SmolVLM" in name else pictures
    expected = processor(nested, return_tensors="np")
    values = captioner(folders[name]).prepare(PICTURES)
    assert np.allclose(values["pixel_values"], expected["pixel_values"], atol=1e-6)


@pytest.mark.parametrize("prompt", ["", "what does this image"])
def test_chat_models_are_asked_in_their_template(folders, prompt):
    asked = prompt or QUESTION
    rows_and_columns = (2, 2)  # the pieces that the processor cuts PICTURES into
    places = get_image_prompt_string(
        *rows_and_columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"
    )
    expected = {
        "SmolVLM2": f"user : {places} {asked} assistant :",
        "Qwen2-VL": "user : <|vision_start|>"
        + "<|image_pad|>" * 12  # 6 x 8 patches of 4 px, four to a token
        + f"<|vision_end|> {asked} assistant :",
    }
    for name, text in expected.items():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
        ids = captioner(folders[name], prompt).prepare(PICTURES)["input_ids"]
        assert ids.tolist() == [tokenizer(text)["input_ids"]] * len(PICTURES)


def test_a_saved_model_gives_the_same_captions(model, tmp_path):
    captioner(model).save(tmp_path)
    assert captions(tmp_path, prompt="") == captions(model, prompt="")
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".py")]


# ---- what a user can mend ----


def test_other_kinds_are_a_sentence_that_names_the_supported_ones(tmp_path):
    folder = str(write_vit(tmp_path / "vit"))
    with pytest.raises(UserError, match="is of the kind 'vit', which is no captioning") as error:
        captioners.load(CaptionerSettings(folder, 1, 10))
    assert all(kind in str(error.value) for kind in KINDS)


def test_only_blip_and_git_are_fine_tuned(folders):
    for name, folder in folders.items():
        settings = CaptionerSettings(str(folder), 1, 10)
        captioners.require_tunable(settings, "off")
        if name in ("BLIP", "GIT"):
            captioners.require_tunable(settings, "tags")
            captioners.load_tunable(settings)
            continue
        sentence = "are not fine-tuned here, blip and git are; set captions.finetune to off"
        with pytest.raises(UserError, match=sentence):
            captioners.require_tunable(settings, "tags")
    with pytest.raises(UserError, match="asks for captions that name sounds by this prompt"):
        captioners.require_tunable(
            CaptionerSettings(str(folders["BLIP"]), 1, 10, "the sound of"), "tags"
        )


def test_pickled_weights_are_not_loaded(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no weights in safetensors form, and pickled ones are"):
        captions(folder)


def test_a_chat_model_without_a_template_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["SmolVLM"], tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template, without which it cannot be asked"):
        captions(folder)


def test_an_old_blip2_checkpoint_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["BLIP-2 with OPT"], tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_token_index": None}))
    with pytest.raises(UserError, match="names no image_token_index, as older BLIP-2 checkpoints"):
        captions(folder)


def test_a_prompt_that_is_no_task_is_a_sentence(folders):
    with pytest.raises(UserError, match="captions.prompt = '<CAPTION> of a ball' is none for"):
        captions(folders["Florence-2"], prompt="<CAPTION> of a ball")
