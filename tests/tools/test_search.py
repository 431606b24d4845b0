"""The search of hyper-parameters: the same budget for every row; held-out clips decide."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.runtime import params, stage_run
from audio_from_video.storage import predictions
from stages import classifier
from tests.support.separable_features import CONDITIONS, write_features
from tests.support.workspace import prepared
from tools import search

NETWORK = {
    "hidden": 12,
    "projection": 12,
    "dropout": 0.1,
    "learning_rate": 0.02,
    "epochs": 25,
    "min_steps": 0,
    "patience": 25,
    "patience_steps": 0,
    "batch_size": 16,
    "averaging": 0.0,
    "label_smoothing": 0.0,
}
ROWS = ["video_only", "real_audio"]
ALL = ["logistic", *ROWS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the rows trained as params.yaml says."""
    folder = tmp_path_factory.mktemp("trained")
    with prepared(folder) as workspace:
        workspace.set(
            classifier={
                "seeds": 2,
                "lstm": NETWORK,
                "conditions": {name: CONDITIONS[name] for name in ALL},
            }
        )
        write_features()
        for name in ALL:
            classifier.main(stage_run.StageRun("classifier", name, 1))
    return folder


@pytest.fixture
def searched(trained, workspace, in_process) -> ClassifierParams:
    shutil.copytree(trained, workspace.folder, dirs_exist_ok=True)
    return params.load("classifier", ClassifierParams)


def test_draws_begin_with_params_yamls_own_and_come_from_the_space():
    p = search.SearchParams(
        draws=9,
        seed=4,
        space={"hidden": [32, 64], "dropout": [0.1, 0.2, 0.3]},
        inverse_regularisation=[],
    )
    drawn = search.draw_settings(p)
    assert len(drawn) == 9 and drawn[0] == {} and drawn == search.draw_settings(p)
    assert all(
        setting["hidden"] in (32, 64) and setting["dropout"] in (0.1, 0.2, 0.3)
        for setting in drawn[1:]
    )


@pytest.mark.slow
def test_the_best_on_validation_is_trained_with_all_seeds_and_compared(searched):
    still = {"learning_rate": 1e-9}  # learns nothing
    table = pd.DataFrame(
        [search.table_row(result) for result in search.search_lstm(ROWS, searched, [still, {}])]
    ).set_index("condition")
    for name in ROWS:
        row = table.loc[name]
        own = predictions.read(name).of("test")
        assert row.draws == 2 and row.seeds == 2 and row["chosen setting"] == "params.yaml's own"
        assert (
            row.accuracy == pytest.approx(own.hits().mean()) and row.gain == 0
        )  # the same trainings again
        assert float(row["held out, chosen %"]) > float(
            row["held out, params.yaml's own %"]
        )  # here: that of the first draw


@pytest.mark.slow
def test_a_setting_that_validation_prefers_replaces_params_yamls(searched):
    weak = searched.model_copy(
        update={"lstm": searched.lstm.model_copy(update={"learning_rate": 1e-9})}
    )
    (result,) = search.search_lstm(["real_audio"], weak, [{}, {"learning_rate": 0.02}])
    row = search.table_row(result)
    assert row["chosen setting"] == "learning_rate 0.02" and row["clips"] > 0


def test_heads_try_as_many_candidates(searched, workspace):
    own = searched.logistic.inverse_regularisation
    result = search.search_heads("logistic", searched, [1e-12, 5.0, 7.0], len(own) + 1)
    row = search.table_row(result)
    assert row["draws"] == len(own) + 1 and len(result.qualities) == 2
    better = result.qualities[1] > result.qualities[0]
    assert result.setting == ({"inverse_regularisation": 1e-12} if better else {})
    assert row["held out, chosen %"] == f"{100 * max(result.qualities)[0]:.1f}"
    if not better:
        assert row["gain"] == 0


def test_params_yamls_own_setting_stays_where_others_are_no_better(searched, workspace):
    own = searched.logistic.inverse_regularisation
    result = search.search_heads("logistic", searched, own[:1], len(own) + 1)
    assert result.setting == {} and search.table_row(result)["gain"] == 0
