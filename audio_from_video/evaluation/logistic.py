"""Logistic regression of two outcomes, as strongly regularised as held-out sources ask for."""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_from_video.clipset import folds

FOLDS = 3


class Fitted(NamedTuple):
    """model: fitted to all clips, features standardised.  inverse_regularisation: the chosen C."""

    model: Pipeline
    inverse_regularisation: float


def fit_logistic(
    features: np.ndarray, outcomes: np.ndarray, sources: np.ndarray, candidates: list[float]
) -> Fitted:
    """Fit clips [n, D] with outcomes [n] bool; choose among `candidates` of scikit-learn's C.

    The one with the lowest log loss on held-out folds of sources [n] is taken, and the smallest of
    equal ones.  A fold without which all outcomes are the same is not held out; where that is true
    of all of them, the smallest candidate is taken.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    splits = [
        (learned, held_out)
        for learned, held_out in PredefinedSplit(folds.of_sources(sources, FOLDS)).split()
        if len(np.unique(outcomes[learned])) > 1
    ]
    ordered = sorted(candidates)
    best = ordered[0]
    if splits and len(ordered) > 1:
        scorer = make_scorer(
            log_loss,
            greater_is_better=False,
            response_method="predict_proba",
            labels=[False, True],  # a fold may show one of them alone
        )
        grid = {"logisticregression__C": ordered}
        search = GridSearchCV(model, grid, scoring=scorer, cv=splits, refit=False)
        search.fit(features, outcomes)
        best = search.best_params_["logisticregression__C"]
    model.set_params(logisticregression__C=best)
    return Fitted(model.fit(features, outcomes), best)
