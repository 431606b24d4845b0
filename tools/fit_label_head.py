"""Fit a head for AudioSet's labels to a wav2vec 2, HuBERT or WavLM, on annotated training clips.

    dvc repro audio
    python -m tools.fit_label_head facebook/wav2vec2-base labels.csv /data/models/wav2vec2-labels
    dvc exp run -S audio_features.model=/data/models/wav2vec2-labels

labels.csv has the columns `clip_id` (as in data/clips.parquet) and `labels`: names or ids of
AudioSet's labels, separated by semicolons or in several rows of a clip.  Clips of other splits than
training are left out, and so are later clips (`clips.fit_on`) and those without sound.

The model stays as it is.  The head is a logistic regression for each label on the mean of the
model's outputs over time, standardised; how much it is regularised is chosen by cross-validation
over sources.  A label needs clips of three sources with it, and of three without it; others
score 0.  What is written is a directory of transformers' ...ForSequenceClassification.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss
from sklearn.model_selection import GroupKFold
from tqdm import tqdm

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import audio_wave, hub
from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_wave import WaveBackbone
from audio_from_video.media import codecs
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import fit_on, layout, shards

COLUMNS = ("clip_id", "labels")
FOLDS = 3
INVERSE_REGULARISATION = (0.001, 0.01, 0.1, 1.0)  # candidates for scikit-learn's C
MOST_STEPS = 1000  # of a fit
NEVER = -20.0  # logit of a label that nothing was learned of: a score of 2e-9


class Heard(NamedTuple):
    """The annotated training clips."""

    pooled: np.ndarray  # [N, D] the model's outputs, mean over time
    present: np.ndarray  # bool [N, 527] annotated labels
    sources: np.ndarray  # [N] source ids


class Head(NamedTuple):
    """A linear head for AudioSet's labels, and how well it answers for held-out sources."""

    weights: np.ndarray  # [527, D]
    biases: np.ndarray  # [527]
    labels: int  # number of those that were learned
    inverse_regularisation: float
    average_precision: float  # mean over labels, of held-out clips
    chance: float  # what it would be without listening


def read_labels(path: Path) -> dict[str, set[int]]:
    """Return the indices of each annotated clip's labels, by clip_id.

    Raises UserError where the file is no such list or names an unknown label.
    """
    index_of = {}
    for index, label in enumerate(load_labels()):
        index_of[label.display_name.casefold()] = index
        index_of[label.mid.casefold()] = index
    labels: dict[str, set[int]] = {}
    for line, row in read_rows(path):
        names = [name.strip() for name in (row["labels"] or "").split(";") if name.strip()]
        unknown = [name for name in names if name.casefold() not in index_of]
        if unknown:
            raise UserError(
                f"{path}, line {line}: '{unknown[0]}' is none of AudioSet's labels "
                "(audio_from_video/audioset/labels.csv); several are separated by semicolons"
            )
        of_clip = labels.setdefault(row["clip_id"], set())
        of_clip.update(index_of[name.casefold()] for name in names)
    return labels


def read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of the list, each with its line; UserError where it is no such list."""
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        try:
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise UserError(f"{path} is no CSV file: {error}") from None
    if missing:
        raise UserError(f"{path} has no column {min(missing)}; needed are {', '.join(COLUMNS)}")
    return rows


def hear(backbone: WaveBackbone, labels: dict[str, set[int]]) -> Heard:
    """Return what a model makes of the annotated training clips.

    Raises UserError where there is no sound, or where no clip of it is annotated.
    """
    if not layout.AUDIO.is_dir():
        raise UserError(f"{layout.AUDIO} is missing: run `dvc repro audio`")
    rows = [row for row in shards.ok_rows(layout.AUDIO) if row["split"] == "training"]
    fitted = fit_on.fitted(row["clip_id"] for row in rows)
    source_of = {
        row["clip_id"]: row["source_id"]
        for row, is_fitted in zip(rows, fitted, strict=True)
        if is_fitted and row["clip_id"] in labels
    }
    pooled = []
    present = []
    sources = []
    stored = shards.iter_rows(layout.AUDIO, ["flac"], clip_ids=set(source_of))
    for row in tqdm(stored, "hear", len(source_of), unit="clip"):
        wave = codecs.decode_flac(row["flac"])[: round(backbone.max_s * backbone.rate_hz)]
        pooled.append(backbone.hear(backbone.prepare([wave])).pooled[0])
        present.append(np.isin(np.arange(len(load_labels())), list(labels[row["clip_id"]])))
        sources.append(source_of[row["clip_id"]])
    if not pooled:
        raise UserError(
            f"none of the {len(labels)} annotated clips is an audible training clip: clip ids are "
            f"those of {layout.CLIPS}"
        )
    return Heard(np.stack(pooled), np.stack(present), np.array(sources))


def learnable(heard: Heard) -> np.ndarray:
    """Return the labels that clips of at least FOLDS sources have, and as many have not."""
    chosen = []
    for label, present in enumerate(heard.present.T):
        with_label = len(np.unique(heard.sources[present]))
        without_label = len(np.unique(heard.sources[~present]))
        if min(with_label, without_label) >= FOLDS:
            chosen.append(label)
    return np.array(chosen, int)


def fit_head(heard: Heard) -> Head:
    """Return the head whose regularisation answers best for held-out sources, by log loss.

    Raises UserError where no label can be learned.
    """
    labels = learnable(heard)
    if not len(labels):
        raise UserError(
            f"no label can be learned: one needs annotated training clips of {FOLDS} sources with "
            f"it, and of {FOLDS} without it"
        )
    mean = heard.pooled.mean(0)
    deviation = heard.pooled.std(0) + 1e-6
    inputs = (heard.pooled - mean) / deviation
    targets = heard.present[:, labels]
    answers = {c: held_out(inputs, targets, heard.sources, c) for c in INVERSE_REGULARISATION}
    best = min(answers, key=lambda c: log_loss(targets.ravel(), answers[c].ravel()))

    weights = np.zeros((heard.present.shape[1], inputs.shape[1]))
    biases = np.full(heard.present.shape[1], NEVER)
    for label in labels:
        model = LogisticRegression(C=best, max_iter=MOST_STEPS)
        model.fit(inputs, heard.present[:, label])
        weights[label] = model.coef_[0] / deviation
        biases[label] = model.intercept_[0] - weights[label] @ mean
    precision = average_precision_score(targets, answers[best], average="macro")
    return Head(weights, biases, len(labels), best, float(precision), float(targets.mean()))


def held_out(inputs: np.ndarray, targets: np.ndarray, sources: np.ndarray, c: float) -> np.ndarray:
    """Return the probability [N, L] of each label in each clip, learned from other sources.

    inputs [N, D], targets bool [N, L], sources [N].  c: inverse regularisation.
    """
    probabilities = np.empty(targets.shape)
    for learned, left_out in GroupKFold(FOLDS).split(inputs, groups=sources):
        for label, present in enumerate(targets[learned].T):
            if present.all() or not present.any():
                probabilities[left_out, label] = present[0]
                continue
            model = LogisticRegression(C=c, max_iter=MOST_STEPS).fit(inputs[learned], present)
            probabilities[left_out, label] = model.predict_proba(inputs[left_out])[:, 1]
    return probabilities


def write_model(name: str, head: Head, folder: Path) -> None:
    """Write a directory of the model with its head."""
    import torch
    import transformers

    names = [label.display_name for label in load_labels()]
    config = hub.transformers_config(name)
    config.classifier_proj_size = config.hidden_size
    config.use_weighted_layer_sum = False
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    loader = getattr(transformers, audio_wave.CLASSIFIERS[config.model_type])
    model = hub.load_pretrained(
        loader,
        name,
        WaveBackbone.HEARS,
        config=config,
        ignore_mismatched_sizes=True,  # of a head that it may have for other labels
        use_safetensors=True,
        dtype="float32",
    )
    with torch.no_grad():
        model.projector.weight.copy_(torch.eye(config.hidden_size))
        model.projector.bias.zero_()
        model.classifier.weight.copy_(torch.from_numpy(head.weights))
        model.classifier.bias.copy_(torch.from_numpy(head.biases))
    model.save_pretrained(folder)
    extractor = hub.load_pretrained(
        transformers.Wav2Vec2FeatureExtractor, name, "a feature extractor"
    )
    extractor.save_pretrained(folder)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="directory or hub name of a wav2vec 2, HuBERT or WavLM")
    parser.add_argument("labels", type=Path, help="CSV list of annotated clips")
    parser.add_argument("folder", type=Path, help="directory to write, which may not exist yet")
    arguments = parser.parse_args()
    try:
        if arguments.folder.exists():
            raise UserError(f"{arguments.folder} exists: name a new directory")
        arguments.folder.parent.mkdir(parents=True, exist_ok=True)
        labels = read_labels(arguments.labels)
        backbone = load_audio(arguments.model)
        if not isinstance(backbone, WaveBackbone):
            raise UserError(f"'{arguments.model}' is no {WaveBackbone.HEARS}, which take a head")
        head = fit_head(hear(backbone, labels))
        with replace_directory(arguments.folder) as folder:
            write_model(arguments.model, head, folder)
    except (UserError, OSError) as error:
        sys.exit(f"fit_label_head: error: {printable(str(error))}")
    print(
        f"{arguments.folder}: {head.labels} labels, mean average precision for held-out sources "
        f"{head.average_precision:.3f}, by chance {head.chance:.3f} "
        f"(C = {head.inverse_regularisation:g})"
    )


if __name__ == "__main__":
    main()
