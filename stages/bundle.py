"""Bundle what was trained, so that it answers new clips here and elsewhere.

Reads    the models of the conditions in `bundle.conditions` and of their generators, the audio
         projection, the heads to labels, data/mapping (the labels' sound), the dictionary and its
         embeddings, the backbones; with `calibration: action` also label scores and predictions
         of training clips; metrics files, for the model card
Writes   models/bundle: see audio_from_video/prediction/bundle.py.  It is a valid Hugging Face
         repository with safetensors and JSON alone, and names the digest of every file
         metrics/bundle.json

A backbone that is a local directory is copied into it; a published one is named, with the digest of
its files.  A condition that new clips cannot be answered under is left out, with a sentence.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open
from safetensors.numpy import save_file

from audio_from_video.backbones import hub
from audio_from_video.backbones import text as text_backbone
from audio_from_video.backbones.settings import (
    TAGS_PROMPT,
    AudioFeaturesParams,
    VideoFeaturesParams,
)
from audio_from_video.classification.settings import GENERATOR_OF, Condition, FusionParams
from audio_from_video.generation.settings import GeneratorNetwork, MappingNetwork
from audio_from_video.meaning.action_fit import ActionFit, background_scores, entry_means
from audio_from_video.meaning.key_captions import KeyCaptions
from audio_from_video.meaning.settings import FilterParams, MappingParams
from audio_from_video.media.settings import (
    AudioParams,
    FlowParams,
    FramesParams,
    OpticalFlowParams,
    RepresentativeFramesParams,
)
from audio_from_video.prediction import bundle
from audio_from_video.prediction.model_card import CardFacts, model_card
from audio_from_video.prediction.settings import (
    BASELINE,
    SCHEMA_VERSION,
    Backbone,
    BundleParams,
    BundleSettings,
    CaptionSettings,
    Classifier,
    Generator,
    LabelHead,
)
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.digests import file_digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, CAPTION_MAPPING
from audio_from_video.storage import layout, predictions, shards


def main(stage: stage_run.StageRun) -> None:
    p = params.load("bundle", BundleParams)
    filter_params = params.load("filter", FilterParams)
    judged = filter_params.score == "meaning"
    conditions, left_out = choose(p.conditions, judged)
    for name, reason in left_out.items():
        print(f"bundle: {name} is left out: {reason}", file=sys.stderr)

    with replace_directory(layout.BUNDLE) as folder:
        classifiers = {
            name: copy_classifiers(folder, name, conditions[name]) for name in conditions
        }
        architectures = architectures_of(conditions)
        generators = {name: copy_generators(folder, name, judged) for name in architectures}
        copy_file(layout.AUDIO_PROJECTION, folder / bundle.PROJECTION)
        copy_file(layout.LABEL_PREDICTOR / "map.safetensors", folder / bundle.LABEL_MAP)
        copy_file(layout.LABEL_PREDICTOR / "decoder.safetensors", folder / bundle.DECODER)
        copy_model(layout.CAPTION_MODEL, folder / bundle.CAPTIONS)
        write_meaning(folder, filter_params, list(generators))
        settings = write_settings(folder, filter_params, classifiers, generators, left_out)
        (folder / bundle.CARD).write_text(model_card(settings, card_facts(settings)))
    files = [path for path in layout.BUNDLE.rglob("*") if path.is_file()]
    stage.write_metrics(
        {
            "conditions": len(classifiers),
            "generators": len(generators),
            "left_out": len(left_out),
            "files": len(files),
        }
    )


# ---- what is in it ----


def choose(names: list[str], judged: bool) -> tuple[dict[str, Condition], dict[str, str]]:
    """Return the conditions of a bundle, and why others among `names` are left out.

    judged: whether the filter's scores can be had for new clips.
    Raises UserError where params.yaml does not have one of them, or the baseline is left out.
    """
    known = params.read("classifier", "conditions", dict[str, Condition])
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"bundle.conditions names {', '.join(unknown)}, which is no condition; "
            f"classifier.conditions has {', '.join(known)}"
        )
    fusion = params.read("classifier", "fusion", FusionParams)
    left_out = {}
    for name in names:
        reason = obstacle(name, known[name], fusion)
        if known[name].gate == "keep" and not judged:
            reason = reason or "its gate asks for predicted deviations"
        if reason:
            left_out[name] = reason
    if BASELINE in left_out:
        raise UserError(f"a bundle needs {BASELINE}, but {left_out[BASELINE]}")
    return {name: known[name] for name in names if name not in left_out}, left_out


def obstacle(name: str, condition: Condition, fusion: FusionParams) -> str:
    """Return why new clips cannot be answered under a condition; '' where they can.

    fusion: how it uses audio, unless it has a way of its own.
    """
    fusion = condition.fusion_over(fusion)
    if condition.model == "lstm" and fusion.how == "late" and condition.audio_kinds:
        return "its two experts are not stored for new clips"
    if fusion.audio_scale == "confidence" and condition.test_audio in GENERATOR_OF:
        return "predicted deviations are not made for new clips"
    if condition.test_audio == "retrieved":
        return "it borrows the audio of training clips"
    if condition.leaky:
        return "its gate knows the true action"
    if not list(layout.classifier_model(name).glob("seed-*.safetensors")):
        return "nothing was left to train it on"
    if condition.test_audio in GENERATOR_OF:
        architecture = GENERATOR_OF[condition.test_audio]
        settings = read_json(layout.generator_model(architecture) / "config.json")
        if settings.get("finetune_text", "off") != "off" and settings["condition"] == "mapped":
            return "the text encoder of its generator was fine-tuned"
        if settings["residual"] != "none":
            return "its generator adds to the mean sound of predicted actions"
    return ""


def architectures_of(conditions: dict[str, Condition]) -> list[str]:
    """Return the architectures whose audio the conditions read, each once."""
    kinds = [each.test_audio for each in conditions.values() if each.test_audio in GENERATOR_OF]
    return list(dict.fromkeys(GENERATOR_OF[kind] for kind in kinds))


# ---- models ----


def copy_classifiers(folder: Path, name: str, condition: Condition) -> Classifier:
    """Copy a condition's classifiers; return what builds them again."""
    source = layout.classifier_model(name)
    seeds = len(list(source.glob("seed-*.safetensors")))
    for seed in range(seeds):
        target = folder / bundle.classifier_file(name, seed)
        copy_file(source / f"seed-{seed}.safetensors", target)
    sizes = read_json(source / "config.json")
    return Classifier(
        model=condition.model,
        test_audio=condition.test_audio,
        gate=condition.gate,
        learns=condition.learns,
        hidden=sizes.get("hidden", 0),
        projection=sizes.get("projection", 0),
        seeds=seeds,
    )


def copy_generators(folder: Path, name: str, judged: bool) -> Generator:
    """Copy an architecture's generators; return what builds them again, and their threshold.

    judged: whether the filter's scores can be had for new clips.
    """
    source = layout.generator_model(name)
    seeds = len(list(source.glob("seed-*.safetensors")))
    for seed in range(seeds):
        target = folder / bundle.generator_file(name, seed)
        copy_file(source / f"seed-{seed}.safetensors", target)

    stored = read_json(source / "config.json")
    lstm = {key: stored[key] for key in GeneratorNetwork.model_fields}
    mapping = None
    if name == CAPTION_MAPPING:
        keys = MappingNetwork.model_fields
        mapping = MappingNetwork.model_validate({key: stored[key] for key in keys})
    threshold: float | None = None  # the filter does not judge the control
    if name in ARCHITECTURES and judged:
        threshold = read_json(layout.metrics("filter"))[name]["threshold"]
    return Generator(
        lstm=GeneratorNetwork.model_validate(lstm),
        mapping=mapping,
        video_width=stored["video_width"],
        audio_width=stored["audio_width"],
        text_width=stored.get("text_width", 0),
        seeds=seeds,
        threshold=threshold,
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; UserError where a stage has not written it."""
    if not source.is_file():
        raise UserError(f"{source} is missing: run `dvc repro`")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def copy_model(source: Path, target: Path) -> None:
    """Copy a Hugging Face directory: settings, vocabularies and weights, no pickles."""
    for pattern in hub.HUB_FILES:
        for path in source.rglob(pattern):
            copy_file(path, target / path.relative_to(source))


def copy_backbone(folder: Path, kind: str, name: str) -> Backbone:
    """Copy a backbone that is a local directory; of a published one return how to find it."""
    locate = text_backbone.locate if kind == "text" else hub.locate
    directory = locate(name)
    within = ""
    if Path(name).is_dir():
        within = f"backbones/{kind}"
        copy_model(directory, folder / within)
        name = directory.name  # a path may tell of its owner
    return Backbone(name=name, folder=within, digest=hub.digest_of(directory))


# ---- meaning ----


def write_meaning(folder: Path, filter_params: FilterParams, architectures: list[str]) -> None:
    """Write what labels and actions mean and sound like (see `prediction.bundle.Meaning`)."""
    actions, labels, references, embeddings = read_dictionary(filter_params)
    with safe_open(layout.MAPPING / "_labels.safetensors", "numpy") as file:
        tensors = {
            "references": references,
            "labels": embeddings,
            "label_text": file.get_tensor("text"),
            "label_audio": file.get_tensor("audio")[-1],  # of all training clips
        }
    if params.load("mapping", MappingParams).via == "key_captions":
        tensors |= key_captions()
    if filter_params.calibration == "action":
        fit = ActionFit(actions, references, embeddings, filter_params.centre)
        for audio in ("real", *architectures):
            if audio != "real" and audio not in ARCHITECTURES:
                continue
            background = training_background(audio, fit, filter_params.labels)
            for number, action in enumerate(actions):
                tensors[bundle.background_tensor(audio, number)] = background[action]
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        folder / bundle.MEANING,
    )


def read_dictionary(
    filter_params: FilterParams,
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Return actions, labels, what actions are compared by [A, D], and labels' embeddings."""
    with safe_open(layout.DICTIONARY_EMBEDDINGS, "numpy") as file:
        names = json.loads(file.metadata()["names"])
        references = file.get_tensor("actions")
        embeddings = file.get_tensor("labels")
    if filter_params.reference == "entry":
        references = entry_means(
            shards.read_table(layout.DICTIONARY).to_pandas(),
            names["actions"],
            names["labels"],
            embeddings,
            filter_params.entry_size,
        )
    return names["actions"], names["labels"], references, embeddings


def key_captions() -> dict[str, np.ndarray]:
    """Return the embeddings of the key captions [K, E] and the labels heard there [K, L]."""
    embeddings = shards.read_table(layout.MAPPING / "_captions.parquet")
    number_of = {text: i for i, text in enumerate(embeddings["caption"].to_pylist())}
    clips = shards.ok_rows(layout.CAPTIONS)
    rows = []
    for index, row in enumerate(shards.iter_rows(layout.CAPTIONS, ["captions"])):
        for text in row["captions"]:
            rows.append({"clip_index": index, "text": number_of[text], **clips[index]})
    stored = shards.read_columns(layout.AUDIO_FEATURES, ["label_scores"])
    scores = stored["label_scores"].astype(np.float32)
    keys = KeyCaptions(pd.DataFrame(rows), dict(zip(stored["clip_id"], scores, strict=True)))
    vectors = shards.as_array(embeddings["embedding"])
    return {"key_captions": vectors[keys.keys], "key_labels": keys.means().astype(np.float32)}


def training_background(audio: str, fit: ActionFit, labels: int) -> dict[str, np.ndarray]:
    """Return by action the ascending filter scores of training clips of other actions.

    audio: an architecture, or `real`.  labels: that make a clip's vector.
    """
    source = layout.AUDIO_FEATURES
    column = "label_scores"
    if audio != "real":
        source = layout.predicted_labels(audio)
        column = "generated"
    stored = shards.read_columns(source, [column], ["training"])
    predicted = predictions.read(BASELINE).consensus()
    actions = predicted[stored["clip_id"]].to_numpy()
    vectors = fit.of_scores(stored[column].astype(np.float32), labels)
    return background_scores(fit, vectors, actions)


# ---- settings ----


def write_settings(
    folder: Path,
    filter_params: FilterParams,
    classifiers: dict[str, Classifier],
    generators: dict[str, Generator],
    left_out: dict[str, str],
) -> BundleSettings:
    """Write bundle.json and return it; it names the digest of every other file but the card."""
    video = params.load("video_features", VideoFeaturesParams)
    audio = params.load("audio_features", AudioFeaturesParams)
    mapping = params.load("mapping", MappingParams)
    backbones = {
        "vision": copy_backbone(folder, "vision", video.model),
        "audio": copy_backbone(folder, "audio", audio.model),
        "text": copy_backbone(folder, "text", mapping.model),
    }
    if audio.label_model:
        backbones[bundle.LABELLER] = copy_backbone(folder, bundle.LABELLER, audio.label_model)
    actions, labels, _, _ = read_dictionary(filter_params)
    trained = read_json(layout.classifier_model(BASELINE) / "config.json")["actions"]
    if trained != actions:
        raise UserError(
            f"{layout.DICTIONARY} holds other actions than the classifiers: run `dvc repro`"
        )
    dictionary = shards.read_table(layout.DICTIONARY).to_pandas().groupby("action").audio_label
    tuned = params.read("captions", "finetune", str) != "off"
    decoder = read_json(layout.LABEL_PREDICTOR / "config.json")
    settings = BundleSettings(
        schema_version=SCHEMA_VERSION,
        actions=actions,
        labels=labels,
        dictionary=dictionary.apply(list).to_dict(),
        frames=params.load("frames", FramesParams),
        optical_flow=flow_params(),
        representative_frames=params.load("representative_frames", RepresentativeFramesParams),
        audio=params.load("audio", AudioParams),
        video_features=video,
        audio_features=audio,
        captions=CaptionSettings(
            beams=params.read("captions", "beams", int),
            max_tokens=params.read("captions", "max_tokens", int),
            prompt=TAGS_PROMPT if tuned else params.read("captions", "prompt", str),
        ),
        mapping=mapping,
        label_predictor=LabelHead(
            head=params.read("label_predictor", "head", str),
            hidden=decoder["hidden"],
            frames=decoder["frames"],
            mel_bins=decoder["mel_bins"],
        ),
        filter=filter_params,
        backbones=backbones,
        classifiers=classifiers,
        generators=generators,
        left_out=left_out,
        files={
            str(path.relative_to(folder)): file_digest(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )
    (folder / bundle.SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n")
    return settings


def flow_params() -> FlowParams:
    """Return how flow is drawn, with the scale that `optical_flow` found where it is `auto`."""
    p = params.load("optical_flow", OpticalFlowParams).drawing()
    if p.full_scale_px == "auto":
        return p.with_scale(read_json(layout.metrics("optical_flow"))["full_scale_px"])
    return p


def card_facts(settings: BundleSettings) -> CardFacts:
    """Return what the metrics say of the data and the conditions."""
    root = params.read("clips", "root", str)
    clips = read_json(layout.metrics("clips"))
    kept = read_json(layout.metrics("filter"))
    judged = [name for name, each in settings.generators.items() if each.threshold is not None]
    return CardFacts(
        root=root,
        rendered=Path(root) == layout.SAMPLE,
        clips=clips["split"],
        sources=clips["sources"],
        accuracy={
            name: read_json(layout.metrics("classifier", name))["accuracy"]
            for name in settings.classifiers
        },
        kept={name: kept[name]["kept_fraction"] for name in judged},
    )


def read_json(path: Path) -> dict:
    """Return the content of a file that a stage wrote."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro`")
    return json.loads(path.read_text())


if __name__ == "__main__":
    stage_run.main(main, __doc__, "bundle")
