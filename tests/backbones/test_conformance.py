"""Every kind of backbone against the stock model of transformers, with random weights.

One fixture makes a model of each kind (tests/support/tiny_vision.py), with the files of a published
checkpoint.  References are written out here from the stock model's hidden states: which tokens are
no patches, where the final norm comes, in which order space and time stand.
"""

import json
import re
import shutil
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from audio_from_video.backbones import captioners, clip_models, hub, image_models, vision
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.runtime.errors import UserError
from tests.support import tiny_vision
from tests.support.closure import ROOT
from tests.support.tiny_backbones import images

pytestmark = pytest.mark.usefixtures("on_cpu")

FRAMES = 18
PAGE = ROOT / "docs/backbones.md"
IMAGE_KINDS = sorted(image_models.KINDS)
CLIP_KINDS = sorted(clip_models.KINDS)

# The tower within what AutoModel loads, its final norm ('' where hidden states have passed it, or
# where patches pass none), and the tokens in front of the patches.
IMAGE_REFERENCES = {
    "vit": ("", "layernorm", 1),  # [CLS]
    "deit": ("", "layernorm", 2),  # [CLS] and [DIST]
    "dinov2": ("", "layernorm", 1),
    "dinov2_with_registers": ("", "layernorm", 5),  # [CLS] and 4 registers
    "ijepa": ("", "layernorm", 0),
    "vit_mae": ("", "layernorm", 1),
    "beit": ("", "layernorm", 1),
    "data2vec-vision": ("", "layernorm", 1),
    "dinov3_vit": ("", "norm", 5),
    "dinov3_convnext": ("", "layer_norm", 0),  # hidden states are maps of patches alone
    "clip": ("vision_model", "", 1),
    "clip_vision_model": ("", "", 1),
    "siglip": ("vision_model", "post_layernorm", 0),
    "siglip_vision_model": ("", "post_layernorm", 0),
    "siglip2": ("vision_model", "post_layernorm", 0),
    "siglip2_vision_model": ("", "post_layernorm", 0),
    "aimv2": ("vision_model", "rms_norm", 0),
    "aimv2_vision_model": ("", "rms_norm", 0),
    "swin": ("", "layernorm", 0),
    "swinv2": ("", "layernorm", 0),
    "convnext": ("", "", 0),
    "convnextv2": ("", "", 0),
    "resnet": ("", "", 0),
}
# The same, then frames of a window, frames of a temporal patch, and whether time comes first.
CLIP_REFERENCES = {
    "videomae": ("", "layernorm", 0, 4, 2, True),
    "timesformer": ("", "layernorm", 1, 4, 1, False),
    "vivit": ("", "layernorm", 1, 8, 2, True),
    "vjepa2": ("", "encoder.layernorm", 0, 8, 2, True),
    "videoprism": ("video_model.vision_model", None, 0, 4, 1, True),
    "videoprism_vision_model": ("", None, 0, 4, 1, True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Model directories by kind."""
    root = tmp_path_factory.mktemp("vision")
    return {kind: tiny_vision.write(kind, root / kind) for kind in tiny_vision.MODELS}


@pytest.fixture(scope="module")
def backbones(folders) -> dict[str, VisionBackbone]:
    return {kind: VisionBackbone(str(folder), device="cpu") for kind, folder in folders.items()}


def pictures(count: int = FRAMES, seed: int = 0) -> np.ndarray:
    return np.stack(images(count, 40, 56, seed))


def test_every_kind_has_a_model_and_a_reference():
    assert set(tiny_vision.MODELS) == set(vision.MODELS)
    assert set(IMAGE_REFERENCES) == set(image_models.KINDS)
    assert set(CLIP_REFERENCES) == set(clip_models.KINDS)


def test_the_page_names_every_kind():
    named = set(re.findall(r"`([\w-]+)`", PAGE.read_text()))
    missing = set(vision.MODELS) - named
    assert not missing, f"{PAGE} lacks {sorted(missing)}"


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
def test_a_batch_of_clips_is_its_clips(backbones, kind):
    backbone = backbones[kind]
    clips = torch.stack([backbone.fit(pictures(seed=seed)) for seed in range(4)])
    together = backbone.encode(clips)
    alone = np.concatenate([backbone.encode(clip[None]) for clip in clips])
    assert np.allclose(together, alone, atol=1e-4 * np.abs(alone).max())
    assert np.array_equal(backbone.encode(clips), together)  # nothing is drawn at random


@pytest.mark.parametrize("kind", sorted(vision.MODELS))
def test_bfloat16_gives_about_the_same(backbones, kind):
    """The autocast that a GPU runs in, here on the CPU."""
    backbone = backbones[kind]
    fitted = backbone.fit(pictures())[None]
    full = backbone.encode(fitted)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.encode(fitted)
    assert half.dtype == np.float32
    error = np.sqrt(np.mean((half - full) ** 2) / np.mean(full**2))
    assert 0 < error < 0.05


def stock_model(folder: Path, tower: str) -> torch.nn.Module:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return attrgetter(tower)(model) if tower else model


def last_hidden(model, norm: str, values, **inputs) -> torch.Tensor:
    """Return tokens [N, S, D] of the last layer's hidden states, behind the final norm."""
    argument = "pixel_values_videos" if "video" in model.main_input_name else "pixel_values"
    with torch.no_grad():
        output = model(**{argument: values}, **inputs, output_hidden_states=True)
        hidden = output.hidden_states[-1]
        if hidden.ndim == 4:  # [N, D, h, w]
            hidden = hidden.flatten(2).transpose(1, 2)
        return attrgetter(norm)(model)(hidden) if norm else hidden


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_frames_are_the_means_of_their_patches_alone(folders, backbones, kind):
    tower, norm, special_tokens = IMAGE_REFERENCES[kind]
    model = stock_model(folders[kind], tower)
    backbone = backbones[kind]
    fitted = backbone.fit(pictures(5))
    values = backbone.preprocessor.normalise(fitted)
    inputs = {}
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0  # its shuffling of the patches stays
    if kind.startswith("siglip2"):
        # Patches of 8 x 8, channels last, as its processor hands them over.
        values = torch.nn.functional.unfold(values, 8, stride=8).transpose(1, 2)  # [N, P, 3 * 64]
        values = values.unflatten(2, (3, 64)).transpose(2, 3).flatten(2)
        inputs["pixel_attention_mask"] = torch.ones(values.shape[:2], dtype=torch.long)
        high, wide = (side // 8 for side in fitted.shape[-2:])
        inputs["spatial_shapes"] = torch.tensor([[high, wide]] * len(values))
    patches = last_hidden(model, norm, values, **inputs)[:, special_tokens:]
    features = backbone.encode(fitted[None])[0]
    expected = patches.mean(1).numpy()
    assert np.allclose(features, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_clips_are_the_means_over_space_brought_to_the_frames(folders, backbones, kind):
    """For a clip as long as a window, where frame and time stamp are the same."""
    tower, norm, special_tokens, length, tubelet, time_first = CLIP_REFERENCES[kind]
    model = stock_model(folders[kind], tower)
    backbone = backbones[kind]
    fitted = backbone.fit(pictures(length))
    values = backbone.preprocessor.normalise(fitted)[None]
    if norm is None:  # VideoPrism: hidden states of its temporal encoder go by place
        with torch.no_grad():
            output = model(pixel_values_videos=values)
            by_place = model.layernorm2(output.last_temporal_hidden_state)  # [P, T, D]
        over_space = by_place.mean(0).numpy()
    else:
        tokens = last_hidden(model, norm, values)[0, special_tokens:]
        order = (length // tubelet, -1) if time_first else (-1, length // tubelet)
        over_space = tokens.unflatten(0, order).mean(1 if time_first else 0).numpy()
    centres = np.arange(length // tubelet) * tubelet + (tubelet - 1) / 2
    expected = [
        [np.interp(frame, centres, column) for column in over_space.T] for frame in range(length)
    ]
    features = backbone.encode(fitted[None])[0]
    assert np.allclose(features, expected, atol=1e-4 * np.abs(over_space).max())


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
