"""The rendered data set: files hold what truth says; the same seed gives the same bytes."""

import hashlib
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from audio_from_video.runtime.parallel import map_items
from audio_from_video.runtime.params import Section
from audio_from_video.world.actions import ACTIONS, MOSTLY_SILENT
from audio_from_video.world.sounds import RATE_HZ
from stages import sample
from stages.sample import ClipPlan, SampleParams, draw_scene, draw_sound, plan_clips, render_clip

OWN_ONLY = {
    "own": 1.0,
    "mixed": 0.0,
    "other_action": 0.0,
    "music": 0.0,
    "silent": 0.0,
    "shifted": 0.0,
}
MIX = {"own": 0.6, "mixed": 0.1, "other_action": 0.1, "music": 0.05, "silent": 0.1, "shifted": 0.05}


def parameters(**changes) -> SampleParams:
    defaults = {
        "seed": 5,
        "size_px": 96,
        "training_per_action": 50,
        "test_per_action": 40,
        "unlabelled_per_action": 106,
        "audio_mix": MIX,
        "silent_action_silence": 0.7,
        "hidden_share": 0.0,
    }
    return SampleParams(**{**defaults, **changes})


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Frames [T, H, W, 3], their times in s, and samples (None without a track)."""
    with av.open(str(path)) as container:
        shots = [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgb24"))
            for f in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        blocks = (
            [f.to_ndarray()[0] for f in container.decode(audio=0)]
            if container.streams.audio
            else None
        )
    return (
        np.stack([s for _, s in shots]),
        np.array([t for t, _ in shots]),
        None if blocks is None else np.concatenate(blocks),
    )


@pytest.fixture
def calm(monkeypatch):
    """Scenes with a still camera, a clear view and a magenta mallet."""
    drawn = sample.draw_look
    steady = {
        "shake": 0.0,
        "occluder": None,
        "blur": 0.0,
        "noise": 0.0,
        "light": np.ones(3),
        "tool_colour": (255.0, 0.0, 255.0),
    }
    monkeypatch.setattr(sample, "draw_look", lambda *a, **k: replace(drawn(*a, **k), **steady))


def test_plan_has_the_wanted_clips_and_sources_that_never_cross():
    clips = list(plan_clips(parameters()))
    assert Counter(c.split for c in clips) == {
        "training": 600,
        "validation": 480,
        "unlabelled": 1272,
    }
    assert len({c.path for c in clips}) == len(clips)
    places: dict[str, set] = {}
    for clip in clips:
        places.setdefault(clip.source, set()).add((clip.split, clip.action))
    assert all(len(place) == 1 for place in places.values())
    assert Counter(Counter(c.source for c in clips).values()).keys() == {1, 2, 3, 4}


@pytest.mark.slow
def test_shares_of_sound_kinds_and_what_they_say():
    p = parameters(size_px=32)
    clips = [c for c in plan_clips(p) if c.split == "training" and c.action not in MOSTLY_SILENT]
    kinds = Counter()
    for clip in clips:
        sound = draw_scene(clip, p).sound
        kinds[sound.kind] += 1
        silent = sound.kind in ("silent", "no_track")
        assert silent == (not sound.labels)
        if sound.samples is not None:
            level_db = 10 * np.log10(np.mean(sound.samples**2))
            assert level_db < -60 if silent else level_db > -35
    for kind, share in MIX.items():
        found = (kinds[kind] + (kinds["no_track"] if kind == "silent" else 0)) / len(clips)
        assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / len(clips)), kind


def test_mostly_silent_actions_are_mostly_silent():
    p = parameters()
    kinds = [
        draw_scene(c, p).sound.kind
        for c in plan_clips(p)
        if c.split == "training" and c.action in MOSTLY_SILENT
    ]
    assert np.mean([kind in ("silent", "no_track") for kind in kinds]) > 0.35


def test_shifted_sound_is_half_a_second_late_and_clean_sound_is_in_time():
    p = parameters(audio_mix={**OWN_ONLY, "own": 0.0, "shifted": 1.0})
    scene = draw_scene(ClipPlan("training", "drumming", "yt-test", 1), p)
    sound = draw_sound(np.random.default_rng(0), p, scene.look, scene.take)
    late = int(0.5 * RATE_HZ)
    assert np.corrcoef(sound.samples[late:], sound.clean[:-late])[0, 1] > 0.99
    assert abs(np.corrcoef(sound.samples, sound.clean)[0, 1]) < 0.9


@pytest.mark.parametrize("action", ["drumming", "knocking"])
def test_file_sounds_at_its_events(tmp_path, action):
    clip = ClipPlan("training", action, "yt-onset", 4)
    row = render_clip((clip, parameters(audio_mix=OWN_ONLY), tmp_path))
    _, _, samples = decoded(tmp_path / clip.path)
    clean, rate = soundfile.read(io.BytesIO(row["clean_sound"]))
    assert rate == RATE_HZ and len(clean) == 3 * RATE_HZ
    assert row["sound_belongs"] and row["audio_labels"] == list(ACTIONS[action].labels)
    for event in row["event_times_s"][row["event_times_s"] < 2.85]:
        near = np.abs(samples[int((event - 0.06) * RATE_HZ) : int((event + 0.1) * RATE_HZ)])
        onset_s = event - 0.06 + np.argmax(near > 0.35 * near.max()) / RATE_HZ
        assert abs(onset_s - event) < 0.02


def test_mallet_is_lowest_at_the_events(tmp_path, calm):
    clip = ClipPlan("training", "knocking", "yt-motion", 2)
    row = render_clip((clip, parameters(), tmp_path))
    frames, times_s, _ = decoded(tmp_path / clip.path)
    magenta = (frames[..., 0].astype(int) > 180) & (frames[..., 1] < 90) & (frames[..., 2] > 180)
    height = (magenta * np.arange(96)[:, None]).sum((1, 2)) / np.maximum(magenta.sum((1, 2)), 1)
    for event in row["event_times_s"]:
        around = np.abs(times_s - event) < 0.1
        assert abs(times_s[around][np.argmax(height[around])] - event) < 0.05


def test_stream_is_seen_from_its_event_on(tmp_path, calm):
    clip = ClipPlan("training", "spraying", "yt-stream", 2)
    row = render_clip((clip, parameters(), tmp_path))
    frames, times_s, _ = decoded(tmp_path / clip.path)
    change = np.r_[0, np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))]
    for event in row["event_times_s"]:
        before = change[(times_s > event - 0.15) & (times_s < event - 0.02)]
        after = change[(times_s > event + 0.02) & (times_s < event + 0.2)]
        assert len(after) == 0 or len(before) == 0 or after.mean() > 2 * before.mean()


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers_and_other_bytes_for_another_seed(tmp_path):
    clips = [c for c in plan_clips(parameters()) if c.split == "training"][::75]

    def digests(root: Path, workers: int, seed: int) -> list[str]:
        rows = list(
            map_items(render_clip, [(c, parameters(seed=seed), root) for c in clips], workers)
        )
        assert [row["clip_id"] for row in rows] == [c.clip_id for c in clips]
        return [hashlib.sha256((root / c.path).read_bytes()).hexdigest() for c in clips]

    one = digests(tmp_path / "one", 1, 5)
    assert one == digests(tmp_path / "two", 2, 5)
    assert not set(one) & set(digests(tmp_path / "other", 2, 6))


def test_files_are_three_seconds_at_mixed_rates(tmp_path):
    rates = set()
    for clip in [c for c in plan_clips(parameters()) if c.split == "unlabelled"][::100]:
        row = render_clip((clip, parameters(), tmp_path))
        assert row["clip_id"].startswith("unlabelled/") and row["clean_sound"] is None
        frames, times_s, samples = decoded(tmp_path / clip.path)
        assert (
            frames.shape[1:] == (96, 96, 3)
            and abs(len(frames) * np.median(np.diff(times_s)) - 3) < 0.03
        )
        assert (samples is None) == (row["sound_kind"] == "no_track")
        rates.add(round(1 / np.median(np.diff(times_s)), 2))
    assert len(rates) >= 3


def test_params_refuse_more_labelled_clips_than_the_protocol_allows():
    assert issubclass(SampleParams, Section)
    with pytest.raises(ValueError):
        parameters(training_per_action=51)


def test_params_refuse_a_mix_that_does_not_add_up():
    with pytest.raises(ValueError, match="add up to 1"):
        parameters(audio_mix={**MIX, "own": 0.7})


@pytest.mark.slow
def test_hidden_share_puts_something_large_before_that_share_of_sources():
    p = parameters(hidden_share=0.2)
    first = {c.source: c for c in plan_clips(p)}.values()
    wide = [
        look.occluder is not None and look.occluder[1] >= 70
        for look in (draw_scene(c, p).look for c in list(first)[::4])
    ]
    assert abs(np.mean(wide) - 0.2) < 4 * np.sqrt(0.16 / len(wide))
