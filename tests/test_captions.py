"""Captions against BLIP's own code, and what fine-tuning towards sounds may and must change."""

import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import blip
from audio_from_video.backbones import text as text_backbone
from audio_from_video.backbones.blip import PROMPT, Captioner
from audio_from_video.captioning import jobs
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.fine_tuning import (
    GREEDY,
    Example,
    fine_tune,
    mean_reward,
    self_critical,
)
from audio_from_video.captioning.reward import Reward
from audio_from_video.captioning.workers import Task
from audio_from_video.clipset import folds
from audio_from_video.evaluation import captions as caption_evaluation
from audio_from_video.learning.loop import TrainingParams
from audio_from_video.meaning.attention import mapped_audio
from audio_from_video.meaning.label_words import named, spoken, tagged
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from audio_from_video.storage.row_file import RowFile
from stages import captions
from tests.support.closure import ROOT
from tests.support.map_items import without_processes
from tests.support.shard_rows import index_row
from tests.support.tiny_backbones import LABELS, _save, images, write_ast, write_vit

WORDS = [
    "a",
    "red",
    "blue",
    "ball",
    "drum",
    "in",
    "the",
    "street",
    "sound",
    "of",
    "with",
    "knock",
    "tap",
    ",",
    "label",
    *"012345678",
]
STEPS, RATE_HZ, A = 6, 16_000, 5
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TRAINING = {
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "batch_size": 4,
    "epochs": 2,
    "patience": 2,
    "averaging": 0.0,
}


def write_blip(folder: Path, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    tokens = {
        token: i
        for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS])
    }
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    text = {
        "vocab_size": len(tokens),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 32,
        "pad_token_id": 0,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "bos_token_id": 5,
        **shape,
    }
    config = transformers.BlipConfig(
        text_config=text,
        vision_config={"image_size": 32, "patch_size": 8, **shape},
        projection_dim=32,
    )
    _save(transformers.BlipForConditionalGeneration(config), folder)
    pictures = transformers.BlipImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    tokenizer = transformers.BertTokenizer(vocab=tokens, do_lower_case=True, bos_token="[DEC]")
    transformers.BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "blip": write_blip(folder / "blip"),
        "ast": write_ast(folder / "ast"),
        "vit": write_vit(folder / "vit"),
    }


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def captioner(models) -> Captioner:
    return Captioner(str(models["blip"]), 1, 12)


def stock(folder):
    """The plain model and its processor."""
    return transformers.BlipForConditionalGeneration.from_pretrained(
        folder
    ).eval(), transformers.AutoProcessor.from_pretrained(folder)


def stock_caption(
    folder, picture: np.ndarray, prompt: str = "", beams: int = 1, tokens: int = 12
) -> str:
    """One BGR picture through BLIP's own generation, the prompt cut off."""
    model, processor = stock(folder)
    given = processor(np.ascontiguousarray(picture[..., ::-1]), prompt or None, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=tokens, num_beams=beams, do_sample=False)[0]
    return processor.tokenizer.decode(
        ids[len(given["input_ids"][0]) - 1 if prompt else 1 :], skip_special_tokens=True
    )


# ---------------------------------------------------------------- names of sounds in captions


def test_every_label_can_be_named_and_found_again():
    names = [label.display_name for label in load_labels()]
    assert len({spoken(name) for name in names}) == 527
    for i in range(0, 527, 7):
        assert named(tagged("xyz", [names[i]]), names) == {i}
    assert (
        tagged("a drum", ["Thump, thud", "Frying (food)"]) == "thump thud, frying food with a drum"
    )
    assert tagged("a drum", []) == "a drum"


def test_a_word_counts_for_the_longest_name_only():
    names = ["Fire", "Fire engine, fire truck (siren)", "Drum", "Drum kit", "Water"]
    assert named("fire engine fire truck siren with a drum kit", names) == {1, 3}
    assert named("a drum and a drum kit in Water, waters", names) == {2, 3, 4}
    assert named("a drumstick in a waterfall", names) == set()


def test_quality_counts():
    names = ["Drum", "Tap", "Water"]
    texts, before = ["drum, tap with a pot", "a jar"], ["a blue pot", "a jar"]
    found = caption_evaluation.quality(texts, before, [{0, 2}, {1}], names, [[2, 1], [0, 2]])
    assert (
        found["named_labels"] == 1
        and found["named_precision"] == 1 / 2
        and found["named_recall"] == pytest.approx(1 / 3)
    )
    assert (
        found["mapped_hits"] == 0.5
        and found["kept_words"] == pytest.approx((2 / 3 + 1) / 2)
        and found["captions"] == 2
    )


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("height, wide", [(32, 32), (48, 64)])
def test_pictures_reach_the_model_as_its_processor_has_them(models, captioner, height, wide):
    pictures = images(3, height, wide)
    model, processor = stock(models["blip"])
    values = processor(
        [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures], return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        expected = model.vision_model(values).last_hidden_state
    assert torch.allclose(captioner.encode(captioner.resize(pictures)), expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_captions_are_the_stock_models_one_by_one(models, beams):
    pictures, captioner = images(5, 32, 32), Captioner(str(models["blip"]), beams, 12)
    found = captioner.caption(captioner.encode(captioner.resize(pictures)))
    assert found == [stock_caption(models["blip"], picture, beams=beams) for picture in pictures]
    assert len(set(found)) > 1 and all(text == text.lower() for text in found)


def test_tuned_captions_are_the_stock_models_after_the_prompt(models, captioner, tmp_path):
    tuned = stock(write_blip(tmp_path / "other", seed=8))[0].text_decoder
    file = tmp_path / "weights"
    file.write_bytes(blip.dump_weights(tuned))
    captioner.save(tmp_path / "saved", str(file))
    pictures = images(4, 32, 32)
    found = captioner.caption(captioner.encode(captioner.resize(pictures)), str(file))
    assert found == [stock_caption(tmp_path / "saved", picture, PROMPT) for picture in pictures]
    assert found != captioner.caption(captioner.encode(captioner.resize(pictures)))


def test_a_caption_ends_where_positions_do(models):
    captioner = Captioner(str(models["blip"]), 1, 500)
    ids = captioner.generate(
        captioner.decoder(), captioner.encode(captioner.resize(images(2, 32, 32))), PROMPT, **GREEDY
    )
    assert ids.shape[1] <= 24


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_loss_on_stored_outputs_is_the_models_own_on_pictures(models, captioner, prompt):
    pictures, texts = images(3, 32, 32), ["a red ball", "a blue drum in the street", "a ball"]
    model, processor = stock(models["blip"])
    rgb, whole = (
        [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures],
        [f"{prompt} {text}" for text in texts],
    )
    given = processor(rgb, whole, padding=True, return_tensors="pt")
    ids = given["input_ids"].clone()
    ids[:, 0] = 5  # [DEC]
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, : 1 + len(prompt.split())] = -100
    expected = model(given["pixel_values"], ids, given["attention_mask"], labels=labels).loss
    outputs = captioner.encode(captioner.resize(pictures))
    assert captioner.loss(captioner.decoder(), outputs, texts, prompt).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_blip_base_fits_with_its_published_sizes(tmp_path):
    """One layer each: 384 px, 577 picture tokens, 768 wide, 30,524 words."""
    layers = {"num_hidden_layers": 1}
    config = transformers.BlipConfig(
        text_config={**layers, "encoder_hidden_size": 768},
        vision_config={**layers, "image_size": 384},
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    words = {
        token: i
        for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS])
    }
    tokenizer = transformers.BertTokenizer(vocab=words, do_lower_case=True)
    transformers.BlipProcessor(transformers.BlipImageProcessorPil(), tokenizer).save_pretrained(
        tmp_path
    )
    captioner = Captioner(str(tmp_path), 2, 5)
    outputs = captioner.encode(captioner.resize(images(2, 96, 128)))
    assert outputs.shape == (2, 577, 768) and len(captioner.caption(outputs)) == 2


# ---------------------------------------------------------------- fine-tuning


@pytest.fixture
def toy(captioner, tmp_path):
    """Frames of two kinds: (captioner, their outputs, examples to learn from by a list of tags per kind)."""
    one_thread()
    kinds = [i % 2 for i in range(16)]
    pictures = [np.full((32, 32, 3), 60 + 120 * kind + i, np.uint8) for i, kind in enumerate(kinds)]
    outputs = captioner.encode(captioner.resize(pictures)).numpy()
    file = RowFile(tmp_path / "outputs", outputs.shape[1:]).write(outputs)
    plain = ["a red ball", "a blue drum in the street"]

    def examples(tags: list[list[str]]) -> list[Example]:
        return [
            Example(i, plain[kind], tagged(plain[kind], [tags[kind][i // 2 % len(tags[kind])]]))
            for i, kind in enumerate(kinds)
        ]

    return captioner, file, examples


def test_fine_tuning_learns_to_name_sounds_and_keeps_the_captions(toy):
    captioner, file, examples = toy
    learned = examples([["Knock"], ["Tap"]])
    before = {name: value.clone() for name, value in captioner.model.state_dict().items()}
    p = TrainingParams(**TRAINING | {"epochs": 30, "patience": 30})
    decoder, curve = fine_tune(captioner, file, learned, learned, p)
    for prompt, wanted in (
        (PROMPT, [e.tagged for e in learned]),
        ("", [e.caption for e in learned]),
    ):
        ids = captioner.generate(decoder, file.read(range(len(learned))), prompt, **GREEDY)
        assert captioner.texts(ids, prompt) == [text.replace(" ,", ",") for text in wanted]
    assert curve[-1]["validation_loss"] < 0.1 * curve[0]["training_loss"]
    assert all(
        torch.equal(value, before[name]) for name, value in captioner.model.state_dict().items()
    )  # the original stays
    pairs = zip(decoder.parameters(), captioner.model.text_decoder.parameters(), strict=True)
    assert all((new - old).abs().max() > 0 for new, old in pairs)


def test_fine_tuning_is_the_same_twice(toy):
    captioner, file, examples = toy
    learned, p = examples([["Knock"], ["Tap"]]), TrainingParams(**TRAINING)
    assert (
        len(
            {
                blip.dump_weights(fine_tune(captioner, file, learned, learned, p)[0])
                for _ in range(2)
            }
        )
        == 1
    )


def test_reward_raises_the_caption_it_prefers(toy):
    """Three in four captions name a knock; the reward is 1 for a tap."""
    captioner, file, examples = toy
    learned = examples([["Knock", "Knock", "Tap", "Knock"], ["Knock", "Tap", "Knock", "Knock"]])
    decoder, _ = fine_tune(
        captioner,
        file,
        learned,
        learned,
        TrainingParams(**TRAINING | {"epochs": 15, "patience": 15}),
    )
    seen: list[float] = []

    def reward(texts: list[str], rows: list[int]) -> np.ndarray:
        seen.append(np.mean(found := np.array([float("tap" in text) for text in texts])))
        return found

    torch.manual_seed(0)
    p = TrainingParams(**TRAINING | {"batch_size": 16, "learning_rate": 0.003})
    before, after = self_critical(captioner, decoder, file, learned, learned, reward, 40, p)
    assert before < 0.5 and after > before + 0.4
    assert after == mean_reward(captioner, decoder, file, learned, reward)
    sampled = seen[1:-1:2]  # of the batches' sampled captions
    assert np.mean(sampled[30:]) > np.mean(sampled[:5]) + 0.2


def test_training_by_reward_never_leaves_a_worse_decoder(toy):
    captioner, file, examples = toy
    learned = examples([["Knock"], ["Tap"]])
    decoder, _ = fine_tune(captioner, file, learned, learned, TrainingParams(**TRAINING))
    weights, calls = blip.dump_weights(decoder), iter(range(1000, 0, -1))

    def falling(texts: list[str], rows: list[int]) -> np.ndarray:
        return np.full(len(texts), next(calls), float)

    rewards = self_critical(
        captioner, decoder, file, learned, learned, falling, 3, TrainingParams(**TRAINING)
    )
    assert rewards[0] == rewards[1] and blip.dump_weights(decoder) == weights


def test_mapped_audio_is_the_attended_mean_of_the_closest_labels():
    rng = np.random.default_rng(0)
    captions_, labels, audio = (
        rng.normal(size=(4, 8)),
        rng.normal(size=(6, 8)),
        rng.normal(size=(6, 3)).astype(np.float32),
    )
    captions_, labels = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (captions_, labels))
    found = mapped_audio(captions_.astype(np.float32), labels.astype(np.float32), audio, 3, 0.05)
    for caption, row in zip(captions_, found, strict=True):
        values, best = torch.tensor(labels @ caption).topk(3)
        assert np.allclose(row, (values / 0.05).softmax(0).numpy() @ audio[best.numpy()], atol=1e-4)
    assert np.allclose(mapped_audio(labels, labels, audio, 1, 0.05), audio)
    assert np.isfinite(mapped_audio(labels, labels, audio, 6, 1e-6)).all()


def test_a_caption_that_names_what_is_heard_is_rewarded():
    names, audio = ["Drum", "Water", "Speech"], np.eye(3, dtype=np.float32)
    reward = Reward(MINILM, names, audio, 1, 0.05)
    heard = np.array([[2.0, 0, 0], [2.0, 0, 0], [0, 0, 0]], np.float32)
    assert np.allclose(reward(["drum with a stick", "a glass of water", "drum"], heard), [1, 0, 0])


# ---------------------------------------------------------------- sound around a frame


def test_windows_lie_around_their_frames_and_fill_the_pass():
    wave = np.arange(3 * RATE_HZ, dtype=np.float32)
    first, middle, last = caption_workers.windows(
        wave, np.array([0.1, 1.5, 2.9], np.float32), 1.0, RATE_HZ, 4.0
    )
    assert all(len(window) == 4 * RATE_HZ for window in (first, middle, last))
    assert first[0] == 0 and middle[0] == RATE_HZ and last[0] == 2 * RATE_HZ
    assert (middle.reshape(4, RATE_HZ) == middle[:RATE_HZ]).all()
    (short,) = caption_workers.windows(wave[:100], np.array([1.0]), 1.0, RATE_HZ, 0.0625)
    assert (short == np.resize(wave[:100], 1000)).all()


def test_steps_are_spread_evenly():
    assert jobs.some([1, 4, 6, 9], 2) == [4, 9] and jobs.some([3], 2) == [3]
    assert jobs.some([2, 5], 9) == [2, 5] and jobs.some(list(range(10)), 1) == [5]


# ---------------------------------------------------------------- the stage

SPLITS = {"training": 8, "unlabelled": 4, "validation": 4, "test": 3}


def make(seed: int = 0) -> list[dict]:
    """Clips in the shards' order; every fifth without sound."""
    rng = np.random.default_rng(seed)
    rows = []
    for split, count in SPLITS.items():
        for i in range(count):
            pictures = images(STEPS, 40, 56, seed=100 * len(rows) + seed)
            wave = (8000 * np.sin(np.arange(RATE_HZ) * (0.02 + 0.01 * len(rows)))).astype(np.int16)
            name = f"a/{split}{i // 2}_{i}"
            rows.append(
                index_row(
                    name,
                    split,
                    jpegs=[codecs.encode_jpeg(picture, 95) for picture in pictures],
                    times_s=np.arange(STEPS, dtype=np.float32) / 6,
                    steps=sorted(rng.choice(STEPS, 1 + len(rows) % 4, replace=False).tolist()),
                    flac=codecs.encode_flac(wave),
                    features=rng.normal(size=(STEPS, A)),
                    label_scores=rng.uniform(size=LABELS),
                    audible=len(rows) % 5 != 3,
                )
            )
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def write(rows: list[dict]) -> None:
    jpegs = pa.schema(
        [("jpegs", pa.list_(pa.binary())), ("times_s", shards.tensor(pa.float32(), STEPS))]
    )
    shards.write(jobs.FRAMES, jpegs, rows, rows, "v")
    shards.write(captions.SELECTED, pa.schema([("steps", pa.list_(pa.int32()))]), rows, rows, "v")
    audible = [row for row in rows if row["audible"]]
    keyed = [
        row
        | {"item_key": digest(row["flac"].hex()), "status": "ok" if row["audible"] else "silent"}
        for row in rows
    ]
    shards.write(captions.SOUND, pa.schema([("flac", pa.binary())]), audible, keyed, "v")
    columns = pa.schema(
        [
            ("features", shards.tensor(pa.float16(), STEPS, A)),
            ("label_scores", shards.tensor(pa.float16(), LABELS)),
        ]
    )
    shards.write(jobs.AUDIO, columns, audible, audible, "v")
    rng = np.random.default_rng(1)
    jobs.LABEL_AUDIO.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"whole": rng.normal(size=(LABELS, A)), "folds": rng.normal(size=(2, LABELS, A))}
    save_file(
        {name: value.astype(np.float32) for name, value in tensors.items()},
        jobs.LABEL_AUDIO,
    )


@pytest.fixture
def stage(workspace, models, in_process):
    workspace.set(
        generator={"folds": 2},
        audio_features={"model": str(models["ast"])},
        label_audio={"model": MINILM},
        captions={
            "model": str(models["blip"]),
            "beams": 1,
            "max_tokens": 10,
            "frames_per_batch": 4,
            "finetune": "tags",
            "finetune_frames": 2,
            "tags": 2,
            "tag_score": 0.3,
            "training": TRAINING,
            "self_critical_steps": 2,
            "self_critical_learning_rate": 0.001,
        },
    )
    workspace.rows = make()
    write(workspace.rows)
    return workspace


def caption(workers: int = 1) -> stage_run.StageRun:
    captions.main(made := stage_run.StageRun("captions", "", workers))
    return made


def written() -> dict[str, dict]:
    keys = {row["clip_id"]: row["item_key"] for row in shards.ok_rows(captions.OUTPUT)}
    return {
        row["clip_id"]: row | {"item_key": keys[row["clip_id"]]}
        for row in shards.iter_rows(captions.OUTPUT, ["steps", "captions"])
    }


def metrics() -> dict:
    return json.loads(Path("metrics/captions.json").read_text())


def outputs() -> dict[str, bytes]:
    files = [
        path
        for folder in ("data/captions", "models/captions", "metrics")
        for path in Path(folder).rglob("*")
        if path.is_file()
    ]
    return {str(path): path.read_bytes() for path in files}


def test_off_writes_the_models_own_captions_step_by_step(stage, models):
    stage.set(captions={"finetune": "off"})
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("finetune: 'off'", "finetune: off")
    )  # as DVC writes it
    caption()
    found = written()
    assert set(found) == {row["clip_id"] for row in stage.rows}
    for row in stage.rows[::4]:
        assert found[row["clip_id"]]["steps"] == row["steps"]
        pictures = [codecs.decode_jpeg(row["jpegs"][step]) for step in row["steps"]]
        assert found[row["clip_id"]]["captions"] == [
            stock_caption(models["blip"], picture, tokens=10) for picture in pictures
        ]
    assert metrics()["before"] == metrics()["after"] and metrics()["frames"] == sum(
        len(row["steps"]) for row in stage.rows
    )
    saved, original = (
        stock(folder)[0].state_dict() for folder in ("models/captions", models["blip"])
    )
    assert all(torch.equal(value, original[name]) for name, value in saved.items())


def test_tags_tunes_the_decoder_alone_and_its_directory_gives_the_captions(stage, models):
    made = caption()
    assert made.log["computed"] == len(stage.rows)
    saved, original = (
        stock(folder)[0].state_dict() for folder in ("models/captions", models["blip"])
    )
    changed = {name for name, value in saved.items() if not torch.equal(value, original[name])}
    assert changed and all(name.startswith("text_decoder.") for name in changed)
    found = written()
    for row in [row for row in stage.rows if row["split"] in ("validation", "test")][
        ::3
    ]:  # those of the whole model
        pictures = [codecs.decode_jpeg(row["jpegs"][step]) for step in row["steps"]]
        expected = [
            stock_caption("models/captions", picture, PROMPT, tokens=10) for picture in pictures
        ]
        assert (
            found[row["clip_id"]]["captions"] == expected
            and found[row["clip_id"]]["steps"] == row["steps"]
        )
    measured = metrics()
    assert (
        measured["clips"] == {"in": len(stage.rows), "ok": len(stage.rows), "refused": {}}
        and measured["epochs"] <= 2
    )
    assert set(measured["before"]) == set(measured["after"]) == {"validation", "out_of_fold"}
    assert measured["before"]["validation"]["kept_words"] == 1
    audible = [row for row in stage.rows if row["split"] == "validation" and row["audible"]]
    assert measured["after"]["validation"]["captions"] == sum(
        min(2, len(row["steps"])) for row in audible
    )


def test_nothing_is_computed_twice(stage, monkeypatch):
    caption()
    first = outputs()
    trained = []
    monkeypatch.setattr(jobs, "train", lambda task: trained.append(task))
    assert caption().log["computed"] == 0 and not trained and outputs() == first
    new = make(seed=7)[-1] | index_row("a/validation9_9", "validation") | {"audible": False}
    write(
        sorted(
            [*stage.rows, new], key=lambda row: (row["split"], row["action"] or "", row["clip_id"])
        )
    )
    assert caption().log["computed"] == 1 and not trained


def test_other_settings_are_other_captions(stage):
    caption()
    for change in ({"beams": 2}, {"max_tokens": 5}):
        stage.set(captions=change)
        assert caption().log["computed"] == len(stage.rows)
    stage.rows[0]["item_key"] = (
        "other frames"  # an unlabelled or training clip's representative frames change
    )
    write(stage.rows)
    assert caption().log["computed"] > 0


def test_a_clips_own_sound_reaches_no_caption_of_its_fold(stage):
    caption()
    before = written()
    table = pd.DataFrame(stage.rows)
    fold = dict(zip(table.clip_id, folds.of_clips(table, 2), strict=True))
    changed = next(row for row in stage.rows if row["split"] == "training" and row["audible"])
    noise = np.random.default_rng(3).normal(size=RATE_HZ) * 9000
    changed["flac"] = codecs.encode_flac(noise.astype(np.int16))
    write(stage.rows)
    caption()
    after = written()
    for name, row in after.items():
        same = fold[name] == fold[changed["clip_id"]]
        assert (row["item_key"] == before[name]["item_key"]) == same, name
        assert not same or row == before[name]
    assert sum(fold[name] == fold[changed["clip_id"]] for name in after) > 2


def test_two_workers_write_the_same_bytes(stage, monkeypatch):
    caption()
    first = outputs()
    monkeypatch.undo()
    monkeypatch.chdir(stage.folder)
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setenv("ITEM_STORE", str(stage.folder / "others"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["stages.captions"]
    )  # as when the stage is run: it saves imports
    assert caption(workers=2).log["computed"] == len(stage.rows)
    assert outputs() == first


def test_batches_of_a_device_give_the_clips_in_order(stage, models, monkeypatch):
    """The batching for a GPU, run on the CPU; one clip fails."""
    tasks = [
        Task(row["steps"], [row["jpegs"][step] for step in row["steps"]]) for row in stage.rows[:9]
    ]
    blip = (str(models["blip"]), 1, 10)
    alone = list(caption_workers.answers(caption_workers.describe, tasks, blip, 4, 1))
    monkeypatch.setattr(caption_workers.backbones, "device", lambda: "cpu:0")
    monkeypatch.setattr(caption_workers, "load_on_cpu", caption_workers.load_models)
    assert list(caption_workers.answers(caption_workers.describe, tasks, blip, 4, 1)) == alone

    def failing(*given, **options):
        for i, found in enumerate(without_processes(*given, **options)):
            yield Failure("timeout", "too slow") if i in (2, 8) else found

    monkeypatch.setattr(parallel, "map_items", failing)
    rows = list(caption_workers.answers(caption_workers.describe, tasks, blip, 4, 1))
    assert [row if isinstance(row, Failure) else row["captions"] for row in rows] == [
        Failure("timeout", "too slow") if i in (2, 8) else row["captions"]
        for i, row in enumerate(alone)
    ]


def test_self_critical_runs_and_depends_on_the_label_audio(stage):
    stage.set(captions={"finetune": "self_critical"})
    caption()
    assert metrics()["reward"]["after"] >= metrics()["reward"]["before"]
    keys = {name: row["item_key"] for name, row in written().items()}
    audio = load_file(jobs.LABEL_AUDIO)
    save_file(audio | {"whole": -audio["whole"]}, jobs.LABEL_AUDIO)
    caption()
    changed = {name for name, row in written().items() if row["item_key"] != keys[name]}
    assert changed <= {
        row["clip_id"] for row in stage.rows if row["split"] in ("validation", "test")
    }
    jobs.LABEL_AUDIO.unlink()
    with pytest.raises(UserError, match="label_audio/features.safetensors is missing"):
        caption()


# ---------------------------------------------------------------- what a user can mend


def test_a_failed_worker_is_a_refused_clip_or_a_sentence(stage, monkeypatch):
    caption()
    stage.set(captions={"beams": 2})

    def failing(function, items, *given, **options):
        for i, found in enumerate(without_processes(function, items, *given, **options)):
            yield (
                Failure("worker_died", "no memory") if function is jobs.train and i == 1 else found
            )

    monkeypatch.setattr(parallel, "map_items", failing)
    with pytest.raises(
        UserError,
        match="fine-tuning BLIP failed: no memory; the machine may lack memory, try --workers 1",
    ):
        caption()


def test_without_sound_tags_is_a_sentence_and_off_works(stage):
    write([row | {"audible": False} for row in stage.rows])
    with pytest.raises(
        UserError,
        match="captions.finetune: tags needs audible validation clips and audible training clips",
    ):
        caption()
    stage.set(captions={"finetune": "off"})
    caption()
    assert metrics()["before"] == {} and metrics()["frames"] > 0


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"finetune": "tag"},
            "captions.finetune = 'tag': input should be 'off', 'tags' or 'self_critical'",
        ),
        (
            {"finetune": True},
            "captions.finetune = True: input should be 'off', 'tags' or 'self_critical'",
        ),
        ({"tag_score": 1.0}, "captions.tag_score = 1.0"),
        ({"beams": 0}, "captions.beams = 0"),
        ({"training": TRAINING | {"rate": 1}}, "captions.training.rate is not a parameter"),
        (
            {"model": "no such name!"},
            "the model 'no such name!' was found neither as a local directory",
        ),
    ],
)
def test_bad_params_are_sentences(stage, change, sentence):
    stage.set(captions=change)
    with pytest.raises(UserError, match=sentence.replace("!", ".")):
        caption()


def test_other_models_are_sentences(models, tmp_path):
    with pytest.raises(
        UserError,
        match="vit' is no BLIP model but of the kind 'vit': captions.model takes Salesforce/blip",
    ):
        Captioner(str(models["vit"]), 1, 10)
    pickled = shutil.copytree(models["blip"], tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(
        UserError,
        match="pickled' has no weights in safetensors form, and pickled ones are not loaded",
    ):
        Captioner(str(pickled), 1, 10).model  # noqa: B018
    (pickled / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="cannot be loaded as a BLIP captioning model"):
        Captioner(str(pickled), 1, 10).model  # noqa: B018


def test_the_embedded_model_names_things(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = Captioner("models/tiny/blip", 1, 12).caption(torch.zeros(1, 37, 128))
    assert found[0].startswith(("a ", "an ", "wooden ")) and text_backbone.embed(
        MINILM, found
    ).shape == (1, 384)
