"""The stage: what goes into a bundle, what is left out, and its model card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from audio_from_video.meaning.action_fit import ActionFit
from audio_from_video.prediction.bundle import CARD, MEANING, read_bundle
from audio_from_video.prediction.model_card import CardFacts, model_card
from audio_from_video.prediction.settings import BundleParams
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards
from stages import bundle
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.tiny_bundle import ARCHITECTURES, AUDIO_AT_TEST, HEADS, write_bundle

TRAIN_AUDIO = {"none": "none", "token": "real"}
ESTIMATE = {"mean": 0.625, "ci95_low": 0.5, "ci95_high": 0.7512, "seeds": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The models that the stage finds are those of a bundle of random weights."""
    return write_bundle(tmp_path_factory.mktemp("trained") / "bundle")


def conditions() -> dict[str, dict]:
    made = {}
    for name, (audio, gate) in AUDIO_AT_TEST.items():
        keys = {"train_audio": TRAIN_AUDIO.get(audio, audio), "test_audio": audio}
        keys |= {"model": HEADS.get(name, "lstm")}
        made[name] = condition_keys(**keys, **({} if gate == "none" else {"gate": gate}))
    return made


@pytest.fixture
def finished(workspace, trained) -> Path:
    """A workspace after all stages that the bundle depends on; return its folder."""
    settings = read_bundle(trained).settings
    workspace.set(
        classifier={"conditions": conditions()},
        bundle={"conditions": list(AUDIO_AT_TEST)},
        clips={"root": "/videos/mine"},
        video_features={"model": "models/tiny/vit"},
        audio_features={"model": "models/tiny/ast"},
        mapping={"model": "models/tiny/bert"},
    )
    for kind, name in (("vision", "vit"), ("audio", "ast"), ("text", "bert")):
        shutil.copytree(trained / "backbones" / kind, f"models/tiny/{name}")
    shutil.copytree(trained / "captions", layout.CAPTION_MODEL)
    shutil.copytree(trained / "classifier", layout.classifier_model("").parent / "classifier")
    shutil.copytree(trained / "generator", layout.MODELS / "generator")
    shutil.copytree(trained / "label_predictor", layout.LABEL_PREDICTOR)
    shutil.copy(trained / "audio_projection.safetensors", layout.AUDIO_PROJECTION)
    write_json(layout.LABEL_PREDICTOR / "config.json", settings.label_predictor.model_dump())
    for name, each in settings.classifiers.items():
        sizes = {"hidden": each.hidden, "projection": each.projection}
        if name in HEADS:
            sizes = {}
        config = sizes | {"actions": list(synthetic.ACTIONS)}
        write_json(layout.classifier_model(name) / "config.json", config)
        write_json(layout.metrics("classifier", name), {"accuracy": ESTIMATE})
    for name, each in settings.generators.items():
        mapping = each.mapping.model_dump() if each.mapping else {}
        widths = each.model_dump(include={"video_width", "audio_width", "text_width"})
        write_json(
            layout.generator_model(name) / "config.json", each.lstm.model_dump() | mapping | widths
        )
    synthetic.write_dictionary()
    layout.MAPPING.mkdir(parents=True)
    meaning = load_file(trained / MEANING)
    audio = np.stack([0 * meaning["label_audio"], meaning["label_audio"]])
    save_file(
        {"text": meaning["label_text"], "audio": audio}, layout.MAPPING / "_labels.safetensors"
    )
    counts = {"training": 12, "validation": 4, "test": 6, "unlabelled": 0}
    write_json(layout.metrics("clips"), {"split": counts, "sources": counts})
    decided = {"threshold": 0.4, "kept_fraction": ESTIMATE}
    write_json(layout.metrics("filter"), dict.fromkeys(ARCHITECTURES, decided))
    return workspace.folder


def run() -> dict:
    """Run the stage; return its metrics."""
    bundle.main(stage_run.StageRun("bundle", "", 1))
    return json.loads(layout.metrics("bundle").read_text())


def test_what_was_trained_is_in_the_bundle_and_nothing_else(finished, trained):
    metrics = run()
    made = read_bundle(layout.BUNDLE)
    assert set(made.settings.classifiers) == set(AUDIO_AT_TEST)
    assert set(made.settings.generators) == set(ARCHITECTURES)
    assert metrics == {
        "conditions": 7,
        "generators": 2,
        "left_out": 0,
        "files": len(made.settings.files) + 2,  # and bundle.json and the card
    }
    assert {path.suffix for path in layout.BUNDLE.rglob("*") if path.is_file()} <= {
        ".json",
        ".md",
        ".safetensors",
        ".txt",
    }
    for path in trained.rglob("*.safetensors"):
        name = path.relative_to(trained)
        if name.name != MEANING:
            assert (layout.BUNDLE / name).read_bytes() == path.read_bytes(), name
    meaning = made.tensors(MEANING)
    assert np.array_equal(meaning["label_audio"], load_file(trained / MEANING)["label_audio"])
    assert made.settings.generators["caption_mapping"].threshold == 0.4
    assert "/videos" not in (layout.BUNDLE / CARD).read_text()
    files = {path: path.read_bytes() for path in layout.BUNDLE.rglob("*") if path.is_file()}
    run()
    assert files == {path: path.read_bytes() for path in layout.BUNDLE.rglob("*") if path.is_file()}


def test_conditions_that_new_clips_cannot_have_are_left_out(finished, workspace, capsys):
    others = conditions() | {
        "logistic": condition_keys(model="logistic"),
        "oracle": condition_keys(
            train_audio="generated", test_audio="generated", gate="keep_oracle"
        ),
        "empty": condition_keys(train_audio="real", test_audio="real"),
        "retrieval": condition_keys(train_audio="retrieved", test_audio="retrieved"),
    }
    workspace.set(classifier={"conditions": others}, bundle={"conditions": list(others)})
    assert run()["left_out"] == 4
    settings = read_bundle(layout.BUNDLE).settings
    assert set(settings.classifiers) == set(AUDIO_AT_TEST)
    assert set(settings.left_out) == {"logistic", "oracle", "empty", "retrieval"}
    assert "oracle is left out: its gate knows the true action" in capsys.readouterr().err
    assert "`oracle` is left out" in (layout.BUNDLE / CARD).read_text()


def test_a_fine_tuned_text_encoder_leaves_its_conditions_out(finished):
    path = layout.generator_model("caption_mapping") / "config.json"
    write_json(path, json.loads(path.read_text()) | {"finetune_text": "embeddings"})
    run()
    settings = read_bundle(layout.BUNDLE).settings
    assert set(settings.left_out) == {"mapped_validated"}
    assert set(settings.generators) == {"semantic_validation"}


def test_a_generator_that_adds_to_the_sound_of_actions_leaves_its_conditions_out(finished):
    path = layout.generator_model("caption_mapping") / "config.json"
    write_json(path, json.loads(path.read_text()) | {"residual": "action_mean"})
    run()
    settings = read_bundle(layout.BUNDLE).settings
    assert set(settings.left_out) == {"mapped_validated"}


def test_gates_that_ask_for_deviations_leave_their_conditions_out(finished, workspace):
    workspace.set(filter={"score": "confidence"})
    run()
    settings = read_bundle(layout.BUNDLE).settings
    assert set(settings.left_out) == {"validated", "mapped_validated"}
    # A generator that is heard unfiltered stays, and the card has no threshold of it.
    assert settings.generators["semantic_validation"].threshold is None
    assert "| `semantic_validation` |" not in (layout.BUNDLE / CARD).read_text()


@pytest.mark.parametrize(
    ("fusion", "left_out"),
    [
        (
            {"audio_scale": "confidence"},
            {"validated", "mapped_validated", "logistic_generated"},
        ),
        ({"how": "late"}, set(AUDIO_AT_TEST) - {"video_only", *HEADS}),
    ],
)
def test_fusion_that_new_clips_cannot_have_leaves_conditions_out(
    finished, workspace, fusion, left_out
):
    workspace.set(classifier={"fusion": fusion})
    run()
    assert set(read_bundle(layout.BUNDLE).settings.left_out) == left_out


def test_the_scale_of_flow_is_the_one_that_was_found(workspace):
    workspace.set(optical_flow={"full_scale_px": "auto"})
    write_json(layout.metrics("optical_flow"), {"full_scale_px": 21.0})
    assert bundle.flow_params().full_scale_px == 21.0


def test_an_unknown_condition_is_named(finished, workspace):
    workspace.set(bundle={"conditions": ["video_only", "sound_only"]})
    with pytest.raises(UserError, match="bundle.conditions names sound_only"):
        run()


def test_a_bundle_without_the_baseline_makes_no_sense():
    with pytest.raises(ValueError, match="must name video_only"):
        BundleParams(conditions=["real_audio"])


def test_the_models_of_another_set_of_actions_are_refused(finished):
    path = layout.classifier_model("video_only") / "config.json"
    write_json(path, json.loads(path.read_text()) | {"actions": ["juggling", "waving"]})
    with pytest.raises(UserError, match="other actions than the classifiers"):
        run()


def test_a_background_is_training_clips_of_other_predicted_actions(workspace):
    rows = synthetic.in_order(synthetic.make_clips())
    labelled = [row | {"generated": row["label_scores"]} for row in rows if row["action"]]
    path = layout.predicted_labels("caption_mapping")
    synthetic.write_shards(path, {"generated": (synthetic.LABELS,)}, labelled)
    synthetic.write_predictions("video_only", rows)
    references, embeddings = synthetic.write_dictionary()
    fit = ActionFit(list(synthetic.ACTIONS), references, embeddings)
    background = bundle.training_background("caption_mapping", fit, 3)
    training = shards.read_columns(path, ["generated"], ["training"])
    predicted = bundle.predictions.read("video_only").consensus()[training["clip_id"]]
    for action, scores in background.items():
        others = (predicted != action).to_numpy()
        vectors = fit.of_scores(training["generated"][others].astype(np.float32), 3)
        expected = fit.fit(vectors, np.array([action] * others.sum()))
        assert scores == pytest.approx(np.sort(expected), abs=1e-6)


def test_the_card_begins_with_the_header_that_hugging_face_reads(trained):
    facts = CardFacts(
        root="data/sample",
        rendered=True,
        clips={"training": 12},
        sources={"training": 5},
        accuracy={"video_only": ESTIMATE},
        kept={"caption_mapping": ESTIMATE},
    )
    settings = read_bundle(trained).settings
    _, header, text = model_card(settings, facts).split("---\n", 2)
    content = yaml.safe_load(header)
    assert content["license"] == "apache-2.0"
    [result] = content["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.625
    assert "| `video_only` | none | 62.5 [50.0, 75.1] | 2 |" in text
    assert "make no claim about real video" in " ".join(text.split())
