"""The head `features`: its map against scikit-learn's ridge, its scores against AST itself."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from audio_from_video.clipset import folds
from audio_from_video.meaning.pooled_head import PooledHead, fit_map, summarise
from audio_from_video.storage.row_file import RowFile
from tests.support.synthetic import COMPONENTS, LABELS, POOLED, STEPS

RNG = np.random.default_rng(0)


def test_the_summary_is_mean_and_deviation_over_time_and_one():
    audio = torch.randn(3, 6, 4)
    values = audio.numpy()
    expected = np.concatenate([values.mean(1), values.std(1, ddof=1), np.ones((3, 1))], axis=1)
    assert np.allclose(summarise(audio).numpy(), expected, atol=1e-6)


def test_the_map_is_ridge_with_the_penalty_that_held_out_sources_prefer(features):
    clips = len(features.clips)
    pooled = {i: RNG.normal(size=POOLED).astype(np.float32) for i in range(clips)}
    has_audio = features.audio_row >= 0
    learned = features.clip_indices("training", "unlabelled")
    learned = learned[has_audio[learned]]
    sources = features.clips.source_id.to_numpy()[learned]
    fold = folds.of_sources(sources, 3)
    penalties = [0.1, 10.0, 1000.0]
    fitted = fit_map(features, pooled, learned, fold, penalties)

    def inputs(clip_indices: torch.Tensor) -> np.ndarray:
        return summarise(features.sound(clip_indices)[0]).double().numpy()

    def outputs(clip_indices: torch.Tensor) -> np.ndarray:
        return np.stack([pooled[i] for i in clip_indices.tolist()])

    search = GridSearchCV(
        Ridge(fit_intercept=False),
        {"alpha": penalties},
        scoring="neg_mean_squared_error",
        cv=PredefinedSplit(fold),
    )
    search.fit(inputs(learned), outputs(learned))
    assert fitted.weights.shape == (2 * COMPONENTS + 1, POOLED)
    assert np.allclose(fitted.weights.numpy(), search.best_estimator_.coef_.T, atol=1e-5)
    assert fitted.penalty == search.best_params_["alpha"]
    assert fitted.penalty > 0.1  # noise asks for a strong penalty

    # Folds may differ in size: the mean is over clips.
    errors = 0.0
    for number in range(3):
        inside = torch.from_numpy(fold == number)
        rest = learned[~inside]
        model = Ridge(10.0, fit_intercept=False).fit(inputs(rest), outputs(rest))
        held_out = learned[inside]
        errors += np.square(model.predict(inputs(held_out)) - outputs(held_out)).sum()
    assert fitted.held_out_errors[10.0] == pytest.approx(errors / len(learned) / POOLED, rel=1e-6)


def test_without_held_out_sources_the_map_takes_the_largest_penalty(features):
    learned = features.clip_indices("training")
    learned = learned[features.audio_row[learned] >= 0]
    pooled = {i: np.ones(POOLED, np.float32) for i in learned.tolist()}
    one_fold = np.zeros(len(learned), int)
    fitted = fit_map(features, pooled, learned, one_fold, [1.0, 100.0, 10.0])
    assert fitted.penalty == 100.0
    assert fitted.held_out_errors == {}


def test_scores_are_averaged_over_seeds_and_silent_clips_have_none(features, ast, tmp_path):
    test = features.clip_indices("test")
    weights = torch.from_numpy(RNG.normal(size=(2 * COMPONENTS + 1, POOLED))).float()
    audio = RNG.normal(size=(len(test), 2, STEPS, COMPONENTS)).astype(np.float16)
    file = RowFile(tmp_path / "generated", audio.shape[1:]).write(audio)
    head = PooledHead(weights, str(ast))
    scores = head.predict(features, test, {"semantic_validation": file})
    assert set(scores) == {"generated_features", "real_path_features"}
    assert scores["generated_features"].shape == (len(test), LABELS)

    seeds = [head.scores(torch.from_numpy(audio[:, seed]).float()) for seed in range(2)]
    assert np.allclose(scores["generated_features"], (seeds[0] + seeds[1]) / 2, atol=1e-6)
    has_audio = (features.audio_row[test] >= 0).numpy()
    assert not has_audio.all()
    assert not scores["real_path_features"][~has_audio].any()
    assert scores["real_path_features"][has_audio].all()
