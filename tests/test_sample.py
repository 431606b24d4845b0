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
from scipy.signal import spectrogram
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
        "clips_per_source": 4,
        "labelled_looks": 1.0,
        "cue": 1.0,
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


def test_more_clips_start_with_those_of_fewer():
    few = parameters(unlabelled_per_action=7, clips_per_source=3)
    many = parameters(unlabelled_per_action=28, clips_per_source=3)
    by_action: dict[str, list] = {action: [] for action in ACTIONS}
    for clip in plan_clips(many):
        if clip.split == "unlabelled":
            by_action[clip.action].append(clip)
    for action, clips in by_action.items():
        fewer = {c for c in plan_clips(few) if c.split == "unlabelled" and c.action == action}
        assert len(fewer) == 7
        # Of the last source the smaller pool may hold other seconds first.
        assert fewer <= set(clips[:9])


@pytest.mark.parametrize("share, looks", [(0.01, 12), (0.6, 17), (0.8, 22), (1.0, 28)])
def test_labelled_looks_are_that_share_of_all_and_one_of_each_action_at_least(share, looks):
    labelled = sample.labelled_looks(5, share)
    assert sum(len(names) for names in labelled.values()) == looks
    for action, names in labelled.items():
        assert names and set(names) <= set(ACTIONS[action].variants)
        assert set(names) <= set(sample.labelled_looks(5, 1.0)[action])
    assert sample.labelled_looks(6, 0.6) != sample.labelled_looks(5, 0.6)


def test_a_larger_share_of_labelled_looks_holds_those_of_a_smaller_one():
    few = sample.labelled_looks(5, 0.5)
    many = sample.labelled_looks(5, 0.7)
    assert all(set(few[action]) <= set(many[action]) for action in ACTIONS)


def test_only_labelled_clips_are_confined_to_labelled_looks():
    everything = parameters()
    confined = parameters(labelled_looks=0.4)
    labelled = sample.labelled_looks(5, 0.4)
    shown: dict[str, set] = {"training": set(), "validation": set(), "unlabelled": set()}
    for clip in list(plan_clips(confined))[::7]:
        look = sample.source_look(clip, confined)
        shown[clip.split].add((clip.action, look.variant))
        before = sample.source_look(clip, everything)
        if clip.split != "training" or before.variant in labelled[clip.action]:
            assert look.variant == before.variant
        else:
            # Nothing else of the source changes.
            assert (look.wall, look.seed) == (before.wall, before.seed)
    pairs = {(action, name) for action, names in labelled.items() for name in names}
    assert shown["training"] == pairs
    assert pairs < shown["validation"] and pairs < shown["unlabelled"]


def test_a_cue_of_0_makes_sound_independent_of_what_is_seen():
    p = parameters(audio_mix=OWN_ONLY, silent_action_silence=0.0, cue=0.0)
    certain = parameters(audio_mix=OWN_ONLY, silent_action_silence=0.0)
    clips = [c for c in plan_clips(p) if c.split == "training" and c.action == "frying"][:30]
    heard = Counter()
    for clip in clips:
        scene = draw_scene(clip, p)
        before = draw_scene(clip, certain)
        assert scene.sound.kind == "unrelated"
        heard[scene.sound.labels] += 1
        # The picture and the clean sound are those of what is in sight.
        assert np.array_equal(scene.take.events_s, before.take.events_s)
        assert np.array_equal(scene.sound.clean, before.sound.clean)
        assert not np.array_equal(scene.sound.samples, before.sound.samples)
    # 30 draws of 12 actions: all but a few of them occur.
    assert len(heard) >= 7


def band_levels(clip: ClipPlan, p: SampleParams) -> np.ndarray:
    """Mean and deviation over time of the level in 16 bands of a clip's sound."""
    samples = draw_scene(clip, p).sound.samples
    if samples is None:
        samples = np.zeros(3 * RATE_HZ, np.float32)
    _, _, power = spectrogram(samples, RATE_HZ, nperseg=512)
    bands = np.array_split(power[1:], 16)
    levels = np.log(np.stack([band.mean(0) for band in bands]) + 1e-10)
    return np.concatenate([levels.mean(1), levels.std(1)])


@pytest.mark.slow
@pytest.mark.parametrize("cue, low, high", [(1.0, 0.35, 1.0), (0.0, 0.0, 0.16)])
def test_sound_tells_actions_apart_but_not_at_a_cue_of_0(cue, low, high):
    p = parameters(cue=cue, training_per_action=20, test_per_action=15, clips_per_source=1)
    clips = [clip for clip in plan_clips(p) if clip.split != "unlabelled"]
    training = np.array([clip.split == "training" for clip in clips])
    actions = np.array([clip.action for clip in clips])
    levels = np.stack([band_levels(clip, p) for clip in clips])
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    head.fit(levels[training], actions[training])
    # Chance is 1 of 12: the bound is nearly four standard deviations above it.
    assert low <= head.score(levels[~training], actions[~training]) <= high


def test_some_cue_leaves_some_clips_as_they_are_and_less_leaves_fewer():
    clips = [c for c in plan_clips(parameters()) if c.action == "pouring"][::4]
    kept = {}
    for cue in (0.2, 0.6):
        unseen = [sample.draw_unseen(clip, parameters(cue=cue)) for clip in clips]
        kept[cue] = {clip for clip, other in zip(clips, unseen, strict=True) if other is None}
    assert kept[0.2] < kept[0.6] < set(clips)


def test_truth_of_a_clip_that_hears_what_is_not_in_sight(tmp_path):
    clip = ClipPlan("training", "pouring", "yt-unseen", 3)
    p = parameters(audio_mix=OWN_ONLY, silent_action_silence=0.0, cue=0.0)
    row = render_clip((clip, p, tmp_path))
    unseen = sample.draw_unseen(clip, p)
    assert row["sound_kind"] == "unrelated" and row["audible"] and not row["sound_belongs"]
    assert row["audio_labels"] == list(ACTIONS[unseen.action].labels)
    assert len(row["clean_sound"]) > 1000


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


@pytest.mark.slow
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


def test_hidden_share_puts_something_large_before_that_share_of_sources():
    p = parameters(hidden_share=0.2)
    first = {c.source: c for c in plan_clips(p)}.values()
    wide = [
        look.occluder is not None and look.occluder[1] >= 70
        for look in (sample.source_look(c, p) for c in list(first)[::4])
    ]
    assert abs(np.mean(wide) - 0.2) < 4 * np.sqrt(0.16 / len(wide))
