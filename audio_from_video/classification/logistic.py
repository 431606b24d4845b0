"""Logistic regression in the LSTM's place: a weak LSTM would make any gain meaningless."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from audio_from_video.classification.audio_input import AudioReader, audio_scale
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.classification.training import CLIPS_PER_PART, predictions_of
from audio_from_video.storage.predictions import Predictions

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class LogisticResult:
    """predictions: of validation and test clips.

    hits: for each seed and missing rate whether test clips are predicted right, bool [test clips].
    """

    predictions: Predictions
    hits: list[list[np.ndarray]]


def logistic_regression(data: ActionData, p: ClassifierParams) -> LogisticResult:
    """Fit scikit-learn's logistic regression on each clip's mean and standard deviation over time.

    These are standardised; the regularisation is chosen on validation. With audio there is a fit
    for each seed, of whose generator the features are. Returns predictions of validation and test
    clips [seeds, clips, actions], and which test clips are right at the missing rates.
    """
    predicted = data.participants("validation", "test")
    test = data.participants("test")
    test_labels = data.labels[test].numpy()
    seeds = p.seeds if data.sounds else 1
    probabilities = np.zeros((seeds, len(data.clips), len(data.actions)), np.float32)
    hits = []
    for seed in range(seeds):
        clips = ClipSummaries(data, seed)
        model = fit_best(clips, p.logistic.inverse_regularisation)
        probabilities[seed, predicted] = model.predict_proba(clips.as_at_test(predicted))
        seed_hits = []
        for missing in data.missing_at(p.missing_rates, test, seed).values():
            summaries = clips.summary(test, "real", missing)
            seed_hits.append(model.predict(summaries) == test_labels)
        hits.append(seed_hits)
    return LogisticResult(predictions_of(data, predicted, probabilities), hits)


class ClipSummaries:
    """Mean and standard deviation over time of clips' features: float32 [n, 2 (V + A)]."""

    def __init__(self, data: ActionData, seed: int):
        self.data = data
        training = data.participants("training")
        self.training_indices = training[data.uses_label[training]]
        if data.sounds:
            self.audio = AudioReader(data, seed, audio_scale(data, self.training_indices))

    def as_in_training(self) -> np.ndarray:
        """Return the summaries of the training clips with a label, with the audio of training."""
        none_missing = torch.zeros(len(self.training_indices), dtype=torch.bool)
        kind = self.data.condition.train_audio
        return self.summary(self.training_indices, kind, none_missing)

    def as_at_test(self, clip_indices: torch.Tensor) -> np.ndarray:
        """Return the summaries of clips [n] as at test: without their own audio, or with it.

        They have it where the condition has real audio at test.
        """
        lacks_audio = self.data.condition.test_audio != "real"
        missing = torch.full((len(clip_indices),), lacks_audio)
        return self.summary(clip_indices, "real", missing)

    def summary(self, clip_indices: torch.Tensor, kind: str, missing: torch.Tensor) -> np.ndarray:
        """Return the summaries of clips [n], with the condition's filler where audio is missing.

        kind: the kind of audio of clips that do not lack it; missing [n] bool: those that do.
        """
        parts = clip_indices.split(CLIPS_PER_PART)
        features = torch.cat([self.data.video.read(part.tolist()) for part in parts])
        if self.data.sounds:
            audio = self.audio.read(clip_indices, kind, missing)
            present = audio.features * audio.present[:, None, None]
            features = torch.cat([features, present], dim=2)
        summaries = torch.cat([features.mean(1), features.std(1)], dim=1)
        return summaries.numpy()


def fit_best(clips: ClipSummaries, inverse_regularisation: list[float]) -> "Pipeline":
    """Return the scikit-learn pipeline that is most accurate on the validation clips."""
    # scikit-learn takes a second to import, and conditions with an LSTM do not need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = clips.data
    training = clips.as_in_training()
    training_labels = data.labels[clips.training_indices].numpy()
    validation_indices = data.participants("validation")
    validation = clips.as_at_test(validation_indices)
    validation_labels = data.labels[validation_indices].numpy()

    # Of two that are as accurate the first one counts.
    best = None
    best_accuracy = -1.0
    for strength in inverse_regularisation:
        regression = LogisticRegression(C=strength, max_iter=2000)
        model = make_pipeline(StandardScaler(), regression)
        model.fit(training, training_labels)
        accuracy = model.score(validation, validation_labels)
        if accuracy > best_accuracy:
            best = model
            best_accuracy = accuracy
    return best
