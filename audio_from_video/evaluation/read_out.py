"""What a linear read-out of frozen features knows of look-alike actions.

It is the most that any condition could make of the features linearly.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from audio_from_video.clipset import truth
from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.logistic import fit_logistic
from audio_from_video.storage import layout, shards

# What is read: directories of features, joined.
INPUTS = {
    "video features": (layout.RGB_FEATURES, layout.FLOW_FEATURES),
    "real audio features (audible clips)": (layout.AUDIO_FEATURES,),
}
# What a read-out learns from: splits.
LESSONS = {
    "labelled training clips": ("training",),
    "training and unlabelled clips, true actions told": ("training", "unlabelled"),
}
INVERSE_REGULARISATION = [0.001, 0.01, 0.1]  # candidates for C


def read_out_figures(pairs: list[list[str]]) -> dict[str, dict[str, dict[str, dict]]]:
    """Return the figures of read-outs by input, lesson (what was learned from) and pair.

    pairs: of actions.  Pairs that lack clips of an action in a split are left out.
    """
    figures: dict[str, dict[str, dict[str, dict]]] = {}
    actions = {action for pair in pairs for action in pair}
    for name, folders in INPUTS.items():
        clips = summaries(folders, actions)
        for pair in pairs:
            own = clips[clips.action.isin(pair)]
            actions_of_split = own.groupby("split").action.nunique()
            for lesson, splits in LESSONS.items():
                needed = {"test", *splits}
                if all(actions_of_split.get(split, 0) == 2 for split in needed):
                    by_pair = figures.setdefault(name, {}).setdefault(lesson, {})
                    by_pair[" / ".join(pair)] = pair_read_out(clips, pair, splits)
    return figures


def summaries(folders: tuple[Path, ...], actions: set[str]) -> pd.DataFrame:
    """Return mean and standard deviation over time of the features of clips of some actions.

    folders: outputs with features [T, D], which are joined.  The table has columns split, action,
    source_id and x [2 D].  The action of unlabelled clips is the rendered ones' truth; where
    nothing is known of them they are left out.
    """
    true_actions = truth.actions()
    clips = {}
    for row in shards.ok_rows(folders[0]):
        action = row["action"] or true_actions.get(row["clip_id"])
        if action in actions:
            clips[row["clip_id"]] = {
                "split": row["split"],
                "action": action,
                "source_id": row["source_id"],
            }
    rows = []
    for parts in shards.iter_joined(list(folders), ["features"]):
        clip_id = parts[0]["clip_id"]
        if clip_id in clips:
            joined = np.concatenate([part["features"] for part in parts], axis=-1)
            features = joined.astype(np.float32)  # [T, D]
            summary = np.concatenate([features.mean(0), features.std(0)])
            rows.append(clips[clip_id] | {"x": summary})
    return pd.DataFrame(rows)


def pair_read_out(
    clips: pd.DataFrame, pair: list[str], splits: tuple[str, ...] = ("training",)
) -> dict:
    """Return figures on test of logistic regression between two actions.

    clips: see `summaries`.  splits: it learns from their clips, whose sources choose its penalty.
    The figures are accuracy with its interval over sources, AUROC (0.5 is chance) and
    `learned_from`, a number of clips.
    """
    own = clips[clips.action.isin(pair)]
    training = own[own.split.isin(splits)]
    test = own[own.split == "test"]
    x_training = np.stack(training.x.to_list())
    x_test = np.stack(test.x.to_list())
    y_training = is_first(training, pair)
    y_test = is_first(test, pair)

    sources = training.source_id.to_numpy()
    fitted = fit_logistic(x_training, y_training, sources, INVERSE_REGULARISATION)
    right = fitted.model.predict(x_test) == y_test
    auroc = roc_auc_score(y_test, fitted.model.decision_function(x_test))
    accuracy = intervals.interval(right, test.source_id.to_numpy())
    return accuracy | {"auroc": float(auroc), "learned_from": len(y_training)}


def is_first(clips: pd.DataFrame, pair: list[str]) -> np.ndarray:
    """Return whether each clip [N] shows the first action of a pair."""
    return (clips.action == pair[0]).to_numpy()
