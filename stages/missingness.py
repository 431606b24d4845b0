"""Score trained classifiers where sound is missing as it is: by class, by clip and in part.

Reads    models/classifier/<condition>, data/predictions and data/missing_rates of
         `missingness.conditions`, data/missing_audio.parquet, data/video_features,
         data/audio_features, data/generated and data/filter
Writes   metrics/missingness.json; estimates have `{mean, ci95_low, ci95_high, n, sources}`, rates
         and shares are keys in per cent:
             trainings          networks of each condition, a figure averages them
             left_out           named conditions without figures, and why
             audible            by action: the share of test clips with audible sound, and the
                                shares of inaudible training clips, by which actions lose sound
             baselines          by condition: the one of the same model on video alone
             as_found           by condition: accuracy with sound where the clip has any, on all,
                                audible and inaudible test clips, and its difference to the
                                baseline
             random             by condition and rate: accuracy, from data/missing_rates
             class_dependent    by condition and rate: accuracy where as many audible clips lose
                                their sound, those of mostly silent actions rather than others;
                                `minus_random`: paired difference
             segments           by condition and share: accuracy where so many of the steps, in a
                                row, lack their sound
             never_hurts        by condition and share: on audible clips the difference in accuracy
                                to no sound at all, and how often the true action's loss rises
             value              gain of real sound over the baseline on audible clips, as it is and
                                reweighted by 1 / P(audible | video) (evaluation/sound_value.py)
             adaptation         accuracy at each rate of networks that adapt to the test clips, and
                                its difference to those that do not (classification/adaptation.py)
docs/missingness.md explains each pattern.  No label of a test clip chooses anything: neither the
propensity model nor the adaptation reads them.  The class-dependent pattern itself is made of them.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
import torch

from audio_from_video.classification.adaptation import stream_probabilities
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.heads import pooled
from audio_from_video.classification.missing_patterns import (
    Pattern,
    class_dependent,
    removal_order,
    segment,
    silent_shares,
    stream_order,
    uniform_numbers,
)
from audio_from_video.classification.missingness_settings import (
    MissingnessParams,
    PropensityParams,
)
from audio_from_video.classification.settings import Condition, FusionParams
from audio_from_video.classification.trained import (
    TrainedClassifier,
    TrainedHead,
    why_not_by_step,
)
from audio_from_video.evaluation import curves, sound_value
from audio_from_video.evaluation.missingness import (
    AS_FOUND,
    Answers,
    Clips,
    Figures,
    PatternKey,
    adaptation_figures,
    as_found_figures,
    audible_figures,
    class_dependent_figures,
    never_hurts_figures,
    percent,
    segment_figures,
    value_figures,
)
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.evaluation.sound_value import AudibleClips
from audio_from_video.learning.features import VideoFeatures
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SPLITS, UNLABELLED
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.row_file import scratch

CLIPS_PER_READ = 512  # bounds memory
MOST_LEARNED = 50_000  # clips that the propensity model learns from, which are held in memory
SMALLEST_PROBABILITY = 1e-9  # of which a logarithm is taken
REAL = "real"  # the kind of sound with which models learn what sound is worth


# ---- clips ----


def read_clips(video: VideoFeatures) -> Clips:
    """Return the clips with video features, and whether they have sound to be heard."""
    heard = {row["clip_id"] for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    clips = video.clips.assign(audible=video.clips.clip_id.isin(heard))
    test = clips[clips.split == "test"].reset_index(drop=True)
    return Clips(test, clips[clips.split == "training"])


def silent_in_training(clips: Clips) -> dict[str, float]:
    """Return the share of silent training clips by action (`silent_shares`)."""
    return silent_shares(clips.training.action.to_numpy(), clips.training.audible.to_numpy())


# ---- answers under patterns ----


def test_indices(data: ActionData, clips: Clips) -> torch.Tensor:
    """Return the test clips' indices [n] among those of a condition."""
    places = pd.Index(data.clips.clip_id).get_indexer(clips.test.clip_id)
    return torch.from_numpy(places)


def patterns_of(
    clips: Clips, missing_at: dict[float, torch.Tensor], steps: int, p: MissingnessParams, draw: int
) -> dict[PatternKey, Pattern]:
    """Return all patterns of the test clips for one training.

    missing_at: which clips [n] the random draw names, by rate.  draw: number of the training; the
    parts of clips are drawn once for all of them.
    """
    ids = clips.test.clip_id.tolist()
    numbers = uniform_numbers(ids, "segments", p.seed)
    patterns: dict[PatternKey, Pattern] = {}
    for share in p.segment_shares:
        patterns["segments", share] = segment(numbers, share, steps)

    odds = clips.test.action.map(silent_in_training(clips)).to_numpy()
    order = removal_order(uniform_numbers(ids, "class_dependent", p.seed, draw), odds)
    audible = torch.from_numpy(clips.audible)
    for rate, missing in missing_at.items():
        patterns["class_dependent", rate] = class_dependent(missing, audible, order, steps)
    return patterns


def trained_model(name: str, data: ActionData, seed: int) -> TrainedClassifier | TrainedHead:
    """Return the model of a training of a condition."""
    if data.condition.model == "lstm":
        return TrainedClassifier(name, data, seed)
    return TrainedHead(name, data, seed)


def answers_of(
    name: str, data: ActionData, clips: Clips, seeds: int, rates: list[float], p: MissingnessParams
) -> Answers:
    """Return what the networks of a condition answer under all patterns."""
    indices = test_indices(data, clips)
    labels = data.labels[indices].numpy()
    steps = data.video.shape[0]
    hits: dict[PatternKey, list[np.ndarray]] = {}
    losses: dict[PatternKey, list[np.ndarray]] = {}
    for seed in range(seeds):
        missing_at = data.missing_at(rates, indices, seed)
        patterns = patterns_of(clips, missing_at, steps, p, seed)
        trained = trained_model(name, data, seed)
        all_probabilities = trained.probabilities(indices, list(patterns.values()))
        for key, probabilities in zip(patterns, all_probabilities, strict=True):
            of_label = probabilities[np.arange(len(labels)), labels]
            hits.setdefault(key, []).append(probabilities.argmax(1) == labels)
            loss = -np.log(np.maximum(of_label, SMALLEST_PROBABILITY))
            losses.setdefault(key, []).append(loss)
    return Answers(
        {key: np.stack(of_key, 1) for key, of_key in hits.items()},
        {key: np.stack(of_key, 1) for key, of_key in losses.items()},
    )


def baseline_of(condition: Condition, conditions: dict[str, Condition]) -> str:
    """Return the condition of the same model on video alone; `video_only` where there is none."""
    for name, other in conditions.items():
        is_alone = not other.audio_kinds and not other.teacher
        if other.model == condition.model != "lstm" and is_alone:
            return name
    return BASELINE


def baseline_hits(name: str, clips: Clips) -> np.ndarray:
    """Return whether the trainings of a baseline are right about the test clips [n, trainings].

    Raises UserError where it answers other clips.
    """
    test = predictions.read(name).of("test")
    hits = pd.DataFrame(test.hits_by_seed().T, index=test.clips.clip_id)
    hits = hits.reindex(clips.test.clip_id)
    if hits.isna().any(axis=None):
        raise UserError(
            f"{layout.predictions(name)} does not answer all test clips: "
            f"run `dvc repro classifier@{name}`"
        )
    return hits.to_numpy(bool)


# ---- the value of sound ----


def audible_clips(video: VideoFeatures, indices: torch.Tensor, heard: np.ndarray) -> AudibleClips:
    """Return clips [n] as the propensity model sees them; heard [N]: which of all are audible."""
    parts = [pooled(video.video.read(part.tolist())) for part in indices.split(CLIPS_PER_READ)]
    places = indices.numpy()
    sources = video.clips.source_id.to_numpy()[places]
    return AudibleClips(torch.cat(parts).numpy(), heard[places], sources)


def propensity_of(video: VideoFeatures, p: PropensityParams) -> sound_value.Propensity:
    """Return P(audible | video) of the test clips, learned from training and unlabelled clips."""
    audible_ids = {row["clip_id"] for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    heard = video.clips.clip_id.isin(audible_ids).to_numpy()
    learned = video.clip_indices("training", UNLABELLED)
    learned = learned[video.fitted[learned]]
    # Of more clips some are drawn by hash.
    ids = video.clips.clip_id[learned.numpy()].tolist()
    learned = learned[stream_order(ids, 0)[:MOST_LEARNED].sort().values]
    test = audible_clips(video, video.clip_indices("test"), heard)
    return sound_value.fit_propensity(
        audible_clips(video, learned, heard),
        audible_clips(video, video.clip_indices("validation"), heard),
        test.features,
        p.inverse_regularisation,
    )


# ---- adaptation ----


def adapted_hits(
    name: str, data: ActionData, clips: Clips, seeds: int, rates: list[float], p: MissingnessParams
) -> dict[str, np.ndarray]:
    """Return whether networks that adapt are right [n, trainings], by rate in per cent."""
    indices = test_indices(data, clips)
    order = stream_order(clips.test.clip_id.tolist(), p.seed)
    hits: dict[str, list[np.ndarray]] = {percent(rate): [] for rate in rates}
    for seed in range(seeds):
        trained = TrainedClassifier(name, data, seed)
        for rate, missing in data.missing_at(rates, indices, seed).items():
            stream = indices[order]
            probabilities = stream_probabilities(trained, stream, missing[order], p.adaptation)
            answers = np.empty(len(indices), int)
            answers[order.numpy()] = probabilities.argmax(1)
            # Labels are looked at here for the first time.
            hits[percent(rate)].append(answers == data.labels[indices].numpy())
    return {rate: np.stack(of_rate, 1) for rate, of_rate in hits.items()}


# ---- the stage ----


def why_left_out(
    conditions: dict[str, Condition], fusion: FusionParams, p: MissingnessParams
) -> dict[str, str]:
    """Return why some of the named conditions cannot lack sound by step, by name."""
    reasons = {}
    for name in p.conditions:
        if name in conditions:
            reasons[name] = why_not_by_step(conditions[name], fusion)
    return {name: reason for name, reason in reasons.items() if reason}


def main(stage: stage_run.StageRun) -> None:
    """Run the stage."""
    p = params.load("missingness", MissingnessParams)
    conditions = params.read("classifier", "conditions", dict[str, Condition])
    seeds = params.read("classifier", "seeds", int)
    rates = params.read("classifier", "missing_rates", list[float])
    fusion = params.read("classifier", "fusion", FusionParams)
    left_out = why_left_out(conditions, fusion, p)
    for name, reason in left_out.items():
        print(f"{stage.name}: {name} is left out: {reason}", file=sys.stderr)
    names = [name for name in p.conditions if name in conditions and name not in left_out]
    adapting = p.adaptation.condition
    if adapting in names and conditions[adapting].model != "lstm":
        raise UserError(
            f"missingness.adaptation.condition: {adapting} is a {conditions[adapting].model} head; "
            "only LSTMs adapt"
        )

    with scratch() as folder:
        video = VideoFeatures(folder, SPLITS)
        clips = read_clips(video)
        propensity = propensity_of(video, p.propensity)
    indexed = clips.test.set_index("clip_id")
    baselines = {name: baseline_of(conditions[name], conditions) for name in names}
    baseline = {name: baseline_hits(name, clips) for name in {BASELINE, *baselines.values()}}

    metrics: dict[str, Any] = {"trainings": seeds, "left_out": left_out, "baselines": baselines}
    metrics["audible"] = audible_figures(clips, silent_in_training(clips))
    kinds = ("as_found", "random", "class_dependent", "segments", "never_hurts")
    metrics |= {kind: {} for kind in kinds}
    heard_hits = {}
    adaptation: Figures = {}
    for name in stage.progress(names, len(names), "condition"):
        by_rate = curves.rate_hits(name, indexed, seeds, rates)
        random_hits = {rate: hits.to_numpy() for rate, hits in by_rate.items()}
        with scratch() as folder:
            data = ActionData(folder, conditions[name])
            answers = answers_of(name, data, clips, seeds, rates, p)
            if name == adapting:
                adapted = adapted_hits(name, data, clips, seeds, rates, p)
                adaptation = adaptation_figures(adapted, random_hits, clips)
        own_baseline = baseline[baselines[name]]
        metrics["as_found"][name] = as_found_figures(answers, own_baseline, clips)
        metrics["random"][name] = curves.rate_accuracies(by_rate, indexed.source_id)
        metrics["class_dependent"][name] = class_dependent_figures(answers, random_hits, clips)
        metrics["segments"][name] = segment_figures(answers, clips)
        metrics["never_hurts"][name] = never_hurts_figures(answers, clips)
        if conditions[name].train_audio == REAL:
            heard_hits[name] = answers.hits[AS_FOUND], own_baseline

    smallest = p.propensity.smallest_probability
    metrics["value"] = value_figures(heard_hits, propensity, clips, smallest)
    metrics["adaptation"] = {adapting: adaptation} if adaptation else {}
    stage.write_metrics(metrics)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "missingness")
