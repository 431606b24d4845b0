"""Figures of sound that is missing by class, by clip and in part (docs/missingness.md).

They come from the answers that trained classifiers give under patterns of missing sound; the stage
`missingness` makes these and says what stands in its metrics.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals, sound_value

PatternKey = tuple[str, float]  # kind of pattern, and its rate or share
AS_FOUND = ("segments", 0.0)  # nothing taken away
WITHOUT = ("segments", 1.0)  # no own sound at all
Figures = dict[str, dict]


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


@dataclass(frozen=True)
class Answers:
    """Answers to the test clips [n] under patterns of missing sound.

    hits [n, trainings] bool: whether they are right.  losses [n, trainings]: minus the logarithm of
    the true action's probability.
    """

    hits: dict[PatternKey, np.ndarray]
    losses: dict[PatternKey, np.ndarray]


def audible_figures(clips: Clips, silent: dict[str, float]) -> Figures:
    """Return by action the share of audible test clips, and that of silent training clips.

    silent: the latter, by action.
    """
    figures = {}
    for action, of_action in clips.test.groupby("action"):
        estimate = intervals.interval(of_action.audible.to_numpy(), of_action.source_id.to_numpy())
        figures[str(action)] = estimate | {"silent_in_training": silent[str(action)]}
    return figures


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


def value_figures(
    hits: dict[str, tuple[np.ndarray, np.ndarray]],
    propensity: sound_value.Propensity,
    clips: Clips,
    smallest: float,
) -> dict:
    """Return the gains of conditions that learned with real sound, on audible test clips.

    hits: [n, trainings] with sound as found, and of the condition's baseline, by condition.
    smallest: probability to which lower ones are raised.
    """
    audible = clips.audible
    sources = clips.sources[audible]
    probabilities = propensity.probabilities[audible]
    weights = sound_value.inverse_weights(probabilities, smallest)
    gains: Figures = {}
    for name, (own, baseline) in hits.items():
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
