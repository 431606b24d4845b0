"""Render the embedded sample data set: twelve actions seen and heard, as Moments in Time has them.

Writes   data/sample/training/<action>/yt-<id>_<second>.mp4    labelled clips for fitting
         data/sample/validation/<action>/yt-<id>_<second>.mp4  the test set
         data/sample/unlabelled/yt-<id>_<second>.mp4           clips of the same actions without
                                                               label, for generators
         data/sample/truth.parquet                             what is true of each clip; only
                                                               metrics and the report may read it
         metrics/figures/sample.png                            contact sheet
Where clips.root names other clips, nothing is rendered but the contact sheet: data/sample then
holds a line of text.

Clips last 3 s (h264 and AAC, mixed frame rates).  Sources, each a place, palette, look and camera
of its own, give one or more clips (`clips_per_source`) and never cross a split.  Labelled clips
show some of the looks of each action (`labelled_looks`), all others show all of them.  The kind of
a clip's audio is drawn independently of its source:

    own           synchronous with the motion           mixed    own plus another sound at 0 dB
    other_action  another action's sound                music    music or speech-like
    silent / no_track                                   shifted  own, 0.5 s late

With probability 1 - `cue` the object that a clip hears is not the one in sight, but one drawn from
all actions and looks, with a motion of its own: what would be own, mixed or shifted is then

    unrelated     the sound of an object that is not in sight

Each clip's picture follows from its source and second, and its sound is drawn after it.  So clips
keep their bytes when shares, cue or the number of clips change, as far as they show and sound the
same; a larger number of clips holds those of a smaller one.

truth.parquet, a row per clip (schema: audio_from_video/clipset/truth.py)
    clip_id        string         <action>/<stem>, or unlabelled/<stem>
    split          string         training, validation, unlabelled
    action         string         the true one, for unlabelled clips too
    variant        string         the look: the material, tool or content shown
                                  (audio_from_video/world)
    sound_kind     string         see above
    audible        bool           some sound is heard
    sound_belongs  bool           what is heard contains the action's own sound, in time
    audio_labels   list<string>   AudioSet display names truly present
    event_times_s  list<float32>  when it strikes, turns, bursts or starts to flow
    clean_sound    binary         FLAC, 16 kHz mono: own sound in time with the events; null for
                                  unlabelled clips
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.clipset import discovery
from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.media.codecs import encode_flac
from audio_from_video.reporting.contact_sheet import Cell, write_contact_sheet
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout
from audio_from_video.world.actions import ACTIONS, MOSTLY_SILENT
from audio_from_video.world.looks import Look, draw_labelled_looks, draw_look
from audio_from_video.world.mp4 import write_mp4
from audio_from_video.world.scenes import noise_bank, render, rng_of
from audio_from_video.world.settings import MIX_KINDS, SampleParams
from audio_from_video.world.sounds import (
    RATE_HZ,
    SAMPLES,
    at_level,
    band_noise,
    music,
    own_sound,
    speech,
)
from audio_from_video.world.takes import CLIP_S, Take, draw_take

NOT_USED = "not used: clips.root names other clips"
FOLDERS = ("training", "validation", "unlabelled")
FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30_000, 1001), Fraction(30))
ID_CHARACTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"))
LONGEST_SOURCE_S = 240  # clips are cut out of sources of up to four minutes
NO_TRACK_FRACTION = 0.3  # of silent clips
ROOM_DB = -66.0  # noise of the recording, far below any threshold of silence
LEVEL_DB = (-28.0, -17.0)  # loudness of a clip's sound
SHIFT_S = 0.5
SHEET_OFFSETS_S = np.array([-0.16, 0.02, 0.14, 0.26])  # frames of the sheet, from an event on


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be rendered; everything else follows from these names."""

    split: str  # a folder of the data set: training, validation, unlabelled
    action: str
    source: str  # yt-<id>
    second: int

    @property
    def stem(self) -> str:
        return f"{self.source}_{self.second}"

    @property
    def clip_id(self) -> str:
        folder = "unlabelled" if self.split == "unlabelled" else self.action
        return f"{folder}/{self.stem}"

    @property
    def path(self) -> Path:
        """The file's path below the data set's root."""
        if self.split == "unlabelled":
            return Path(self.split, f"{self.stem}.mp4")
        return Path(self.split, self.action, f"{self.stem}.mp4")


def plan_clips(p: SampleParams) -> Iterator[ClipPlan]:
    """Yield all clips: per split and action, sources of a few clips, until they suffice.

    A larger number of clips starts with those of a smaller one.
    """
    counts = (p.training_per_action, p.test_per_action, p.unlabelled_per_action)
    for split, count in zip(FOLDERS, counts, strict=True):
        for action in ACTIONS:
            rng = rng_of(p.seed, "plan", split, action)
            left = count
            while left:
                source = "yt-" + "".join(rng.choice(ID_CHARACTERS, 11))
                clips = int(rng.integers(1, p.clips_per_source + 1))
                seconds = rng.choice(LONGEST_SOURCE_S, clips, replace=False)[:left]
                for second in np.sort(seconds):
                    yield ClipPlan(split, action, source, int(second))
                left -= len(seconds)


@dataclass(frozen=True)
class Unseen:
    """An object that a clip hears and does not show."""

    action: str
    sound: np.ndarray  # float32 [SAMPLES], see `own_sound`


def draw_unseen(clip: ClipPlan, p: SampleParams) -> Unseen | None:
    """Draw whether a clip hears an object that is not in sight, and which one.

    Its motion is its own, too: the tempo of what is in sight would tell the action.
    """
    rng = rng_of(p.seed, clip.source, clip.second, "unseen")
    if rng.random() < p.cue:
        return None
    look = draw_look(rng, str(rng.choice(list(ACTIONS))))
    take = draw_take(rng, look.action, look.tempo)
    return Unseen(look.action, own_sound(rng, look, take))


@dataclass(frozen=True)
class Sound:
    """The sound of one clip."""

    kind: str
    samples: np.ndarray | None  # float32 [SAMPLES] at RATE_HZ; None: the file has no audio track
    labels: tuple[str, ...]  # AudioSet display names
    clean: np.ndarray  # float32 [SAMPLES], own sound in time with the events


def draw_sound(
    rng: np.random.Generator, p: SampleParams, look: Look, take: Take, unseen: Unseen | None = None
) -> Sound:
    """Draw the kind of a clip's sound and make it.

    unseen: the object that is heard in place of the one in sight; only `clean` is of the latter.
    The own sound of a mostly silent action is usually not to be heard.
    """
    own = own_sound(rng, look, take)
    level_db = rng.uniform(*LEVEL_DB)
    clean = at_level(own, level_db)
    heard = look.action
    if unseen:
        own = unseen.sound
        heard = unseen.action
    own_labels = ACTIONS[heard].labels

    kind = str(rng.choice(MIX_KINDS, p=[p.audio_mix[kind] for kind in MIX_KINDS]))
    may_be_silent = kind in ("own", "shifted") and heard in MOSTLY_SILENT
    if may_be_silent and rng.random() < p.silent_action_silence:
        kind = "silent"
    if kind == "silent" and rng.random() < NO_TRACK_FRACTION:
        return Sound("no_track", None, (), clean)

    # Of silent clips with a track only the room is recorded.
    audible = np.zeros(SAMPLES, np.float32)
    labels: tuple[str, ...] = ()
    if kind == "own":
        audible = own
        labels = own_labels
    elif kind == "shifted":
        audible = np.roll(own, int(SHIFT_S * RATE_HZ))
        labels = own_labels
    elif kind == "mixed":
        other, other_labels = _other_sound(rng, heard)
        audible = (own + other) / np.sqrt(2)  # as loud as one of them
        labels = (*own_labels, *other_labels)
    elif kind == "other_action":
        audible, labels = _other_sound(rng, heard)
    elif kind == "music":
        audible, labels = _music_or_speech(rng)
    if unseen and kind in ("own", "mixed", "shifted"):
        kind = "unrelated"
    room = at_level(band_noise(rng, 60, 4000).astype(np.float32), ROOM_DB)
    return Sound(kind, at_level(audible, level_db) + room, tuple(dict.fromkeys(labels)), clean)


def _other_sound(rng: np.random.Generator, action: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Draw the sound [SAMPLES] of any audible action but this one; return it and its labels."""
    audible = [name for name in ACTIONS if name != action and name not in MOSTLY_SILENT]
    other = str(rng.choice(audible))
    look = draw_look(rng, other)
    take = draw_take(rng, look.action, look.tempo)
    return own_sound(rng, look, take), ACTIONS[other].labels


def _music_or_speech(rng: np.random.Generator) -> tuple[np.ndarray, tuple[str, ...]]:
    """Draw a sound [SAMPLES] of no action; return it and its labels."""
    if rng.random() < 0.5:
        return music(rng), ("Music", "Synthesizer")
    return speech(rng), ("Speech",)


@dataclass(frozen=True)
class Scene:
    """All that is drawn for one clip."""

    look: Look
    take: Take
    sound: Sound
    rate: Fraction  # frames per second


@lru_cache(maxsize=1)
def labelled_looks(seed: int, share: float) -> dict[str, tuple[str, ...]]:
    """Return by action the looks that labelled clips show."""
    return draw_labelled_looks(rng_of(seed, "labelled looks"), share)


def source_look(clip: ClipPlan, p: SampleParams) -> Look:
    """Draw the look of a clip's source, and what hides it."""
    look = draw_look(rng_of(p.seed, clip.source), clip.action)
    if clip.split == "training":
        labelled = labelled_looks(p.seed, p.labelled_looks)[clip.action]
        if look.variant not in labelled:
            instead = rng_of(p.seed, clip.source, "labelled look").choice(labelled)
            look = replace(look, variant=str(instead))
    hiding = _hiding_rng(clip, p)
    if hiding.random() < p.hidden_share:
        look = replace(look, occluder=(hiding.uniform(-4, 20), hiding.uniform(70, 90)))
    return look


def draw_scene(clip: ClipPlan, p: SampleParams) -> Scene:
    """Draw a clip's scene; clips of one source share the look."""
    look = source_look(clip, p)
    rng = rng_of(p.seed, clip.source, clip.second)
    take = draw_take(rng, look.action, look.tempo)
    rate = FRAME_RATES[rng.integers(len(FRAME_RATES))]
    sound = draw_sound(rng, p, look, take, draw_unseen(clip, p))
    return Scene(look, take, sound, rate)


def _hiding_rng(clip: ClipPlan, p: SampleParams) -> np.random.Generator:
    """Return the generator of what hides a clip's source: first whether, then where."""
    return rng_of(p.seed, clip.source, "hidden")


@lru_cache(maxsize=1)
def _noise(seed: int, size_px: int) -> np.ndarray:
    """Return the sensor noise of all clips, which a worker draws once."""
    return noise_bank(seed, size_px)


def render_clip(task: tuple[ClipPlan, SampleParams, Path]) -> dict:
    """Render one clip to its file below a root and return its row of truth (runs in a worker)."""
    clip, p, root = task
    scene = draw_scene(clip, p)
    _write_video(root / clip.path, clip, scene, p)
    sound = scene.sound
    events_s = scene.take.events_s
    return {
        "clip_id": clip.clip_id,
        "split": clip.split,
        "action": clip.action,
        "variant": scene.look.variant,
        "sound_kind": sound.kind,
        "audible": sound.kind not in ("silent", "no_track"),
        "sound_belongs": sound.kind in ("own", "mixed"),
        "audio_labels": list(sound.labels),
        "event_times_s": events_s[events_s < CLIP_S].astype(np.float32),
        "clean_sound": None if clip.split == "unlabelled" else encode_flac(sound.clean),
    }


def _write_video(path: Path, clip: ClipPlan, scene: Scene, p: SampleParams) -> None:
    """Render all frames of a clip and write them with its sound."""
    noise = _noise(p.seed, p.size_px)
    first = int(rng_of(p.seed, "grain", clip.stem).integers(len(noise)))

    def frames() -> Iterator[np.ndarray]:
        for number in range(round(CLIP_S * scene.rate)):
            # Steps of 5 through 16: the same noise returns after 16 frames.
            grain = noise[(first + 5 * number) % len(noise)]
            t = float(number / scene.rate)
            yield render(scene.look, scene.take, t, p.size_px, grain).image

    write_mp4(path, frames(), scene.rate, p.size_px, scene.sound.samples, RATE_HZ)


def sample_figures(rows: list[dict]) -> dict[str, dict]:
    """Return by split the counts of clips, sources and kinds of sound in rows of truth."""
    figures = {}
    for split in FOLDERS:
        members = [row for row in rows if row["split"] == split]
        kinds = [row["sound_kind"] for row in members]
        figures[split] = {
            "clips": len(members),
            "sources": len({row["clip_id"].rsplit("_", 1)[0] for row in members}),
            "audible": sum(row["audible"] for row in members),
            "sound_belongs": sum(row["sound_belongs"] for row in members),
            "sound_kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        }
    return figures


def contact_cell(action: str, p: SampleParams) -> Cell:
    """Return the action's first training clip that nothing large hides, for the contact sheet.

    It shows the clean sound and four frames about the second event, which the second frame meets.
    """
    own = [clip for clip in plan_clips(p) if clip.action == action]
    in_sight = (clip for clip in own if _hiding_rng(clip, p).random() >= p.hidden_share)
    scene = draw_scene(next(in_sight, own[0]), p)
    grain = noise_bank(p.seed, p.size_px, 1)[0]
    events_s = scene.take.events_s
    frames = []
    for t in events_s[1] + SHEET_OFFSETS_S:
        frames.append(render(scene.look, scene.take, float(t), p.size_px, grain).image)
    return Cell(
        title=f"{action} ({scene.look.variant})",
        frames=frames,
        marked=1,
        samples=scene.sound.clean,
        rate_hz=RATE_HZ,
        events_s=events_s[events_s < CLIP_S],
    )


def main(stage: stage_run.StageRun) -> None:
    p = params.load("sample", SampleParams)
    root = params.read("clips", "root", str)
    # Files of another seed or number must not stay among the new ones.
    shutil.rmtree(layout.SAMPLE, ignore_errors=True)
    layout.SAMPLE.mkdir(parents=True)
    write_contact_sheet(layout.SAMPLE_FIGURE, [contact_cell(action, p) for action in ACTIONS])
    if not discovery.is_sample(root):
        (layout.SAMPLE / "not_used.txt").write_text(NOT_USED + "\n")
        stage.write_metrics({"rendered": NOT_USED})
        return
    tasks = [(clip, p, layout.SAMPLE) for clip in plan_clips(p)]
    rendered = parallel.map_items(render_clip, tasks, stage.workers)
    rows = []
    for row in stage.progress(rendered, total=len(tasks)):
        rows.append(require_result(row, "rendering a clip"))
    stage.log["computed"] = len(rows)
    pq.write_table(pa.Table.from_pylist(rows, TRUTH_SCHEMA), layout.SAMPLE / "truth.parquet")
    figures = sample_figures(rows)
    looks = labelled_looks(p.seed, p.labelled_looks)
    figures["training"]["looks"] = {action: list(names) for action, names in looks.items()}
    stage.write_metrics(figures)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "sample")
