"""Conditions: the paths that they name are those that they need, and those that are read."""

import shutil

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides
from pydantic import ValidationError

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import (
    NOTHING,
    ClassifierParams,
    Condition,
    Nothing,
)
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.row_file import scratch
from tests.support.closure import ROOT
from tests.support.conditions import condition_keys
from tests.support.separable_features import write_features

AUDIO = "data/audio_features"
GENERATED = "data/generated/semantic_validation"
MAPPED = "data/generated/caption_mapping"


def test_nothing_is_the_video_features_that_every_condition_reads():
    assert Nothing.__args__ == (NOTHING,)
    text = (ROOT / "dvc.yaml").read_text()
    assert f"- {NOTHING}\n" in text.split("  classifier:\n")[1].split("outs:")[0]


@pytest.mark.parametrize(
    ("keys", "key", "sentence"),
    [
        (
            {"train_audio": "real", "test_audio": "token", "real_audio": NOTHING},
            "real_audio",
            "audio of the kind 'real' needs a path here, such as data/audio_features",
        ),
        (
            {"train_audio": "retrieved", "test_audio": "retrieved", "real_audio": NOTHING},
            "real_audio",
            "audio of the kind 'retrieved' needs a path here",
        ),
        (
            {"learns": "audio", "real_audio": NOTHING},
            "real_audio",
            "learns: audio needs a path here",
        ),
        ({"real_audio": AUDIO}, "real_audio", "the condition reads no such file; name"),
        (
            {"train_audio": "mapped", "test_audio": "mapped", "generated_audio": NOTHING},
            "generated_audio",
            f"audio of the kind 'mapped' needs a path here, such as {MAPPED}",
        ),
        (
            {"train_audio": "mapped", "test_audio": "mapped", "generated_audio": GENERATED},
            "generated_audio",
            "audio of the kind 'mapped' comes from the generator caption_mapping",
        ),
        (
            {"train_audio": "generated", "test_audio": "mapped"},
            "generated_audio",
            "a condition reads the audio of one generator, not generated and mapped",
        ),
        ({"generated_audio": GENERATED}, "generated_audio", "the condition reads no such file"),
        (
            {"teacher_predictions": "video_only"},
            "teacher_predictions",
            "a teacher's predictions lie in data/predictions/<condition>.parquet",
        ),
        (
            {"train_audio": "real", "test_audio": "real", "gate": "keep", "decisions": NOTHING},
            "decisions",
            "gate: keep needs a path here, such as data/filter/semantic_validation.parquet",
        ),
        (
            {"gate": "dictionary", "decisions": NOTHING},
            "decisions",
            "gate: dictionary needs a path here, such as data/dictionary.parquet",
        ),
        (
            {
                "train_audio": "mapped",
                "test_audio": "mapped",
                "gate": "keep",
                "decisions": "data/filter/semantic_validation.parquet",
            },
            "decisions",
            "gate: keep needs the filter's decisions on caption_mapping",
        ),
        (
            {"decisions": "data/dictionary.parquet"},
            "decisions",
            "the condition reads no such file",
        ),
    ],
)
def test_a_path_that_is_missing_or_not_needed_is_one_sentence(workspace, keys, key, sentence):
    workspace.set(classifier={"conditions": {"odd": condition_keys(**keys)}})
    with pytest.raises(UserError) as error:
        params.load("classifier", ClassifierParams)
    assert str(error.value).startswith(f"params.yaml: classifier.conditions.odd.{key} = ")
    assert sentence in str(error.value) and ";" not in str(error.value).split(sentence)[0]


def test_a_path_that_is_left_out_is_one_sentence(workspace):
    keys = condition_keys()
    del keys["decisions"]
    workspace.set(classifier={"conditions": {"odd": keys}})
    with pytest.raises(UserError, match="classifier.conditions.odd.decisions is missing"):
        params.load("classifier", ClassifierParams)


def test_audio_is_read_where_the_condition_says(workspace):
    """The path is the one that DVC tracks: nothing else says where audio lies."""
    rows = write_features()
    shutil.move(AUDIO, "data/other_features")
    keys = condition_keys(train_audio="real", test_audio="real", real_audio="data/other_features")
    with scratch() as folder:
        data = ActionData(folder, Condition(**keys))
        audio, present = data.sounds["real"].read(torch.arange(len(rows)))
    assert 0 < present.float().mean() < 1
    expected = np.stack([row["audio"] for row in rows])
    assert np.allclose(audio[present], expected[present.numpy()], atol=1e-2)


def test_dvc_exp_run_can_change_a_condition(workspace):
    """`-S` rewrites params.yaml by DVC's own loader: merged keys must survive that."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    before = params.load("classifier", ClassifierParams).conditions
    changes = [
        "+classifier.conditions.mapped.gate=keep",
        "classifier.conditions.mapped.decisions=data/filter/caption_mapping.parquet",
        "classifier.conditions.generated.train_audio=real",
    ]
    apply_overrides("params.yaml", changes)
    after = params.load("classifier", ClassifierParams).conditions
    assert after["mapped"].gate == "keep" and after["generated"].train_audio == "real"
    assert after["mapped"].decisions == "data/filter/caption_mapping.parquet"
    for name in before.keys() - {"mapped", "generated"}:
        assert after[name] == before[name]

    apply_overrides("params.yaml", ["+classifier.conditions.generated.gate=keep"])
    with pytest.raises(UserError, match="generated.decisions = .* gate: keep needs a path here"):
        params.load("classifier", ClassifierParams)


def test_what_tables_show_of_a_condition():
    oracle = Condition(
        **condition_keys(train_audio="generated", test_audio="generated", gate="keep_oracle")
    )
    assert oracle.leaky
    assert oracle.audio_at_test == "generated"
    zeros = Condition(**condition_keys(train_audio="real", test_audio="zeros"))
    assert not zeros.leaky and zeros.audio_at_test == "none"
    real = Condition(**condition_keys(train_audio="real", test_audio="real", gate="keep_real"))
    assert not real.leaky and real.audio_at_test == "real"


def test_unknown_kinds_of_audio_are_refused():
    with pytest.raises(ValidationError, match="train_audio"):
        Condition(**condition_keys(train_audio="loud"))
