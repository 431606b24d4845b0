"""What a linear read-out of frozen features knows of look-alike actions: the most that any row could make of them linearly."""
from pathlib import Path

import numpy as np
import pandas as pd

from stages.common import shards, statistics

INPUTS = {  # what is read: directories of features, joined
    "video features": (Path("data/video_features/rgb"), Path("data/video_features/flow")),
    "real audio features (audible clips)": (Path("data/audio_features"),),
}
INVERSE_REGULARISATION = (0.001, 0.01, 0.1)  # candidates, chosen on validation


def summaries(folders: tuple[Path, ...], actions: set[str]) -> pd.DataFrame:
    """Mean and standard deviation over time (`x`, [2D]) of the labelled clips of some actions, with split, action, source_id."""
    place = {row["clip_id"]: row for row in shards.ok_rows(folders[0]) if row["action"] in actions}
    rows = []
    for parts in shards.iter_joined(list(folders), ["features"], ["training", "validation", "test"]):
        if clip := place.get(parts[0]["clip_id"]):
            features = np.concatenate([part["features"] for part in parts], axis=-1).astype(np.float32)
            summary = np.concatenate([features.mean(0), features.std(0)])
            rows.append({key: clip[key] for key in ("split", "action", "source_id")} | {"x": summary})
    return pd.DataFrame(rows)


def read_out(table: pd.DataFrame, pair: list[str]) -> dict:
    """Accuracy (interval over sources) and AUROC of logistic regression between two actions on test: 0.5 is chance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = {split: part for split, part in table[table.action.isin(pair)].groupby("split")}
    x = {split: np.stack(part.x.to_list()) for split, part in parts.items()}
    y = {split: (part.action == pair[0]).to_numpy() for split, part in parts.items()}
    candidates = (LogisticRegression(C=c, max_iter=2000) for c in INVERSE_REGULARISATION)
    models = [make_pipeline(StandardScaler(), candidate).fit(x["training"], y["training"]) for candidate in candidates]
    best = max(models, key=lambda model: model.score(x["validation"], y["validation"]))
    right = best.predict(x["test"]) == y["test"]
    figure = statistics.interval(right, parts["test"].source_id.to_numpy())
    return figure | {"auroc": float(roc_auc_score(y["test"], best.decision_function(x["test"])))}


def measure(pairs: list[list[str]]) -> dict[str, dict[str, dict]]:
    """Input -> pair -> figures; pairs that lack clips of a kind in a split are left out."""
    found: dict[str, dict[str, dict]] = {}
    for name, folders in INPUTS.items():
        table = summaries(folders, {action for pair in pairs for action in pair})
        for pair in pairs:
            seen = table[table.action.isin(pair)].groupby("split").action.nunique()
            if all(seen.get(split, 0) == 2 for split in ("training", "validation", "test")):
                found.setdefault(name, {})[" / ".join(pair)] = read_out(table, pair)
    return found
