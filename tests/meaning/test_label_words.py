"""Names of labels in captions."""

from audio_from_video.audioset.labels import load_labels
from audio_from_video.meaning.label_words import named, spoken, tagged


def test_every_label_can_be_named_and_found_again():
    names = [label.display_name for label in load_labels()]
    assert len({spoken(name) for name in names}) == 527
    for i in range(0, 527, 7):
        assert named(tagged("xyz", [names[i]]), names) == {i}


def test_a_tagged_caption_begins_with_the_sounds():
    caption = tagged("a drum", ["Thump, thud", "Frying (food)"])
    assert caption == "thump thud, frying food with a drum"
    assert tagged("a drum", []) == "a drum"


def test_a_word_counts_for_the_longest_name_only():
    names = ["Fire", "Fire engine, fire truck (siren)", "Drum", "Drum kit", "Water"]
    assert named("fire engine fire truck siren with a drum kit", names) == {1, 3}
    assert named("a drum and a drum kit in Water, waters", names) == {2, 3, 4}
    assert named("a drumstick in a waterfall", names) == set()
