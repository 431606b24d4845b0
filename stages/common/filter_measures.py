"""What is a filter's decision worth?

Accuracies here combine two rows without training anything: where a clip's generated audio is kept, `generated` answers,
else `video_only`; that is what a threshold trades, and what `auto` chooses on validation.  `validated` itself is trained
(classifier.py).  "Fits", on any data set: the label that the generated features sound like most is among those that AST
finds in the real waveform (audible clips only).
"""
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from stages.common import predictions, shards, statistics

GRID = np.round(np.arange(0, 1.0001, 0.04), 2)  # holds 0.72
FOUND = 0.3  # AST score from which on a label counts as found in the real waveform
DRAWS = 20  # of the random filter


def fits(scores: dict[str, np.ndarray]) -> np.ndarray:
    """Whether the highest generated label is found in the real sound [N]."""
    best = scores["generated"].argmax(1)
    return scores["real"][np.arange(len(best)), best] >= FOUND


def sweep(table: pd.DataFrame, scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """The trade-off over thresholds: kept fraction on test, precision and recall of keeping what fits (audible test
    clips), accuracy on validation and test, and on test that of filters that keep as many clips of each predicted action
    at random or where `video_only` is most confident."""
    own, base = answers(table, "generated"), answers(table, "video_only")
    confidence = answers(table, "video_only", confidence=True)
    right = fits(scores)
    test, validation = ((table.split == split).to_numpy() for split in ("test", "validation"))
    heard = test & table.heard.to_numpy()
    rows = []
    for threshold in GRID:
        keep = (table.score >= threshold).to_numpy()
        same = [by_action(table[test], keep[test], order) for order in ranks(confidence[test])]
        rows.append({
            "threshold": threshold,
            "kept_fraction": keep[test].mean(),
            "precision": right[heard & keep].mean() if (heard & keep).any() else np.nan,
            "recall": keep[heard & right].mean() if (heard & right).any() else np.nan,
            "validation_accuracy": np.where(keep, own, base)[validation].mean(),
            "test_accuracy": np.where(keep, own, base)[test].mean(),
            "random_filter_accuracy": np.mean([np.where(chosen, own[test], base[test]).mean() for chosen in same[1:]]),
            "confidence_filter_accuracy": np.where(same[0], own[test], base[test]).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def ranks(confidence: np.ndarray) -> list[np.ndarray]:
    """Orders in which clips are kept: most confident first, then DRAWS random ones."""
    rng = np.random.default_rng(0)
    return [-confidence, *(rng.random(len(confidence)) for _ in range(DRAWS))]


def by_action(table: pd.DataFrame, keep: np.ndarray, order: np.ndarray) -> np.ndarray:
    """As many clips of each predicted action as `keep` has, those that come first in `order`."""
    chosen = np.zeros(len(table), bool)
    for action in table.predicted_action.unique():
        members = np.flatnonzero(table.predicted_action == action)
        chosen[members[np.argsort(order[members], kind="stable")[: keep[members].sum()]]] = True
    return chosen


def best_threshold(sweep: pd.DataFrame) -> float:
    """The threshold with the highest validation accuracy; of equal ones the one that keeps most."""
    return float(sweep.threshold[sweep.validation_accuracy.round(9).idxmax()])


def answers(table: pd.DataFrame, condition: str, confidence: bool = False) -> np.ndarray:
    """Share of seeds that are right, or mean probability of the consensus, for each clip of the table; 0 where not asked."""
    found = predictions.read(condition)
    values = found.probabilities.mean(0).max(1) if confidence else found.hits()
    return table.clip_id.map(pd.Series(values, index=found.clips.clip_id)).fillna(0.0).to_numpy()


def measure(table: pd.DataFrame, scores: dict[str, np.ndarray], threshold: float) -> dict:
    """The filter's figures on test: kept fractions, what the kept bit alone tells, and how well the score ranks."""
    test = table[table.split == "test"]
    kept = test.keep.to_numpy(float)
    right = fits(scores)[(table.split == "test").to_numpy()]
    heard = test.heard.to_numpy()
    figures = {
        "kept_fraction": statistics.interval(kept, test.source_id.to_numpy()),
        "kept_fraction_by_action": {action: float(group.keep.mean()) for action, group in test.groupby("action")},
        "kept_fraction_oracle": float(test.keep_oracle.mean()),
        "kept_fraction_real": float(test.keep_real[heard].mean()),
        "kept_fraction_published": float(test.keep_published.mean()),
        "kept_bit_alone": {
            **{way: bit_accuracy(table, f"keep{way}") for way in ("", "_oracle")},
            "most_frequent_action": bit_accuracy(table, None),
        },
        "auroc_found_in_real": auroc(right[heard], test.score[heard]),
    }
    truth = pq.read_table("data/truth.parquet", columns=["clip_id", "sound_belongs"]).to_pandas().set_index("clip_id").sound_belongs
    if len(truth):
        sounds_right = probe(table, truth)[(table.split == "test").to_numpy()]
        belongs = test.clip_id.map(truth).to_numpy(bool)
        figures |= {
            "auroc": auroc(sounds_right, test.score),
            "auroc_oracle": auroc(sounds_right, test.score_oracle),
            "auroc_real": auroc(belongs[heard], test.score_real[heard]),
            "generated_sounds_right": float(sounds_right.mean()),
            "kept_sounds_right": float(sounds_right[test.keep].mean()) if test.keep.any() else None,
        }
    return figures


def auroc(truth: np.ndarray, score: pd.Series) -> float | None:
    """Area under the ROC curve; None where only one class occurs."""
    return float(roc_auc_score(truth, score)) if 0 < np.mean(truth) < 1 else None


def bit_accuracy(table: pd.DataFrame, column: str | None) -> float:
    """Test accuracy of naming, for each value of the kept bit, the action most frequent among training clips with it."""
    key = table[column] if column else pd.Series(True, index=table.index)
    training = table[table.split == "training"]
    best = training.groupby(key[training.index]).action.agg(lambda actions: actions.mode().iloc[0])
    test = table[table.split == "test"]
    return float((key[test.index].map(best) == test.action).mean())


def probe(table: pd.DataFrame, belongs: pd.Series) -> np.ndarray:
    """Does the generated audio (seed 0) sound like its true action [N]?

    Logistic regression on the mean over time of *real* features of training clips whose sound is truly their own, so that
    the answer does not depend on AST's labels.  Dimensions keep their scale: generated features hardly vary in the small
    ones, which a standardised probe would take for the most telling.
    """
    real = shards.read_columns(Path("data/audio_features"), ["features"], ["training"])
    action = table.set_index("clip_id").action
    good = [i for i, name in enumerate(real["clip_id"]) if belongs.get(name, False)]
    model = LogisticRegression(C=0.1, max_iter=2000)
    model.fit(real["features"][good].astype(np.float32).mean(1), action[[real["clip_id"][i] for i in good]])
    made = shards.read_columns(Path("data/generated/validation"), ["features"])
    named = pd.Series(model.predict(made["features"][:, 0].astype(np.float32).mean(1)), index=made["clip_id"])
    return (table.clip_id.map(named) == table.action).to_numpy()
