"""What the stages read, made up: random models, params.yaml, JPEG and FLAC in Parquet."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import yaml

from audio_from_video.media import codecs
from audio_from_video.storage import layout, shards
from benchmarks import full_size
from tests.support import tiny_backbones

ROOT = Path(__file__).parents[2]
STEPS = 18
SECONDS = 3
FRAME_PX = (256, 455)  # height and width of a 16:9 video, stored as params/real.yaml says
DIFFERENT = 48  # pictures and sounds, which the clips share: decoding takes as long
VERSION = "benchmark"  # of items
WRITERS = {
    "video_features": (full_size.write_vit, tiny_backbones.write_vit),
    "audio_features": (full_size.write_ast, tiny_backbones.write_ast),
    "captions": (full_size.write_blip, tiny_backbones.write_blip),
}


def write_params(tiny: bool, *sections: str) -> dict:
    """Write params.yaml with the values of params/real.yaml, and the models of these sections."""
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in yaml.safe_load((ROOT / "params/real.yaml").read_text()).items():
        for key, value in values.items():
            if isinstance(value, dict):
                settings[section][key] |= value
            else:
                settings[section][key] = value
    for section in sections:
        folder = Path("models") / section
        WRITERS[section][tiny](folder)
        settings[section]["model"] = str(folder)
    settings["captions"]["finetune"] = "off"
    store_params(settings)
    return settings


def store_params(settings: dict) -> None:
    """Write params.yaml."""
    Path("params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a BGR image [height, width, 3] uint8 with details of all sizes, as pictures have."""
    image = np.full((height, width, 3), 128, np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        rows = max(1, cells * height // width)
        details = rng.normal(scale=60 / cells**0.5, size=(rows, cells, 3)).astype(np.float32)
        image += cv2.resize(details, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpegs(tiny: bool) -> list[bytes]:
    """Return different pictures as JPEG of quality 95."""
    rng = np.random.default_rng(0)
    height, width = (48, 64) if tiny else FRAME_PX
    return [codecs.encode_jpeg(picture(rng, height, width), 95) for _ in range(DIFFERENT)]


def flacs() -> list[bytes]:
    """Return different sounds of 3 s as FLAC: noise with less power at high frequencies."""
    rng = np.random.default_rng(1)
    sounds = []
    for _ in range(DIFFERENT):
        noise = np.cumsum(rng.normal(size=SECONDS * codecs.SAMPLE_RATE_HZ))
        smooth = noise - np.convolve(noise, np.ones(200) / 200, "same")
        sounds.append(codecs.encode_flac(0.2 * smooth / np.abs(smooth).max()))
    return sounds


def index_rows(count: int) -> list[dict]:
    """Return the index rows of `count` clips of one action."""
    return [
        {
            "clip_id": f"action/clip_{i:06d}",
            "split": "training",
            "action": "action",
            "source_id": f"source_{i:06d}",
            "item_key": f"{i:032x}",
            "status": "ok",
            "reason": "",
        }
        for i in range(count)
    ]


def write_frames(count: int, tiny: bool) -> list[bytes]:
    """Write data/frames with `count` clips; return the different pictures."""
    pictures = jpegs(tiny)
    index = index_rows(count)
    times_s = np.arange(STEPS, dtype=np.float32) / 6

    def rows() -> Iterator[dict]:
        for i, row in enumerate(index):
            own = [pictures[(i + step) % DIFFERENT] for step in range(STEPS)]
            yield row | {"jpegs": own, "times_s": times_s}

    columns = [("jpegs", pa.list_(pa.binary())), ("times_s", shards.tensor(pa.float32(), STEPS))]
    shards.write(layout.FRAMES, pa.schema(columns), rows(), index, VERSION)
    return pictures


def write_audio(count: int) -> list[bytes]:
    """Write data/audio with `count` clips; return the different sounds."""
    sounds = flacs()
    index = index_rows(count)
    rows = (row | {"flac": sounds[i % DIFFERENT]} for i, row in enumerate(index))
    shards.write(layout.AUDIO, pa.schema([("flac", pa.binary())]), rows, index, VERSION)
    return sounds


def write_representative_frames(count: int, steps: list[int]) -> None:
    """Write data/representative_frames: the same steps of `count` clips."""
    index = index_rows(count)
    rows = (row | {"steps": steps} for row in index)
    columns = pa.schema([("steps", pa.list_(pa.int32()))])
    shards.write(layout.REPRESENTATIVE_FRAMES, columns, rows, index, VERSION)
