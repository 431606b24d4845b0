"""What a linear read-out of frozen features knows of look-alike actions: the most that any row could make of them linearly."""

from pathlib import Path

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.storage import layout, shards

INPUTS = {  # what is read: directories of features, joined
    "video features": (layout.RGB_FEATURES, layout.FLOW_FEATURES),
    "real audio features (audible clips)": (layout.AUDIO_FEATURES,),
}
LEARNED = {  # what a read-out learns from: splits
    "labelled training clips": ("training",),
    "training and unlabelled clips, true actions told": ("training", "unlabelled"),
}
INVERSE_REGULARISATION = (0.001, 0.01, 0.1)  # candidates, chosen on validation


def summaries(folders: tuple[Path, ...], actions: set[str]) -> pd.DataFrame:
    """Mean and standard deviation over time (`x`, [2D]) of the clips of some actions, with split, action, source_id.

    The action of unlabelled clips is the rendered ones' truth; where nothing is known of them they are left out.
    """
    truth = (
        shards.read_table("data/truth.parquet", ["clip_id", "action"])
        .to_pandas()
        .set_index("clip_id")
        .action
    )
    clips = (
        row | {"action": row["action"] or truth.get(row["clip_id"])}
        for row in shards.ok_rows(folders[0])
    )
    place = {clip["clip_id"]: clip for clip in clips if clip["action"] in actions}
    rows = []
    for parts in shards.iter_joined(list(folders), ["features"]):
        if clip := place.get(parts[0]["clip_id"]):
            features = np.concatenate([part["features"] for part in parts], axis=-1).astype(
                np.float32
            )
            summary = np.concatenate([features.mean(0), features.std(0)])
            rows.append(
                {key: clip[key] for key in ("split", "action", "source_id")} | {"x": summary}
            )
    return pd.DataFrame(rows)


def read_out(
    table: pd.DataFrame, pair: list[str], learned: tuple[str, ...] = ("training",)
) -> dict:
    """Accuracy (interval over sources) and AUROC on test of logistic regression between two actions, 0.5 is chance, and from
    how many clips it learned.  learned: splits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    own = table[table.action.isin(pair) & table.split.isin(["validation", "test", *learned])]
    parts = dict(
        list(own.groupby(own.split.where(own.split.isin(["validation", "test"]), "training")))
    )
    x = {split: np.stack(part.x.to_list()) for split, part in parts.items()}
    y = {split: (part.action == pair[0]).to_numpy() for split, part in parts.items()}
    candidates = (LogisticRegression(C=c, max_iter=2000) for c in INVERSE_REGULARISATION)
    models = [
        make_pipeline(StandardScaler(), candidate).fit(x["training"], y["training"])
        for candidate in candidates
    ]
    best = max(models, key=lambda model: model.score(x["validation"], y["validation"]))
    right = best.predict(x["test"]) == y["test"]
    figure = intervals.interval(right, parts["test"].source_id.to_numpy())
    return figure | {
        "auroc": float(roc_auc_score(y["test"], best.decision_function(x["test"]))),
        "learned_from": len(y["training"]),
    }


def measure(pairs: list[list[str]]) -> dict[str, dict[str, dict[str, dict]]]:
    """Input -> what the read-out learned from -> pair -> figures; pairs that lack clips of a kind in a split are left out."""
    found: dict[str, dict[str, dict[str, dict]]] = {}
    for name, folders in INPUTS.items():
        table = summaries(folders, {action for pair in pairs for action in pair})
        for pair in pairs:
            seen = table[table.action.isin(pair)].groupby("split").action.nunique()
            for learned, splits in LEARNED.items():
                if all(seen.get(split, 0) == 2 for split in {"validation", "test", *splits}):
                    found.setdefault(name, {}).setdefault(learned, {})[" / ".join(pair)] = read_out(
                        table, pair, splits
                    )
    return found
