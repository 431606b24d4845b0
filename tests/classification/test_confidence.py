"""Generated audio that counts for as much as its generator trusts in it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audio_from_video.classification.audio_input import audio_reader, audio_scale
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import Condition, FusionParams
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.synthetic import COMPONENTS, STEPS

GENERATED = {"train_audio": "generated", "test_audio": "generated"}
BY_CONFIDENCE = FusionParams(how="concatenate", audio_scale="confidence", components=0)
BY_ONE_SCALE = BY_CONFIDENCE.model_copy(update={"audio_scale": "global"})
SHAPE = (2, STEPS, COMPONENTS)  # two seeds


@pytest.fixture
def rows(workspace, in_process):
    """Clips with generated audio of two seeds, and predicted deviations."""
    made = synthetic.make_clips()
    synthetic.write_data(made)
    rng = np.random.default_rng(0)
    for row in made:
        row["features"] = rng.normal(size=SHAPE)
        row["deviation"] = rng.uniform(0.1, 4.0, size=SHAPE)
    write_generated(made, "features", "deviation")
    return made


def write_generated(rows: list[dict], *columns: str) -> None:
    path = Path("data/generated/semantic_validation")
    synthetic.write_shards(path, dict.fromkeys(columns, SHAPE), rows)


@pytest.fixture
def data(rows):
    with scratch() as folder:
        yield lambda **keys: ActionData(folder, Condition(**condition_keys(**keys)))


def read(made: ActionData, fusion: FusionParams, kind: str, missing: bool) -> torch.Tensor:
    """The audio of test clips of the second seed."""
    reader = audio_reader(made, fusion, made.participants("training"), 1)
    test = made.participants("test")
    return reader.read(test, kind, torch.full((len(test),), missing)).features


@pytest.mark.parametrize(("kind", "missing"), [("generated", False), ("real", True)])
def test_generated_audio_is_shrunk_by_the_share_that_is_not_explained(rows, data, kind, missing):
    made = data(**GENERATED)
    training = made.participants("training")
    heard = [row["audio"] for row in rows if row["split"] == "training" and row["audible"]]
    variance = np.concatenate(heard).var(0)
    mean = audio_scale(made, training).mean.numpy()
    named = {row["clip_id"]: row for row in rows}
    names = made.clips.clip_id[made.participants("test").numpy()]
    features = np.stack([named[name]["features"][1] for name in names])
    deviation = np.stack([named[name]["deviation"][1] for name in names])
    share = np.clip(1 - deviation**2 / variance, 0, 1)
    assert (share == 0).any() and (share > 0.9).any()
    found = read(made, BY_CONFIDENCE, kind, missing)
    np.testing.assert_allclose(found, mean + share * (features - mean), atol=2e-2)
    plain = read(made, BY_ONE_SCALE, kind, missing)
    np.testing.assert_allclose(plain, features, atol=5e-3)


def test_real_audio_counts_in_full(data):
    made = data(train_audio="real", test_audio="real")
    found = read(made, BY_CONFIDENCE, "real", False)
    assert torch.equal(found, read(made, BY_ONE_SCALE, "real", False))


def test_a_generator_that_says_nothing_of_its_errors_is_a_sentence(rows, data):
    write_generated(rows, "features")
    made = data(**GENERATED)
    assert made.deviations is None
    with pytest.raises(UserError, match="data/generated/semantic_validation has none: set gen"):
        read(made, BY_CONFIDENCE, "generated", False)
