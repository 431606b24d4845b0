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
             as_found           by condition: accuracy with sound where the clip has any, on all,
                                audible and inaudible test clips, and its difference to
                                `video_only`
             random             by condition and rate: accuracy, from data/missing_rates
             class_dependent    by condition and rate: accuracy where as many audible clips lose
                                their sound, those of mostly silent actions rather than others;
                                `minus_random`: paired difference
             segments           by condition and share: accuracy where so many of the steps, in a
                                row, lack their sound
             never_hurts        by condition and share: on audible clips the difference in accuracy
                                to no sound at all, and how often the true action's loss rises
             value              gain of real sound over `video_only` on audible clips, as it is and
                                reweighted by 1 / P(audible | video) (evaluation/sound_value.py)
             adaptation         accuracy at each rate of networks that adapt to the test clips, and
                                its difference to those that do not (classification/adaptation.py)
docs/missingness.md explains each pattern.  No label of a test clip chooses anything: neither the
propensity model nor the adaptation reads them.  The class-dependent pattern itself is made of them.
"""

import sys
from dataclasses import dataclass
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
from audio_from_video.classification.trained import TrainedClassifier, why_not_by_step
from audio_from_video.evaluation import curves, intervals, sound_value
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
AS_FOUND = ("segments", 0.0)  # nothing taken away
WITHOUT = ("segments", 1.0)  # no own sound at all
PatternKey = tuple[str, float]  # kind of pattern, and its rate or share
Figures = dict[str, dict]


# ---- clips ----


@dataclass(frozen=True)
class Clips:
    """The test clips, and what is known of those that something may be fitted on.

    test: a row per test clip with clip_id, action, source_id and audible.
    training: labelled training clips with action and audible.
    """

    test: pd.DataFrame
    training: pd.DataFrame

    @property
    def audible(self) -> np.ndarray:
        """Which test clips have audible sound [n] bool."""
        return self.test.audible.to_numpy(copy=True)  # PyTorch takes no read-only arrays

    @property
    def sources(self) -> np.ndarray:
        """The sources of the test clips [n]."""
        return self.test.source_id.to_numpy()


def read_clips(video: VideoFeatures) -> Clips:
    """Return the clips with video features, and whether they have sound to be heard."""
    heard = {row["clip_id"] for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    clips = video.clips.assign(audible=video.clips.clip_id.isin(heard))
    test = clips[clips.split == "test"].reset_index(drop=True)
    return Clips(test, clips[clips.split == "training"])


def audible_figures(clips: Clips) -> Figures:
    """Return by action the share of audible test clips, and what training clips show of it."""
    silent = silent_shares(clips.training.action.to_numpy(), clips.training.audible.to_numpy())
    figures = {}
    for action, of_action in clips.test.groupby("action"):
        estimate = intervals.interval(of_action.audible.to_numpy(), of_action.source_id.to_numpy())
        figures[str(action)] = estimate | {"silent_in_training": silent[str(action)]}
    return figures


# ---- answers under patterns ----


@dataclass(frozen=True)
class Answers:
    """Answers to the test clips [n] under patterns of missing sound.

    hits [n, trainings] bool: whether they are right.  losses [n, trainings]: minus the logarithm of
    the true action's probability.
    """

    hits: dict[PatternKey, np.ndarray]
    losses: dict[PatternKey, np.ndarray]


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

    silent = silent_shares(clips.training.action.to_numpy(), clips.training.audible.to_numpy())
    odds = clips.test.action.map(silent).to_numpy()
    order = removal_order(uniform_numbers(ids, "class_dependent", p.seed, draw), odds)
    audible = torch.from_numpy(clips.audible)
    for rate, missing in missing_at.items():
        patterns["class_dependent", rate] = class_dependent(missing, audible, order, steps)
    return patterns


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
        trained = TrainedClassifier(name, data, seed)
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


def baseline_hits(clips: Clips) -> np.ndarray:
    """Return whether the trainings of `video_only` are right about the test clips [n, trainings].

    Raises UserError where it answers other clips.
    """
    test = predictions.read(BASELINE).of("test")
    hits = pd.DataFrame(test.hits_by_seed().T, index=test.clips.clip_id)
    hits = hits.reindex(clips.test.clip_id)
    if hits.isna().any(axis=None):
        raise UserError(
            f"{layout.predictions(BASELINE)} does not answer all test clips: "
            f"run `dvc repro classifier@{BASELINE}`"
        )
    return hits.to_numpy(bool)


# ---- figures ----


def percent(rate: float) -> str:
    """Return a rate or share as a key of the metrics, as evaluation/curves.py has it."""
    return f"{100 * rate:.0f}"


def as_found_figures(answers: Answers, baseline: np.ndarray, clips: Clips) -> Figures:
    """Return accuracies with sound where clips have any, and differences to the baseline."""
    everybody = np.ones(len(clips.test), bool)
    hits = answers.hits[AS_FOUND]
    figures: Figures = {}
    masks = {"all": everybody, "audible": clips.audible, "inaudible": ~clips.audible}
    for subset, mask in masks.items():
        sources = clips.sources[mask]
        figures[subset] = {
            "accuracy": intervals.interval(hits[mask], sources),
            "difference": intervals.paired_difference(hits[mask], baseline[mask], sources),
        }
    return figures


def class_dependent_figures(
    answers: Answers, random_hits: dict[str, np.ndarray], clips: Clips
) -> Figures:
    """Return accuracies by rate, and their paired difference to those of the random draw.

    random_hits: [n, trainings] by rate in per cent.  The networks are the same under both patterns,
    so that a resampled training takes both.
    """
    figures: Figures = {}
    for (kind, rate), hits in answers.hits.items():
        if kind == "class_dependent":
            minus_random = hits - random_hits[percent(rate)]
            figures[percent(rate)] = {
                "accuracy": intervals.interval(hits, clips.sources),
                "minus_random": intervals.interval(minus_random, clips.sources),
            }
    return figures


def segment_figures(answers: Answers, clips: Clips) -> Figures:
    """Return accuracies by the share of the steps that lack their sound."""
    return {
        percent(share): intervals.interval(hits, clips.sources)
        for (kind, share), hits in answers.hits.items()
        if kind == "segments"
    }


def never_hurts_figures(answers: Answers, clips: Clips) -> Figures:
    """Return what own sound adds on audible clips, by the share of the steps that lack it.

    gain: accuracy minus that without any own sound, in the same networks.  loss_rises: share of
    clips and trainings where the true action's loss is higher with the sound than without it.
    """
    audible = clips.audible
    sources = clips.sources[audible]
    without_hits = answers.hits[WITHOUT][audible].astype(float)
    without_losses = answers.losses[WITHOUT][audible]
    figures: Figures = {}
    for key, hits in answers.hits.items():
        kind, share = key
        if kind == "segments" and key != WITHOUT:
            rises = answers.losses[key][audible] > without_losses
            figures[percent(share)] = {
                "gain": intervals.interval(hits[audible] - without_hits, sources),
                "loss_rises": intervals.interval(rises, sources),
            }
    return figures


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


def value_figures(
    hits: dict[str, np.ndarray],
    baseline: np.ndarray,
    propensity: sound_value.Propensity,
    clips: Clips,
    smallest: float,
) -> dict:
    """Return the gains of conditions that learned with real sound, on audible test clips.

    hits: [n, trainings] with sound as found, by condition.  smallest: probability to which lower
    ones are raised.
    """
    audible = clips.audible
    sources = clips.sources[audible]
    probabilities = propensity.probabilities[audible]
    weights = sound_value.inverse_weights(probabilities, smallest)
    gains: Figures = {}
    for name, own in hits.items():
        pair = (own[audible], baseline[audible])
        gains[name] = {
            "unweighted": intervals.paired_difference(*pair, sources),
            "weighted": sound_value.weighted_difference(*pair, weights, sources),
        }
    return {
        "propensity": {
            "inverse_regularisation": propensity.inverse_regularisation,
            "log_loss": propensity.log_loss,
            "log_loss_of_share": propensity.log_loss_of_share,
            "largest_weight": float(weights.max()) if len(weights) else None,
            "clipped": float((probabilities < smallest).mean()) if len(weights) else None,
        },
        "gains": gains,
    }


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


def adaptation_figures(
    adapted: dict[str, np.ndarray], random_hits: dict[str, np.ndarray], clips: Clips
) -> Figures:
    """Return accuracies by rate, and their paired difference to networks that do not adapt."""
    figures: Figures = {}
    for rate, hits in adapted.items():
        figures[rate] = {
            "accuracy": intervals.interval(hits, clips.sources),
            "difference": intervals.interval(hits - random_hits[rate], clips.sources),
        }
    return figures


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

    with scratch() as folder:
        video = VideoFeatures(folder, SPLITS)
        clips = read_clips(video)
        propensity = propensity_of(video, p.propensity)
    indexed = clips.test.set_index("clip_id")
    baseline = baseline_hits(clips)

    metrics: dict[str, Any] = {"trainings": seeds, "left_out": left_out}
    metrics["audible"] = audible_figures(clips)
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
            if name == p.adaptation.condition:
                adapted = adapted_hits(name, data, clips, seeds, rates, p)
                adaptation = adaptation_figures(adapted, random_hits, clips)
        metrics["as_found"][name] = as_found_figures(answers, baseline, clips)
        metrics["random"][name] = curves.rate_accuracies(by_rate, indexed.source_id)
        metrics["class_dependent"][name] = class_dependent_figures(answers, random_hits, clips)
        metrics["segments"][name] = segment_figures(answers, clips)
        metrics["never_hurts"][name] = never_hurts_figures(answers, clips)
        if conditions[name].train_audio == REAL:
            heard_hits[name] = answers.hits[AS_FOUND]

    smallest = p.propensity.smallest_probability
    metrics["value"] = value_figures(heard_hits, baseline, propensity, clips, smallest)
    metrics["adaptation"] = {p.adaptation.condition: adaptation} if adaptation else {}
    stage.write_metrics(metrics)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "missingness")
