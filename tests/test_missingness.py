"""Sound that is missing as it is: patterns against what the classifier stored, and leakage."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from audio_from_video.classification.adaptation import stream_probabilities
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.head_weights import kept_values
from audio_from_video.classification.heads import softmax
from audio_from_video.classification.missing_patterns import Pattern, stream_order
from audio_from_video.classification.missingness_settings import MissingnessParams
from audio_from_video.classification.settings import Condition
from audio_from_video.classification.trained import TrainedClassifier, TrainedHead
from audio_from_video.learning.features import VideoFeatures
from audio_from_video.reporting.missingness_tables import missingness_tables
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SPLITS
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.row_file import scratch
from stages import classifier, missingness
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.synthetic import ACTIONS, COMPONENTS, NETWORK, STEPS
from tests.support.workspace import Workspace, prepared

REAL = {"train_audio": "real", "test_audio": "real"}
GENERATED = {"train_audio": "generated", "test_audio": "generated"}
CONDITIONS = {
    "video_only": condition_keys(),
    "missing_token": condition_keys(train_audio="real", test_audio="token", missing_rate=0.5),
    "mean_fill": condition_keys(train_audio="real", test_audio="mean", missing_rate=0.5),
    "real_audio": condition_keys(**REAL),
    "generated": condition_keys(**GENERATED),
    "validated": condition_keys(**GENERATED, gate="keep"),
    "logistic": condition_keys(model="logistic"),
    "logistic_generated": condition_keys(model="logistic", **GENERATED),
    "svm_real": condition_keys(model="svm", **REAL),
}
LSTMS = ["missing_token", "mean_fill", "real_audio", "generated", "validated"]
HEADS = ["logistic_generated", "svm_real"]
HEARING = [*LSTMS, *HEADS]
SEEDS = 2


def write_generated(rows: list[dict]) -> None:
    """Write generated features of the labelled clips, and a filter that keeps every other clip."""
    rng = np.random.default_rng(3)
    labelled = synthetic.in_order([row for row in rows if row["action"]])
    made = []
    for row in labelled:
        noise = rng.normal(size=(SEEDS, STEPS, COMPONENTS))
        made.append(row | {"features": row["audio"] + noise})
    shape = (SEEDS, STEPS, COMPONENTS)
    synthetic.write_shards(layout.generated("semantic_validation"), {"features": shape}, made)
    decisions = {
        "clip_id": [row["clip_id"] for row in labelled],
        "keep": [number % 2 == 0 for number in range(len(labelled))],
    }
    shards.write_table(pa.table(decisions), layout.decisions("semantic_validation"))


def settings(workspace: Workspace) -> None:
    workspace.set(
        frames={"count": STEPS},
        classifier={
            "seeds": SEEDS,
            "repeats": 0,
            "lstm": NETWORK | {"label_smoothing": 0.0},
            "fusion": {"audio_scale": "global"},
            "conditions": CONDITIONS,
        },
        missingness={
            "conditions": [*HEARING, "not_configured"],
            "adaptation": {"batch_size": 5, "learning_rate": 1.0},
        },
    )


def run() -> dict:
    missingness.main(stage_run.StageRun("missingness", "", 1))
    return json.loads(layout.metrics("missingness").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A folder in which classifiers are trained and the stage has run, and the clips' rows."""
    folder = tmp_path_factory.mktemp("trained")
    with prepared(folder) as workspace:
        settings(workspace)
        rows = synthetic.make_clips(sizes={"training": 14, "validation": 6, "test": 10})
        # The last action is silent more often than the others.
        for number, row in enumerate(rows):
            row["audible"] = number % (2 if row["action"] == ACTIONS[2] else 5) != 1
        synthetic.write_data(rows)
        write_generated(rows)
        for name in CONDITIONS:
            classifier.main(stage_run.StageRun("classifier", name, 1))
        run()
    return folder, rows


@pytest.fixture(scope="module")
def metrics(trained) -> dict:
    """What the stage writes of the classifiers as they were trained."""
    folder, _ = trained
    return json.loads((folder / layout.metrics("missingness")).read_text())


@pytest.fixture
def here(trained, tmp_path) -> Iterator[Workspace]:
    """A workspace of its own with the trained classifiers, and `rows`."""
    folder, rows = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("params.yaml"))
    with prepared(copy) as workspace:
        settings(workspace)
        workspace.rows = [dict(row) for row in rows]
        yield workspace


def own_settings() -> MissingnessParams:
    return params.load("missingness", MissingnessParams)


@pytest.fixture
def data(here) -> Iterator:
    with scratch() as folder:
        yield lambda name: ActionData(folder, Condition(**CONDITIONS[name]))


def stored(name: str, data: ActionData, indices: torch.Tensor) -> np.ndarray:
    """Return the probabilities [seeds, n, actions] that the classifier stored of clips."""
    found = predictions.read(name)
    places = pd.Index(found.clips.clip_id).get_indexer(data.clips.clip_id[indices.numpy()])
    return found.probabilities[:, places]


# ---- networks as the classifier ran them ----


@pytest.mark.parametrize("name", HEARING)
def test_without_own_sound_networks_answer_as_the_classifier_stored(data, name):
    """With it where the condition has real sound at test."""
    of_condition = data(name)
    test = of_condition.participants("test")
    heard = torch.full((len(test), STEPS), CONDITIONS[name]["test_audio"] == "real")
    pattern = Pattern(heard, torch.ones(len(test), dtype=torch.bool))
    expected = stored(name, of_condition, test)
    for seed in range(SEEDS):
        network = missingness.trained_model(name, of_condition, seed)
        [found] = network.probabilities(test, [pattern])
        np.testing.assert_allclose(found, expected[seed], atol=1e-5)


@pytest.mark.parametrize("name", HEARING)
def test_where_clips_lose_their_sound_networks_are_right_as_in_the_missing_rates(data, name):
    of_condition = data(name)
    test = of_condition.participants("test")
    names = of_condition.clips.clip_id[test.numpy()]
    table = shards.read_table(layout.missing_rates(name)).to_pandas()
    for seed in range(SEEDS):
        network = missingness.trained_model(name, of_condition, seed)
        for rate, missing in of_condition.missing_at([0.25, 0.75], test, seed).items():
            heard = (~missing)[:, None].expand(-1, STEPS)
            [found] = network.probabilities(test, [Pattern(heard, missing)])
            hits = found.argmax(1) == of_condition.labels[test].numpy()
            mine = table[(table.seed == seed) & np.isclose(table.missing_rate, rate)]
            expected = mine.set_index("clip_id").hit[names].to_numpy()
            # A tie of two actions may fall either way.
            assert (hits != expected).sum() <= 1


def test_at_missing_steps_the_token_or_the_filler_stands_in_the_input(data):
    """The LSTM's input, put together step by step."""
    for name in ("missing_token", "generated"):
        of_condition = data(name)
        test = of_condition.participants("test")[:7]
        heard = torch.rand(7, STEPS, generator=torch.Generator().manual_seed(0)) < 0.5
        network = TrainedClassifier(name, of_condition, 1)
        filled = torch.ones(7, dtype=torch.bool)
        [found] = network.probabilities(test, [Pattern(heard, filled)])

        model = network.model
        weights = {key: value.detach() for key, value in model.state_dict().items()}
        own, audible = of_condition.sounds["real"].read(test)
        for clip, index in enumerate(test.tolist()):
            inputs = []
            for step in range(STEPS):
                video = of_condition.video.read([index])[0, step]
                sound = own[clip, step]
                if not (audible[clip] and heard[clip, step]):
                    sound = None
                    if name == "generated":
                        sound = of_condition.sounds[name].read(test[clip : clip + 1], 1)[0][0, step]
                audio = weights["token"]
                if sound is not None:
                    audio = (sound - weights["audio_mean"]) / weights["audio_std"]
                    audio = audio * weights["audio_weight"]
                video = (video - weights["video_mean"]) / weights["video_std"]
                inputs.append(torch.cat([video, audio]))
            with torch.no_grad():
                states, _ = model.lstm(model.project(torch.stack(inputs)[None]))
                expected = model.head(states[:, -1]).softmax(1)[0]
            np.testing.assert_allclose(found[clip], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_pools_what_stands_at_each_step(data, name):
    """Its summary, put together step by step: own sound, generated sound, or the mean."""
    of_condition = data(name)
    test = of_condition.participants("test")[:7]
    heard = torch.rand(7, STEPS, generator=torch.Generator().manual_seed(0)) < 0.5
    head = TrainedHead(name, of_condition, 1)
    [found] = head.probabilities(test, [Pattern(heard, torch.ones(7, dtype=torch.bool))])

    weights = {key: value.double().numpy() for key, value in head.head.weights.items()}
    own, audible = of_condition.sounds["real"].read(test)
    for clip, index in enumerate(test.tolist()):
        sound = np.zeros((STEPS, COMPONENTS))
        for step in range(STEPS):
            if audible[clip] and heard[clip, step]:
                at_step = own[clip, step]
            elif name == "logistic_generated":
                made = of_condition.sounds["generated"].read(test[clip : clip + 1], 1)[0]
                at_step = made[0, step]
            else:
                continue
            scaled = (at_step.numpy() - weights["audio_mean"]) / weights["audio_std"]
            sound[step] = scaled * weights["audio_weight"]
        video = of_condition.video.read([index])[0].double().numpy()
        of_video = np.concatenate([video.mean(0), video.std(0, ddof=1)])
        of_video = (of_video - weights["video_mean"]) / weights["video_std"]
        of_audio = np.concatenate([sound.mean(0), sound.std(0, ddof=1)])
        summary = np.concatenate([of_video, weights["audio_gain"] * of_audio])
        values = kept_values(head.head.weights, summary[None].astype(np.float32))
        expected = softmax(weights["temperature"] * values)[0]
        np.testing.assert_allclose(found[clip], expected, atol=1e-5)


# ---- the stage ----


def test_figures_are_those_of_stored_answers(here, metrics):
    for name in HEARING:
        of_classifier = json.loads(layout.metrics("classifier", name).read_text())
        by_rate = of_classifier["accuracy_at_missing_rate"]
        for rate, figure in by_rate.items():
            found = metrics["random"][name][f"{100 * float(rate):.0f}"]
            assert found["mean"] == pytest.approx(figure["mean"], abs=1e-6)
        if CONDITIONS[name]["test_audio"] == "real":
            continue
        without = metrics["segments"][name]["100"]
        assert without["mean"] == pytest.approx(of_classifier["accuracy"]["mean"], abs=1e-6)
    assert set(metrics["segments"]) == set(HEARING)

    real = json.loads(layout.metrics("classifier", "real_audio").read_text())
    as_found = metrics["as_found"]["real_audio"]
    assert as_found["all"]["accuracy"]["mean"] == pytest.approx(real["accuracy"]["mean"], abs=1e-6)
    sizes = {subset: figures["accuracy"]["n"] for subset, figures in as_found.items()}
    assert sizes["audible"] + sizes["inaudible"] == sizes["all"] == 30
    assert metrics["segments"]["real_audio"]["0"] == as_found["all"]["accuracy"]


def test_audible_clips_are_counted_by_action(here, metrics):
    test = pd.DataFrame([row for row in here.rows if row["split"] == "test"])
    training = pd.DataFrame([row for row in here.rows if row["split"] == "training"])
    for action in ACTIONS:
        figures = metrics["audible"][action]
        assert figures["mean"] == pytest.approx(test[test.action == action].audible.mean())
        silent = (~training[training.action == action].audible).sum()
        assert figures["silent_in_training"] == pytest.approx((silent + 1) / 16, abs=1e-6)
    by_action = {action: metrics["audible"][action]["silent_in_training"] for action in ACTIONS}
    assert max(by_action, key=by_action.__getitem__) == ACTIONS[2]


def test_the_class_dependent_pattern_differs_from_the_random_one_in_which_clips_alone(
    metrics, data
):
    for by_rate in metrics["class_dependent"].values():
        for rate in ("0", "100"):  # the same clips lose their sound
            assert by_rate[rate]["minus_random"]["mean"] == pytest.approx(0, abs=0.02)
        assert list(by_rate) == ["0", "25", "50", "75", "100"]

    of_condition = data("missing_token")
    test = of_condition.participants("test")
    with scratch() as folder:
        clips = missingness.read_clips(VideoFeatures(folder, SPLITS))
    assert (clips.test.clip_id.to_numpy() == of_condition.clips.clip_id[test.numpy()]).all()
    p = own_settings()
    removed_share = []
    for draw in range(40):
        missing_at = of_condition.missing_at([0.5], test, draw)
        patterns = missingness.patterns_of(clips, missing_at, STEPS, p, draw)
        heard = patterns["class_dependent", 0.5].heard[:, 0].numpy()
        lost = clips.audible & ~heard
        assert lost.sum() == (missing_at[0.5].numpy() & clips.audible).sum()
        of_silent = (clips.test.action == ACTIONS[2]).to_numpy() & clips.audible
        removed_share.append(lost[of_silent].mean() - lost[clips.audible & ~of_silent].mean())
    assert np.mean(removed_share) > 0.15  # the mostly silent action loses more of its sound


def test_gains_and_losses_of_sound_by_hand(metrics, data):
    name = "real_audio"
    of_condition = data(name)
    test = of_condition.participants("test")
    audible = (of_condition.sounds["real"].row[test] >= 0).numpy()
    everybody = torch.ones(len(test), dtype=torch.bool)
    with_sound = Pattern(torch.ones(len(test), STEPS, dtype=torch.bool), everybody)
    without = Pattern(torch.zeros(len(test), STEPS, dtype=torch.bool), everybody)
    labels = of_condition.labels[test].numpy()
    gains, rises = [], []
    for seed in range(SEEDS):
        network = TrainedClassifier(name, of_condition, seed)
        heard, unheard = network.probabilities(test, [with_sound, without])[:, audible]
        right = labels[audible]
        gains.append((heard.argmax(1) == right).mean() - (unheard.argmax(1) == right).mean())
        clip = np.arange(len(right))
        rises.append((heard[clip, right] < unheard[clip, right]).mean())
    found = metrics["never_hurts"][name]["0"]
    assert found["gain"]["mean"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert found["loss_rises"]["mean"] == pytest.approx(np.mean(rises), abs=1e-6)
    assert found["gain"]["n"] == audible.sum()
    assert "100" not in metrics["never_hurts"][name]


def test_only_conditions_that_learned_with_real_sound_say_what_it_is_worth(metrics):
    value = metrics["value"]
    assert set(value["gains"]) == {"missing_token", "mean_fill", "real_audio", "svm_real"}
    gain = value["gains"]["real_audio"]
    assert 0 < gain["weighted"]["effective_n"] < gain["weighted"]["n"] == gain["unweighted"]["n"]
    assert value["propensity"]["largest_weight"] > 1


def test_adaptation_changes_answers_only_where_there_is_sound_to_learn_from(here, metrics):
    [(name, by_rate)] = metrics["adaptation"].items()
    assert name == "missing_token"
    nothing = by_rate["100"]["difference"]
    assert nothing["mean"] == pytest.approx(0, abs=0.02)
    here.set(missingness={"adaptation": {"condition": ""}})
    assert run()["adaptation"] == {}


# ---- leakage ----


def adapted_answers(data: ActionData) -> pd.DataFrame:
    """Return what adapting networks answer to the test clips, by clip."""
    p = own_settings()
    test = data.participants("test")
    names = data.clips.clip_id[test.numpy()].tolist()
    order = stream_order(names, p.seed)
    missing = data.missing_at([0.25], test, 0)[0.25]
    network = TrainedClassifier("missing_token", data, 0)
    answers = stream_probabilities(network, test[order], missing[order], p.adaptation)
    return pd.DataFrame(answers, index=np.array(names)[order.numpy()])


def test_labels_of_test_clips_choose_nothing(here):
    def chosen() -> tuple[pd.DataFrame, dict, pd.Series, float]:
        with scratch() as folder:
            data = ActionData(folder, Condition(**CONDITIONS["missing_token"]))
            answers = adapted_answers(data).sort_index()
        with scratch() as folder:
            video = VideoFeatures(folder, SPLITS)
            propensity = missingness.propensity_of(video, own_settings().propensity)
            clips = missingness.read_clips(video).test
        probabilities = pd.Series(propensity.probabilities, index=clips.clip_id).sort_index()
        metrics = run()
        accuracy = metrics["as_found"]["real_audio"]["all"]["accuracy"]["mean"]
        return answers, metrics["value"]["propensity"], probabilities, accuracy

    before = chosen()
    unadapted = stored_token_answers(before[0].index)
    assert np.abs(before[0].to_numpy() - unadapted).max() > 1e-3  # they do adapt

    for row in here.rows:
        if row["split"] == "test":
            row["action"] = ACTIONS[(ACTIONS.index(row["action"]) + 1) % len(ACTIONS)]
    drawn = layout.MISSING_AUDIO.read_bytes()
    synthetic.write_data(here.rows)
    write_generated(here.rows)
    layout.MISSING_AUDIO.unlink()
    layout.MISSING_AUDIO.write_bytes(drawn)  # drawn by clip, in the synthetic data by place
    after = chosen()
    pd.testing.assert_frame_equal(after[0], before[0])
    assert after[1] == before[1]
    np.testing.assert_allclose(after[2], before[2], rtol=1e-12)
    assert after[3] != before[3]


def stored_token_answers(clip_ids: pd.Index) -> np.ndarray:
    """Return what the first network of `missing_token` answers at rate 25 %, without adapting."""
    with scratch() as folder:
        data = ActionData(folder, Condition(**CONDITIONS["missing_token"]))
        test = data.participants("test")
        missing = data.missing_at([0.25], test, 0)[0.25]
        heard = (~missing)[:, None].expand(-1, STEPS)
        network = TrainedClassifier("missing_token", data, 0)
        [answers] = network.probabilities(test, [Pattern(heard, missing)])
        names = data.clips.clip_id[test.numpy()]
    return pd.DataFrame(answers, index=names).loc[clip_ids].to_numpy()


# ---- mistakes ----


def test_the_sound_of_test_clips_fits_no_propensity(here):
    def probabilities() -> np.ndarray:
        with scratch() as folder:
            video = VideoFeatures(folder, SPLITS)
            return missingness.propensity_of(video, own_settings().propensity).probabilities

    before = probabilities()
    for number, row in enumerate(here.rows):
        if row["split"] == "test":
            row["audible"] = number % 3 == 0
    synthetic.write_data(here.rows)
    np.testing.assert_array_equal(probabilities(), before)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (condition_keys(), "it hears nothing"),
        (condition_keys(model="svm"), "it hears nothing"),
        (condition_keys(**GENERATED, gate="keep", kept_only=True), "it answers some clips only"),
        (condition_keys(**REAL, fusion={"how": "late"}), "its network, LateFusionClassifier"),
        (
            condition_keys(**GENERATED, fusion={"audio_scale": "confidence"}),
            "its generated sound counts by confidence",
        ),
    ],
)
def test_conditions_whose_sound_cannot_be_cut_are_left_out(here, capsys, keys, reason):
    here.set(
        classifier={"conditions": CONDITIONS | {"real_audio": keys}},
        missingness={
            "conditions": ["real_audio", "missing_token"],
            "adaptation": {"condition": ""},
        },
    )
    metrics = run()
    assert list(metrics["left_out"]) == ["real_audio"]
    assert metrics["left_out"]["real_audio"].startswith(reason)
    assert list(metrics["segments"]) == ["missing_token"]
    assert f"real_audio is left out: {reason}" in capsys.readouterr().err


def test_a_late_fusion_of_all_conditions_leaves_none(here):
    here.set(classifier={"fusion": {"how": "late"}})
    assert set(run()["left_out"]) == set(LSTMS)


def test_heads_are_compared_with_a_head_of_their_kind_on_video_alone(here, metrics):
    expected = dict.fromkeys(HEARING, "video_only") | {"logistic_generated": "logistic"}
    assert metrics["baselines"] == expected
    for name, baseline in expected.items():
        alone = json.loads(layout.metrics("classifier", baseline).read_text())
        figures = metrics["as_found"][name]["all"]
        difference = figures["accuracy"]["mean"] - alone["accuracy"]["mean"]
        assert figures["difference"]["mean"] == pytest.approx(difference, abs=1e-5)


def test_a_head_does_not_adapt(here):
    here.set(missingness={"adaptation": {"condition": "svm_real"}})
    with pytest.raises(UserError, match="condition: svm_real is a svm head; only LSTMs adapt"):
        run()


def test_a_missing_network_and_missing_predictions_are_named(here):
    (layout.classifier_model("generated") / "seed-1.safetensors").unlink()
    with pytest.raises(UserError, match="seed-1.safetensors is missing: run `dvc repro"):
        run()
    layout.predictions("video_only").unlink()
    with pytest.raises(UserError, match="run `dvc repro classifier@video_only`"):
        run()


@pytest.mark.parametrize("shares", [[0.0, 0.5], [0.5, 1.0], [0.0, 0.7, 0.3, 1.0]])
def test_shares_ascend_from_nothing_to_all(here, shares):
    here.set(missingness={"segment_shares": shares})
    with pytest.raises(UserError, match="shares ascend from 0 to 1"):
        run()


def test_without_conditions_there_are_no_figures_of_any(here):
    here.set(missingness={"conditions": []})
    metrics = run()
    assert metrics["segments"] == metrics["adaptation"] == metrics["value"]["gains"] == {}
    assert set(metrics["audible"]) == set(ACTIONS)


@pytest.mark.parametrize("audible", [True, False])
def test_where_all_test_clips_are_audible_or_none_is_the_others_are_gaps(here, audible):
    for row in here.rows:
        if row["split"] == "test":
            row["audible"] = audible
    synthetic.write_data(here.rows)
    here.set(missingness={"conditions": ["missing_token", "generated"]})
    metrics = run()
    empty = "inaudible" if audible else "audible"
    assert metrics["as_found"]["generated"][empty]["accuracy"]["mean"] is None
    gain = metrics["value"]["gains"]["missing_token"]["weighted"]
    assert (gain["mean"] is None) == (not audible)
    assert len(missingness_tables()) == 5
