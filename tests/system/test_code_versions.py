"""What stages store stays what their CODE_VERSION says: known outputs of tiny fixed inputs.

The models have weights that NumPy draws, so that no pretrained model and no initialisation of
PyTorch's matters.  Sums differ in their last bits between processors: features are compared within
a tolerance.  The stages without a model have such a test in their own test file.
"""

import importlib
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

from audio_from_video.captioning import jobs
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.fine_tuning import Example
from audio_from_video.captioning.jobs import TuningParams
from audio_from_video.captioning.workers import Setup, SoundWindows, Task
from audio_from_video.meaning import stored_embeddings
from audio_from_video.media import codecs
from audio_from_video.storage.row_file import RowFile
from stages import audio_features, captions, clips, video_features
from tests.support.closure import ROOT
from tests.support.media_files import sine, write_video
from tests.support.text_models import MINILM
from tests.support.tiny_backbones import images, write_ast, write_blip, write_vit

TOLERANCE = 2e-3  # of float16 features of order 1
RAISE = "the output changed: raise CODE_VERSION and note the new output here"
STORING_STAGES = {
    "audio",
    "audio_features",
    "captions",
    "clips",
    "frames",
    "optical_flow",
    "representative_frames",
    "video_features",
}


def draw_weights(folder: Path) -> str:
    """Give the model in a directory weights that depend on their names and shapes alone."""
    path = folder / "model.safetensors"
    weights = {}
    for name, value in sorted(load_file(path).items()):
        rng = np.random.default_rng([*name.encode()])
        scale = 1.5 / np.sqrt(np.prod(value.shape[1:])) if value.ndim > 1 else 0.3
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        weights[name] = (centre + scale * rng.normal(size=value.shape)).astype(value.dtype)
    save_file(weights, path, {"format": "pt"})
    return str(folder)


def jpegs(count: int, size: int) -> list[bytes]:
    return [codecs.encode_jpeg(image, 95) for image in images(count, size, size)]


def sound() -> bytes:
    t = np.arange(48_000) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 300 * t) * t)
    return codecs.encode_flac(np.round(wave * 32767).astype(np.int16))


def sketch(values: np.ndarray) -> list[float]:
    """Some values of an array, and their spread."""
    flat = np.asarray(values, np.float64).ravel()
    some = flat[np.linspace(0, len(flat) - 1, 6).astype(int)]
    return [round(float(x), 4) for x in (*some, flat.mean(), flat.std())]


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")


def test_every_stage_that_stores_items_has_a_golden_output():
    storing = set()
    for script in (ROOT / "stages").glob("*.py"):
        text = script.read_text()
        if "ClipItems(" in text or "ItemStore(" in text:
            storing.add(script.stem)
            assert importlib.import_module(f"stages.{script.stem}").CODE_VERSION >= 1
            test = (ROOT / f"tests/test_{script.stem}.py").read_text()
            assert f"{script.stem}.CODE_VERSION" in Path(__file__).read_text() + test
    assert storing == STORING_STAGES


@pytest.mark.parametrize("stage", sorted(STORING_STAGES))
def test_stages_name_installed_libraries_that_make_their_items(stage):
    module = importlib.import_module(f"stages.{stage}")
    for library in module.LIBRARIES:
        assert metadata.version(library)
    assert "libraries=" in (ROOT / f"stages/{stage}.py").read_text()


# By CODE_VERSION: what `examine` says of the file of the test.  2: the container's duration where
# the video stream has none (Matroska); 3: that of the stream's packets.
FACTS = {
    "fps": 24.0,
    "width_px": 64,
    "height_px": 48,
    "has_audio": True,
    "status": "ok",
    "reason": "",
}
EXAMINED = {2: FACTS | {"duration_s": 3.016}, 3: FACTS | {"duration_s": 2.999}}


def test_clips(tmp_path):
    path = write_video(tmp_path / "x.mkv", 72, "24", "-c:v", "ffv1", sound=sine(300, 3, -12))
    row = clips.examine(str(path))
    assert row.pop("content_hash") == blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert row == EXAMINED[clips.CODE_VERSION], RAISE


# By CODE_VERSION and kind of attention: sketches of features.
VIDEO_FEATURES = {
    2: {
        "frame": [-0.2711, -0.3789, 0.7133, -0.0913, -0.3024, -0.8112, 0.0276, 0.9376],
        "joint": [-0.6344, 0.0641, -0.1987, -0.0325, -0.1736, -0.7199, 0.0208, 0.884],
    }
}


@pytest.mark.parametrize("attention", ["frame", "joint"])
def test_video_features(tmp_path, attention):
    model = draw_weights(write_vit(tmp_path / "vit"))
    p = video_features.VideoFeaturesParams(
        model=model, attention=attention, temporal_scale=0.1, clips_per_batch=1
    )
    video_features.load_backbone(p)
    features = video_features.encode_clip(jpegs(4, 40))["features"]
    assert features.shape == (4, 32)
    golden = VIDEO_FEATURES[video_features.CODE_VERSION][attention]
    np.testing.assert_allclose(sketch(features), golden, atol=TOLERANCE, err_msg=RAISE)


# By CODE_VERSION and kind of segments: sketches of patches; by CODE_VERSION: of pooled and
# label_scores, which come from the whole clip.  2: windows without padding.
# Padded ones are those of 1.
PATCHES = {
    1: {
        "pooled": [0.5783, -1.1942, 0.6209, 0.4846, 1.4867, 0.8004, -0.1014, 0.9305],
        "windows": [0.3611, -1.4923, 0.7421, 0.1826, 1.4412, 0.655, -0.0912, 0.8436],
        "eighteenth": [0.1521, -1.8847, 0.5552, 0.3226, 1.2286, 1.054, -0.084, 0.8792],
    },
    2: {
        "pooled": [0.5783, -1.1942, 0.6209, 0.4846, 1.4867, 0.8004, -0.1014, 0.9305],
        "padded_windows": [0.3611, -1.4923, 0.7421, 0.1826, 1.4412, 0.655, -0.0912, 0.8436],
        "windows": [0.306, -1.1859, 0.37, 1.1697, 1.5728, 1.225, -0.0932, 1.0478],
        "eighteenth": [0.2798, -1.0534, 0.3709, 0.8953, 1.6347, 1.255, -0.0948, 1.0371],
    },
}
POOLED = dict.fromkeys((1, 2), [-0.0642, -0.9397, 0.2015, 0.6364, 1.0275, 0.499, -0.0501, 0.7685])
LABEL_SCORES = dict.fromkeys(
    (1, 2), [0.4421, 0.2212, 0.7055, 0.0352, 0.2775, 0.6155, 0.447, 0.2597]
)


@pytest.mark.parametrize("segments", ["pooled", "windows", "padded_windows", "eighteenth"])
def test_audio_features(tmp_path, segments):
    model = draw_weights(write_ast(tmp_path / "ast"))
    p = audio_features.AudioFeaturesParams(
        model=model, segments=segments, window_s=1.0, components=8
    )
    audio_features.load_backbone(model)
    row = audio_features.encode_clip((sound(), 6, p))
    assert row["patches"].shape == (6, 24)
    version = audio_features.CODE_VERSION
    for name, golden in (
        ("patches", PATCHES[version][segments]),
        ("pooled", POOLED[version]),
        ("label_scores", LABEL_SCORES[version]),
    ):
        np.testing.assert_allclose(sketch(row[name]), golden, atol=TOLERANCE, err_msg=RAISE)


# By CODE_VERSION: captions of two frames, a sketch of the scores of the sound around them, and
# mean and standard deviation of trained weights.  2: other batches, alike within the tolerance.
CAPTIONS = dict.fromkeys((1, 2), ["sound sound knock sound sound sound", "sound 4 knock knock 4 4"])
SCORES = dict.fromkeys((1, 2), [0.4217, 0.6702, 0.2137, 0.1138, 0.0458, 0.5547, 0.3991, 0.2619])
WEIGHTS = dict.fromkeys((1, 2), [0.010374, 0.279468])


def test_captions(tmp_path):
    blip = draw_weights(write_blip(tmp_path / "blip"))
    ast = draw_weights(write_ast(tmp_path / "ast"))
    training = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 2}
    p = TuningParams.model_validate(
        {
            "model": blip,
            "beams": 2,
            "prompt": "",
            "max_tokens": 6,
            "frames_per_batch": 1,
            "finetune": "tags",
            "training": training | {"epochs": 2, "patience": 2},
            "self_critical_steps": 1,
            "self_critical_learning_rate": 0.01,
        }
    )
    caption_workers.load_models(Setup(p.captioner, p.frames_per_batch, 1, ast))
    heard = SoundWindows(sound(), np.array([0.5, 2.0]), 1.0)
    task = caption_workers.decode(Task([0, 1], jpegs(2, 40), sound=heard))
    [row] = caption_workers.describe([task])
    [outputs] = caption_workers.encode_to_store([task])
    file = RowFile(tmp_path / "outputs", outputs.shape[1:]).write(outputs)
    examples = [
        Example(i, text, f"{text}, knock") for i, text in enumerate(("a red drum", "a ball"))
    ]
    job = jobs.FineTuning(p, ["key"], examples, examples)
    weights = load(jobs.tune((job, file))["weights"])
    # No single weights: AdamW's first steps follow a gradient's sign, however small it is.
    flat = np.concatenate([weights[name].ravel() for name in sorted(weights)])
    trained = [float(flat.mean()), float(flat.std())]

    version = captions.CODE_VERSION
    assert row["captions"] == CAPTIONS[version], RAISE
    scores = sketch(row["scores"])
    np.testing.assert_allclose(scores, SCORES[version], atol=TOLERANCE, err_msg=RAISE)
    np.testing.assert_allclose(trained, WEIGHTS[version], rtol=TOLERANCE, err_msg=RAISE)


# By CODE_VERSION: a sketch of the embeddings of three texts.
TEXT_EMBEDDINGS = {1: [0.0434, -0.0594, 0.0263, -0.0778, 0.0601, 0.0607, -0.0004, 0.051]}


def test_text_embeddings(workspace):
    texts = ["a dog barks", "Water tap, faucet", "a dog barks"]
    embeddings = stored_embeddings.embed(MINILM, texts)
    golden = TEXT_EMBEDDINGS[stored_embeddings.CODE_VERSION]
    np.testing.assert_allclose(sketch(embeddings), golden, atol=TOLERANCE / 10, err_msg=RAISE)
