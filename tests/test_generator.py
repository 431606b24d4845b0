"""The generator: its loss, who learns from whom, its measures and its memory.

The measures are held against other libraries.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from audio_from_video.clipset import folds
from audio_from_video.evaluation import baselines as generation_baselines
from audio_from_video.evaluation import generation as generation_evaluation
from audio_from_video.evaluation.baselines import Baselines
from audio_from_video.generation import training as generator_training
from audio_from_video.generation.generator import Inputs
from audio_from_video.generation.networks import (
    AudioGenerator,
    GeneratorSizes,
    clip_losses,
    contrastive_loss,
    generation_loss,
)
from audio_from_video.generation.settings import GeneratorParams, MappingNetwork
from audio_from_video.learning.features import Features
from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SPLITS
from audio_from_video.storage import shards
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.closure import ROOT
from tests.support.map_items import with_processes, without_processes
from tests.support.synthetic import ACTIONS, COMPONENTS, NETWORK, STEPS, WIDTH

RNG = np.random.default_rng(0)


# The network


def test_loss_is_mse_plus_one_minus_cosine():
    made, real = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    cosine = [
        made[i, t] @ real[i, t] / np.linalg.norm(made[i, t]) / np.linalg.norm(real[i, t])
        for i in range(3)
        for t in range(4)
    ]
    expected = 0.5 * ((made - real) ** 2).mean() + 2.0 * (1 - np.mean(cosine))
    assert generation_loss(
        torch.tensor(made), torch.tensor(real), 0.5, 2.0
    ).item() == pytest.approx(expected, rel=1e-5)
    assert generation_loss(
        torch.tensor(real), torch.tensor(real), 1.0, 1.0
    ).item() == pytest.approx(0, abs=1e-6)


def test_the_contrastive_loss_is_the_cross_entropy_of_the_own_clip():
    rng = np.random.default_rng(1)
    predicted = rng.normal(size=(6, 4, 3))
    target = predicted + 2 * rng.normal(size=(6, 4, 3))
    cosines = cosine_similarity(predicted.reshape(6, 12), target.reshape(6, 12))
    expected = []
    for clip, row in enumerate(cosines / 0.3):
        expected.append(np.log(np.exp(row).sum()) - row[clip])
    tensors = torch.from_numpy(predicted), torch.from_numpy(target)
    assert contrastive_loss(*tensors, 0.3).item() == pytest.approx(np.mean(expected))
    # Where all sounds are alike nothing tells the own one: one of six by chance.
    alike = torch.ones(6, 4, 3, dtype=torch.float64)
    assert contrastive_loss(tensors[0], alike, 0.3).item() == pytest.approx(np.log(6))


def test_the_contrastive_term_counts_in_training_alone(data, task):
    losses = {}
    for weight in (0.0, 0.5):
        data.set(generator={"lstm": {"contrastive_weight": weight}})
        changed = replace(task, p=params.load("generator", GeneratorParams))
        torch.manual_seed(0)
        training = generator_training.GeneratorTraining(changed)
        clips = training.training_indices
        losses[weight] = training.loss(clips).item()
        training.generator.model.eval()
        losses["eval", weight] = training.loss(clips).item()
        sound, _ = task.inputs.data.sound(clips)
        target = training.generator.model.scale(sound)
        term = contrastive_loss(training.generator(clips), target, 0.1).item()
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * term, rel=1e-4)
    assert losses["eval", 0.5] == losses["eval", 0.0]


def test_unscale_is_the_inverse_of_scale():
    model = AudioGenerator(GeneratorSizes(6, 4, 5, 5, 0.0, True))
    model.set_scale("audio", torch.tensor([1.0, -2, 0, 5]), torch.tensor([0.5, 3, 1, 10]))
    audio = torch.randn(2, 3, 4)
    assert torch.allclose(
        model.scale(audio)[0, 0],
        (audio[0, 0] - torch.tensor([1.0, -2, 0, 5])) / torch.tensor([0.5, 3, 1, 10]),
    )
    assert torch.allclose(model.unscale(model.scale(audio)), audio, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_only_the_bidirectional_generator_sees_what_follows(bidirectional):
    torch.manual_seed(0)  # a few draws of weights give a layer whose ReLUs are all 0
    model = AudioGenerator(GeneratorSizes(6, 4, 5, 7, 0.0, bidirectional)).eval()
    video = torch.randn(1, 8, 6)
    changed = video.clone()
    changed[:, 5] += 1
    before = model(video)
    after = model(changed)
    assert before.shape == (1, 8, 4)
    assert torch.equal(before[:, :5], after[:, :5]) != bidirectional
    assert not torch.equal(before[:, 5:], after[:, 5:])


# Who learns from whom


@pytest.fixture
def data(workspace, in_process):
    workspace.rows = synthetic.make_clips()
    synthetic.write_data(workspace.rows)
    synthetic.write_predictions("video_only", workspace.rows)
    workspace.set(generator={"seeds": 2, "folds": 3, "repeats": 0, "lstm": NETWORK})
    return workspace


@pytest.fixture
def features(data):
    with scratch() as folder:
        yield Features(folder, SPLITS)


def training_row(rows: list[dict], nth: int = 5) -> dict:
    return [row for row in rows if row["split"] == "training" and row["audible"]][nth]


def test_rows_that_a_fold_learns_from_share_no_source_with_those_it_answers(features):
    sources = features.clips.source_id.to_numpy()
    fold = folds.of_clips(features.clips, 3)
    answered = []
    for number in range(3):
        learned, asked = (
            generator_training.training_clips(features, fold, number, "all"),
            generator_training.clips_of_fold(features, fold, number),
        )
        assert len(learned) and not set(sources[learned]) & set(sources[asked])
        answered += asked.tolist()
    assert sorted(answered) == features.clip_indices("training", "unlabelled").tolist()
    training = set(sources[features.clip_indices("training")])
    shared = training & set(sources[features.clip_indices("unlabelled")])
    assert shared  # an unlabelled clip of the same video is left out with it


def test_the_pool_is_every_audible_training_clip_or_the_labelled_ones(features):
    fold = folds.of_clips(features.clips, 3)
    splits = {
        pool: features.clips.split.to_numpy()[
            generator_training.training_clips(features, fold, folds.WHOLE, pool)
        ]
        for pool in ("all", "labelled")
    }
    rows = synthetic.make_clips()
    audible = {
        split: sum(row["audible"] for row in rows if row["split"] == split)
        for split in ("training", "unlabelled")
    }
    assert {name: (splits["all"] == name).sum() for name in np.unique(splits["all"])} == audible
    assert (
        set(splits["labelled"]) == {"training"} and len(splits["labelled"]) == audible["training"]
    )


@pytest.mark.parametrize("change", ["other sound", "silence"])
@pytest.mark.slow
def test_a_clips_own_sound_changes_no_generated_feature_of_its_own(data, change):
    synthetic.generate()
    before = synthetic.generated_bytes()
    row = training_row(data.rows)
    if change == "silence":
        row["audible"] = False
    else:
        row["audio"] = 3 * RNG.normal(size=row["audio"].shape)
    synthetic.write_data(data.rows)
    synthetic.generate()
    after = synthetic.generated_bytes()
    assert after.keys() == before.keys() and after[row["clip_id"]] == before[row["clip_id"]]
    fold = dict(
        zip(
            [r["clip_id"] for r in data.rows],
            folds.of_clips(pd.DataFrame(data.rows), 3),
            strict=True,
        )
    )
    same = {
        r["clip_id"]
        for r in data.rows
        if r["split"] in ("training", "unlabelled") and fold[r["clip_id"]] == fold[row["clip_id"]]
    }
    assert {name for name in before if before[name] == after[name]} == same


@pytest.mark.parametrize("pool", ["all", "labelled"])
def test_unlabelled_sound_counts_with_pool_all_alone(data, pool):
    data.set(generator={"pool": pool, "seeds": 1, "folds": 2})
    synthetic.generate()
    before = synthetic.generated_bytes()
    for row in data.rows:
        if row["split"] == "unlabelled":
            row["audio"] = row["audio"] + 2
    synthetic.write_data(data.rows)
    synthetic.generate()
    assert (synthetic.generated_bytes() == before) == (pool == "labelled")


def test_predicted_actions_are_for_baselines_alone(data):
    data.set(generator={"seeds": 1, "folds": 2, "lstm": {"epochs": 2}})
    synthetic.generate()
    before = synthetic.generated_bytes()
    synthetic.write_predictions("video_only", data.rows, seed=5)
    synthetic.generate()
    assert synthetic.generated_bytes() == before


def test_more_test_clips_change_what_is_generated_for_no_training_clip(data):
    """Folds are dealt over the sources that models are fitted on."""
    synthetic.generate()
    before = synthetic.generated_bytes()
    for name in ("one", "two", "three"):
        like = next(row for row in data.rows if row["split"] == "test")
        data.rows.append(like | {"clip_id": f"set/{name}", "source_id": name})
    synthetic.write_data(data.rows)
    synthetic.write_predictions("video_only", data.rows)
    synthetic.generate()
    after = synthetic.generated_bytes()
    training = [row["clip_id"] for row in data.rows if row["split"] == "training"]
    assert len(after) == len(before) + 3 and all(after[name] == before[name] for name in training)


def test_what_the_other_architecture_adds_changes_nothing(data):
    """Neither its parameters nor its conditions, which are not even there."""
    data.set(generator={"seeds": 1, "folds": 2, "lstm": {"epochs": 2}})
    synthetic.generate()
    outputs = [
        Path("data/generated/semantic_validation"),
        Path("models/generator/semantic_validation"),
        Path("metrics/generator"),
    ]
    before = {path: path.read_bytes() for folder in outputs for path in folder.rglob("*.*")}
    assert not Path("data/mapping").exists() and not Path("data/generated/caption_mapping").exists()
    data.set(
        generator={
            "caption_mapping": {
                "noise": 3,
                "propagation": 0.5,
                "anchors": False,
                "condition": "none",
            }
        }
    )
    synthetic.generate()
    assert {
        path: path.read_bytes() for folder in outputs for path in folder.rglob("*.*")
    } == before and len(before) > 4
    data.set(generator={"caption_mapping": {"condition": "always"}})
    with pytest.raises(
        UserError,
        match="generator.caption_mapping.condition = 'always': input should be 'mapped' or 'none'",
    ):
        synthetic.generate()


def test_a_tracked_path_that_is_not_the_one_that_is_read_is_one_sentence(data):
    data.set(generator={"architectures": {"caption_mapping": "data/other"}})
    with pytest.raises(UserError, match="caption_mapping reads data/mapping, not data/other"):
        synthetic.generate()


# What is written


def test_every_clip_has_features_audible_or_not(data):
    synthetic.generate()
    found = shards.read_columns(Path("data/generated/semantic_validation"), ["features"])
    assert set(found["clip_id"]) == {row["clip_id"] for row in data.rows} and not all(
        row["audible"] for row in data.rows
    )
    assert (
        found["features"].shape == (len(data.rows), 2, STEPS, COMPONENTS)
        and found["features"].dtype == np.float16
    )
    assert np.isfinite(found["features"]).all()
    assert not all(row["action"] for row in data.rows)
    index = shards.read_index(Path("data/generated/semantic_validation")).to_pylist()
    assert [row["clip_id"] for row in index] == found["clip_id"] and {
        row["status"] for row in index
    } == {"ok"}
    assert not np.array_equal(found["features"][:, 0], found["features"][:, 1])  # seeds differ


@pytest.mark.parametrize("scale", ["global", "dimension"])
def test_the_saved_model_gives_the_test_clips_their_features(data, features, scale):
    data.set(generator={"lstm": {"target_scale": scale, "bidirectional": False}})
    synthetic.generate()
    config = json.loads(Path("models/generator/semantic_validation/config.json").read_text())
    sizes = {field.name: config[field.name] for field in fields(GeneratorSizes)}
    model = AudioGenerator(GeneratorSizes(**sizes))
    model.load_state_dict(load_file("models/generator/semantic_validation/seed-1.safetensors"))
    model.eval()
    rows = features.clip_indices("test")
    with torch.inference_mode():
        made = model.unscale(model(features.video.read(rows.tolist()))).numpy()
    found = shards.read_columns(Path("data/generated/semantic_validation"), ["features"], ["test"])
    assert found["clip_id"] == features.clips.clip_id[rows.numpy()].tolist()
    assert np.allclose(found["features"][:, 1], made, atol=5e-3)
    learned = [
        row["audio"]
        for row in data.rows
        if row["split"] in ("training", "unlabelled") and row["audible"]
    ]
    spread = np.concatenate(learned).std(0)
    assert np.allclose(
        model.audio_std, spread if scale == "dimension" else np.sqrt((spread**2).mean()), rtol=5e-3
    )
    assert np.allclose(model.audio_mean, np.concatenate(learned).mean(0), atol=5e-3)


def test_the_metrics_count_the_parameters_that_learn_and_hold_nothing_of_the_other_architecture(
    data,
):
    metrics = synthetic.generate()
    config = json.loads(Path("models/generator/semantic_validation/config.json").read_text())
    sizes = {field.name: config[field.name] for field in fields(GeneratorSizes)}
    assert (sizes["video_width"], sizes["audio_width"]) == (2 * WIDTH, COMPONENTS)
    learned = AudioGenerator(GeneratorSizes(**sizes))
    assert metrics["parameters"] == sum(parameter.numel() for parameter in learned.parameters())
    own = MappingNetwork.model_fields.keys()
    assert (
        not own & config.keys()
        and not {"attention_entropy", "temperature", "injection", "spread_over_noise"}
        & metrics.keys()
    )


def test_curves_stand_for_every_seed_and_fold(data):
    synthetic.generate()
    curves = pd.read_csv("metrics/plots/generator/semantic_validation.csv")
    assert list(curves) == ["seed", "fold", "epoch", "training_loss", "validation_loss"]
    assert {tuple(pair) for pair in curves[["seed", "fold"]].to_numpy()} == {
        (seed, fold) for seed in (0, 1) for fold in (-1, 0, 1, 2)
    }


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_workers(data, monkeypatch):
    data.set(generator={"seeds": 1, "folds": 2, "lstm": {"epochs": 2}})
    outputs = []
    for workers, map_items in ((2, with_processes), (1, without_processes)):
        monkeypatch.setattr(parallel, "map_items", map_items)
        synthetic.generate(workers)
        folders = ("data/generated", "models/generator", "metrics")
        outputs.append(
            {path: path.read_bytes() for folder in folders for path in Path(folder).rglob("*.*")}
        )
    assert outputs[0] == outputs[1] and len(outputs[0]) > 8


def test_without_sound_it_is_a_sentence(data):
    for row in data.rows:
        row["audible"] = row["split"] != "validation"
    synthetic.write_data(data.rows)
    with pytest.raises(
        UserError, match="needs audible training and validation clips; metrics/audio.json says"
    ):
        synthetic.generate()


# What the measures say


@pytest.mark.slow
def test_sound_that_follows_from_the_picture_is_generated(workspace, in_process):
    rows = synthetic.make_clips(sizes={"training": 40, "validation": 10, "test": 10}, unlabelled=40)
    synthetic.write_data(rows)
    synthetic.write_predictions("video_only", rows)
    network = NETWORK | {"hidden": 32, "projection": 32, "epochs": 25, "patience": 25}
    workspace.set(generator={"seeds": 2, "folds": 2, "lstm": network})
    metrics = synthetic.generate()
    assert metrics["ridge_penalty"] in generation_baselines.PENALTIES[:2]
    for split in ("test", "out_of_fold"):
        cosine = {name: row["centred_cosine"]["mean"] for name, row in metrics[split].items()}
        assert (
            cosine["ridge"] > 0.98
            and cosine["generated"] > 0.8 > cosine["true_action_mean"] > cosine["training_mean"]
        )
        made = metrics[split]["generated"]
        ridge = metrics[split]["ridge"]
        assert made["relative_mse"] < 0.4 and ridge["relative_mse"] < 0.05
        assert made["time_correlation"] > 0.6 and ridge["time_correlation"] > 0.97
        assert made["own_minus_same_action"] > 0.3 and 0.5 < made["variance_ratio"] < 1.3
        assert metrics[split]["true_action_mean"]["own_minus_same_action"] == pytest.approx(
            0, abs=0.06
        )
        assert (
            metrics[split]["training_mean"]["variance_ratio"] < 0.02
        )  # out of fold each fold has its own
        assert 0 < made["spread_over_seeds"] < 0.6
    test = metrics["test"]
    assert test["untrained"]["centred_cosine"]["mean"] < 0.5
    shuffled = test["time_shuffled"]
    generated = test["generated"]
    assert shuffled["time_correlation"] < generated["time_correlation"] - 0.05
    assert shuffled["centred_cosine"]["mean"] < generated["centred_cosine"]["mean"] - 0.05
    audible = sum(row["audible"] for row in rows if row["split"] == "test")
    assert (
        test["generated"]["centred_cosine"]["n"] == test["ridge"]["centred_cosine"]["n"] == audible
    )
    own = metrics["own_training_clips"]["generated"]["centred_cosine"]["mean"]
    assert (
        own > metrics["out_of_fold"]["generated"]["centred_cosine"]["mean"]
    )  # why features are made out of fold


def test_measures_against_brute_force():
    made, real, actions = (
        RNG.normal(size=(12, 4, 5)),
        RNG.normal(size=(12, 4, 5)),
        np.array(list("aaaabbbbbccd")),
    )
    offset = RNG.normal(size=5)
    found = generation_evaluation.against_real(made, real, actions, offset)
    per_step = np.array(
        [
            [cosine_similarity(made[i, t][None], real[i, t][None])[0, 0] for t in range(4)]
            for i in range(12)
        ]
    )
    assert np.allclose(found["centred_cosine"], per_step.mean(1))
    shifted = [
        cosine_similarity(made[i] + offset, real[i] + offset).diagonal().mean() for i in range(12)
    ]
    assert np.allclose(found["cosine"], shifted)
    assert found["relative_mse"] == pytest.approx(
        np.square(made - real).sum() / np.square(real).sum()
    )
    flat = made.reshape(12, -1), real.reshape(12, -1)
    assert found["variance_ratio"] == pytest.approx(
        np.trace(np.cov(flat[0].T)) / np.trace(np.cov(flat[1].T))
    )
    gaps = []
    for i in range(12):
        others = [j for j in range(12) if j != i and actions[j] == actions[i]]
        if others:
            gaps.append(
                cosine_similarity(flat[0][[i]], flat[1][[i]])[0, 0]
                - cosine_similarity(flat[0][[i]], flat[1][others]).mean()
            )
    assert len(gaps) == 11 and found["own_minus_same_action"] == pytest.approx(np.mean(gaps))
    within = [values - values.mean(1, keepdims=True) for values in (made, real)]
    assert found["time_correlation"] == pytest.approx(
        np.corrcoef(within[0].ravel(), within[1].ravel())[0, 1]
    )


def test_a_constant_answer_has_no_variance_no_correlation_and_says_the_class():
    real = RNG.normal(size=(6, 4, 5))
    found = generation_evaluation.against_real(
        np.ones((6, 4, 5)), real, np.array(list("aaabbb")), np.zeros(5)
    )
    assert (found["variance_ratio"], found["time_correlation"]) == (0, 0)
    assert found["own_minus_same_action"] == pytest.approx(0, abs=1e-12)
    perfect = generation_evaluation.against_real(real, real, np.array(list("aaabbb")), np.zeros(5))
    assert (perfect["relative_mse"], perfect["variance_ratio"]) == (0, 1) and perfect[
        "time_correlation"
    ] == pytest.approx(1)


@pytest.mark.parametrize("out_of_fold", [False, True])
@pytest.mark.parametrize("pool", ["all", "labelled"])
def test_baselines_against_scikit_learn(data, features, out_of_fold, pool):
    clips = features.clips
    video = features.video.read(range(len(clips))).numpy()
    fold = folds.of_clips(clips, 3)
    predicted = generation_evaluation.predicted_actions(features)
    baselines = Baselines(features, fold, predicted, pool)
    rows = generation_baselines.measured_clips(features, "training" if out_of_fold else "test")
    made = baselines.answers(rows, out_of_fold)
    sound = {
        i: features.sound(torch.tensor([i]))[0][0].numpy()
        for i in range(len(clips))
        if features.audio_row[i] >= 0
    }
    splits = ("training", "unlabelled") if pool == "all" else ("training",)
    pool_rows = [i for i in sound if clips.split[i] in splits]
    mean = video[pool_rows].mean((0, 1))
    std = video[pool_rows].std((0, 1))
    x = (video - mean) / std
    inputs = np.concatenate(
        [x, np.repeat(x.mean(1, keepdims=True), STEPS, 1), np.ones((*x.shape[:2], 1))], axis=2
    )
    for position, row in enumerate(rows.tolist()):
        learned = [i for i in pool_rows if not out_of_fold or fold[i] != fold[row]]
        targets = np.stack([sound[i] for i in learned])
        labelled = [i for i in learned if clips.split[i] == "training"]
        ridge = Ridge(baselines.penalty, fit_intercept=False)
        ridge.fit(inputs[learned].reshape(-1, inputs.shape[2]), targets.reshape(-1, COMPONENTS))
        nearest = (
            NearestNeighbors(n_neighbors=1, metric="cosine")
            .fit(x[learned].mean(1))
            .kneighbors(x[[row]].mean(1))[1][0, 0]
        )
        expected = {
            "training_mean": targets.mean(0),
            "ridge": ridge.predict(inputs[row]),
            "nearest_neighbour": sound[learned[nearest]],
        }
        for name, action in (
            ("predicted_action_mean", predicted[row]),
            ("true_action_mean", clips.action[row]),
        ):
            expected[name] = np.mean(
                [sound[i] for i in labelled if clips.action[i] == action], axis=0
            )
        assert expected.keys() == made.keys()
        for name, value in expected.items():
            assert np.allclose(made[name][position], value, atol=2e-3), name


def test_the_penalty_is_the_best_on_training_clips_out_of_fold(data, features):
    fold = folds.of_clips(features.clips, 3)
    nobody_knows = np.array([None] * len(features.clips))
    baselines = Baselines(features, fold, nobody_knows, "all")
    rows = generation_baselines.measured_clips(features, "training")
    assert len(np.unique(fold[rows])) == 3
    errors = {}
    for penalty in generation_baselines.PENALTIES:
        errors[penalty] = 0.0
        for row in rows:
            own = row[None]
            answer = baselines.ridge(fold[row], own, penalty)
            errors[penalty] += np.square(answer - features.sound(own)[0].numpy()).sum()
    assert len(set(errors.values())) == len(errors)
    assert baselines.penalty == min(errors, key=errors.get)


def test_large_splits_are_measured_on_a_draw_that_is_fixed(features, monkeypatch):
    everything = generation_baselines.measured_clips(features, "training").tolist()
    assert all(features.audio_row[i] >= 0 for i in everything)
    monkeypatch.setattr(generation_baselines, "MEASURED_CLIPS", 7)
    few = generation_baselines.measured_clips(features, "training").tolist()
    assert len(few) == 7 and set(few) < set(everything) and few == sorted(few)
    assert few == generation_baselines.measured_clips(features, "training").tolist()


def test_predicted_actions_are_the_consensus_and_none_for_unlabelled_clips(features, data):
    predicted = generation_evaluation.predicted_actions(features)
    unlabelled = (features.clips.split == "unlabelled").to_numpy()
    assert all(value is None for value in predicted[unlabelled]) and set(
        predicted[~unlabelled]
    ) <= set(ACTIONS)


# Memory

MEASURE = """
import os, sys
import numpy as np, torch
from pathlib import Path
from audio_from_video.classification import training as classifier_training
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import ClassifierParams, Condition
from audio_from_video.classification.targets import training_targets
from audio_from_video.clipset import folds
from audio_from_video.generation import training as generator_training
from audio_from_video.generation.generator import Inputs
from audio_from_video.generation.generator import Inputs
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.features import Features
from audio_from_video.runtime import params
from audio_from_video.runtime.vocabulary import SPLITS
from audio_from_video.storage.row_file import scratch
from stages import generator
from tests.support.conditions import condition_keys

def memory(line: str) -> float:
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) / 1024

torch.set_num_threads(1)
p = params.load("generator", GeneratorParams)
rows = params.load("classifier", ClassifierParams)
condition = Condition(**condition_keys(train_audio="generated", test_audio="generated"))
for folder in sys.argv[1:]:
    os.chdir(folder)
    start = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    with scratch() as files:
        data = Features(files, SPLITS)
        inputs = Inputs(data, folds.of_clips(data.clips, 2))
        job = generator_training.Job(seed=0, fold=folds.WHOLE)
        task = generator_training.GeneratorTask(inputs, job, p, files / "generated", inputs.key())
        generator_training.run_job(task)
        zeros = np.zeros((2, *data.audio.shape), np.float32)
        folder = Path("data/generated/semantic_validation")
        generator.write_generated(folder, data, lambda clip_index: zeros, 2)
    with scratch() as files:
        data = ActionData(files, condition)
        training = data.participants("training")
        training, targets = training_targets(data, training, 0.0, rows.teaching, 0)
        predicted = data.participants("validation", "test")
        classifier_training.train_one(
            classifier_training.TrainingTask(data, rows, 0, "x", training, targets, predicted, [])
        )
    print(memory("VmHWM") - start)
"""
WIDTHS = {
    "data/video_features/rgb": 256,
    "data/video_features/flow": 256,
    "data/audio_features": 64,
}


def write_many(folder: Path, clips: int) -> None:
    """Constant features of so many clips, a quarter in each split."""

    def rows(width: int):
        features = np.ones((18, width), np.float16)
        for split in ("test", "training", "unlabelled", "validation"):
            for i in range(clips // 4):
                action = None if split == "unlabelled" else ACTIONS[i * 12 // clips]
                yield {
                    "clip_id": f"set/{split}-{i}",
                    "split": split,
                    "action": action,
                    "source_id": f"{split}-{i}",
                    "item_key": None,
                    "status": "ok",
                    "reason": "",
                    "features": features,
                }

    for path, width in WIDTHS.items():
        schema = pa.schema([("features", shards.tensor(pa.float16(), 18, width))])
        shards.write(folder / path, schema, rows(width), list(rows(width)), "v")


@pytest.mark.slow
def test_ten_times_as_many_clips_take_no_more_memory(workspace):
    """Generator and classifier read, train, predict and write.

    A first run loads what libraries load late.
    """
    network = NETWORK | {"epochs": 1, "batch_size": 256}
    workspace.set(generator={"lstm": network}, classifier={"lstm": network})
    for name, clips in (("first", 1024), ("one", 1024), ("ten", 10_240)):
        write_many(workspace.folder / name, clips)
        shutil.copy("params.yaml", name)
    folders = [str(workspace.folder / name) for name in ("first", "one", "ten")]
    give_back = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }  # what is freed
    environment = {
        **os.environ,
        **give_back,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _, one, ten = map(float, done.stdout.split())
    size = 10_240 * 18 * sum(WIDTHS.values()) * 4 / 2**20
    print(
        f"peak growth {one:.1f} MiB at 1,024 clips, {ten:.1f} MiB at 10,240, "
        f"whose features take {size:.0f} MiB as floats"
    )
    assert ten < 1.5 * one and ten < size / 3


@pytest.mark.slow
def test_the_shuffled_control_learns_from_other_clips_and_knows_no_more_than_the_mean(data):
    """The sound is a linear function of the video: paired it is learned, shuffled it is not."""
    data.set(generator={"lstm": {"epochs": 30, "patience": 30}})
    paired, shuffled = (
        synthetic.generate(architecture=name)["test"]
        for name in ("semantic_validation", "shuffled")
    )
    assert (
        paired["generated"]["centred_cosine"]["mean"]
        > shuffled["generated"]["centred_cosine"]["mean"] + 0.2
    )
    assert (
        shuffled["generated"]["centred_cosine"]["mean"]
        < shuffled["training_mean"]["centred_cosine"]["mean"] + 0.2
    )
    assert shuffled["ridge"] == paired["ridge"]  # baselines see true pairs


# Trainings that learned nothing


@pytest.fixture
def task(data, features, tmp_path):
    p = params.load("generator", GeneratorParams)
    inputs = Inputs(features, folds.of_clips(features.clips, p.folds))
    job = generator_training.Job(0, folds.WHOLE)
    return generator_training.GeneratorTask(inputs, job, p, tmp_path / "features", "key")


class Answers:
    """A generator that gives features that are known."""

    device = "cpu"

    def __init__(self, model: torch.nn.Module, features: torch.Tensor):
        self.model = model
        self.features = features

    def refresh(self) -> None:
        pass

    def __call__(self, clip_indices: torch.Tensor) -> torch.Tensor:
        return self.features[clip_indices]


@pytest.mark.parametrize(("share", "at_mean"), [(0.0, True), (1.0, False), (-1.0, True)])
def test_what_is_not_better_than_the_mean_learned_nothing(task, share, at_mean):
    """share: of the true sound in the answers; 0 says the mean of the training clips."""
    training = generator_training.GeneratorTraining(task)
    model = training.generator.model
    sound, _ = task.inputs.data.sound(torch.arange(len(task.inputs.data.clips)))
    training.generator = Answers(model, share * model.scale(sound))
    assert training.is_at_mean() == at_mean


def test_the_loss_is_the_mean_over_clips():
    predicted, target = torch.randn(2, 5, 4, 3)
    by_clip = [
        generation_loss(one[None], other[None], 0.7, 0.3)
        for one, other in zip(predicted, target, strict=True)
    ]
    found = clip_losses(predicted, target, 0.7, 0.3)
    torch.testing.assert_close(found, torch.stack(by_clip))
    torch.testing.assert_close(found.mean(), generation_loss(predicted, target, 0.7, 0.3))


def test_the_first_draw_that_learns_counts(data, task, monkeypatch):
    data.set(generator={"repeats": 2, "lstm": {"epochs": 1}})
    task = replace(task, p=params.load("generator", GeneratorParams))
    training = generator_training.GeneratorTraining
    verdicts = iter([True, False])
    monkeypatch.setattr(training, "is_at_mean", lambda _: next(verdicts))
    second, at_mean, repeats = generator_training.learned_training(task)
    assert (at_mean, repeats, second.task.job.draw) == (False, 1, 1)
    monkeypatch.setattr(training, "is_at_mean", lambda _: False)
    first, at_mean, repeats = generator_training.learned_training(task)
    assert (at_mean, repeats, first.task.job.draw) == (False, 0, 0)
    assert not torch.equal(
        first.generator.model.head[1].weight, second.generator.model.head[1].weight
    )


def test_where_no_draw_learns_the_lowest_validation_loss_counts(data, task, monkeypatch):
    data.set(generator={"repeats": 2, "lstm": {"epochs": 1}})
    task = replace(task, p=params.load("generator", GeneratorParams))
    training = generator_training.GeneratorTraining
    monkeypatch.setattr(training, "is_at_mean", lambda _: True)
    monkeypatch.setattr(training, "lowest_loss", property(lambda one: (2, 0, 1)[one.task.job.draw]))
    best, at_mean, repeats = generator_training.learned_training(task)
    assert (at_mean, repeats, best.task.job.draw) == (True, 2, 1)


@pytest.mark.parametrize("architecture", ["semantic_validation", "shuffled"])
def test_trainings_that_learn_nothing_are_told_and_counted(data, capsys, architecture):
    """The control is to learn nothing: it is counted, and not repeated."""
    network = {"epochs": 1, "min_steps": 0, "learning_rate": 1e-9}
    data.set(generator={"seeds": 1, "folds": 2, "repeats": 1, "lstm": network})
    metrics = synthetic.generate(architecture=architecture)
    repeated = 3 if architecture == "semantic_validation" else 0
    assert metrics["trainings"] == {"all": 3, "repeated": repeated, "at_mean": 3}
    told = "3 of 3 trainings learned nothing beyond the mean sound" in capsys.readouterr().err
    assert told == bool(repeated)
