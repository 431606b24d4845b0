"""What is a filter's decision worth?

Accuracies here combine two conditions without training anything: where a clip's generated audio is
kept, `generated` (or `mapped`) answers, else `video_only`.  `validated` itself is trained
(stages/classifier.py).  Generated audio "fits", on any data set, where the label that it sounds
like most is among those that AST finds in the real waveform (audible clips only).  `auto` takes the
threshold that tells best on validation what fits; accuracy on validation hardly depends on it, so
that its best threshold would be drawn by chance.  `cross_fitted` has training clips choose, too.

Tables of clips have a row per labelled clip: clip_id, split, action, source_id, predicted_action,
audible (bool), and the scores and decisions that stages/filter.py describes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from audio_from_video.clipset import truth
from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.storage import layout, predictions, shards

# Thresholds of the sweep; -1 keeps all, and 0.72 is among them.
THRESHOLDS = np.round(np.concatenate([[-1.0], np.arange(0, 1.0001, 0.04)]), 2)
PUBLISHED_THRESHOLD = 0.72  # the research description's N
DRAWS = 20  # of the random filter


# ---- the sweep over thresholds ----


def fits(label_scores: dict[str, np.ndarray], found: float) -> np.ndarray:
    """Return whether the highest generated label is found in the real sound [N].

    label_scores: [N, L] by `generated` and `real`.  found: real score from which on it is.
    """
    strongest = label_scores["generated"].argmax(1)
    return label_scores["real"][np.arange(len(strongest)), strongest] >= found


def threshold_sweep(
    clips: pd.DataFrame, label_scores: dict[str, np.ndarray], condition: str, found: float
) -> pd.DataFrame:
    """Return what each threshold keeps and what becomes of accuracy, a row per threshold.

    label_scores, found: see `fits`.  condition: the one that takes all audio of the architecture.
    Columns: kept fraction on test; precision and recall of keeping what fits (audible test clips);
    informedness of the same on validation; accuracy on validation and test.  On test there is also
    the accuracy of filters that keep as many clips at random, as many of each predicted action at
    random, or as many of each where `video_only` is most confident.
    """
    own = hit_shares(clips, condition)
    base = hit_shares(clips, BASELINE)
    right = fits(label_scores, found)
    test = (clips.split == "test").to_numpy()
    validation = (clips.split == "validation").to_numpy()
    audible = clips.audible.to_numpy()
    audible_test = test & audible
    audible_validation = validation & audible

    predicted = clips.predicted_action[test].to_numpy()
    orders = keeping_orders(confidences(clips, BASELINE)[test])
    places = np.stack([place_in_action(predicted, order) for order in orders])  # [1 + DRAWS, tests]
    rows = []
    for threshold in THRESHOLDS:
        keep = (clips.score >= threshold).to_numpy()
        combined = np.where(keep, own, base)
        kept_share = keep[test].mean()
        # As many clips of each predicted action as are kept, by each order.
        same_counts = places <= kept_of_action(predicted, keep[test])
        # The first order is by confidence, the others are random.
        controls = [np.where(kept, own[test], base[test]).mean() for kept in same_counts]
        judged = audible_test & keep
        fitting = audible_test & right
        rows.append(
            {
                "threshold": threshold,
                "kept_fraction": kept_share,
                "precision": right[judged].mean() if judged.any() else np.nan,
                "recall": keep[fitting].mean() if fitting.any() else np.nan,
                "validation_informedness": informedness(
                    keep[audible_validation], right[audible_validation]
                ),
                "validation_accuracy": combined[validation].mean(),
                "test_accuracy": combined[test].mean(),
                "random_clips_accuracy": (
                    kept_share * own[test].mean() + (1 - kept_share) * base[test].mean()
                ),
                "random_filter_accuracy": np.mean(controls[1:]),
                "confidence_filter_accuracy": controls[0],
            }
        )
    return pd.DataFrame(rows)


def keeping_orders(confidence: np.ndarray) -> list[np.ndarray]:
    """Return keys [N] by which clips are kept, smallest first.

    The first one keeps the most confident clips first; DRAWS random ones follow.
    """
    rng = np.random.default_rng(0)
    return [-confidence, *(rng.random(len(confidence)) for _ in range(DRAWS))]


def place_in_action(actions: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the place of each clip [N] among those of its action in `order`, from 1 on."""
    return pd.Series(order).groupby(actions).rank(method="first").to_numpy()


def kept_of_action(actions: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return, for each clip [N], how many clips of its action are kept."""
    return pd.Series(keep).groupby(actions).transform("sum").to_numpy()


def informedness(keep: np.ndarray, right: np.ndarray) -> float:
    """Return recall minus false-positive rate of keeping what fits (Youden 1950).

    It is 0 for keeping all, none or at random.
    """
    if not right.any() or right.all():
        return 0.0
    return float(keep[right].mean() - keep[~right].mean())


def best_threshold(sweep: pd.DataFrame) -> float:
    """Return the threshold with the highest informedness on validation.

    Of equal ones it is the one that keeps most.
    """
    return float(sweep.threshold[sweep.validation_informedness.round(9).idxmax()])


def cross_fitted_threshold(
    clips: pd.DataFrame, label_scores: dict[str, np.ndarray], found: float
) -> float:
    """Return the threshold with the highest informedness on validation and training clips.

    Audio of training clips is generated, and their actions predicted, out of fold, so that they may
    choose where validation has few clips.  Of equal thresholds it is the one that keeps most.
    label_scores, found: see `fits`.
    """
    judged = (clips.audible & clips.split.isin(["training", "validation"])).to_numpy()
    right = fits(label_scores, found)[judged]
    scores = clips.score.to_numpy()[judged]
    values = [informedness(scores >= threshold, right) for threshold in THRESHOLDS]
    return float(THRESHOLDS[np.argmax(np.round(values, 9))])


def hit_shares(clips: pd.DataFrame, condition: str) -> np.ndarray:
    """Return the share of a condition's seeds that are right about each clip [N].

    It is 0 for clips that the condition does not answer.
    """
    answers = predictions.read(condition)
    by_clip = pd.Series(answers.hits(), index=answers.clips.clip_id)
    return clips.clip_id.map(by_clip).fillna(0.0).to_numpy()


def confidences(clips: pd.DataFrame, condition: str) -> np.ndarray:
    """Return the probability of the action that a condition's seeds agree on, of each clip [N].

    It is 0 for clips that the condition does not answer.
    """
    answers = predictions.read(condition)
    consensus_probability = answers.probabilities.mean(0).max(1)
    by_clip = pd.Series(consensus_probability, index=answers.clips.clip_id)
    return clips.clip_id.map(by_clip).fillna(0.0).to_numpy()


# ---- the figures of the filter ----


def filter_figures(
    clips: pd.DataFrame, label_scores: dict[str, np.ndarray], generated: Path, found: float
) -> dict:
    """Return the filter's figures on test.

    They are kept fractions, what the kept bit alone tells, and how well the score ranks.
    label_scores, found: see `fits`.  generated: directory of the features that were judged.
    """
    is_test = (clips.split == "test").to_numpy()
    test = clips[is_test]
    audible = test.audible.to_numpy()
    right = fits(label_scores, found)[is_test]
    figures = {
        "kept_fraction": intervals.interval(test.keep.to_numpy(float), test.source_id.to_numpy()),
        "kept_fraction_by_action": {
            action: float(group.keep.mean()) for action, group in test.groupby("action")
        },
        "kept_fraction_oracle": float(test.keep_oracle.mean()),
        "kept_fraction_real": float(test.keep_real[audible].mean()),
        "kept_fraction_published": float(test.keep_published.mean()),
        "kept_bit_alone": {
            "keep": bit_accuracy(clips, "keep"),
            "keep_oracle": bit_accuracy(clips, "keep_oracle"),
            "most_frequent_action": bit_accuracy(clips, None),
        },
        "auroc_found_in_real": auroc(right[audible], test.score[audible]),
    }
    sound_belongs = truth.sound_belongs()
    # With `sample.cue: 0` no clip hears what it shows.
    if any(sound_belongs.values()):
        figures |= truth_figures(clips, sound_belongs, generated)
    return figures


def truth_figures(clips: pd.DataFrame, sound_belongs: dict[str, bool], generated: Path) -> dict:
    """Return how well the score ranks test clips by the truth of rendered clips.

    sound_belongs: whether the sound is the action's own, by clip_id.
    generated: directory of the features that were judged.
    """
    is_test = (clips.split == "test").to_numpy()
    test = clips[is_test]
    sounds_right = generated_sounds_right(clips, sound_belongs, generated)[is_test]
    audible = test.audible.to_numpy()
    belongs = test.clip_id.map(sound_belongs).to_numpy(bool)[audible]
    real_score = test.score_real[audible]
    kept_right = float(sounds_right[test.keep].mean()) if test.keep.any() else None
    return {
        "auroc": auroc(sounds_right, test.score),
        "auroc_within_action": auroc_within_action(sounds_right, test.score, test.predicted_action),
        "auroc_oracle": auroc(sounds_right, test.score_oracle),
        "auroc_real": auroc(belongs, real_score),
        "auroc_real_within_action": auroc_within_action(
            belongs, real_score, test.predicted_action[audible]
        ),
        "generated_sounds_right": float(sounds_right.mean()),
        "kept_sounds_right": kept_right,
    }


def auroc(positive: np.ndarray, score: pd.Series) -> float | None:
    """Return the area under the ROC curve; None where only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if not 0 < np.mean(positive) < 1:
        return None
    return float(roc_auc_score(positive, score))


def auroc_within_action(positive: np.ndarray, score: pd.Series, actions: pd.Series) -> float | None:
    """Return the AUROC within each predicted action, averaged by clips.

    It is what the score tells beyond which action it is.  None where no action has both classes.
    """
    values = []
    sizes = []
    for action in actions.unique():
        inside = (actions == action).to_numpy()
        value = auroc(positive[inside], score[inside])
        if value is not None:
            values.append(value)
            sizes.append(inside.sum())
    return float(np.average(values, weights=sizes)) if values else None


def bit_accuracy(clips: pd.DataFrame, column: str | None) -> float:
    """Return the test accuracy of a classifier that knows one bit of each clip.

    It names the action that is most frequent among the training clips with the same bit.
    column: the bit's, None for no bit at all.
    """
    bit = clips[column] if column else pd.Series(True, index=clips.index)
    training = clips[clips.split == "training"]
    by_bit = training.groupby(bit[training.index]).action
    most_frequent = by_bit.agg(lambda actions: actions.mode().iloc[0])
    test = clips[clips.split == "test"]
    return float((bit[test.index].map(most_frequent) == test.action).mean())


def generated_sounds_right(
    clips: pd.DataFrame, sound_belongs: dict[str, bool], generated: Path
) -> np.ndarray:
    """Return whether the generated audio (seed 0) sounds like its true action [N].

    A probe decides: logistic regression on the mean over time of *real* features of training clips
    whose sound is truly their own, so that the answer does not depend on AST's labels.  Dimensions
    keep their scale: generated features hardly vary in the small ones, which a standardised probe
    would take for the most telling.
    """
    from sklearn.linear_model import LogisticRegression

    real = shards.read_columns(layout.AUDIO_FEATURES, ["features"], ["training"])
    action = clips.set_index("clip_id").action
    names = real["clip_id"]
    own_sound = [i for i, name in enumerate(names) if sound_belongs.get(name, False)]
    real_means = real["features"][own_sound].astype(np.float32).mean(1)  # [n, A]
    probe = LogisticRegression(C=0.1, max_iter=2000)
    probe.fit(real_means, action[[names[i] for i in own_sound]])

    answers = shards.read_columns(generated, ["features"])
    generated_means = answers["features"][:, 0].astype(np.float32).mean(1)  # [N, A]
    sounds_like = pd.Series(probe.predict(generated_means), index=answers["clip_id"])
    return (clips.clip_id.map(sounds_like) == clips.action).to_numpy()
