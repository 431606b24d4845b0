"""GIT's decoder on stored picture outputs, against the stock model on pictures."""

import pytest
import torch
import transformers

from audio_from_video.backbones.git import GitCaptioner
from audio_from_video.backbones.settings import TAGS_PROMPT, CaptionerSettings
from audio_from_video.backbones.tuned_weights import dump_weights
from audio_from_video.runtime.errors import UserError
from tests.support.stock_blip import rgb
from tests.support.tiny_backbones import images
from tests.support.tiny_captioners import END, save, write_git

pytestmark = pytest.mark.usefixtures("on_cpu")

PICTURES = images(3, 48, 64)
TEXTS = ["a red ball", "a blue drum in the street", "a ball"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_git(tmp_path_factory.mktemp("models") / "git"))


@pytest.fixture
def captioner(folder) -> GitCaptioner:
    return GitCaptioner(CaptionerSettings(folder, beams=2, max_tokens=8))


def stock_inputs(folder: str, texts: list[str]) -> dict[str, torch.Tensor]:
    """What GIT's own processor makes of the pictures and of texts between <s> and </s>."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    pictures = [rgb(picture) for picture in PICTURES]
    return dict(processor(images=pictures, text=texts, padding=True, return_tensors="pt"))


def stock_model(folder: str) -> torch.nn.Module:
    return transformers.GitForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("prompt", ["", TAGS_PROMPT])
def test_loss_on_stored_outputs_is_the_models_own_on_pictures(folder, captioner, prompt):
    inputs = stock_inputs(folder, [f"{prompt} {text}" for text in TEXTS])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, : 1 + len(prompt.split())] = -100
    with torch.no_grad():
        expected = stock_model(folder)(**inputs, labels=labels).loss
    outputs = captioner.encode(captioner.prepare(PICTURES))
    loss = captioner.loss(captioner.decoder(), outputs, TEXTS, prompt)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_captions_surprise_is_its_own_loss_times_its_tokens(captioner):
    outputs = captioner.encode(captioner.prepare(PICTURES))
    decoder = captioner.decoder()
    ids = captioner.generate(decoder, outputs, TAGS_PROMPT, num_beams=1, do_sample=False)
    ids[0, -2:] = captioner.pad_id
    mask = (ids != captioner.pad_id).long()
    together = captioner.loss_of_ids(decoder, outputs, ids, mask, TAGS_PROMPT, "none")
    for i in range(len(PICTURES)):
        length = int(mask[i].sum())
        mean = captioner.loss_of_ids(
            decoder, outputs[[i]], ids[[i], :length], mask[[i], :length], TAGS_PROMPT
        )
        learned = length - 1 - len(TAGS_PROMPT.split())
        assert together[i].item() == pytest.approx(mean.item() * learned, rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_from_stored_outputs_are_those_of_pictures(folder, captioner, beams):
    prepared = captioner.prepare(PICTURES)
    ids = captioner.generate(
        captioner.decoder(), captioner.encode(prepared), "", num_beams=beams, do_sample=False
    )
    from_pictures = GitCaptioner(CaptionerSettings(folder, beams, 8)).captions(prepared)
    assert captioner.texts(ids, "") == from_pictures
    assert len(set(from_pictures)) > 1


def test_tuned_captions_are_the_saved_models_after_the_prompt(folder, captioner, tmp_path):
    torch.manual_seed(2)
    save(stock_model(folder), tmp_path / "other")
    other = GitCaptioner(CaptionerSettings(str(tmp_path / "other"), 2, 8))
    file = tmp_path / "weights"
    file.write_bytes(dump_weights(other.decoder()))

    prepared = captioner.prepare(PICTURES)
    tuned = captioner.captions(prepared, str(file))
    (tmp_path / "saved").mkdir()
    captioner.save(tmp_path / "saved", str(file))
    asked = CaptionerSettings(str(tmp_path / "saved"), 2, 8, TAGS_PROMPT)
    saved = GitCaptioner(asked)
    assert tuned == saved.captions(saved.prepare(PICTURES))
    published = GitCaptioner(CaptionerSettings(folder, 2, 8, TAGS_PROMPT))
    assert tuned != published.captions(prepared)
    for name, stored in saved.model.named_parameters():
        source = published if name.startswith("git.image_encoder.") else other
        assert torch.equal(stored, source.model.get_parameter(name)), name


def test_a_prompt_without_room_for_a_caption_is_a_sentence(captioner):
    outputs = captioner.encode(captioner.prepare(PICTURES))
    with pytest.raises(UserError, match="reads 64 at most, the caption included"):
        captioner.generate(captioner.decoder(), outputs, "a " * 64)


def test_a_caption_ends_where_positions_do(folder):
    captioner = GitCaptioner(CaptionerSettings(folder, beams=1, max_tokens=500))
    outputs = captioner.encode(captioner.prepare(PICTURES))
    endless = {"num_beams": 1, "do_sample": False, "suppress_tokens": [END]}
    ids = captioner.generate(captioner.decoder(), outputs, "a " * 60, **endless)
    assert ids.shape[1] == 64
