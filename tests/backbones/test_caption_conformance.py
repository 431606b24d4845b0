"""Captioning models of every kind: against greedy decoding without a cache, alone and in batches.

The models have random weights (tests/support/tiny_captioners.py).
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.captioners import KINDS, Captioner
from audio_from_video.backbones.prompted_captioners import QUESTION, PromptedCaptioner
from audio_from_video.backbones.settings import CaptionerSettings
from audio_from_video.runtime.errors import UserError
from tests.support.closure import ROOT
from tests.support.stock_blip import rgb
from tests.support.tiny_backbones import images, write_vit
from tests.support.tiny_captioners import WRITERS

pytestmark = pytest.mark.usefixtures("on_cpu")

TOKENS = 6
PICTURES = images(4, 48, 64)
NAMES = list(WRITERS)
CHAT = ["SmolVLM", "SmolVLM2", "Qwen2-VL", "Qwen2.5-VL"]
PROMPTED = [name for name in NAMES if name != "BLIP"]  # test_blip.py has BLIP's reference
WITH_PROCESSOR = [name for name in PROMPTED if name not in CHAT]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model directory of every kind, by name."""
    folder = tmp_path_factory.mktemp("captioners")
    return {name: write(folder / name) for name, write in WRITERS.items()}


@pytest.fixture(params=NAMES)
def model(request, folders) -> str:
    return str(folders[request.param])


def captioner(folder, prompt: str = "", beams: int = 1, tokens: int = TOKENS) -> Captioner:
    return captioners.load(CaptionerSettings(str(folder), beams, tokens, prompt))


def captions(folder, pictures=PICTURES, **settings) -> list[str]:
    model = captioner(folder, **settings)
    return model.captions(model.prepare(pictures))


def prompts(folder) -> list[str]:
    return ["", "<DETAILED_CAPTION>" if folder.endswith("Florence-2") else "a photo of"]


# ---- what captions are ----


def test_a_caption_does_not_depend_on_its_batch(model):
    for prompt in prompts(model):
        together = captions(model, prompt=prompt)
        alone = [captions(model, [picture], prompt=prompt)[0] for picture in PICTURES]
        assert together == alone
        assert len(set(together)) > 1
        assert all(text == " ".join(text.lower().split()) for text in together)


def test_a_prompt_matters(model):
    first, second = (captions(model, prompt=prompt) for prompt in prompts(model))
    assert first != second


def test_max_tokens_ends_a_caption(model):
    longer = captions(model)
    for text, begun in zip(longer, captions(model, tokens=2), strict=True):
        assert len(begun.split()) <= 2
        assert text.startswith(begun)


def test_beams_are_searched(model):
    assert len(captions(model, beams=3)) == len(PICTURES)
    assert captions(model, beams=3) != captions(model)


@pytest.mark.parametrize("name", PROMPTED)
def test_captions_are_greedy_decoding_without_a_cache(folders, name):
    for prompt in prompts(str(folders[name])):
        own = captioner(folders[name], prompt)
        assert isinstance(own, PromptedCaptioner)
        expected = []
        for picture in PICTURES:
            inputs = own.inputs(own.prepare([picture]))
            expected.append(greedy_caption(folders[name], inputs))
        assert captions(folders[name], prompt=prompt) == expected


def greedy_caption(folder: Path, inputs: dict[str, torch.Tensor]) -> str:
    """Return the caption of the highest logits, token by token, by the plain model."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    language_model = getattr(model, "language_model", model)
    text_config = language_model.config if "t5" in str(folder).lower() else model.config
    start = getattr(text_config, "decoder_start_token_id", None)
    if "Florence" in folder.name:
        start = model.config.text_config.decoder_start_token_id
    answer: list[int] = []
    for _ in range(TOKENS):
        step = dict(inputs)
        if start is None:
            step = with_answer(inputs, answer)
        else:
            step["decoder_input_ids"] = torch.tensor([[start, *answer]])
        with torch.no_grad():
            token = int(model(**step).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    text = tokenizer.decode(answer, skip_special_tokens=True)
    return " ".join(text.lower().split())


def with_answer(inputs: dict[str, torch.Tensor], answer: list[int]) -> dict[str, torch.Tensor]:
    """Return the inputs of one picture with the answer so far behind the prompt."""
    added = {"input_ids": answer, "attention_mask": [1] * len(answer)}
    added["mm_token_type_ids"] = [0] * len(answer)
    longer = dict(inputs)
    for name, values in added.items():
        if name in inputs:
            addition = torch.tensor([values], dtype=inputs[name].dtype)
            longer[name] = torch.cat([inputs[name], addition], dim=1)
    return longer


# ---- what the models read ----


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_inputs_are_those_of_the_stock_processor(folders, name):
    """GIT's processor ends a prompt, after which nothing could follow: its end is cut off."""
    processor = transformers.AutoProcessor.from_pretrained(folders[name])
    default = "<CAPTION>" if name == "Florence-2" else ""
    for prompt in prompts(str(folders[name])):
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


def test_it_runs_in_bfloat16(model, monkeypatch):
    used = []

    def autocast(device: str):
        used.append(device)
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr(hub, "autocast", autocast)
    texts = captions(model)
    assert used
    assert len(texts) == len(PICTURES)
    assert len(set(texts)) > 1


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


def test_the_documentation_names_every_kind():
    page = (ROOT / "docs/backbones.md").read_text()
    missing = [kind for kind in KINDS if f"`{kind}`" not in page]
    assert not missing
