"""Rendered scenes and sounds: what moves is what sounds, and captions give no action away."""

import colorsys
import re
from itertools import chain

import numpy as np
import pytest

from audio_from_video.audioset.labels import load_labels
from audio_from_video.world.actions import ACTIONS, HELD_OUT, LOOK_ALIKE, MOSTLY_SILENT
from audio_from_video.world.looks import draw_look
from audio_from_video.world.pretraining_data import caption
from audio_from_video.world.props import CLASSES, COLOURS
from audio_from_video.world.scenes import noise_bank, patch_classes, render, rng_of
from audio_from_video.world.sounds import RATE_HZ, own_sound
from audio_from_video.world.takes import CLIP_S, draw_take

SIZE_PX = 96
SOUND_ALIKE = (("drumming", "bouncing"), ("pouring", "spraying"))
WORDS_OF_SOUNDS = {
    *("hammer", "knock", "tap", "clang", "saw", "rub", "sizzle"),
    *("thump", "thud", "pour", "spray", "flap", "whir"),
}
STILL = np.zeros((SIZE_PX, SIZE_PX, 3), np.float32)


def scene(action: str, number: int = 0):
    look = draw_look(rng_of("test", action, number), action)
    return look, draw_take(rng_of("test take", action, number), action, look.tempo)


def centroid_hz(sound: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(len(sound), 1 / RATE_HZ)).sum() / power.sum())


def mean_centroid_hz(action: str, count: int) -> float:
    """The mean centre of the spectrum of an action's sounds in `count` scenes."""
    centroids = []
    for number in range(count):
        sound = own_sound(rng_of(action, number), *scene(action, number))
        centroids.append(centroid_hz(sound))
    return float(np.mean(centroids))


def test_there_are_twelve_actions_three_look_alike_pairs_two_sound_alike_pairs():
    named = [*chain.from_iterable(LOOK_ALIKE), *chain.from_iterable(SOUND_ALIKE), *MOSTLY_SILENT]
    assert len(ACTIONS) == 12 and sorted(named) == sorted(ACTIONS)
    assert len(HELD_OUT) == 3 and set(HELD_OUT) <= set(ACTIONS)


def test_audio_labels_are_audioset_names():
    names = {label.display_name for label in load_labels()}
    assert len(names) == 527
    for action in ACTIONS.values():
        assert set(action.labels) <= names


@pytest.mark.parametrize("pair", LOOK_ALIKE)
def test_look_alike_pairs_share_staging_and_colours_but_not_sound(pair):
    one = ACTIONS[pair[0]]
    other = ACTIONS[pair[1]]
    assert one.staging == other.staging
    for a, b in zip(one.variants, other.variants, strict=True):
        assert np.abs(np.subtract(COLOURS[a], COLOURS[b])).max() <= 16
    means = [mean_centroid_hz(action, 6) for action in pair]
    assert max(means) > 1.4 * min(means)


@pytest.mark.parametrize("pair", SOUND_ALIKE)
def test_sound_alike_pairs_share_the_band_but_not_the_staging(pair):
    means = [mean_centroid_hz(action, 8) for action in pair]
    assert max(means) < 1.3 * min(means)
    assert ACTIONS[pair[0]].staging != ACTIONS[pair[1]].staging


@pytest.mark.parametrize(
    "action", ["knocking", "hammering", "drumming", "bouncing", "pouring", "spraying"]
)
def test_sound_starts_at_every_event(action):
    for number in range(3):
        look, take = scene(action, number)
        sound = np.abs(own_sound(rng_of(action), look, take))
        for event in take.events_s[take.events_s < CLIP_S - 0.1]:
            i = int(event * RATE_HZ)
            before = sound[max(0, i - 320) : max(1, i - 16)].mean()
            after = sound[i : i + 1600].mean()
            assert after > 1.5 * before, (action, number, event)


@pytest.mark.parametrize("action", list(ACTIONS))
def test_the_picture_moves_and_its_noise_aside_is_a_function_of_time(action):
    look, take = scene(action)
    pictures = []
    for t in np.arange(0.3, 2.8, 1 / 12):
        pictures.append(render(look, take, t, SIZE_PX, STILL).image.astype(int))
    again = render(look, take, 0.3, SIZE_PX, STILL).image
    assert np.array_equal(pictures[0], again)
    changes = np.abs(np.diff(np.stack(pictures), axis=0))
    assert changes.max() > 30


def test_a_mallet_is_down_at_every_event_and_up_between():
    _, take = scene("knocking")
    assert all(take.lift(float(t)) < 1e-6 for t in take.events_s)
    assert all(take.lift(float(t)) > 0.3 for t in (take.events_s[:-1] + take.events_s[1:]) / 2)


def test_classes_show_the_variant_and_patches_add_up():
    look, take = scene("hammering", 3)
    classes = render(look, take, 1.0, SIZE_PX, STILL, with_classes=True).classes
    shares = patch_classes(classes, 16)
    assert shares.shape == (36, len(CLASSES)) and np.allclose(shares.sum(1), 1)
    assert shares[:, CLASSES.index(look.variant)].max() > 0.5


def test_backgrounds_of_pretraining_are_not_those_of_the_data_set():
    for odd in (True, False):
        for i in range(50):
            wall = draw_look(rng_of("hue", i), "knocking", odd).wall
            hue, _, _ = colorsys.rgb_to_hsv(*(np.array(wall) / 255))
            assert int(hue * 24) % 2 == odd


def test_captions_hold_no_word_of_an_action_or_of_its_sound():
    for action in ACTIONS:
        for number in range(20):
            words = set(re.findall(r"[a-z]+", caption(scene(action, number)[0])))
            assert len(words) > 3
            assert not any(word.endswith("ing") for word in words)
            assert not words & set(ACTIONS), action
            assert not words & WORDS_OF_SOUNDS, action


def test_noise_bank_follows_its_seed():
    assert np.array_equal(noise_bank(3, 32, 2), noise_bank(3, 32, 2))
    assert not np.array_equal(noise_bank(3, 32, 2), noise_bank(4, 32, 2))
