"""Flow of known motions, its colours against colorsys, and the fixed scale."""

import colorsys
import json

import cv2
import numpy as np
import pytest

from audio_from_video.media import codecs
from audio_from_video.media.optical_flow import (
    draw_clip,
    draw_thumbnails,
    farneback,
    flow_image,
    scale_of,
)
from audio_from_video.media.settings import FlowParams, OpticalFlowParams
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import shards
from stages import optical_flow
from tests.support.moving_pictures import moving_clip, texture
from tests.support.shard_rows import index_row


def parameters(**changes) -> FlowParams:
    return FlowParams(
        **{
            "pyramid_scale": 0.5,
            "levels": 3,
            "window_px": 15,
            "iterations": 3,
            "polynomial_px": 5,
            "polynomial_sigma": 1.2,
            "full_scale_px": 8.0,
            "jpeg_quality": 95,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "dx, dy", [(2, 0), (-3, 0), (0, 2), (0, -1.5), (1.5, 2.5), (-2, 3), (0, 0)]
)
def test_a_translation_is_found(dx, dy):
    flow = farneback(texture(0, 0), texture(dx, dy), parameters())
    assert flow.shape == (96, 96, 2)
    assert np.allclose(np.median(flow[16:-16, 16:-16], axis=(0, 1)), [dx, dy], atol=0.15)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135, 180, 225, 270, 300, 350])
@pytest.mark.parametrize("magnitude_px", [2.0, 8.0])
def test_colour_is_direction_and_brightness_magnitude(degrees, magnitude_px):
    angle = np.radians(degrees)
    flow = np.broadcast_to(
        magnitude_px * np.array([np.cos(angle), np.sin(angle)]), (4, 4, 2)
    ).astype(np.float32)
    red, green, blue = colorsys.hsv_to_rgb(degrees / 360, 1, magnitude_px / 8)
    drawn = flow_image(np.ascontiguousarray(flow), 8.0)
    assert drawn.dtype == np.uint8 and np.allclose(
        drawn, np.array([blue, green, red]) * 255, atol=5
    )  # hue has steps of 2 degrees


def test_scale_is_fixed_and_clipped():
    flow = np.zeros((1, 5, 2), np.float32)
    flow[0, :, 0] = [0, 1, 2, 8, 80]
    value = flow_image(flow, 8.0).max(-1)[0]
    assert value.tolist() == [0, 32, 64, 255, 255]
    assert flow_image(flow, 16.0).max(-1)[0].tolist() == [0, 16, 32, 128, 255]
    assert flow_image(flow[:, :3], 8.0).max(-1)[0].tolist() == [
        0,
        32,
        64,
    ]  # what else moves in the image changes nothing


def test_images_of_a_clip():
    slow, fast = (draw_clip((moving_clip(px), parameters()))["jpegs"] for px in (1.5, 3.0))
    assert len(slow) == len(fast) == 6
    assert slow[0] == slow[1] and slow[1] != slow[2]
    inner = [
        np.median(codecs.decode_jpeg(jpeg)[16:-16, 16:-16], axis=(0, 1))
        for jpeg in (slow[3], fast[3])
    ]
    assert np.allclose(inner[0], [0, 0, 1.5 / 8 * 255], atol=6)  # to the right: hue 0, red
    assert inner[1][2] / inner[0][2] == pytest.approx(2, rel=0.1)


def test_still_clip_is_black():
    assert (
        max(
            codecs.decode_jpeg(jpeg).max()
            for jpeg in draw_clip((moving_clip(0), parameters()))["jpegs"]
        )
        <= 8
    )  # JPEG


def test_thumbnails_show_the_same_motion_at_a_third_of_the_size():
    jpegs = [enlarged(jpeg, 2) for jpeg in moving_clip(3.0)]  # 192 px, by 6 px to the right
    small = draw_thumbnails((jpegs, parameters()))["jpegs"]
    assert len(small) == len(jpegs)
    for jpeg in small:
        thumbnail = codecs.decode_jpeg(jpeg)
        assert thumbnail.shape == (64, 64, 3)
        inner = np.median(thumbnail[16:-16, 16:-16], axis=(0, 1))
        assert np.allclose(inner, [0, 0, 6 / 8 * 255], atol=12)


def test_small_frames_are_their_own_thumbnails():
    jpegs = [codecs.encode_jpeg(texture(3 * i, 0)[:48, :60], 100) for i in range(3)]
    small = draw_thumbnails((jpegs, parameters()))["jpegs"]
    assert codecs.decode_jpeg(small[0]).shape == (48, 60, 3)


def test_stage_writes_a_row_per_clip_with_frames(workspace):
    rows = [
        {**index_row("a/x_1", "training"), "jpegs": moving_clip(2)},
        {**index_row("a/y_1", "test"), "jpegs": moving_clip(-2)},
    ]
    index = [*rows, index_row("a/z_1", "test", status="unreadable")]
    index.sort(key=lambda row: (row["split"], row["clip_id"]))
    rows.sort(key=lambda row: (row["split"], row["clip_id"]))
    shards.write(workspace.folder / "data/frames", optical_flow.COLUMNS, rows, index, "v")
    optical_flow.main(stage_run.StageRun("optical_flow", None, 1))
    written = shards.read_columns(workspace.folder / "data/optical_flow", ["jpegs"])
    assert written["clip_id"] == ["a/y_1", "a/x_1"]
    assert written["jpegs"] == [
        draw_clip((row["jpegs"], optical_flow.params.load("optical_flow", OpticalFlowParams)))[
            "jpegs"
        ]
        for row in rows
    ]
    assert len(shards.read_index(workspace.folder / "data/optical_flow")) == 2


# By CODE_VERSION: what `draw_clip` gives for a known motion, rounded so that machines agree.
GOLDEN = {1: "12ecb45e9d288584b9361d88b0fe41fd"}


def test_output_is_that_of_code_version():
    jpegs = (
        draw_clip((moving_clip(2.0), parameters()))["jpegs"]
        + draw_clip((moving_clip(-3.25), parameters(full_scale_px=5.0)))["jpegs"]
    )
    middle = [
        np.median(cv2.resize(codecs.decode_jpeg(jpeg), (48, 48))[8:-8, 8:-8], axis=(0, 1))
        for jpeg in jpegs
    ]
    facts = np.rint(np.array(middle) / 32).astype(int).tolist()
    assert digest(len(jpegs), facts) == GOLDEN[optical_flow.CODE_VERSION], (
        "the output changed: raise CODE_VERSION and note the new digest here"
    )


@pytest.mark.slow
def test_auto_scale_follows_the_motion_and_is_recorded(workspace):
    """Frames that move by 2 px a step, and others at twice the size by 4: twice the scale."""
    scales = []
    for zoom in (1, 2):
        clips = [("a/x_1", "training", 2.0), ("a/y_1", "training", 2.0), ("a/z_1", "test", 9.0)]
        rows = []
        for clip_id, split, px in clips:
            jpegs = [enlarged(jpeg, zoom) for jpeg in moving_clip(px)]
            row = {**index_row(clip_id, split), "jpegs": jpegs}
            rows.append(row | {"item_key": f"{clip_id} {zoom}"})
        rows.sort(key=lambda row: (row["split"], row["clip_id"]))
        shards.write(workspace.folder / "data/frames", optical_flow.COLUMNS, rows, rows, f"v{zoom}")
        workspace.set(optical_flow={"full_scale_px": "auto"})
        optical_flow.main(stage_run.StageRun("optical_flow", None, 1))
        metrics = json.loads((workspace.folder / "metrics/optical_flow.json").read_text())
        scales.append(metrics["full_scale_px"])

        p = parameters().with_scale(metrics["full_scale_px"])
        written = shards.read_columns(workspace.folder / "data/optical_flow", ["jpegs"])
        assert written["jpegs"] == [draw_clip((row["jpegs"], p))["jpegs"] for row in rows]
    assert 2.0 <= scales[0] <= 3.0
    assert scales[1] == pytest.approx(2 * scales[0], rel=0.25)


def enlarged(jpeg: bytes, zoom: int) -> bytes:
    """Return a JPEG picture `zoom` times as wide and high."""
    image = codecs.decode_jpeg(jpeg)
    return codecs.encode_jpeg(cv2.resize(image, None, fx=zoom, fy=zoom), 95)


def test_scale_of_displacements_is_their_99th_percentile():
    quantiles = np.stack([np.linspace(0, 10, 1001), np.linspace(0, 30, 1001)])
    uniform = np.random.default_rng(0).uniform(0, 1, 10**6)
    everything = np.concatenate([10 * uniform, 30 * uniform])
    assert scale_of(quantiles) == pytest.approx(np.percentile(everything, 99), rel=0.02)
    assert scale_of(np.zeros((3, 1001))) == 0.1
