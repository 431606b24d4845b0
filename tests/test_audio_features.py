"""Pooling over time, segments, and the projection against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.backbones.audio_interface import Heard
from audio_from_video.backbones.audio_steps import encode_segments, pool_over_time, step_weights
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from stages import audio, audio_features
from stages.audio_features import (
    component_warnings,
    encode_clip,
    fit_projection,
    label_warnings,
    require_labels,
)
from tests.support.map_items import with_processes, without_processes
from tests.support.media_files import sine
from tests.support.shard_rows import index_row
from tests.support.tiny_audio import write_hubert, write_whisper, write_yamnet
from tests.support.tiny_backbones import LABELS, write_ast


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that hears 4 s."""
    folder = tmp_path_factory.mktemp("models")
    return {"short": write_ast(folder / "short", max_length=400)}


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")


@pytest.fixture
def backbone(models, monkeypatch):
    made = AstBackbone(str(models["short"]))
    monkeypatch.setattr(audio_features, "_backbone", made, raising=False)
    return made


def parameters(**changes) -> AudioFeaturesParams:
    return AudioFeaturesParams(
        **{"model": "none", "segments": "pooled", "window_s": 1.0, "components": 8, **changes}
    )


def chirp(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16_000)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * (200 + 400 * rng.random() + 300 * t) * t) + 0.02 * rng.normal(
        size=len(t)
    )
    return (wave * (0.3 + 0.7 * (np.sin(2 * np.pi * rng.uniform(1, 3) * t) > 0))).astype(np.float32)


def flac(wave: np.ndarray) -> bytes:
    return codecs.encode_flac(np.round(wave * 32767).astype(np.int16))


# Segments


def test_segments_of_an_eighteenth_are_2666_samples_and_15_frames_or_one_patch(
    backbone, monkeypatch
):
    counted = []
    monkeypatch.setattr(
        backbone,
        "valid_patches",
        lambda n: counted.append(n) or AstBackbone.valid_patches(backbone, n),
    )
    patches = encode_segments(backbone, chirp(3.0), 18, parameters(segments="eighteenth"))
    assert patches.shape == (18, 24)
    assert counted[-18:] == [15] * 18
    assert {len(piece) for piece in pieces_of(3.0, segments="eighteenth")} == {2666}
    assert AstBackbone.valid_patches(backbone, 15) == 1


class Listener:
    """A model of AST's sizes that notes which samples it is given."""

    rate_hz = 16_000
    max_s = 4.0

    def __init__(self):
        self.heard: list[np.ndarray] = []

    def prepare_windows(self, wave, starts, length):
        self.heard = [wave[start : start + length] for start in starts]

    def prepare(self, waveforms):
        self.heard = waveforms

    def hear(self, inputs):
        count = len(self.heard)
        return Heard(np.zeros((count, 39, 24)), [39] * count, np.zeros((count, 24)), None)


def pieces_of(seconds: float, **changes) -> list[np.ndarray]:
    """The sample numbers that each step hears."""
    listener = Listener()
    encode_segments(listener, np.arange(round(seconds * 16_000)), 18, parameters(**changes))
    return listener.heard


def test_eighteenths_are_consecutive():
    heard = pieces_of(3.0, segments="eighteenth")
    starts = [piece[0] for piece in heard]
    assert np.abs(np.array(starts) - np.arange(18) * 48_000 / 18).max() <= 1.5
    assert all(np.array_equal(piece, np.arange(piece[0], piece[0] + 2666)) for piece in heard)


@pytest.mark.parametrize("segments", ["windows", "padded_windows"])
def test_windows_are_centred_on_their_step_and_stay_inside(segments):
    heard = pieces_of(3.0, segments=segments)
    assert {len(piece) for piece in heard} == {16_000}
    assert heard[0][0] == 0 and heard[-1][-1] == 47_999
    centres = [piece.mean() for piece in heard[4:-4]]
    assert np.allclose(centres, (np.arange(4, 14) + 0.5) * 48_000 / 18, atol=2)
    assert {len(piece) for piece in pieces_of(3.0, segments="windows", window_s=10.0)} == {
        48_000
    }  # all there is
    assert {len(piece) for piece in pieces_of(36.0, segments="windows", window_s=0.5)} == {
        32_000
    }  # never less than the step


# Against the stock model


def stock(models, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [freq, time, D] and label scores by transformers alone."""
    model = transformers.ASTForAudioClassification.from_pretrained(models["short"]).eval()
    values = transformers.ASTFeatureExtractor.from_pretrained(models["short"])(
        wave, sampling_rate=16_000, return_tensors="pt"
    )["input_values"]
    with torch.no_grad():
        high, wide = model.audio_spectrogram_transformer.embeddings.patch_embeddings.projection(
            values.unsqueeze(1).transpose(2, 3)
        ).shape[2:]
        hidden = model.audio_spectrogram_transformer(values).last_hidden_state[0, 2:]
        return hidden.reshape(high, wide, -1).numpy(), model(values).logits.sigmoid()[0].numpy()


def test_one_pass_is_the_stock_model_pooled_by_hand(models, backbone):
    wave = codecs.decode_flac(flac(chirp(3.0)))
    row = encode_clip((flac(chirp(3.0)), 18, parameters()))
    outputs, scores = stock(models, wave)
    assert np.allclose(row["label_scores"], scores, atol=1e-5)
    time_patches = outputs.mean(0)[:29]  # [29, D]
    seconds = np.arange(0, 3, 0.0005) + 0.00025
    for k in (0, 7, 17):
        inside = seconds[(seconds >= k / 6) & (seconds < (k + 1) / 6)]
        heard = np.array(
            [((inside >= 0.1 * p) & (inside <= 0.1 * p + 0.175)).sum() for p in range(29)]
        )  # 16 frames of 25 ms, 10 ms apart
        assert np.allclose(
            row["patches"][k],
            heard @ time_patches / heard.sum(),
            atol=2e-2 * np.abs(time_patches).max(),
        )
    assert row["patches"].shape == (18, 24) and row["pooled"].shape == (24,)


@pytest.mark.parametrize("segments", ["pooled", "windows", "padded_windows", "eighteenth"])
def test_steps_follow_the_sound(backbone, segments):
    """A clip whose second half is another sound: steps are like those of their half."""
    wave = np.concatenate(
        [sine(300, 1.5, -6), np.random.default_rng(0).normal(0, 0.2, 24_000)]
    ).astype(np.float32)
    patches = encode_clip((flac(wave), 18, parameters(segments=segments, window_s=0.3)))["patches"]
    first, second = patches[1:6].mean(0), patches[12:17].mean(0)
    assert np.linalg.norm(first - second) > 3 * max(
        np.linalg.norm(patches[2] - first), np.linalg.norm(patches[14] - second)
    )


def test_padded_patches_do_not_count(backbone):
    outputs = np.random.default_rng(0).normal(size=(1, 39, 24))
    clean = pool_over_time(backbone, outputs, [29], [3.0], 18)
    outputs[:, 29:] = np.nan
    assert (
        np.array_equal(pool_over_time(backbone, outputs, [29], [3.0], 18), clean)
        and np.isfinite(clean).all()
    )
    outputs[:, 28] = 1e6
    assert (
        np.abs(pool_over_time(backbone, outputs, [29], [3.0], 18)).max() > 1e5
    )  # the last real one does


def test_long_clips_are_heard_in_pieces(backbone, monkeypatch):
    """10 s and an AST of 4 s: three pieces, each step from its own time."""
    starts = np.cumsum([0, 3.333375, 3.3333125])
    monkeypatch.setattr(
        backbone,
        "encode",
        lambda log_mel: (
            np.stack(
                [
                    np.tile((backbone.frame_times_s(39).mean(1) + start)[:, None], 24)
                    for start in starts
                ]
            ),
            np.arange(3.0)[:, None] * np.ones(24),
            np.arange(3.0)[:, None] * np.ones(LABELS),
        ),
    )
    row = encode_clip((flac(chirp(10.0)), 18, parameters()))
    assert np.allclose(row["patches"][:, 0], (np.arange(18) + 0.5) * 10 / 18, atol=0.12)
    assert np.allclose(row["pooled"], 1) and np.allclose(row["label_scores"], 1)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.5, 4.0, 9.0])
@pytest.mark.parametrize("segments", ["pooled", "windows", "padded_windows", "eighteenth"])
def test_any_length_gives_all_steps(backbone, seconds, segments):
    row = encode_clip((flac(chirp(seconds)), 18, parameters(segments=segments)))
    assert row["patches"].shape == (18, 24) and np.isfinite(row["patches"]).all()


# Weights


def test_weights_of_exact_steps_are_the_identity():
    edges = np.linspace(0, 3, 19)
    assert np.allclose(
        step_weights(np.stack([edges[:-1], edges[1:]], 1), 3.0, 18), np.eye(18), atol=1e-9
    )


def test_weights_of_overlapping_patches_are_their_shares():
    times_s = np.array([[0.0, 1.0], [0.5, 1.5], [1.0, 2.0]])
    assert np.allclose(step_weights(times_s, 2.0, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    assert np.allclose(step_weights(times_s, 2.0, 1), [[1 / 3, 1 / 3, 1 / 3]])


def test_steps_without_a_patch_take_the_nearest_one():
    weights = step_weights(np.array([[0.0, 0.5], [0.5, 1.0]]), 3.0, 6)
    assert np.allclose(weights, [[1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]])


def test_weights_add_up_to_one_for_any_patches():
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = np.sort(rng.uniform(0, 5, rng.integers(1, 40)))
        weights = step_weights(
            np.stack([start, start + rng.uniform(0.01, 0.5)], 1), rng.uniform(0.5, 6), 18
        )
        assert np.allclose(weights.sum(1), 1) and (weights >= 0).all()


# Projection


def test_projection_is_scikit_learns_pca():
    rng = np.random.default_rng(0)
    clips = [
        (rng.normal(size=(18, 6)) @ rng.normal(size=(6, 24)) + rng.normal(size=24) + 40).astype(
            np.float16
        )
        for _ in range(30)
    ]
    stacked = np.concatenate(clips).astype(np.float64)
    ours, theirs = fit_projection(iter(clips), 24, 10), PCA(10, svd_solver="full").fit(stacked)
    assert np.allclose(ours.mean, theirs.mean_) and np.allclose(
        ours.explained, theirs.explained_variance_ratio_, atol=1e-9
    )
    signs = np.sign((ours.components * theirs.components_).sum(1))
    assert np.allclose(ours.components, signs[:, None] * theirs.components_, atol=1e-5)
    largest = np.abs(ours.components).argmax(1)
    assert (ours.components[np.arange(10), largest] > 0).all()


def test_a_share_of_the_variance_takes_as_few_components_as_explain_it():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(18, 24)) * np.linspace(5, 0.1, 24) for _ in range(20)]
    shares = PCA().fit(np.concatenate(clips)).explained_variance_ratio_.cumsum()
    needed = int((shares < 0.9).sum()) + 1
    found = fit_projection(iter(clips), 24, 0.9)
    assert found.components.shape == (needed, 24) and len(found.explained) == needed
    assert shares[needed - 2] < 0.9 <= found.explained.sum()


def test_more_components_than_the_sound_needs_get_a_word():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 24))
    clips = [rng.normal(size=(18, 3)) @ mixing for _ in range(20)]
    for components, word in ((24, "keeps all 24 dimensions"), (8, "3 components explain")):
        found = fit_projection(iter(clips), 24, components)
        (sentence,) = component_warnings(parameters(components=components), found, 24)
        assert word in sentence
    assert not component_warnings(parameters(components=3), fit_projection(clips, 24, 3), 24)


def test_labels_no_better_than_shuffled_ones_get_a_word():
    figures = {"difference": 0.01, "difference_low": -0.02, "difference_high": 0.03}
    (sentence,) = label_warnings(figures)
    assert "do not tell" in sentence and "[-0.020, +0.030]" in sentence
    assert not label_warnings({**figures, "difference_low": 0.005})
    assert not label_warnings({**figures, "difference_low": None})


def test_a_model_without_labels_needs_one_that_has_them(tmp_path):
    whisper = str(write_whisper(tmp_path / "whisper"))
    yamnet = str(write_yamnet(tmp_path / "yamnet"))
    with pytest.raises(UserError, match="knows no AudioSet labels.*audio_features.label_model"):
        require_labels(parameters(model=whisper))
    with pytest.raises(UserError, match="audio_features.label_model: .* knows no AudioSet labels"):
        require_labels(parameters(model=yamnet, label_model=whisper))
    require_labels(parameters(model=whisper, label_model=yamnet))
    require_labels(parameters(model=yamnet))


def test_too_few_clips_are_a_sentence():
    with pytest.raises(
        UserError,
        match="components = 20 needs more than 20 time steps of audible training clips; "
        "there are 18",
    ):
        fit_projection([np.zeros((18, 24))], 24, 20)
    with pytest.raises(UserError, match="there are 0"):
        fit_projection([], 24, 20)


# The stage


def write_sounds(seeds: dict[str, int]) -> list[dict]:
    rows = [
        index_row(
            f"a/{name}_1",
            "training" if name.startswith("t") else "test",
            flac=flac(chirp(1.0, seed)),
            rms_dbfs=-20.0,
        )
        for name, seed in seeds.items()
    ]
    rows.sort(key=lambda row: (row["split"], row["clip_id"]))
    rows = [row | {"item_key": f"sound {seeds[row['clip_id'][2:-2]]}"} for row in rows]
    shards.write(audio_features.SOURCE, audio.COLUMNS, rows, rows, "v", audio.FACTS)
    return rows


def test_labels_may_come_from_another_model(workspace, in_process, tmp_path):
    hubert = str(write_hubert(tmp_path / "hubert"))
    yamnet = str(write_yamnet(tmp_path / "yamnet"))
    rows = write_sounds({"t1": 1, "t2": 2, "x1": 3})
    workspace.set(
        audio_features={
            "model": hubert,
            "label_model": yamnet,
            "segments": "pooled",
            "components": 0.9,
        }
    )
    audio_features.main(stage_run.StageRun("audio_features", None, 1))
    names = ["features", "patches", "pooled", "label_scores"]
    found = shards.read_columns("data/audio_features", names)
    assert found["patches"].shape == (3, 18, 32) and found["pooled"].shape == (3, 256)
    backbone = load_audio(yamnet, "cpu")
    for place, row in enumerate(rows):
        heard = backbone.hear(backbone.prepare([codecs.decode_flac(row["flac"])]))
        assert np.allclose(found["label_scores"][place], heard.label_scores[0], atol=1e-3)
    metrics = json.loads(Path("metrics/audio_features.json").read_text())
    assert metrics["shape"]["components"] == found["features"].shape[2] < 32
    is_training = [row["split"] == "training" for row in rows]
    of_training = found["label_scores"][is_training]
    cut = metrics["label_cut"] - 1e-5  # metrics are rounded
    assert (of_training >= cut).sum() >= 2 * len(of_training)
    assert metrics["labels_tell_actions_apart"]["sources"] == 2


def test_stage_projects_by_training_clips_only(workspace, models, in_process):
    workspace.set(audio_features={"model": str(models["short"]), "components": 8})
    seeds = {"t1": 1, "t2": 2, "t3": 3, "x1": 4, "x2": 5}
    write_sounds(seeds)
    audio_features.main(stage_run.StageRun("audio_features", None, 1))
    projection = load_file("models/audio_projection.safetensors")
    found = shards.read_columns(
        "data/audio_features", ["features", "patches", "pooled", "label_scores"]
    )
    assert (
        found["features"].shape == (5, 18, 8)
        and found["patches"].shape == (5, 18, 24)
        and found["label_scores"].shape == (5, LABELS)
    )
    assert {found[name].dtype for name in ("features", "patches", "pooled", "label_scores")} == {
        np.dtype(np.float16)
    }
    training = (
        found["patches"][[name.startswith("a/t") for name in found["clip_id"]]]
        .reshape(-1, 24)
        .astype(float)
    )
    pca = PCA(8, svd_solver="full").fit(training)
    assert np.allclose(projection["mean"], pca.mean_, atol=1e-4) and projection[
        "components"
    ].shape == (8, 24)
    expected = (found["patches"].astype(float) - projection["mean"]) @ projection["components"].T
    assert np.allclose(found["features"], expected, atol=2e-2)
    metrics = json.loads((workspace.folder / "metrics/audio_features.json").read_text())
    assert metrics["shape"] == {"steps": 18, "width": 24, "components": 8}
    assert metrics["explained_variance"]["8"] == pytest.approx(
        pca.explained_variance_ratio_.sum(), abs=1e-4
    )

    write_sounds(seeds | {"x1": 6, "x2": 7, "x3": 8})
    audio_features.main(stage := stage_run.StageRun("audio_features", None, 1))
    assert (stage.log["computed"], stage.log["reused"]) == (3, 3)
    after = load_file("models/audio_projection.safetensors")
    assert all(np.array_equal(projection[name], after[name]) for name in projection)

    workspace.set(audio_features={"components": 4})
    audio_features.main(stage := stage_run.StageRun("audio_features", None, 1))
    assert stage.log["computed"] == 0 and shards.tensor_shape(
        "data/audio_features", "features"
    ) == (18, 4)
    workspace.set(audio_features={"components": 100})
    with pytest.raises(UserError, match="components = 100, but '.*' gives only 24 dimensions"):
        audio_features.main(stage_run.StageRun("audio_features", None, 1))


def test_a_clip_whose_worker_fails_is_refused(workspace, models, monkeypatch):
    workspace.set(audio_features={"model": str(models["short"]), "components": 4})
    write_sounds({"t1": 1, "t2": 2, "x1": 4})

    def failing(*arguments, **options):
        for i, result in enumerate(without_processes(*arguments, **options)):
            yield Failure("timeout", "too slow") if i == 0 else result

    monkeypatch.setattr(parallel, "map_items", failing)
    audio_features.main(stage_run.StageRun("audio_features", "", 1))
    index = shards.read_index("data/audio_features").to_pylist()
    assert {row["clip_id"]: row["status"] for row in index} == {
        "a/t1_1": "ok",
        "a/t2_1": "ok",
        "a/x1_1": "timeout",
    }


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_none(workspace, models, monkeypatch):
    workspace.set(audio_features={"model": str(models["short"]), "components": 4})
    write_sounds({"t1": 1, "t2": 2, "x1": 4})
    written = []
    for workers, map_items in ((2, with_processes), (1, without_processes)):
        monkeypatch.setenv("ITEM_STORE", str(workspace.folder / f"items{workers}"))
        monkeypatch.setattr(parallel, "map_items", map_items)
        audio_features.main(stage_run.StageRun("audio_features", None, workers))
        written.append(
            {
                path.name: path.read_bytes()
                for path in [
                    *workspace.folder.glob("data/audio_features/**/*.parquet"),
                    *workspace.folder.glob("models/*"),
                ]
            }
        )
    assert written[0] == written[1] and "audio_projection.safetensors" in written[0]
