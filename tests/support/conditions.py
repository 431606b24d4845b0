"""Conditions of the main table for tests: their keys with the paths that they need."""

from audio_from_video.classification.settings import GENERATOR_OF, NOTHING, STORED_AUDIO
from audio_from_video.storage import layout


def condition_keys(**keys) -> dict:
    """The keys of an LSTM without audio, changed by `keys`, and the paths that these need."""
    keys = {"model": "lstm", "train_audio": "none", "test_audio": "none"} | keys
    kinds = [keys["train_audio"], keys["test_audio"]]
    generators = [GENERATOR_OF[kind] for kind in kinds if kind in GENERATOR_OF]

    paths = dict.fromkeys(
        ("real_audio", "generated_audio", "teacher_predictions", "decisions"), NOTHING
    )
    reads_audio = keys.get("learns") == "audio" or keys.get("match_parameters", False)
    if reads_audio or any(kind in STORED_AUDIO for kind in kinds):
        paths["real_audio"] = str(layout.AUDIO_FEATURES)
    if generators:
        paths["generated_audio"] = str(layout.generated(generators[0]))
    gate = keys.get("gate", "none")
    if gate == "dictionary":
        paths["decisions"] = str(layout.DICTIONARY)
    elif gate != "none":
        architecture = (generators or ["semantic_validation"])[0]
        paths["decisions"] = str(layout.decisions(architecture))
    return paths | keys
