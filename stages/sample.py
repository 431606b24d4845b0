"""Render the embedded sample data set: twelve actions seen and heard, in Moments in Time's folder layout.

Writes
    data/sample/training/<action>/yt-<id>_<second>.mp4      labelled clips for fitting
    data/sample/validation/<action>/yt-<id>_<second>.mp4    the test set
    data/sample/unlabelled/yt-<id>_<second>.mp4             clips of the same actions without label, for generators
    data/sample/truth.parquet                               what is true of each clip; only metrics may read it
    metrics/figures/sample.png                              contact sheet

Clips last 3 s (h264 and AAC, mixed frame rates). Sources, each a place, palette, look and camera of its own, give one to
four clips and never cross a split. The audio of a clip is drawn independently of its source; its kinds are

    own           synchronous with the motion           mixed    own plus another sound at 0 dB
    other_action  another action's sound                music    music or speech-like
    silent / no_track                                   shifted  own, 0.5 s late

truth.parquet, a row per clip
    clip_id string          '<action>/<stem>', or 'unlabelled/<stem>'
    split string            training, validation, unlabelled
    action string           the true one, for unlabelled clips too
    variant string          the material, tool or content shown (`audio_from_video.world.actions`)
    sound_kind string       see above
    audible bool            some sound is heard
    sound_belongs bool      what is heard contains the action's own sound, in time
    audio_labels list<string>        AudioSet display names truly present
    event_times_s list<float32>      when it strikes, turns, bursts or starts to flow
    clean_sound binary      FLAC, 16 kHz mono: own sound in time with the events; null for unlabelled clips
"""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from pydantic import Field, field_validator

from audio_from_video.reporting.contact_sheet import Cell, draw_contact_sheet
from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.stage_run import StageRun, main
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout
from audio_from_video.world.actions import ACTIONS, MOSTLY_SILENT
from audio_from_video.world.mp4 import encode
from audio_from_video.world.scenes import Look, draw_look, noise_bank, render, rng_of
from audio_from_video.world.sounds import RATE_HZ, N, at_level, band_noise, music, own_sound, speech
from audio_from_video.world.takes import CLIP_S, Take, draw_take

ROOT = layout.SAMPLE
SHEET = layout.SAMPLE_FIGURE
FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30_000, 1001), Fraction(30))
ID_CHARACTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))
MIX_KINDS = ("own", "mixed", "other_action", "music", "silent", "shifted")
ROOM_DB = -66.0  # noise of the recording, far below any threshold of silence
LEVEL_DB = (-28.0, -17.0)  # loudness of a clip's sound
SHIFT_S = 0.5

Share = Annotated[float, Field(ge=0, le=1)]
SCHEMA = pa.schema(
    {
        "clip_id": pa.string(),
        "split": pa.string(),
        "action": pa.string(),
        "variant": pa.string(),
        "sound_kind": pa.string(),
        "audible": pa.bool_(),
        "sound_belongs": pa.bool_(),
        "audio_labels": pa.list_(pa.string()),
        "event_times_s": pa.list_(pa.float32()),
        "clean_sound": pa.binary(),
    }
)


class SampleParams(params.Section):
    """Section `sample` of params.yaml."""

    seed: int = Field(ge=0)
    size_px: int = Field(ge=32, le=128, multiple_of=2)
    training_per_action: int = Field(ge=1, le=50)
    test_per_action: int = Field(ge=1)
    unlabelled_per_action: int = Field(ge=0)
    audio_mix: dict[str, Share]
    silent_action_silence: Share
    hidden_share: Share

    @field_validator("audio_mix")
    @classmethod
    def _whole(cls, mix: dict[str, float]) -> dict[str, float]:
        if set(mix) != set(MIX_KINDS) or abs(sum(mix.values()) - 1) > 1e-9:
            raise ValueError(f"it needs the shares of {', '.join(MIX_KINDS)}, which add up to 1")
        return mix


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be rendered; everything else follows from the names."""

    split: str
    action: str
    source: str  # 'yt-<id>'
    second: int

    @property
    def stem(self) -> str:
        return f"{self.source}_{self.second}"

    @property
    def clip_id(self) -> str:
        return f"{'unlabelled' if self.split == 'unlabelled' else self.action}/{self.stem}"

    @property
    def path(self) -> Path:
        return (
            Path(self.split, f"{self.stem}.mp4")
            if self.split == "unlabelled"
            else Path(self.split, self.action, f"{self.stem}.mp4")
        )


def plan(p: SampleParams) -> Iterator[ClipPlan]:
    """All clips: for each split and action, sources of one to four clips until the number is reached."""
    counts = {
        "training": p.training_per_action,
        "validation": p.test_per_action,
        "unlabelled": p.unlabelled_per_action,
    }
    for split, count in counts.items():
        for action in ACTIONS:
            rng = rng_of(p.seed, "plan", split, action)
            left = count
            while left:
                source = "yt-" + "".join(rng.choice(ID_CHARACTERS, 11))
                clips = min(left, int(rng.integers(1, 5)))
                for second in np.sort(rng.choice(240, clips, replace=False)):
                    yield ClipPlan(split, action, source, int(second))
                left -= clips


@dataclass(frozen=True)
class Sound:
    """The sound of one clip."""

    kind: str
    samples: np.ndarray | None  # [48000] float32 at 16 kHz; None: the file has no audio track
    labels: tuple[str, ...]
    clean: np.ndarray  # [48000], own sound in time with the events


def draw_sound(rng: np.random.Generator, p: SampleParams, look: Look, take: Take) -> Sound:
    """Draw the kind of sound and make it. The own sound of a mostly silent action is usually not to be heard."""
    own = own_sound(rng, look, take)
    own_labels = ACTIONS[look.action].labels
    level_db = rng.uniform(*LEVEL_DB)
    kind = str(rng.choice(MIX_KINDS, p=[p.audio_mix[k] for k in MIX_KINDS]))
    if (
        kind in ("own", "shifted")
        and look.action in MOSTLY_SILENT
        and rng.random() < p.silent_action_silence
    ):
        kind = "silent"
    if kind == "silent" and rng.random() < 0.3:
        return Sound("no_track", None, (), at_level(own, level_db))
    heard = np.zeros(N, np.float32)
    labels: tuple[str, ...] = ()
    if kind in ("own", "mixed"):
        heard, labels = own, own_labels
    elif kind == "shifted":
        heard, labels = np.roll(own, int(SHIFT_S * RATE_HZ)), own_labels
    if kind in ("mixed", "other_action"):
        other, other_labels = _other_sound(rng, look.action)
        heard, labels = (
            (heard + other) / (np.sqrt(2) if kind == "mixed" else 1),
            (*labels, *other_labels),
        )
    elif kind == "music":
        tune = rng.random() < 0.5
        heard, labels = (
            (music(rng), ("Music", "Synthesizer")) if tune else (speech(rng), ("Speech",))
        )
    room = at_level(band_noise(rng, 60, 4000).astype(np.float32), ROOM_DB)
    return Sound(
        kind,
        at_level(heard, level_db) + room,
        tuple(dict.fromkeys(labels)),
        at_level(own, level_db),
    )


def _other_sound(rng: np.random.Generator, action: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A sound of any audible action but this one, with its labels."""
    other = str(rng.choice([a for a in ACTIONS if a != action and a not in MOSTLY_SILENT]))
    look = draw_look(rng, other)
    return own_sound(rng, look, draw_take(rng, look.action, look.tempo)), ACTIONS[other].labels


@lru_cache(maxsize=1)
def _noise(seed: int, size_px: int) -> np.ndarray:
    return noise_bank(seed, size_px)


def hiding(clip: ClipPlan, p: SampleParams) -> np.random.Generator:
    """What decides whether something large stands before a clip's source, by its first number, and where."""
    return rng_of(p.seed, clip.source, "hidden")


def stage_scene(clip: ClipPlan, p: SampleParams) -> tuple[Look, Take, Sound, Fraction]:
    """All that is drawn for one clip."""
    look = draw_look(rng_of(p.seed, clip.source), clip.action)
    drawn = hiding(clip, p)
    if drawn.random() < p.hidden_share:
        look = replace(look, occluder=(drawn.uniform(-4, 20), drawn.uniform(70, 90)))
    rng = rng_of(p.seed, clip.source, clip.second)
    take = draw_take(rng, look.action, look.tempo)
    rate = FRAME_RATES[rng.integers(len(FRAME_RATES))]
    return look, take, draw_sound(rng, p, look, take), rate


def render_clip(task: tuple[ClipPlan, SampleParams, Path]) -> dict:
    """Render one clip to its file below the root and return its row of truth."""
    clip, p, root = task
    look, take, sound, rate = stage_scene(clip, p)
    bank = _noise(p.seed, p.size_px)
    first = int(rng_of(p.seed, "grain", clip.stem).integers(len(bank)))
    frames = (
        render(look, take, float(i / rate), p.size_px, bank[(first + 5 * i) % len(bank)]).image
        for i in range(round(CLIP_S * rate))
    )
    encode(root / clip.path, frames, rate, p.size_px, sound.samples, RATE_HZ)
    return {
        "clip_id": clip.clip_id,
        "split": clip.split,
        "action": clip.action,
        "variant": look.variant,
        "sound_kind": sound.kind,
        "audible": sound.kind not in ("silent", "no_track"),
        "sound_belongs": sound.kind in ("own", "mixed"),
        "audio_labels": list(sound.labels),
        "event_times_s": take.events_s[take.events_s < CLIP_S].astype(np.float32),
        "clean_sound": None if clip.split == "unlabelled" else _flac(sound.clean),
    }


def _flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def summary(rows: list[dict]) -> dict:
    """Counts for the metrics file: clips by split, and kinds of sound."""
    splits = {}
    for split in ("training", "validation", "unlabelled"):
        chosen = [row for row in rows if row["split"] == split]
        kinds = sorted({row["sound_kind"] for row in chosen})
        splits[split] = {
            "clips": len(chosen),
            "sources": len({row["clip_id"].rsplit("_", 1)[0] for row in chosen}),
            "audible": sum(row["audible"] for row in chosen),
            "sound_belongs": sum(row["sound_belongs"] for row in chosen),
            "sound_kinds": {
                kind: sum(row["sound_kind"] == kind for row in chosen) for kind in kinds
            },
        }
    return splits


def contact_cell(action: str, p: SampleParams) -> Cell:
    """The action's first training clip that nothing large hides: four frames about its second event, which the second frame shows,
    and its clean sound."""
    own = [clip for clip in plan(p) if clip.action == action]
    clip = next((clip for clip in own if hiding(clip, p).random() >= p.hidden_share), own[0])
    look, take, sound, _ = stage_scene(clip, p)
    moments_s = take.events_s[1] + np.array([-0.16, 0.02, 0.14, 0.26])
    frames = [
        render(look, take, float(t), p.size_px, noise_bank(p.seed, p.size_px, 1)[0]).image
        for t in moments_s
    ]
    events_s = take.events_s[take.events_s < CLIP_S]
    return Cell(f"{action} ({look.variant})", frames, 1, sound.clean, RATE_HZ, events_s)


def sample(run: StageRun) -> None:
    p = params.load("sample", SampleParams)
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    tasks = [(clip, p, ROOT) for clip in plan(p)]
    rows = list(run.progress(parallel.map_items(render_clip, tasks, run.workers), total=len(tasks)))
    for row in rows:
        if isinstance(row, Failure):
            raise RuntimeError(f"a clip could not be rendered: {row.reason}")
    run.log["computed"] = len(rows)
    draw_contact_sheet(SHEET, [contact_cell(action, p) for action in ACTIONS])
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), ROOT / "truth.parquet")
    run.write_metrics(summary(rows))


if __name__ == "__main__":
    main(sample, __doc__, "sample")
