"""A bundle at work: shapes, order, refusals, and what an answer depends on."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from audio_from_video import Pipeline, VideoArray
from audio_from_video.learning.features import own_noise
from audio_from_video.meaning.recommended import recommend
from audio_from_video.prediction import pipeline as at_work
from audio_from_video.runtime import parallel
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from tests.support.closure import ROOT
from tests.support.map_items import without_processes
from tests.support.media_files import shown_frames, sine, write_video
from tests.support.tiny_bundle import (
    ACTIONS,
    ARCHITECTURES,
    AUDIO_AT_TEST,
    COMPONENTS,
    SEEDS,
    STEPS,
)


@pytest.fixture(scope="module")
def pipeline(whole_bundle) -> Pipeline:
    return Pipeline.from_pretrained(whole_bundle)


def test_an_answer_has_the_documented_shapes(pipeline, clip):
    [video] = pipeline.predict(clip)
    assert (video.name, video.status, video.reason) == (str(clip), "ok", "")
    [window] = video.windows
    assert (window.start_s, window.end_s) == (0, pytest.approx(1, abs=0.01))
    assert set(window.answers) == set(AUDIO_AT_TEST)
    for answer in window.answers.values():
        assert answer.by_seed.shape == (SEEDS, len(ACTIONS))
        assert answer.probabilities == pytest.approx(answer.by_seed.mean(0))
        assert answer.probabilities.sum() == pytest.approx(1)
        assert answer.action == ACTIONS[answer.probabilities.argmax()]
        assert answer.agreement in (0.5, 1)
    for name in ARCHITECTURES:
        sound = window.generated[name]
        assert sound.features.shape == (SEEDS, STEPS, COMPONENTS)
        assert ((sound.label_scores >= 0) & (sound.label_scores <= 1)).all()
        assert sound.keep == (sound.score >= sound.threshold)
    assert window.real.audible
    assert window.real.features.shape == (STEPS, COMPONENTS)
    assert window.real.level_dbfs == pytest.approx(-15.0, abs=0.5)
    assert window.captions and set(window.captions) <= set(range(STEPS))
    assert len(window.jpegs) == STEPS
    assert window.action in ACTIONS


def test_without_sound_the_real_audio_gives_way(pipeline, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", 24, "24", sound=np.zeros(16_000))
    mute = write_video(tmp_path / "mute.mp4", 24, "24")
    for path, level_dbfs in ((silent, -120), (mute, None)):
        [video] = pipeline.predict(path)
        [window] = video.windows
        assert (window.real.audible, window.real.level_dbfs) == (False, level_dbfs)
        assert window.real.features is None
        assert window.recommended != "real_audio"


def test_videos_are_answered_in_their_order_whatever_becomes_of_them(pipeline, tmp_path, clip):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    long = write_video(tmp_path / "long.mp4", 240, "24")
    videos = pipeline.predict([text, clip, long, tmp_path / "nowhere.mp4", clip])
    assert [video.status for video in videos] == ["unreadable", "ok", "ok", "unreadable", "ok"]
    assert [len(video.windows) for video in videos] == [0, 1, 10, 0, 1]
    assert [video.name for video in videos][2] == str(long)
    assert "No such file" in videos[3].reason


def test_what_else_is_answered_changes_no_answer(pipeline, tmp_path, clip):
    others = [write_video(tmp_path / f"{i}.mp4", 24 + 4 * i, "24") for i in range(3)]
    [alone] = pipeline.predict(clip)
    among = pipeline.predict([*others, clip])[-1]
    for name in AUDIO_AT_TEST:
        mine = alone.windows[0].answers[name].by_seed
        assert mine == pytest.approx(among.windows[0].answers[name].by_seed, abs=1e-6)


def test_an_array_is_answered_like_its_file(pipeline, tmp_path):
    path = write_video(tmp_path / "a.avi", 24, "24", "-c:v", "ffv1")
    _, images = shown_frames(path)
    name = f"{tmp_path.name}/a"  # as a clip's id: the noise depends on it
    array = VideoArray(images[..., ::-1], fps=24, name=name)
    [of_file], [of_array] = pipeline.predict(path), pipeline.predict(array)
    assert of_array.name == name
    for condition in AUDIO_AT_TEST:
        mine = of_array.windows[0].answers[condition].by_seed
        assert np.array_equal(mine, of_file.windows[0].answers[condition].by_seed)


def test_an_arrays_sound_is_heard(pipeline, clip):
    _, images = shown_frames(clip)
    heard = VideoArray(images[..., ::-1], fps=24, sound=sine(300, 1, -12))
    [video] = pipeline.predict(heard)
    assert video.windows[0].real.level_dbfs == pytest.approx(-15.0, abs=0.1)


def test_gates_take_the_generated_audio_away(pipeline, clip, monkeypatch):
    """With an unreachable threshold `validated` answers as if there were no audio."""
    generators = pipeline.settings.generators
    answers = {}
    for threshold in (-2.0, 2.0):
        changed = {
            name: each.model_copy(update={"threshold": threshold})
            for name, each in generators.items()
        }
        settings = pipeline.settings.model_copy(update={"generators": changed})
        monkeypatch.setattr(pipeline._answering, "settings", settings)
        [video] = pipeline.predict(clip)
        [window] = video.windows
        answers[threshold] = window
    assert all(sound.keep for sound in answers[-2.0].generated.values())
    assert not any(sound.keep for sound in answers[2.0].generated.values())
    assert (answers[-2.0].recommended, answers[2.0].recommended) == ("real_audio", "video_only")
    kept, rejected = (answers[t].answers["validated"].by_seed for t in (-2.0, 2.0))
    assert not np.allclose(kept, rejected)


def test_the_chain_of_recommendations():
    words = recommend(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert words.tolist() == ["real_audio", "real_audio", "caption_mapping", "video_only"]


def test_noise_depends_on_the_clip_the_seed_and_nothing_else():
    assert np.array_equal(own_noise("a/b", (3, 2), 1, 0), own_noise("a/b", (3, 2), 1, 0))
    assert not np.array_equal(own_noise("a/b", (3, 2), 1, 0), own_noise("a/c", (3, 2), 1, 0))


def test_a_stride_must_be_above_0(pipeline, clip):
    with pytest.raises(UserError, match="stride"):
        pipeline.predict(clip, stride_s=0)


def test_a_video_whose_worker_fails_is_refused(whole_bundle, clip, monkeypatch):
    """The other videos keep their own answers."""

    def failing(function, items, *_, initializer=None, initargs=(), **__):
        if initializer is at_work.perception.load:
            initializer(*initargs)
        for number, item in enumerate(items):
            is_read = function is at_work.read
            yield Failure("timeout", "took long") if is_read and number == 0 else function(item)

    monkeypatch.setattr(parallel, "map_items", failing)
    videos = Pipeline.from_pretrained(whole_bundle, workers=1).predict([clip, clip])
    assert [(video.status, len(video.windows)) for video in videos] == [("timeout", 0), ("ok", 1)]


def test_on_a_gpu_this_process_perceives_and_a_worker_reads(
    pipeline, whole_bundle, clip, monkeypatch
):
    """`cpu:0` stands for the GPU: a device that is not `cpu`."""
    asked = []

    def recorded(function, *arguments, **options):
        asked.append(function)
        return without_processes(function, *arguments, **options)

    monkeypatch.setattr(parallel, "map_items", recorded)
    monkeypatch.setenv("DEVICE", "cpu:0")
    on_device = Pipeline.from_pretrained(whole_bundle, workers=2)
    [mine], [theirs] = pipeline.predict(clip), on_device.predict(clip)
    assert asked == [at_work.read]
    perception = on_device._perception
    models = (perception.vision, perception.audio, perception.captioner)
    heard = on_device._answering.heads.pooled.backbone
    assert {model.device for model in (*models, heard)} == {"cpu:0"}
    for name in AUDIO_AT_TEST:
        answers = [video.windows[0].answers[name].by_seed for video in (mine, theirs)]
        assert np.array_equal(*answers)


@pytest.mark.slow
def test_workers_give_the_answers_of_this_process(pipeline, whole_bundle, tmp_path, clip):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with_workers = Pipeline.from_pretrained(whole_bundle, workers=2)
    mine, theirs = pipeline.predict([text, clip]), with_workers.predict([text, clip])
    assert [video.status for video in theirs] == ["unreadable", "ok"]
    for name in AUDIO_AT_TEST:
        both = [videos[1].windows[0].answers[name].by_seed for videos in (mine, theirs)]
        assert np.array_equal(*both)


@pytest.mark.slow
def test_the_library_needs_no_repository(whole_bundle, tmp_path, clip):
    """As after `pip install`: the package alone, in another folder, with a copied bundle."""
    library = tmp_path / "library"
    library.mkdir()
    shutil.copytree(ROOT / "audio_from_video", library / "audio_from_video")
    shutil.copytree(whole_bundle, tmp_path / "copied")
    script = (
        "from audio_from_video import Pipeline\n"
        "[video] = Pipeline.from_pretrained('copied').predict('clip.mp4')\n"
        "print(video.status, len(video.windows))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(library), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "ok 1\n", done.stderr
