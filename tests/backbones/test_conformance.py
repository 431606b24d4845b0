"""Every kind of backbone against the stock model of transformers, with random weights.

One fixture makes a model of each kind (tests/support/tiny_vision.py), with the files of a published
checkpoint.  tests/support/vision_conformance.py has the references.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from audio_from_video.backbones import captioners, clip_models, hub, image_models, vision
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.runtime.errors import UserError
from tests.support import conformance, tiny_vision, vision_conformance
from tests.support.vision_conformance import (
    CLIP_REFERENCES,
    FRAMES,
    IMAGE_REFERENCES,
    VisionFindings,
    pictures,
)

pytestmark = pytest.mark.usefixtures("on_cpu")

IMAGE_KINDS = sorted(image_models.KINDS)
CLIP_KINDS = sorted(clip_models.KINDS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Model directories by kind."""
    root = tmp_path_factory.mktemp("vision")
    return {kind: tiny_vision.write(kind, root / kind) for kind in tiny_vision.MODELS}


@pytest.fixture(scope="module")
def backbones(folders) -> dict[str, VisionBackbone]:
    return {kind: VisionBackbone(str(folder), device="cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def found(folders, backbones) -> Callable[[str], VisionFindings]:
    """What the model of a kind gives; it is computed once."""
    return cache(lambda kind: vision_conformance.findings(kind, folders[kind], backbones[kind]))


def test_every_kind_has_a_model_and_a_reference():
    assert set(tiny_vision.MODELS) == set(vision.MODELS)
    assert set(IMAGE_REFERENCES) == set(image_models.KINDS)
    assert set(CLIP_REFERENCES) == set(clip_models.KINDS)


def test_the_page_has_what_is_found(found):
    table = vision_conformance.vision_table({kind: found(kind) for kind in vision.MODELS})
    assert conformance.table_on_page("vision") == table, "run python -m benchmarks.conformance"


@pytest.mark.parametrize("kind", sorted(vision.MODELS))
def test_a_clip_becomes_a_vector_per_frame(folders, backbones, kind):
    backbone = backbones[kind]
    features = backbone.encode(backbone.fit(pictures())[None])
    width = hub.width_of(str(folders[kind]))
    assert features.shape == (1, FRAMES, width)
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert np.abs(features - features.mean(1)).max() > 0.01  # frames do differ
    assert vision.seen_px(str(folders[kind])) == tiny_vision.SIDE


@pytest.mark.parametrize("kind", sorted(vision.MODELS))
def test_a_batch_of_clips_is_its_clips(backbones, found, kind):
    assert found(kind).as_alone, found(kind)
    fitted = backbones[kind].fit(pictures())[None]
    again = [backbones[kind].encode(fitted) for _ in range(2)]
    assert np.array_equal(*again)  # nothing is drawn at random


@pytest.mark.parametrize("kind", sorted(vision.MODELS))
def test_bfloat16_gives_about_the_same(found, kind):
    """The autocast that a GPU runs in, here on the CPU."""
    assert found(kind).bfloat16_is_near, found(kind)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_frames_are_the_means_of_their_patches_alone(found, kind):
    assert found(kind).as_stock, found(kind)


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_clips_are_the_means_over_space_brought_to_the_frames(found, kind):
    assert found(kind).as_stock, found(kind)


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_clip_models_see_time(backbones, kind):
    """A frame that changes moves the vector of its neighbour, and not that of a far one."""
    backbone = backbones[kind]
    clip = pictures()
    other = clip.copy()
    other[17] = 255 - other[17]
    features, changed = (backbone.encode(backbone.fit(each)[None])[0] for each in (clip, other))
    moved = np.abs(changed - features).max(1)
    assert moved[16] > 0.001
    if kind != "vjepa2":  # its one window has the whole clip
        assert moved[0] < 1e-5


@pytest.mark.parametrize(
    "count, length, tubelet, frames",
    [
        (18, 16, 2, [range(16), range(2, 18)]),
        (18, 8, 1, [range(8), range(5, 13), range(10, 18)]),
        (6, 3, 1, [range(3), range(3, 6)]),
        (4, 8, 2, [[0, 0, 1, 1, 2, 2, 3, 3]]),
        (3, 4, 2, [[0, 1, 1, 2]]),
    ],
)
def test_windows_cover_the_clip(count, length, tubelet, frames):
    windows = clip_models.windows(count, length, tubelet)
    assert windows.frames.tolist() == [list(window) for window in frames]
    assert windows.weights.shape == (count, len(frames) * length // tubelet)
    assert np.allclose(windows.weights.sum(1), 1)


def test_what_is_linear_in_time_stays_so():
    windows = clip_models.windows(18, 8, 2)
    answers = windows.frames.reshape(3, 4, 2).mean(2).ravel()  # the time of each temporal patch
    inner = slice(1, 17)  # before the first patch and after the last one answers are constant
    starts_and_ends = [0, 5, 7, 10, 12, 17]
    within = [frame for frame in range(18)[inner] if frame not in starts_and_ends]
    assert np.allclose((windows.weights @ answers)[within], within)


@pytest.mark.parametrize("kind", [*CLIP_KINDS, "swin", "clip", "dinov3_vit", "resnet"])
def test_joint_attention_is_for_models_like_vit(folders, kind):
    for attention, scale in (("joint", 0.0), ("frame", 0.5)):
        with pytest.raises(UserError, match="video_features.* is of the kind .*: use (frame|0)"):
            VisionBackbone(str(folders[kind]), attention, scale)


@pytest.mark.parametrize(
    "kind", sorted(kind for kind, each in image_models.KINDS.items() if each.like_vit)
)
def test_models_like_vit_take_joint_attention(folders, backbones, kind):
    joint = VisionBackbone(str(folders[kind]), "joint", 0.5)
    fitted = joint.fit(pictures())[None]
    assert np.abs(joint.encode(fitted) - backbones[kind].encode(fitted)).max() > 0.01


@pytest.mark.parametrize("kind", ["bert", "timm_wrapper", "mobilevit"])
def test_other_kinds_are_a_sentence_that_names_the_supported_ones(folders, tmp_path, kind):
    folder = shutil.copytree(folders["vit"], tmp_path / kind)
    (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(UserError, match=f"of the kind '{kind}'.*supported are vit, .*videomae"):
        VisionBackbone(str(folder))


def test_a_repository_of_timm_is_a_sentence(folders, tmp_path):
    """Its config.json has no model_type."""
    folder = shutil.copytree(folders["vit"], tmp_path / "timm")
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 1000,
        "num_features": 384,
        "pretrained_cfg": {"tag": "augreg_in21k_ft_in1k", "input_size": [3, 224, 224]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    sentence = "kind 'timm_wrapper', which is no supported.*timm needs torchvision, so give the"
    with pytest.raises(UserError, match=sentence):
        VisionBackbone(str(folder))
    with pytest.raises(UserError, match="kind 'timm_wrapper', which is no captioning model"):
        captioners.kind_of(str(folder))


def test_a_clip_model_without_time_is_a_sentence(tmp_path):
    folder = tiny_vision.write("timesformer", tmp_path / "model")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("divided_space_time", "space_only"))
    with pytest.raises(UserError, match="supported are attention_type divided_space_time"):
        VisionBackbone(str(folder))


@pytest.mark.parametrize("kind", ["vit", "clip", "videomae"])
def test_pictures_of_a_size_that_a_model_does_not_take_are_a_sentence(folders, tmp_path, kind):
    """A preprocessor config that keeps the shape of the frames."""
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 20}}'
    )
    backbone = VisionBackbone(str(folder))
    fitted = backbone.fit(pictures(4))
    with pytest.raises(UserError, match="does not take pictures of 20 x 28 px") as caught:
        backbone.encode(fitted[None])
    assert "\n" not in str(caught.value)
