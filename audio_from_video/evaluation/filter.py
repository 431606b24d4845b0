"""What is a filter's decision worth?

Accuracies here combine two rows without training anything: where a clip's generated audio is kept, `generated` (or
`mapped`) answers, else `video_only`.  `validated` itself is trained (classifier.py).  "Fits", on any data set: the label that the generated
features sound like most is among those that AST finds in the real waveform (audible clips only).  `auto` takes the
threshold that tells best on validation what fits; accuracy on validation hardly depends on it, so that its best
threshold would be drawn by chance.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from audio_from_video.evaluation import intervals
from audio_from_video.storage import layout, predictions, shards

GRID = np.round(np.concatenate([[-1.0], np.arange(0, 1.0001, 0.04)]), 2)  # -1 keeps all; holds 0.72
FOUND = 0.3  # AST score from which on a label counts as found in the real waveform
DRAWS = 20  # of the random filter


def fits(scores: dict[str, np.ndarray]) -> np.ndarray:
    """Whether the highest generated label is found in the real sound [N]."""
    best = scores["generated"].argmax(1)
    return scores["real"][np.arange(len(best)), best] >= FOUND


def sweep(table: pd.DataFrame, scores: dict[str, np.ndarray], condition: str) -> pd.DataFrame:
    """The trade-off over thresholds: kept fraction on test, precision and recall of keeping what fits (audible test
    clips), informedness of the same on validation, accuracy on validation and test, and on test that of filters that keep
    as many clips at random, as many of each predicted action at random, or as many of each where `video_only` is most
    confident."""
    own, base = answers(table, condition), answers(table, "video_only")
    confidence = answers(table, "video_only", confidence=True)
    right = fits(scores)
    test, validation = ((table.split == split).to_numpy() for split in ("test", "validation"))
    heard, checked = (part & table.heard.to_numpy() for part in (test, validation))
    predicted = table.predicted_action[test].to_numpy()
    places = np.stack(
        [place_in_action(predicted, order) for order in orders_of(confidence[test])]
    )  # [1 + DRAWS, test clips]
    rows = []
    for threshold in GRID:
        keep = (table.score >= threshold).to_numpy()
        same = places <= kept_of_action(
            predicted, keep[test]
        )  # as many clips of each predicted action as are kept
        share = keep[test].mean()
        rows.append(
            {
                "threshold": threshold,
                "kept_fraction": share,
                "precision": right[heard & keep].mean() if (heard & keep).any() else np.nan,
                "recall": keep[heard & right].mean() if (heard & right).any() else np.nan,
                "validation_informedness": informedness(keep[checked], right[checked]),
                "validation_accuracy": np.where(keep, own, base)[validation].mean(),
                "test_accuracy": np.where(keep, own, base)[test].mean(),
                "random_clips_accuracy": share * own[test].mean() + (1 - share) * base[test].mean(),
                "random_filter_accuracy": np.mean(
                    [np.where(chosen, own[test], base[test]).mean() for chosen in same[1:]]
                ),
                "confidence_filter_accuracy": np.where(same[0], own[test], base[test]).mean(),
            }
        )
    return pd.DataFrame(rows)


def orders_of(confidence: np.ndarray) -> list[np.ndarray]:
    """Orders in which clips are kept: most confident first, then DRAWS random ones."""
    rng = np.random.default_rng(0)
    return [-confidence, *(rng.random(len(confidence)) for _ in range(DRAWS))]


def place_in_action(actions: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The place of each clip [N] among those of its action in `order`; the first one's is 1."""
    return pd.Series(order).groupby(actions).rank(method="first").to_numpy()


def kept_of_action(actions: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Of each clip [N], how many clips of its action are kept."""
    return pd.Series(keep).groupby(actions).transform("sum").to_numpy()


def informedness(keep: np.ndarray, right: np.ndarray) -> float:
    """Recall minus false-positive rate of keeping what fits (Youden 1950): 0 for keeping all, none or at random."""
    return (
        float(keep[right].mean() - keep[~right].mean()) if right.any() and not right.all() else 0.0
    )


def best_threshold(sweep: pd.DataFrame) -> float:
    """The threshold with the highest informedness on validation; of equal ones the one that keeps most."""
    return float(sweep.threshold[sweep.validation_informedness.round(9).idxmax()])


def answers(table: pd.DataFrame, condition: str, confidence: bool = False) -> np.ndarray:
    """Share of seeds that are right, or mean probability of the consensus, for each clip of the table; 0 where not asked."""
    found = predictions.read(condition)
    values = found.probabilities.mean(0).max(1) if confidence else found.hits()
    return table.clip_id.map(pd.Series(values, index=found.clips.clip_id)).fillna(0.0).to_numpy()


def measure(table: pd.DataFrame, scores: dict[str, np.ndarray], generated: Path) -> dict:
    """The filter's figures on test: kept fractions, what the kept bit alone tells, and how well the score ranks.
    generated: directory of the features that were judged."""
    test = table[table.split == "test"]
    kept = test.keep.to_numpy(float)
    right = fits(scores)[(table.split == "test").to_numpy()]
    heard = test.heard.to_numpy()
    figures = {
        "kept_fraction": intervals.interval(kept, test.source_id.to_numpy()),
        "kept_fraction_by_action": {
            action: float(group.keep.mean()) for action, group in test.groupby("action")
        },
        "kept_fraction_oracle": float(test.keep_oracle.mean()),
        "kept_fraction_real": float(test.keep_real[heard].mean()),
        "kept_fraction_published": float(test.keep_published.mean()),
        "kept_bit_alone": {
            **{column: bit_accuracy(table, column) for column in ("keep", "keep_oracle")},
            "most_frequent_action": bit_accuracy(table, None),
        },
        "auroc_found_in_real": auroc(right[heard], test.score[heard]),
    }
    truth = (
        shards.read_table("data/truth.parquet", ["clip_id", "sound_belongs"])
        .to_pandas()
        .set_index("clip_id")
        .sound_belongs
    )
    if len(truth):
        sounds_right = probe(table, truth, generated)[(table.split == "test").to_numpy()]
        belongs = test.clip_id.map(truth).to_numpy(bool)
        figures |= {
            "auroc": auroc(sounds_right, test.score),
            "auroc_within_action": within_action(sounds_right, test.score, test.predicted_action),
            "auroc_oracle": auroc(sounds_right, test.score_oracle),
            "auroc_real": auroc(belongs[heard], test.score_real[heard]),
            "auroc_real_within_action": within_action(
                belongs[heard], test.score_real[heard], test.predicted_action[heard]
            ),
            "generated_sounds_right": float(sounds_right.mean()),
            "kept_sounds_right": float(sounds_right[test.keep].mean()) if test.keep.any() else None,
        }
    return figures


def auroc(truth: np.ndarray, score: pd.Series) -> float | None:
    """Area under the ROC curve; None where only one class occurs."""
    return float(roc_auc_score(truth, score)) if 0 < np.mean(truth) < 1 else None


def within_action(truth: np.ndarray, score: pd.Series, actions: pd.Series) -> float | None:
    """AUROC within each predicted action, averaged by clips: what the score tells beyond which action it is."""
    groups = [(actions == action).to_numpy() for action in actions.unique()]
    found = [
        (value, group.sum())
        for group in groups
        if (value := auroc(truth[group], score[group])) is not None
    ]
    return (
        float(np.average([value for value, _ in found], weights=[size for _, size in found]))
        if found
        else None
    )


def bit_accuracy(table: pd.DataFrame, column: str | None) -> float:
    """Test accuracy of naming, for each value of the kept bit, the action most frequent among training clips with it."""
    key = table[column] if column else pd.Series(True, index=table.index)
    training = table[table.split == "training"]
    best = training.groupby(key[training.index]).action.agg(lambda actions: actions.mode().iloc[0])
    test = table[table.split == "test"]
    return float((key[test.index].map(best) == test.action).mean())


def probe(table: pd.DataFrame, belongs: pd.Series, generated: Path) -> np.ndarray:
    """Does the generated audio (seed 0) sound like its true action [N]?

    Logistic regression on the mean over time of *real* features of training clips whose sound is truly their own, so that
    the answer does not depend on AST's labels.  Dimensions keep their scale: generated features hardly vary in the small
    ones, which a standardised probe would take for the most telling.
    """
    real = shards.read_columns(layout.AUDIO_FEATURES, ["features"], ["training"])
    action = table.set_index("clip_id").action
    good = [i for i, name in enumerate(real["clip_id"]) if belongs.get(name, False)]
    model = LogisticRegression(C=0.1, max_iter=2000)
    model.fit(
        real["features"][good].astype(np.float32).mean(1),
        action[[real["clip_id"][i] for i in good]],
    )
    made = shards.read_columns(generated, ["features"])
    named = pd.Series(
        model.predict(made["features"][:, 0].astype(np.float32).mean(1)), index=made["clip_id"]
    )
    return (table.clip_id.map(named) == table.action).to_numpy()
