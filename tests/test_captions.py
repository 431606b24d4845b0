"""The stage captions: against BLIP's own code, and what fine-tuning may and must change."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file, save_file

from audio_from_video.backbones import captioners
from audio_from_video.backbones.settings import TAGS_PROMPT, CaptionerSettings
from audio_from_video.captioning import jobs
from audio_from_video.clipset import folds
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout, shards
from stages import captions
from tests.support.closure import ROOT
from tests.support.map_items import with_processes, without_processes
from tests.support.shard_rows import index_row
from tests.support.stock_blip import stock_blip, stock_caption
from tests.support.text_models import MINILM
from tests.support.tiny_backbones import LABELS, images, write_ast, write_blip
from tests.support.tiny_captioners import write_florence2, write_git

STEPS = 6
RATE_HZ = 16_000
A = 5  # width of the audio features
TRAINING = {
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "batch_size": 4,
    "epochs": 2,
    "patience": 2,
    "averaging": 0.0,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"blip": write_blip(folder / "blip"), "ast": write_ast(folder / "ast")}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


CLIPS_PER_SPLIT = {"training": 8, "unlabelled": 4, "validation": 4, "test": 3}


def in_shard_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def make_clips(seed: int = 0) -> list[dict]:
    """Return clips in the shards' order; every fifth is without sound."""
    rng = np.random.default_rng(seed)
    rows: list[dict] = []
    for split, count in CLIPS_PER_SPLIT.items():
        for i in range(count):
            number = len(rows)
            pictures = images(STEPS, 40, 56, seed=100 * number + seed)
            tone = np.sin(np.arange(RATE_HZ) * (0.02 + 0.01 * number))
            row = index_row(
                f"a/{split}{i // 2}_{i}",
                split,
                jpegs=[codecs.encode_jpeg(picture, 95) for picture in pictures],
                times_s=np.arange(STEPS, dtype=np.float32) / 6,
                steps=sorted(rng.choice(STEPS, 1 + number % 4, replace=False).tolist()),
                flac=codecs.encode_flac((8000 * tone).astype(np.int16)),
                features=rng.normal(size=(STEPS, A)),
                label_scores=rng.uniform(size=LABELS),
                audible=number % 5 != 3,
            )
            rows.append(row)
    return in_shard_order(rows)


def write_inputs(rows: list[dict]) -> None:
    """Write the outputs of earlier stages that the stage reads."""
    times = shards.tensor(pa.float32(), STEPS)
    frames = pa.schema([("jpegs", pa.list_(pa.binary())), ("times_s", times)])
    shards.write(layout.FRAMES, frames, rows, rows, "v")
    selected = pa.schema([("steps", pa.list_(pa.int32()))])
    shards.write(layout.REPRESENTATIVE_FRAMES, selected, rows, rows, "v")

    audible = [row for row in rows if row["audible"]]
    index = []
    for row in rows:
        status = "ok" if row["audible"] else "silent"
        index.append(row | {"item_key": digest(row["flac"].hex()), "status": status})
    shards.write(layout.AUDIO, pa.schema([("flac", pa.binary())]), audible, index, "v")
    columns = pa.schema(
        [
            ("features", shards.tensor(pa.float16(), STEPS, A)),
            ("label_scores", shards.tensor(pa.float16(), LABELS)),
        ]
    )
    shards.write(layout.AUDIO_FEATURES, columns, audible, audible, "v")

    rng = np.random.default_rng(1)
    label_audio = {
        "whole": rng.normal(size=(LABELS, A)).astype(np.float32),
        "folds": rng.normal(size=(2, LABELS, A)).astype(np.float32),
    }
    layout.LABEL_AUDIO.mkdir(parents=True, exist_ok=True)
    save_file(label_audio, layout.LABEL_AUDIO_FEATURES)


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
    workspace.rows = make_clips()
    write_inputs(workspace.rows)
    return workspace


def caption(workers: int = 1) -> stage_run.StageRun:
    """Run the stage."""
    run = stage_run.StageRun("captions", "", workers)
    captions.main(run)
    return run


def item_count(rows: list[dict]) -> int:
    """Return the number of stored items with `tags`: captions, clips heard, three fine-tunings."""
    heard = [row for row in rows if row["audible"] and row["split"] != "test"]
    return len(rows) + len(heard) + 3


def written() -> dict[str, dict]:
    """Return the rows of data/captions with their item_key, by clip_id."""
    keys = {row["clip_id"]: row["item_key"] for row in shards.ok_rows(layout.CAPTIONS)}
    rows = shards.iter_rows(layout.CAPTIONS, ["steps", "captions"])
    return {row["clip_id"]: row | {"item_key": keys[row["clip_id"]]} for row in rows}


def stock_captions(model: Path, row: dict, prompt: str = "") -> list[str]:
    """Return the captions of a clip's representative frames by BLIP's own code."""
    pictures = [codecs.decode_jpeg(row["jpegs"][step]) for step in row["steps"]]
    return [stock_caption(model, picture, prompt, tokens=10) for picture in pictures]


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    model, _ = stock_blip(folder)
    return model.state_dict()


def metrics() -> dict:
    return json.loads(Path("metrics/captions.json").read_text())


def outputs() -> dict[str, bytes]:
    """Return the content of all files that the stage writes."""
    contents: dict[str, bytes] = {}
    for folder in ("data/captions", "models/captions", "metrics"):
        for path in Path(folder).rglob("*"):
            if path.is_file():
                contents[str(path)] = path.read_bytes()
    return contents


@pytest.mark.slow
def test_off_writes_the_models_own_captions_step_by_step(stage, models):
    stage.set(captions={"finetune": "off"})
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("finetune: 'off'", "finetune: off"))  # as DVC does
    caption()
    rows = written()
    assert set(rows) == {row["clip_id"] for row in stage.rows}
    for row in stage.rows[::4]:
        assert rows[row["clip_id"]]["steps"] == row["steps"]
        assert rows[row["clip_id"]]["captions"] == stock_captions(models["blip"], row)
    assert metrics()["before"] == metrics()["after"]
    assert metrics()["frames"] == sum(len(row["steps"]) for row in stage.rows)
    original = weights(models["blip"])
    for name, value in weights("models/captions").items():
        assert torch.equal(value, original[name]), name


@pytest.mark.slow
def test_tags_tunes_the_decoder_alone_and_its_directory_gives_the_captions(stage, models):
    run = caption()
    assert run.log["computed"] == item_count(stage.rows)
    original = weights(models["blip"])
    saved = weights("models/captions")
    changed = {name for name, value in saved.items() if not torch.equal(value, original[name])}
    assert changed
    assert all(name.startswith("text_decoder.") for name in changed)

    rows = written()
    by_whole_model = [row for row in stage.rows if row["split"] in ("validation", "test")]
    for row in by_whole_model[::3]:
        expected = stock_captions(Path("models/captions"), row, TAGS_PROMPT)
        assert rows[row["clip_id"]]["captions"] == expected
        assert rows[row["clip_id"]]["steps"] == row["steps"]

    figures = metrics()
    count = len(stage.rows)
    assert figures["clips"] == {"in": count, "ok": count, "refused": {}}
    assert figures["epochs"] <= 2
    assert set(figures["before"]) == set(figures["after"]) == {"validation", "out_of_fold"}
    assert figures["before"]["validation"]["kept_words"] == 1
    audible = [row for row in stage.rows if row["split"] == "validation" and row["audible"]]
    frames = sum(min(2, len(row["steps"])) for row in audible)
    assert figures["after"]["validation"]["captions"] == frames


@pytest.mark.slow
@pytest.mark.parametrize("finetune", ["tags", "self_critical"])
def test_git_is_tuned_as_blip_is(stage, tmp_path, finetune):
    folder = write_git(tmp_path / "git")
    stage.set(captions={"model": str(folder), "finetune": finetune})
    run = caption()
    assert run.log["computed"] == item_count(stage.rows)
    original = load_file(folder / "model.safetensors")
    saved = load_file("models/captions/model.safetensors")
    assert set(saved) == set(original)
    changed = {name for name, value in saved.items() if not np.array_equal(value, original[name])}
    assert "output.weight" in changed
    assert not [name for name in changed if name.startswith("git.image_encoder.")]

    tuned = captioners.load(CaptionerSettings("models/captions", 1, 10, TAGS_PROMPT))
    rows = written()
    for row in [row for row in stage.rows if row["split"] in ("validation", "test")][::3]:
        pictures = [codecs.decode_jpeg(row["jpegs"][step]) for step in row["steps"]]
        expected = tuned.captions(tuned.prepare(pictures))
        assert rows[row["clip_id"]]["captions"] == expected
    assert ("reward" in metrics()) == (finetune == "self_critical")


@pytest.mark.slow
def test_nothing_is_computed_twice(stage, monkeypatch):
    caption()
    first = outputs()
    trained = []
    monkeypatch.setattr(jobs, "tune", lambda task: trained.append(task))
    assert caption().log["computed"] == 0
    assert outputs() == first
    new = make_clips(seed=7)[-1] | index_row("a/validation9_9", "validation") | {"audible": False}
    write_inputs(in_shard_order([*stage.rows, new]))
    assert caption().log["computed"] == 1
    assert not trained


@pytest.mark.slow
def test_other_settings_are_other_captions(stage):
    caption()
    for change in ({"beams": 2}, {"max_tokens": 5}, {"prompt": "a red"}):
        stage.set(captions=change)
        assert caption().log["computed"] == item_count(stage.rows)
    # The representative frames of an unlabelled or training clip change.
    stage.rows[0]["item_key"] = "other frames"
    write_inputs(stage.rows)
    assert caption().log["computed"] > 0


@pytest.mark.slow
def test_a_clips_own_sound_reaches_no_caption_of_its_fold(stage):
    caption()
    before = written()
    table = pd.DataFrame(stage.rows)
    fold = dict(zip(table.clip_id, folds.of_clips(table, 2), strict=True))
    changed = next(row for row in stage.rows if row["split"] == "training" and row["audible"])
    noise = np.random.default_rng(3).normal(size=RATE_HZ) * 9000
    changed["flac"] = codecs.encode_flac(noise.astype(np.int16))
    write_inputs(stage.rows)
    caption()
    after = written()
    own_fold = {name for name in after if fold[name] == fold[changed["clip_id"]]}
    assert len(own_fold) > 2
    for name, row in after.items():
        assert (row["item_key"] == before[name]["item_key"]) == (name in own_fold), name
        if name in own_fold:
            assert row == before[name]


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(stage, monkeypatch):
    caption()
    first = outputs()
    monkeypatch.setattr(parallel, "map_items", with_processes)
    monkeypatch.setenv("ITEM_STORE", str(stage.folder / "others"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # As when the stage is run: it saves imports.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["stages.captions"])
    assert caption(workers=2).log["computed"] == item_count(stage.rows)
    assert outputs() == first


@pytest.mark.slow
def test_self_critical_runs_and_depends_on_the_label_audio(stage):
    stage.set(captions={"finetune": "self_critical"})
    caption()
    assert metrics()["reward"]["after"] >= metrics()["reward"]["before"]
    keys = {name: row["item_key"] for name, row in written().items()}
    audio = load_file(layout.LABEL_AUDIO_FEATURES)
    save_file(audio | {"whole": -audio["whole"]}, layout.LABEL_AUDIO_FEATURES)
    caption()
    changed = {name for name, row in written().items() if row["item_key"] != keys[name]}
    held_out = {row["clip_id"] for row in stage.rows if row["split"] in ("validation", "test")}
    assert changed <= held_out
    layout.LABEL_AUDIO_FEATURES.unlink()
    with pytest.raises(UserError, match="label_audio/features.safetensors is missing"):
        caption()


# Captioning models that are not fine-tuned


@pytest.mark.slow
def test_a_model_of_another_kind_captions_the_frames(stage, tmp_path):
    folder = write_git(tmp_path / "git")
    stage.set(captions={"model": str(folder), "finetune": "off", "prompt": "a photo of"})
    caption()
    rows = written()
    captioner = captioners.load(CaptionerSettings(str(folder), 1, 10, "a photo of"))
    for row in stage.rows[::5]:
        pictures = [codecs.decode_jpeg(row["jpegs"][step]) for step in row["steps"]]
        expected = captioner.captions(captioner.prepare(pictures))
        assert rows[row["clip_id"]]["captions"] == expected
    assert {path.name for path in Path("models/captions").iterdir()} == {
        path.name for path in folder.iterdir()
    }
    # Pictures and words are drawn at random, for actions of one name.
    assert metrics()["captions_tell_actions_apart"]["difference"] is None

    stage.set(captions={"prompt": ""})
    assert caption().log["computed"] == len(stage.rows)
    assert (
        written()[stage.rows[0]["clip_id"]]["item_key"]
        != rows[stage.rows[0]["clip_id"]]["item_key"]
    )


@pytest.mark.parametrize("finetune", ["tags", "self_critical"])
def test_fine_tuning_of_another_kind_is_a_sentence_before_any_work(stage, tmp_path, finetune):
    folder = write_florence2(tmp_path / "florence2")
    stage.set(captions={"model": str(folder), "finetune": finetune})
    layout.FRAMES.rename(tmp_path / "frames")  # any work would miss them
    sentence = f"captions.finetune = '{finetune}': models of the kind 'florence2' are not fine-tun"
    with pytest.raises(UserError, match=sentence):
        caption()


# What a user can mend


@pytest.mark.slow
def test_a_failed_worker_is_a_refused_clip_or_a_sentence(stage, monkeypatch):
    caption()
    stage.set(captions={"beams": 2})

    def failing(function, items, *arguments, **options):
        results = without_processes(function, items, *arguments, **options)
        for i, result in enumerate(results):
            fails = function is jobs.tune and i == 1
            yield Failure("worker_died", "no memory") if fails else result

    monkeypatch.setattr(parallel, "map_items", failing)
    sentence = (
        "fine-tuning the captioner failed: no memory; the machine may lack memory, try --workers 1"
    )
    with pytest.raises(UserError, match=sentence):
        caption()


def test_without_sound_tags_is_a_sentence_and_off_works(stage):
    write_inputs([row | {"audible": False} for row in stage.rows])
    sentence = "captions.finetune: tags needs audible validation clips and audible training clips"
    with pytest.raises(UserError, match=sentence):
        caption()
    stage.set(captions={"finetune": "off"})
    caption()
    assert metrics()["before"] == {}
    assert metrics()["frames"] > 0


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
