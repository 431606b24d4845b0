"""Fine-tuning of the text encoder in the generator: what learns, what follows and what stays."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.backbones import text as text_backbone
from audio_from_video.clipset import folds
from audio_from_video.generation.conditioning import Conditioning, TextEncoder, TunedConditioning
from audio_from_video.generation.generator import Inputs, MappedGenerator, make_generator
from audio_from_video.generation.networks import MappedAudioGenerator, MappedGeneratorSizes
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.features import Features
from audio_from_video.learning.loop import fit
from audio_from_video.runtime import params, vocabulary
from audio_from_video.storage import shards
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.synthetic import LABEL_NAMES, NETWORK, STEPS

RATE = 0.003
LOWEST = 0.9  # of min_similarity: a random model finds all texts alike


@pytest.fixture
def data(workspace, bert, in_process):
    own = {"finetune_text": "embeddings", "text_learning_rate": RATE}
    workspace.set(
        frames={"count": STEPS},
        mapping={"model": bert, "min_similarity": LOWEST},
        generator={"seeds": 1, "folds": 2, "repeats": 0, "lstm": NETWORK, "caption_mapping": own},
    )
    sizes = {"training": 6, "validation": 4, "test": 4}
    workspace.rows = synthetic.make_clips(sizes=sizes, unlabelled=6)
    synthetic.write_data(workspace.rows)
    synthetic.write_captions(workspace.rows)
    synthetic.write_label_audio(folds=2)
    synthetic.write_predictions("video_only", workspace.rows)
    synthetic.map_captions()
    return workspace


@pytest.fixture
def inputs(data):
    with scratch() as folder:
        features = Features(folder, vocabulary.SPLITS)
        fold = folds.of_clips(features.clips, 2)
        yield Inputs(features, fold, Conditioning(folder, features, fold))


def tuned_conditioning(
    conditioning: Conditioning,
    trained: str = "embeddings",
    via: str = "labels",
    lowest: float = LOWEST,
) -> TunedConditioning:
    texts = conditioning.captions + conditioning.labels
    encoder = TextEncoder(conditioning.settings["model"], texts, trained)
    conditioning.settings |= {"via": via, "min_similarity": lowest}
    return TunedConditioning(conditioning, encoder)


def disturb(encoder: TextEncoder) -> None:
    """Another meaning for every word."""
    with torch.no_grad():
        words = encoder.model[0].model.embeddings.word_embeddings.weight
        words += words.std() * torch.randn(words.shape, generator=torch.Generator().manual_seed(0))


def trained(
    inputs: Inputs, batch: int, epochs: int, how: str = "embeddings"
) -> tuple[MappedGenerator, dict, dict]:
    """A generator after some epochs, and its parameters before and after."""
    p = params.load("generator", GeneratorParams)
    torch.manual_seed(0)
    m = p.caption_mapping.model_copy(update={"finetune_text": how})
    made = make_generator(inputs, 0, p.model_copy(update={"caption_mapping": m}))
    before = {key: value.clone() for key, value in made.model.named_parameters()}
    rows = inputs.data.clip_indices("training")
    rows = rows[inputs.data.audio_row[rows] >= 0]

    def loss(part: torch.Tensor) -> torch.Tensor:
        return (made(part) - inputs.data.sound(part)[0]).square().mean()

    scores = iter(range(0, -epochs, -1))  # each epoch is the best so far

    def validate() -> float:
        made.refresh()
        return float(next(scores))

    net = p.lstm.model_copy(
        update={"batch_size": batch, "epochs": epochs, "averaging": 0.0, "patience": 99}
    )
    fit(made.model, loss, rows, validate, net, 0, "generator", made.slower_parts)
    made.refresh()
    return made, before, dict(made.model.named_parameters())


# The encoder


@pytest.mark.parametrize("how", ["embeddings", "all"])
def test_embeddings_are_those_of_the_mapping_until_something_is_learned(inputs, bert, how):
    encoder = TextEncoder(bert, list(LABEL_NAMES), how)
    np.testing.assert_allclose(
        encoder.all().numpy(), text_backbone.embed(bert, list(LABEL_NAMES)), atol=1e-5
    )
    assert not encoder.all().requires_grad and encoder(torch.tensor([0, 1])).requires_grad
    learns = {key for key, value in encoder.named_parameters() if value.requires_grad}
    everything = {key for key, _ in encoder.named_parameters()}
    assert (
        learns
        == (everything if how == "all" else {key for key in everything if ".embeddings." in key})
        and learns
    )
    disturb(encoder)  # it is a model of its own: that of `embed` stays
    assert abs(encoder.all().numpy() - text_backbone.embed(bert, list(LABEL_NAMES))).max() > 0.01


def test_tuned_conditioning_begins_as_that_of_the_mapping(inputs):
    rows = torch.arange(len(inputs.data.clips))
    tuned = tuned_conditioning(inputs.conditioning)
    plain = inputs.conditioning.mapped_captions(rows)
    mapped = tuned.mapped_captions(rows)
    assert torch.equal(plain.captions, mapped.captions)
    assert torch.equal(plain.labels, mapped.labels)
    tuned.encoder.eval()
    for name in ("present", "caption", "text", "audio", "valid"):
        assert torch.allclose(
            getattr(tuned.read(rows), name).float(),
            getattr(inputs.conditioning.read(rows), name).float(),
            atol=1e-5,
        ), name


def test_what_is_read_in_training_carries_gradient_and_has_the_same_values(inputs):
    rows = torch.tensor([3, 0, 11, 17])
    tuned = tuned_conditioning(inputs.conditioning)
    tuned.encoder.eval()
    constant = tuned.read(rows)
    assert not constant.caption.requires_grad and not constant.text.requires_grad
    tuned.encoder.training = True  # without dropout in the model itself
    learning = tuned.read(rows)
    assert (
        learning.caption.requires_grad
        and learning.text.requires_grad
        and not learning.audio.requires_grad
    )
    for mask, first, second in (
        (constant.present, constant.caption, learning.caption),
        (constant.valid, constant.text[constant.label], learning.text[learning.label]),
    ):
        assert torch.allclose(first[mask], second[mask], atol=1e-5) and mask.any()
    assert torch.equal(constant.audio, learning.audio) and torch.equal(
        constant.valid, learning.valid
    )


# The mapping follows


@pytest.mark.parametrize("lowest", [-1.0, 0.9])
def test_refresh_maps_the_captions_anew(inputs, lowest):
    tuned = tuned_conditioning(inputs.conditioning, lowest=lowest)
    rows = torch.arange(len(inputs.data.clips))
    before = tuned.mapped_captions(rows)
    disturb(tuned.encoder)
    assert torch.equal(tuned.mapped_captions(rows).labels, before.labels)  # not yet refreshed
    tuned.refresh()
    mapped = tuned.mapped_captions(rows)
    caption = mapped.captions
    labels = mapped.labels
    assert torch.equal(caption, before.captions) and not torch.equal(labels, before.labels)
    vectors = tuned.encoder.all().numpy().astype(float)
    texts, names = (
        vectors[: len(inputs.conditioning.captions)],
        vectors[len(inputs.conditioning.captions) :],
    )
    assert len(names) == len(LABEL_NAMES)
    for number, found in zip(
        caption.flatten().tolist(), labels.flatten(0, 1).tolist(), strict=True
    ):
        expected = [-1] * 3
        if number >= 0:
            best = np.argsort(-(names @ texts[number]))[:3].tolist()
            expected = [label if names[label] @ texts[number] >= lowest else -1 for label in best]
        assert found == expected
    anchors = tuned.read(rows)
    audio = inputs.conditioning.label_audio[torch.from_numpy(inputs.fold)]
    for i, step, k in np.argwhere(anchors.valid.numpy())[::5]:
        assert torch.equal(anchors.audio[i, step, k], audio[i, labels[i, step, k]])


def test_with_key_captions_the_labels_stay(inputs):
    tuned = tuned_conditioning(inputs.conditioning, via="key_captions")
    rows = torch.arange(len(inputs.data.clips))
    before = tuned.mapped_captions(rows).labels
    caption_text = tuned.caption_text
    disturb(tuned.encoder)
    tuned.refresh()
    assert torch.equal(tuned.mapped_captions(rows).labels, before)
    assert torch.equal(before, inputs.conditioning.mapped_captions(rows).labels)
    assert not torch.allclose(tuned.caption_text, caption_text, atol=1e-3)


# What learns


@pytest.mark.parametrize("how", ["embeddings", "all"])
def test_only_the_part_that_is_trained_changes(inputs, how):
    made, before, after = trained(inputs, 8, 2, how)
    texts = {
        key for key in before if key.startswith("text.") and ".pooler." not in key
    }  # sentence embeddings pass the pooler by
    moved = {key for key in texts if not torch.equal(before[key], after[key])}
    assert moved == (texts if how == "all" else {key for key in texts if ".embeddings." in key})
    assert all(
        not torch.equal(before[key], after[key]) for key in before if key.startswith("attention.")
    )
    assert made.slower_parts == {"text.": RATE}


def test_the_gradient_reaches_the_embeddings_by_way_of_the_attention(inputs):
    p = params.load("generator", GeneratorParams)
    made = make_generator(inputs, 0, p)
    made.model.train()
    rows = inputs.data.clip_indices("training")
    made(rows).square().mean().backward()
    for key, value in made.model.named_parameters():
        if key.startswith("text."):
            assert (value.grad is not None) == (".embeddings." in key), key
    gradient = made.model.text.model[0].model.embeddings.word_embeddings.weight.grad
    mapped = inputs.conditioning.mapped_captions(rows)
    said = (
        mapped.captions[(mapped.labels >= 0).sum(-1) > 1].unique().tolist()
    )  # a single label weighs 1 whatever it means
    words = {word for number in said for word in inputs.conditioning.captions[number].split()}
    numbers = made.model.text.model.tokenizer(sorted(words))["input_ids"]
    assert (
        gradient.isfinite().all()
        and all((gradient[row[1]] != 0).any() for row in numbers)
        and len(words) > 3
    )


def test_the_text_encoder_learns_at_a_rate_of_its_own(inputs):
    """Adam's first step is as long as the learning rate."""
    made, before, after = trained(inputs, 1000, 1)
    steps = {key: (after[key] - before[key]).abs().max().item() for key in before}
    text = max(value for key, value in steps.items() if key.startswith("text."))
    others = max(value for key, value in steps.items() if not key.startswith("text."))
    assert text == pytest.approx(RATE, rel=0.05) and others == pytest.approx(
        NETWORK["learning_rate"], rel=0.05
    )


def test_after_training_the_texts_are_those_of_the_encoder_as_it_is(inputs):
    made, _, _ = trained(inputs, 8, 2)
    tuned = made.conditioning
    assert torch.equal(torch.cat([tuned.caption_text, tuned.label_text]), tuned.encoder.all())
    assert not torch.allclose(tuned.caption_text, inputs.conditioning.caption_text, atol=1e-3)
    assert made.model.text is tuned.encoder and not tuned.encoder.training


@pytest.mark.parametrize(
    "switch", [{"finetune_text": "off"}, {"finetune_text": "all", "condition": "none"}]
)
def test_a_frozen_encoder_is_no_part_of_the_model(data, inputs, switch):
    p = params.load("generator", GeneratorParams)
    made = make_generator(
        inputs,
        0,
        p.model_copy(update={"caption_mapping": p.caption_mapping.model_copy(update=switch)}),
    )
    assert not any("text" in key for key, _ in made.model.named_parameters())
    assert made.conditioning is inputs.conditioning and made.slower_parts == {}


# The stage


@pytest.mark.parametrize("how", ["embeddings", "all"])
def test_a_tuned_generator_can_be_used_again(data, inputs, bert, how):
    rates = {
        "learning_rate": 0.1,
        "schedule": "constant",
        "averaging": 0.0,
        "epochs": 4,
        "patience": 4,
    }
    data.set(
        generator={
            "caption_mapping": {"finetune_text": how, "text_learning_rate": 0.05},
            "lstm": rates,
        }
    )
    metrics = synthetic.generate(architecture="caption_mapping")
    assert metrics["attention_entropy"] > 0
    curve = pd.read_csv("metrics/plots/generator/caption_mapping.csv").query("fold == -1")
    assert (
        curve.validation_loss.argmin() < len(curve) - 1
    )  # texts must be embedded again by the weights that are taken back
    state = load_file("models/generator/caption_mapping/seed-0.safetensors")
    name = "text.model.0.model.embeddings.word_embeddings.weight"
    plain = TextEncoder(bert, ["rain"], how).state_dict()
    assert not torch.equal(state[name], plain[name.removeprefix("text.")])
    config = json.loads(Path("models/generator/caption_mapping/config.json").read_text())
    sizes = {field.name: config[field.name] for field in fields(MappedGeneratorSizes)}
    model = MappedAudioGenerator(MappedGeneratorSizes(**sizes))
    tuned = tuned_conditioning(inputs.conditioning, how)
    model.text = tuned.encoder
    model.load_state_dict(state)
    model.eval()
    tuned.refresh()
    rows = inputs.data.clip_indices("test")
    noise = inputs.data.noise(rows, (STEPS, 8), 0, 0)
    with torch.inference_mode():
        made = model.unscale(
            model(inputs.data.video.read(rows.tolist()), tuned.read(rows), noise)
        ).numpy()
    found = shards.read_columns(Path("data/generated/caption_mapping"), ["features"], ["test"])
    assert found["clip_id"] == inputs.data.clips.clip_id[rows.numpy()].tolist()
    assert np.allclose(found["features"][:, 0], made, atol=5e-3)


@pytest.mark.slow
def test_without_fine_tuning_the_answer_is_another(data):
    data.set(generator={"lstm": {"epochs": 2}})
    synthetic.generate(architecture="caption_mapping")
    tuned = synthetic.generated_bytes("caption_mapping")
    synthetic.generate(architecture="caption_mapping")
    assert synthetic.generated_bytes("caption_mapping") == tuned
    data.set(generator={"caption_mapping": {"finetune_text": "off"}})
    synthetic.generate(architecture="caption_mapping")
    assert synthetic.generated_bytes("caption_mapping") != tuned
