"""Linear and kernel heads in the LSTM's place: a weak LSTM would make any gain meaningless.

They read each clip's mean and standard deviation over time: logistic regression, or a support
vector machine with a Gaussian kernel, both of scikit-learn. Their settings are chosen by
cross-validation over the sources of the training clips with a label.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from audio_from_video.classification.audio_input import (
    AudioReader,
    AudioScale,
    audio_reader,
    component_weights,
)
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.classification.targets import training_targets
from audio_from_video.classification.training import CLIPS_PER_PART, predictions_of
from audio_from_video.storage.predictions import Predictions

SMALLEST_TARGET = 0.03  # of a teacher's probabilities; less is not learned
SMALLEST_STD = 1e-6  # what does not vary is divided by 1
# Candidates for what a support vector machine's decision values are multiplied by.
TEMPERATURES = tuple(np.geomspace(0.1, 30.0, 40))


@dataclass(frozen=True)
class HeadSetting:
    """What cross-validation chooses.

    audio_gain: what the summaries of audio are multiplied by.
    temperature: what decision values are multiplied by before softmax; 1 in logistic regression,
    whose decision values are log-probabilities.
    accuracy: of the held-out clips; None where nothing could be held out.
    """

    inverse_regularisation: float
    audio_gain: float
    temperature: float
    accuracy: float | None


@dataclass(frozen=True)
class HeadResult:
    """predictions: of validation and test clips, and of what else the condition answers.

    hits: for each seed and missing rate whether test clips are predicted right, bool [test clips].
    setting: the one of all training clips.  heads: for each seed the one that answers test clips.
    """

    predictions: Predictions
    hits: list[list[np.ndarray]]
    setting: HeadSetting
    heads: list["Head"]


def fit_heads(data: ActionData, p: ClassifierParams) -> HeadResult:
    """Fit a condition's heads and predict.

    With audio, or a teacher with several trainings, there is a fit for each seed, else one for all.
    A setting is chosen with the first seed's audio, once for all training clips and once without
    each fold whose clips are predicted: what a clip gets out of fold has not seen its label.
    """
    seeds = 1 if data.condition.draws_nothing else p.seeds
    parts = parts_of_heads(data, p)
    settings = []
    for training, _ in parts:
        labelled = with_label(data, training)
        settings.append(choose_setting(summaries_of(data, p, labelled, 0), labelled, p))

    probabilities = np.zeros((seeds, len(data.clips), len(data.actions)), np.float32)
    test = data.participants("test")
    test_labels = data.labels[test].numpy()
    hits = []
    heads = []
    for seed in range(seeds):
        for number, (training, predicted) in enumerate(parts):
            head = Head(data, p, training, settings[number], seed)
            probabilities[seed, predicted] = head.probabilities(predicted)
            if number:
                continue
            heads.append(head)
            seed_hits = []
            for missing in data.missing_at(p.missing_rates, test, seed).values():
                answers = head.probabilities(test, missing).argmax(1)
                seed_hits.append(answers == test_labels)
            hits.append(seed_hits)
    everything = torch.cat([predicted for _, predicted in parts])
    return HeadResult(predictions_of(data, everything, probabilities), hits, settings[0], heads)


def parts_of_heads(
    data: ActionData, p: ClassifierParams
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the pairs of `ActionData.parts`, as heads learn and predict them.

    Where they learn from all labelled clips, validation clips are learned from to answer all others
    but training clips. They are answered by what training clips teach.
    """
    parts = data.parts()
    if p.heads.learn_from == "training":
        return parts
    training, predicted = parts[0]
    validation = data.participants("validation")
    others = predicted[~torch.isin(predicted, validation)]
    return [(torch.cat([training, validation]), others), (training, validation), *parts[1:]]


def with_label(data: ActionData, clip_indices: torch.Tensor) -> torch.Tensor:
    """Return those of the clips [n] whose label is used; validation has no label budget."""
    in_validation = torch.isin(clip_indices, data.clip_indices("validation"))
    return clip_indices[data.uses_label[clip_indices] | in_validation]


class Head:
    """A head that is fitted to the clips of a training, with a setting.

    Of a teacher it learns as the LSTM does (targets.py): a clip stands there once for every action
    that the teacher thinks possible, weighted by its probability.
    """

    def __init__(
        self,
        data: ActionData,
        p: ClassifierParams,
        training: torch.Tensor,
        setting: HeadSetting,
        seed: int,
    ):
        labelled = with_label(data, training)
        self.setting = setting
        self.actions = len(data.actions)
        clip_indices, targets = training_targets(data, labelled, 0.0, p.teaching, seed)
        self.summaries = summaries_of(data, p, clip_indices, seed)
        clips, labels = np.nonzero(targets[clip_indices].numpy() > SMALLEST_TARGET)
        weights = targets[clip_indices].numpy()[clips, labels]
        learned = self.summaries.as_in_training(clip_indices, setting.audio_gain)
        self.basis = basis_of(data.condition.model, learned)
        self.estimator = estimator(data.condition.model, setting.inverse_regularisation)
        self.estimator.fit((learned @ self.basis)[clips], labels, sample_weight=weights)

    def probabilities(
        self, clip_indices: torch.Tensor, missing: torch.Tensor | None = None
    ) -> np.ndarray:
        """Return the probabilities [n, actions] of clips [n] as at test.

        missing [n] bool: the clips that lack their audio; left out, as `Summaries.as_at_test` says.
        """
        summary = self.summaries.as_at_test(clip_indices, self.setting.audio_gain, missing)
        values = decision_values(self.estimator, summary @ self.basis, self.actions)
        return softmax(self.setting.temperature * values)


@dataclass(frozen=True)
class Hearing:
    """How a head hears: what reads its audio, and the weights [A] of standardised components."""

    reader: AudioReader
    weights: torch.Tensor

    def summary(self, features: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return the summaries [n, 2A] of audio features [n, T, A].

        present [n, T] or [n, 1] bool: the steps that have them.
        """
        return pooled_sound(features, present, self.reader.scale, self.weights)


@dataclass(frozen=True)
class Summaries:
    """Mean and standard deviation over time of clips' features: float32 [n, 2 (V + A)].

    Those of video are standardised by video_mean and video_std [2V]. Audio is standardised and
    weighted by component before, as the LSTM reads it, so that its weights stay; missing audio
    is 0. hearing: None where the condition reads no audio.
    """

    data: ActionData
    video_mean: torch.Tensor
    video_std: torch.Tensor
    hearing: Hearing | None

    def as_in_training(self, clip_indices: torch.Tensor, audio_gain: float) -> np.ndarray:
        """Return the summaries of training clips [n], with the audio of training."""
        none_missing = torch.zeros(len(clip_indices), dtype=torch.bool)
        return self._summary(
            clip_indices, self.data.condition.train_audio, none_missing, audio_gain
        )

    def as_at_test(
        self, clip_indices: torch.Tensor, audio_gain: float, missing: torch.Tensor | None = None
    ) -> np.ndarray:
        """Return the summaries of clips [n] as at test, with the condition's filler if missing.

        missing [n] bool: left out, it is all clips, or none where there is real audio at test.
        """
        if missing is None:
            lacks_audio = self.data.condition.test_audio != "real"
            missing = torch.full((len(clip_indices),), lacks_audio)
        return self._summary(clip_indices, "real", missing, audio_gain)

    def _summary(
        self, clip_indices: torch.Tensor, kind: str, missing: torch.Tensor, audio_gain: float
    ) -> np.ndarray:
        """Summaries of clips [n]; kind: of the audio of clips that do not lack it."""
        summary = self.of_video(clip_indices)
        if self.hearing:
            audio = self.hearing.reader.read(clip_indices, kind, missing)
            heard = self.hearing.summary(audio.features, audio.present[:, None])
            summary = torch.cat([summary, audio_gain * heard], dim=1)
        return summary.numpy()

    def of_video(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the summaries [n, 2V] of clips' video."""
        return (pooled_video(self.data, clip_indices) - self.video_mean) / self.video_std


def summaries_of(
    data: ActionData, p: ClassifierParams, training_indices: torch.Tensor, seed: int
) -> Summaries:
    """Return the summaries whose scales are those of the clips of a training [n]."""
    hearing = None
    if data.sounds:
        fusion = p.fusion_of(data.condition)
        reader = audio_reader(data, fusion, training_indices, seed)
        hearing = Hearing(reader, component_weights(data, fusion, training_indices, seed))
    video = pooled_video(data, training_indices)
    std = video.std(0, correction=0)
    std = torch.where(std > SMALLEST_STD, std, torch.ones_like(std))
    return Summaries(data, video.mean(0), std, hearing)


def pooled_video(data: ActionData, clip_indices: torch.Tensor) -> torch.Tensor:
    """Return mean and standard deviation over time [n, 2V] of the video of clips [n]."""
    parts = clip_indices.split(CLIPS_PER_PART)
    return torch.cat([pooled(data.video.read(part.tolist())) for part in parts])


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Return mean and standard deviation over time [n, 2D] of features [n, T, D]."""
    # NumPy's deviation takes a tenth of PyTorch's time.
    deviation = torch.from_numpy(features.numpy().std(1, ddof=1))
    return torch.cat([features.mean(1), deviation], dim=1)


def pooled_sound(
    features: torch.Tensor, present: torch.Tensor, scale: AudioScale, weights: torch.Tensor
) -> torch.Tensor:
    """Return mean and standard deviation over time [n, 2A] of audio features [n, T, A].

    Before, they are standardised, and multiplied by the components' weights [A].  present [n, T] or
    [n, 1] bool: the steps that have audio; the others count as 0.
    """
    weighted = (features - scale.mean) / scale.std * weights
    return pooled(weighted * present[..., None])


def choose_setting(
    summaries: Summaries, labelled: torch.Tensor, p: ClassifierParams
) -> HeadSetting:
    """Return the setting with the highest accuracy on held-out training clips; the first of equals.

    labelled: indices of the clips with a label. Folds are those of the generators: the held-out
    clips' generated audio comes from a generator of which no learned clip has any, as it is at
    test. Validation clips are one more fold. A fold without which fewer than two actions remain is
    not held out.
    """
    data = summaries.data
    labels = data.labels[labelled].numpy()
    fold = data.generator_fold(p.heads.folds)[labelled].numpy()
    candidates = getattr(p, data.condition.model).inverse_regularisation
    best: HeadSetting | None = None
    for gain in p.heads.audio_gains if data.sounds else [1.0]:
        learned = summaries.as_in_training(labelled, gain)
        held_out = summaries.as_at_test(labelled, gain)
        basis = basis_of(data.condition.model, learned)
        values = held_out_values(
            data.condition.model,
            candidates,
            learned @ basis,
            held_out @ basis,
            labels,
            len(data.actions),
            fold,
        )
        for strength in candidates:
            setting = judged(strength, gain, data.condition.model, values[strength], labels)
            if best is None or (setting.accuracy or 0.0) > (best.accuracy or 0.0):
                best = setting
    if best is None:
        raise ValueError("there are no candidates")
    return best


def held_out_values(
    model: str,
    candidates: list[float],
    learned: np.ndarray,
    held_out: np.ndarray,
    labels: np.ndarray,
    actions: int,
    fold: np.ndarray,
) -> dict[float, np.ndarray]:
    """Return, for each inverse regularisation, the decision values [n, actions] of held-out clips.

    learned, held_out: summaries [n, D] of the clips as in training and as at test. A fold is
    answered by an estimator without its clips; NaN stands where nothing remains to learn from.
    """
    values = {strength: np.full((len(labels), actions), np.nan) for strength in candidates}
    for number in np.unique(fold):
        inside = fold == number
        if len(np.unique(labels[~inside])) < 2:
            continue
        fitted = estimator(model, candidates[0])
        for strength in candidates:
            # A logistic regression goes on from the weights of the last candidate.
            fitted.set_params(C=strength)
            fitted.fit(learned[~inside], labels[~inside])
            values[strength][inside] = decision_values(fitted, held_out[inside], actions)
    return values


def judged(
    strength: float, gain: float, model: str, values: np.ndarray, labels: np.ndarray
) -> HeadSetting:
    """Return a setting with its accuracy on the clips that were held out, and its temperature.

    values [n, actions]: decision values, NaN of clips that were not held out.
    """
    known = ~np.isnan(values).any(1)
    if not known.any():
        return HeadSetting(strength, gain, 1.0, None)
    values = values[known]
    labels = labels[known]
    accuracy = float((values.argmax(1) == labels).mean())
    temperature = 1.0
    if model == "svm":
        # Platt's scaling (1999) for many classes: one factor before softmax (Guo et al. 2017).
        losses = []
        for factor in TEMPERATURES:
            likelihood = softmax(factor * values)[np.arange(len(labels)), labels]
            losses.append(-np.log(np.maximum(likelihood, 1e-9)).mean())
        temperature = float(TEMPERATURES[int(np.argmin(losses))])
    return HeadSetting(strength, gain, temperature, accuracy)


def basis_of(model: str, learned: np.ndarray) -> np.ndarray:
    """Return the basis [D, K] in which an estimator reads summaries [n, D].

    The weights of a logistic regression with a quadratic penalty lie in the span of the clips that
    it learns from, so K = n coordinates are enough where D is more, and take less time. A kernel
    also compares what lies outside.
    """
    count, width = learned.shape
    if model != "logistic" or width <= count:
        return np.eye(width, dtype=learned.dtype)
    return np.linalg.qr(learned.T).Q


def estimator(model: str, inverse_regularisation: float) -> Any:
    """Return an unfitted estimator of scikit-learn."""
    # scikit-learn takes a second to import, and conditions with an LSTM do not need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    if model == "logistic":
        return LogisticRegression(C=inverse_regularisation, max_iter=2000, warm_start=True)
    return SVC(C=inverse_regularisation)


def decision_values(model: Any, summary: np.ndarray, actions: int) -> np.ndarray:
    """Return the estimator's decision values [n, actions]; -inf of an action that it never saw."""
    return of_all_actions(model.decision_function(summary), model.classes_, actions)


def of_all_actions(values: np.ndarray, classes: np.ndarray, actions: int) -> np.ndarray:
    """Return decision values [n, actions]; -inf of an action that is not among the classes [C].

    values [n, C]: of the classes; of two classes [n], those of the second against the first.
    """
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    everything = np.full((len(values), actions), -np.inf)
    everything[:, classes] = values
    return everything


def softmax(values: np.ndarray) -> np.ndarray:
    """Return probabilities [n, actions] of decision values [n, actions]."""
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
