"""What conditions learn from and predict.

Fillers, retrieval, teachers, the dictionary's gate, the label budget, missing audio, networks.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from audio_from_video.audioset.label_cut import derived_cut
from audio_from_video.audioset.labels import load_labels
from audio_from_video.classification.audio_input import AudioReader, AudioScale
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ClassifierSizes,
    GatedClassifier,
    MultitaskClassifier,
    ReconstructingClassifier,
    TrainingBatch,
)
from audio_from_video.classification.settings import Condition, TeachingParams
from audio_from_video.classification.targets import training_targets
from audio_from_video.clipset import splits
from audio_from_video.learning import features
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions, shards
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.separable_features import train
from tests.support.synthetic import write_missing

TEACHER = "data/predictions/real_audio.parquet"
TEACHING = TeachingParams(weight=0.5, confidence=0.5)


@pytest.fixture
def rows(workspace, in_process):
    """Labelled and unlabelled clips of three actions; every fifth without sound."""
    network = {
        "hidden": 8,
        "projection": 8,
        "dropout": 0.0,
        "epochs": 2,
        "min_steps": 0,
        "patience": 2,
        "patience_steps": 0,
        "batch_size": 16,
        "label_smoothing": 0.0,
    }
    workspace.set(classifier={"seeds": 2, "lstm": network})
    made = synthetic.make_clips(unlabelled=20)
    synthetic.write_data(made)
    made.sort(key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    return made


def condition(**keys) -> Condition:
    return Condition(**condition_keys(**keys))


@pytest.fixture
def data(rows):
    with scratch() as folder:
        yield lambda labels=0, **keys: ActionData(folder, condition(**keys), labels)


def by_name(data: ActionData, rows: list[dict]) -> list[dict]:
    """The clips' rows in the order of the data."""
    named = {row["clip_id"]: row for row in rows}
    return [named[name] for name in data.clips.clip_id]


@pytest.mark.parametrize(
    "filler", ["zeros", "mean", "noise", "token", "reconstructed", "retrieved", "real"]
)
def test_what_stands_where_audio_is_missing(rows, data, filler):
    made = data(train_audio="real", test_audio=filler)
    asked = made.participants("test")
    reader = AudioReader(made, 3, AudioScale(torch.arange(5.0), torch.full((5,), 2.0)))
    missing = torch.arange(len(asked)) % 2 == 0
    read = reader.read(asked, "real", missing)
    audio = read.features
    heard = read.present
    known = read.is_real
    named = by_name(made, rows)
    has = torch.tensor([named[i]["audible"] for i in asked.tolist()])
    assert torch.equal(known, has)
    for n in torch.nonzero(~missing)[:, 0].tolist():  # the others keep their own sound
        assert heard[n] == has[n] and (
            not has[n] or np.allclose(audio[n], named[asked[n]]["audio"], atol=5e-3)
        )
    gone = audio[missing]
    if filler in ("token", "reconstructed", "real"):
        assert not heard[missing].any()
    else:
        assert heard[missing].all()
    if filler == "zeros":
        assert gone.abs().max() == 0
    elif filler == "mean":
        assert torch.equal(gone, torch.arange(5.0).expand_as(gone))
    elif filler == "noise":
        assert gone.std() > 1.5 and torch.equal(
            gone, reader.read(asked, "real", missing).features[missing]
        )
        drawn = torch.Generator().manual_seed(0)
        assert not torch.equal(gone, reader.read(asked, "real", missing, drawn).features[missing])


def test_retrieval_lends_the_sound_of_the_most_alike_clip_of_another_source(rows, data):
    made = data(train_audio="retrieved", test_audio="retrieved")
    named = by_name(made, rows)
    video = np.stack(
        [
            np.concatenate([row["rgb"], row["flow"]], 1).astype(np.float16).astype(np.float64)
            for row in named
        ]
    )
    donors = [
        i
        for i, row in enumerate(named)
        if row["audible"] and row["split"] in ("training", "unlabelled")
    ]
    flat = video[donors].reshape(-1, video.shape[-1])
    means = ((video - flat.mean(0)) / flat.std(0)).mean(1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    audio, heard = made.sounds["retrieved"].read(torch.arange(len(named)))
    assert heard.all()
    for i, row in enumerate(named):
        allowed = [d for d in donors if named[d]["source_id"] != row["source_id"]]
        best = max(allowed, key=lambda d: means[i] @ means[d])
        assert np.allclose(audio[i], named[best]["audio"], atol=1e-2)


def test_nearest_may_answer_with_the_same_source_where_asked(rows, data):
    made = data(train_audio="retrieved", test_audio="retrieved")
    everything = torch.arange(len(made.clips))
    mean, std = made.video.moments(everything.tolist())
    assert torch.equal(features.nearest(made, everything, everything, mean, std), everything)


def test_without_audible_training_clips_retrieval_is_a_sentence(rows, data):
    few = [row | {"audible": row["audible"] and row["split"] == "test"} for row in rows]
    synthetic.write_data(few)
    with pytest.raises(UserError, match="no training clip has audible sound to lend"):
        data(train_audio="retrieved", test_audio="retrieved")


def test_dictionary_finds_a_sound_to_belong_where_ast_hears_one_of_the_actions_labels(rows, data):
    names = [label.display_name for label in load_labels()]
    entries = {action: [2 * a, 2 * a + 1] for a, action in enumerate(synthetic.ACTIONS)}
    table = [
        {"action": action, "audio_label": names[label]}
        for action, labels in entries.items()
        for label in labels
    ]
    shards.write_table(pa.Table.from_pylist(table), Path("data/dictionary.parquet"))
    made = data(train_audio="real", test_audio="token", gate="dictionary")
    of_training = [
        row["label_scores"] for row in rows if row["split"] == "training" and row["audible"]
    ]
    assert made.audible_score == pytest.approx(
        derived_cut(of_training), abs=1e-3
    )  # stored in float16
    for relevant, row in zip(made.audio_belongs.tolist(), by_name(made, rows), strict=True):
        scores = row["label_scores"].astype(np.float16)[entries[row["action"]]]
        heard = row["audible"] and max(scores) >= made.audible_score
        assert relevant == bool(heard)
    assert 0 < made.audio_belongs.float().mean() < 1


def write_teacher(rows: list[dict], pool: bool = True) -> predictions.Predictions:
    """Answers of two seeds for every clip, unlabelled ones, too."""
    rng = np.random.default_rng(0)
    asked = [row for row in rows if pool or row["action"]]
    answers = rng.dirichlet(np.full(3, 0.5), (2, len(asked))).astype(np.float32)
    made = predictions.Predictions(
        pd.DataFrame(asked)[predictions.CLIP_COLUMNS], sorted(synthetic.ACTIONS), answers
    )
    predictions.write("real_audio", made)
    return predictions.read("real_audio")


def test_soft_teaching_mixes_labels_with_the_teacher_and_adds_the_pool(rows, data):
    teacher = write_teacher(rows)
    keys = {"teacher_predictions": TEACHER, "teaching": "soft"}
    made = data(**keys)
    taught = made.participants("training")
    teaching = TeachingParams(weight=0.25, confidence=1)
    learned, targets = training_targets(made, taught, 0.0, teaching, seed=1)
    assert set(learned.tolist()) == set(taught.tolist()) | set(
        torch.nonzero(made.labels < 0)[:, 0].tolist()
    )
    told = dict(zip(teacher.clips.clip_id, teacher.probabilities[1], strict=True))
    for i in learned.tolist():
        expected = told[made.clips.clip_id[i]]
        if made.labels[i] >= 0:
            expected = 0.75 * np.eye(3)[made.labels[i]] + 0.25 * expected
        assert np.allclose(targets[i], expected, atol=1e-6)
    assert targets[made.clip_indices("validation", "test")].abs().sum() == 0


def test_hard_teaching_takes_confident_answers_as_labels(rows, data):
    teacher = write_teacher(rows)
    keys = {"teacher_predictions": TEACHER, "teaching": "hard"}
    made = data(**keys)
    taught = made.participants("training")
    teaching = TeachingParams(weight=0, confidence=0.7)
    learned, targets = training_targets(made, taught, 0.1, teaching, seed=0)
    told = dict(zip(teacher.clips.clip_id, teacher.probabilities[0], strict=True))
    pool = [
        i
        for i in torch.nonzero(made.labels < 0)[:, 0].tolist()
        if told[made.clips.clip_id[i]].max() >= 0.7
    ]
    assert 0 < len(pool) < 20 and set(learned.tolist()) == set(taught.tolist()) | set(pool)
    for i in pool:
        assert targets[i].argmax() == told[made.clips.clip_id[i]].argmax() and targets[
            i
        ].max() == pytest.approx(0.9 + 0.1 / 3)


def test_a_teacher_that_did_not_answer_the_pool_is_a_sentence(rows, data):
    write_teacher(rows, pool=False)
    made = data(teacher_predictions=TEACHER)
    with pytest.raises(UserError, match="real_audio has not answered the unlabelled clips"):
        training_targets(made, made.participants("training"), 0.0, TEACHING, 0)


def test_label_budget_teaches_so_many_clips_per_action_and_smaller_ones_lie_in_larger_ones(
    rows, data
):
    taught = {n: set(torch.nonzero(data(n).uses_label)[:, 0].tolist()) for n in (2, 5, 0)}
    assert [len(taught[n]) for n in (2, 5, 0)] == [6, 15, 36] and taught[2] < taught[5] < taught[0]
    made = data(2, learns="audio")
    counts = pd.Series([made.clips.action[i] for i in taught[2]]).value_counts()
    assert set(counts) == {2}
    assert len(made.without_label()) == 36 - 6 + 20  # the other training clips lose their label


def test_clips_lack_their_audio_as_the_shared_table_says(rows, data):
    made = data()
    asked = made.clip_indices("test")
    first = made.missing_at([0.0, 0.25, 1.0], asked, 0)
    assert [int(first[rate].sum()) for rate in (0.0, 0.25, 1.0)] == [
        0,
        round(0.25 * len(asked)),
        len(asked),
    ]
    assert not torch.equal(first[0.25], made.missing_at([0.25], asked, 1)[0.25])
    write_missing([row for row in rows if row["split"] == "test"][1:])
    with pytest.raises(UserError, match="dvc repro clips"):
        made.missing_at([0.5], asked, 0)


def test_the_draw_of_missing_audio_is_uniform_nested_and_does_not_depend_on_other_clips():
    many = [{"clip_id": f"a/{i}", "split": "test", "status": "ok"} for i in range(400)]
    table = splits.missing_audio_table(many, 0).to_pandas()
    assert table.groupby("draw").size().tolist() == [400] * splits.MISSING_DRAWS
    assert (
        abs((table.order < 0.25).mean() - 0.25) < 0.02
        and table.order.min() >= 0
        and table.order.max() < 1
    )
    fewer = splits.missing_audio_table(
        many[:10] + [{"clip_id": "b", "split": "training", "status": "ok"}], 0
    ).to_pandas()
    both = fewer.merge(table, on=["draw", "clip_id"], suffixes=("", "_all"))
    assert (
        len(both) == len(fewer) == 10 * splits.MISSING_DRAWS
        and (both.order == both.order_all).all()
    )
    assert (
        not table[table.draw == 0]
        .order.reset_index(drop=True)
        .equals(table[table.draw == 1].order.reset_index(drop=True))
    )


EXTRA = {
    "mean_fill": {"train_audio": "real", "test_audio": "mean", "missing_rate": "drawn"},
    "noise_fill": {"train_audio": "real", "test_audio": "noise", "missing_rate": "drawn"},
    "retrieval": {"train_audio": "retrieved", "test_audio": "retrieved"},
    "multitask": {"learns": "audio"},
    "masked_autoencoder": {
        "train_audio": "real",
        "test_audio": "reconstructed",
        "missing_rate": "drawn",
    },
    "real_audio": {
        "train_audio": "real",
        "test_audio": "real",
        "answers_pool": True,
        "out_of_fold": 2,
    },
    "distillation": {"teacher_predictions": TEACHER},
    "pseudo_labels": {"teacher_predictions": TEACHER, "teaching": "hard"},
    "learned_dropout": {
        "train_audio": "real",
        "test_audio": "token",
        "missing_rate": "drawn",
        "gate": "dictionary",
    },
}


@pytest.mark.slow
def test_every_row_trains_answers_test_and_is_asked_at_every_missing_rate(rows, workspace):
    workspace.set(
        classifier={"conditions": {name: condition_keys(**keys) for name, keys in EXTRA.items()}}
    )
    table = [{"action": action, "audio_label": "Speech"} for action in synthetic.ACTIONS]
    shards.write_table(pa.Table.from_pylist(table), Path("data/dictionary.parquet"))
    order = ["real_audio", *(name for name in EXTRA if name != "real_audio")]  # teachers first
    for name in order:
        metrics = train(name)
        found = predictions.read(name)
        asked = {
            row["clip_id"]
            for row in rows
            if row["split"] in ("validation", "test") or name == "real_audio"
        }
        assert set(found.clips.clip_id) == asked
        assert np.allclose(found.probabilities.sum(2), 1, atol=1e-5)
        at_rates = pq.read_table(f"data/missing_rates/{name}.parquet").to_pandas()
        assert len(at_rates) == 2 * 5 * 18 and sorted(at_rates.missing_rate.unique()) == [
            0,
            0.25,
            0.5,
            0.75,
            1,
        ]
        whole = at_rates[
            at_rates.missing_rate == (0 if name == "real_audio" else 1)
        ]  # what the main figure stands for
        assert whole.hit.mean() == pytest.approx(metrics["accuracy"]["mean"], abs=1e-6)
        rate = metrics["accuracy_at_missing_rate"]["0.5"]
        assert rate["mean"] == pytest.approx(
            at_rates[at_rates.missing_rate == 0.5].hit.mean(), abs=1e-6
        )


@pytest.mark.parametrize("filler", ["zeros", "mean", "noise", "token"])
def test_logistic_regression_knows_the_fillers_of_the_lstm(rows, workspace, filler):
    keys = condition_keys(model="logistic", train_audio="real", test_audio=filler)
    workspace.set(classifier={"conditions": {"filled": keys}})
    assert train("filled")["accuracy"]["mean"] > 1 / len(synthetic.ACTIONS)


def test_logistic_hears_generated_audio_of_each_seed(rows, workspace):
    rng = np.random.default_rng(0)
    labelled = [row for row in rows if row["action"]]
    for row in labelled:  # which seed's generator knows the action differs
        level = synthetic.ACTIONS.index(row["action"])
        row["features"] = np.stack([np.full((6, 5), 4.0 * level), rng.normal(size=(6, 5))])
    synthetic.write_shards(
        Path("data/generated/semantic_validation"), {"features": (2, 6, 5)}, labelled
    )
    row = condition_keys(model="logistic", train_audio="generated", test_audio="generated")
    workspace.set(
        classifier={
            "conditions": {"logistic_generated": row},
            "logistic": {"inverse_regularisation": [1.0]},
        }
    )
    train("logistic_generated")
    found = predictions.read("logistic_generated").of("test")
    per_seed = [(answers == found.labels).mean() for answers in found.answers]
    assert len(per_seed) == 2 and per_seed[0] == 1 > per_seed[1]


# The networks


def inputs(seed: int = 0):
    torch.manual_seed(seed)
    return torch.randn(6, 4, 10), torch.randn(6, 4, 5)


def test_multitask_never_hears_and_generates_from_what_it_classifies_with():
    model = MultitaskClassifier(ClassifierSizes(10, 5, 3, 8, 0, 0.0))
    video, audio = inputs()
    known = torch.tensor([True, True, False, False, False, True])
    batch = TrainingBatch(video, audio, known, known, known)
    logits, extra = model.training_pass(batch)
    assert torch.equal(logits, model(video))
    assert torch.equal(logits, model(video, audio + 9, known))
    states = model.encode(video)
    assert extra.item() == pytest.approx(
        ((model.generate(states[known]) - audio[known]) ** 2).mean().item(), rel=1e-5
    )
    extra.backward()
    assert model.lstm.weight_ih_l0.grad.abs().sum() > 0
    nobody = torch.zeros(6, dtype=torch.bool)
    assert model.training_pass(TrainingBatch(video, audio, nobody, nobody, nobody))[1] is None


def test_the_learned_gate_is_told_in_training_and_decides_later():
    model = GatedClassifier(ClassifierSizes(10, 5, 3, 8, 0, 0.0))
    video, audio = inputs()
    heard = torch.tensor([True] * 5 + [False])
    relevant = torch.tensor([True, False] * 3)
    logits, extra = model.training_pass(TrainingBatch(video, audio, heard, heard, relevant))
    nobody = torch.zeros(6, dtype=torch.bool)
    silence = torch.zeros_like(audio)
    silent, _ = model.training_pass(TrainingBatch(video, silence, nobody, heard, relevant))
    assert torch.allclose(
        logits[~relevant | ~heard], silent[~relevant | ~heard], atol=1e-6
    )  # the token
    assert not torch.allclose(logits[0], silent[0])
    scores = model.gate(torch.cat([video.mean(1), audio.mean(1)], 1))[:, 0]
    reference = torch.nn.functional.binary_cross_entropy(
        scores.sigmoid()[heard], relevant[heard].float()
    )
    assert extra.item() == pytest.approx(reference.item(), rel=1e-5)
    with torch.no_grad():
        model.gate[-1].bias.fill_(60.0)  # open
    opened = model(video, audio, heard)
    assert torch.allclose(opened[0], logits[0], atol=1e-5) and torch.allclose(
        opened[5], silent[5], atol=1e-6
    )


def test_the_masked_autoencoder_puts_its_reconstruction_where_audio_is_missing():
    torch.manual_seed(0)
    model = ReconstructingClassifier(ClassifierSizes(10, 5, 3, 8, 0, 0.0, steps=4)).eval()
    video, audio = inputs()
    none = torch.zeros(6, dtype=torch.bool)
    made = model.reconstruct(model.fuse(model.see(video) + model.memory))
    logits, extra = model.training_pass(TrainingBatch(video, audio, none, ~none, none))
    assert torch.allclose(logits, model(video, made, ~none), atol=1e-5)
    assert torch.equal(logits, model(video, audio + 7, none))
    assert extra.item() == pytest.approx(((made - audio) ** 2).mean().item(), rel=1e-5)
    extra.backward()
    assert model.memory.grad.abs().sum() > 0 and model.lstm.weight_ih_l0.grad is None
