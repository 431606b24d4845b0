"""Logistic regression in the LSTM's place: a weak LSTM would make any gain meaningless."""

import numpy as np
import torch

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import ClassifierParams, Condition
from audio_from_video.classification.training import Training, answered, hear
from audio_from_video.runtime.vocabulary import LABELLED
from audio_from_video.storage.predictions import Predictions


def logistic_regression(
    data: ActionData, condition: Condition, p: ClassifierParams, name: str
) -> tuple[Predictions, list[dict]]:
    """Logistic regression (scikit-learn) on the mean and standard deviation over time of the features, standardised; its
    regularisation is chosen on validation.  With audio once per seed, of whose generator the features are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    training, validation, test = (data.rows(split) for split in LABELLED)
    training = training[data.taught[training]]
    asked = data.rows("validation", "test")
    seeds = p.seeds if data.sounds else 1
    probabilities, results = np.zeros((seeds, len(data.clips), len(data.actions)), np.float32), []
    for seed in range(seeds):
        task = Training(
            data, condition, p, seed, training, torch.tensor([]), asked, name, p.missing_rates
        )

        def summary(rows: torch.Tensor, kind: str, missing: torch.Tensor, task=task) -> np.ndarray:
            parts = [data.video.read(part.tolist()) for part in rows.split(512)]
            features = torch.cat(parts)
            if data.sounds:
                audio, heard, _ = hear(task, None, rows, kind, missing)
                features = torch.cat([features, audio * heard[:, None, None]], dim=2)
            return torch.cat([features.mean(1), features.std(1)], dim=1).numpy()

        def whole(rows: torch.Tensor, summary=summary) -> np.ndarray:
            return summary(rows, "real", torch.full((len(rows),), condition.test_audio != "real"))

        x, y = (
            summary(training, condition.train_audio, torch.zeros(len(training), dtype=torch.bool)),
            data.labels[training].numpy(),
        )
        candidates = [
            LogisticRegression(C=c, max_iter=2000) for c in p.logistic.inverse_regularisation
        ]
        models = [make_pipeline(StandardScaler(), candidate).fit(x, y) for candidate in candidates]
        held_out = whole(validation)
        best = max(models, key=lambda model: model.score(held_out, data.labels[validation].numpy()))
        probabilities[seed, asked] = best.predict_proba(whole(asked))
        truth = data.labels[test].numpy()
        right = [
            best.predict(summary(test, "real", gone)) == truth
            for gone in data.missing_at(p.missing_rates, test, seed).values()
        ]
        results.append({"right": right, "curve": []})
    return answered(data, asked, probabilities), results
