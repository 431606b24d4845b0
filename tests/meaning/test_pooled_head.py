"""The head `features`: its map against scikit-learn's ridge, its scores against AST itself."""

import numpy as np
import torch
from sklearn.linear_model import Ridge

from audio_from_video.meaning.pooled_head import PooledHead, fit_map, summarise
from audio_from_video.storage.row_file import RowFile
from tests.support.synthetic import COMPONENTS, LABELS, POOLED, STEPS

RNG = np.random.default_rng(0)


def test_the_summary_is_mean_and_deviation_over_time_and_one():
    audio = torch.randn(3, 6, 4)
    values = audio.numpy()
    expected = np.concatenate([values.mean(1), values.std(1, ddof=1), np.ones((3, 1))], axis=1)
    assert np.allclose(summarise(audio).numpy(), expected, atol=1e-6)


def test_the_map_is_ridge_with_the_penalty_that_validation_prefers(features):
    clips = len(features.clips)
    pooled = {i: RNG.normal(size=POOLED).astype(np.float32) for i in range(clips)}
    has_audio = features.audio_row >= 0
    learned = features.clip_indices("training", "unlabelled")
    learned = learned[has_audio[learned]]
    held_out = features.clip_indices("validation")
    held_out = held_out[has_audio[held_out]]
    penalties = [0.1, 10.0, 1000.0]
    weights = fit_map(features, pooled, learned, held_out, penalties).numpy()

    def inputs(clip_indices: torch.Tensor) -> np.ndarray:
        return summarise(features.sound(clip_indices)[0]).double().numpy()

    def outputs(clip_indices: torch.Tensor) -> np.ndarray:
        return np.stack([pooled[i] for i in clip_indices.tolist()])

    def held_out_error(model: Ridge) -> float:
        return np.square(model.predict(inputs(held_out)) - outputs(held_out)).sum()

    models = [
        Ridge(penalty, fit_intercept=False).fit(inputs(learned), outputs(learned))
        for penalty in penalties
    ]
    best = min(models, key=held_out_error)
    assert weights.shape == (2 * COMPONENTS + 1, POOLED)
    assert np.allclose(weights, best.coef_.T, atol=1e-5)
    assert best is not models[0]  # noise asks for a strong penalty


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
