"""Build the semantic dictionary: for each action the audio labels that are closest in meaning.

Reads    data/clips.parquet (the actions' names); for metrics alone data/audio_features and
         data/truth.parquet
Writes   data/dictionary.parquet, `top_k` rows per action, closest label first:
             action       string
             rank         int32     1 = closest
             audio_label  string    AudioSet display name
             mid          string    the label's id in AudioSet's ontology
             similarity   float32   cosine of the two embeddings, -1..1
         data/dictionary_embeddings.safetensors: actions float32 [A, D], labels float32 [527, D],
             L2-normalised; its metadata `names` is JSON {actions, labels}: what the rows stand for
Both kinds of names are embedded by one sentence model (audio_from_video/backbones/text.py).  The
dictionary of other actions, one name a line, needs no other stage's output:
    python -c "from stages.dictionary import print_for; print_for('actions.txt')" > dictionary.csv
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from audio_from_video.audioset.labels import load_labels
from audio_from_video.clipset import truth
from audio_from_video.evaluation import intervals
from audio_from_video.meaning.settings import DictionaryParams
from audio_from_video.meaning.similarity import closest, cosines
from audio_from_video.meaning.stored_embeddings import embed
from audio_from_video.reporting import tables
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

FEATURES = layout.AUDIO_FEATURES
JUDGED = 5  # entries per action behind the metrics, whatever `top_k`, as in the published method
TRUE_LABELS = 10  # an action's labels of highest lift that count as truly present
PUBLISHED_THRESHOLD = 0.72  # how rare such a cosine is depends on the model
LABELS = [label.display_name for label in load_labels()]


def words(action: str) -> str:
    """Return an action's folder name as words: `adult+male+speaking` -> `adult male speaking`."""
    return " ".join(action.replace("+", " ").replace("_", " ").split())


def entries(actions: list[str], similarity: np.ndarray, top_k: int) -> pa.Table:
    """Return the dictionary of actions with similarity [A, 527] as the table described above."""
    top = closest(similarity, top_k)  # [A, k]
    ranks = np.arange(1, top.shape[1] + 1)
    labels = [load_labels()[i] for i in top.ravel()]
    values = np.take_along_axis(similarity, top, 1)
    return pa.table(
        {
            "action": pa.array(np.repeat(actions, len(ranks)), pa.string()),
            "rank": pa.array(np.tile(ranks, len(actions)), pa.int32()),
            "audio_label": [label.display_name for label in labels],
            "mid": [label.mid for label in labels],
            "similarity": pa.array(values.ravel(), pa.float32()),
        }
    )


def print_for(path: str) -> None:
    """Print the dictionary of the action names in a text file, one a line, as CSV."""
    p = params.load("dictionary", DictionaryParams)
    lines = Path(path).read_text().splitlines()
    actions = [line.strip() for line in lines if line.strip()]
    vectors = embed(p.model, [words(action) for action in actions])
    similarity = cosines(vectors, embed(p.model, LABELS))
    table = entries(actions, similarity, p.top_k).to_pandas()
    table = table.assign(action=table.action.map(tables.plain))
    table.to_csv(sys.stdout, index=False, float_format="%.4f")


def lift(actions: list[str]) -> np.ndarray:
    """Return how much more AST hears of a label in an action's training clips than elsewhere.

    [A, 527]: the mean score of the action minus the mean over actions, for the action's TRUE_LABELS
    highest, else 0; zeros for an action without sound.  A difference, no ratio: for most labels
    both means are AST's floor, and a ratio of floors is noise that weighs as much as a real sound.
    Raises UserError when the audio model scores other labels than AudioSet's.
    """
    action_of = {row["clip_id"]: row["action"] for row in shards.ok_rows(FEATURES)}
    sums = np.zeros((len(actions), len(LABELS)))
    clips = np.zeros(len(actions))
    for row in shards.iter_rows(FEATURES, ["label_scores"], ["training"]):
        if row["label_scores"].shape != (len(LABELS),):
            raise UserError(
                f"audio_features.model gives {len(row['label_scores'])} label scores, "
                f"not AudioSet's {len(LABELS)}"
            )
        action = actions.index(action_of[row["clip_id"]])
        sums[action] += row["label_scores"]
        clips[action] += 1
    audible = clips > 0
    means = sums[audible] / clips[audible, None]
    more = np.zeros_like(sums)
    more[audible] = means - means.mean(0)
    gains = np.zeros_like(more)
    top = closest(more, TRUE_LABELS)
    highest = np.take_along_axis(more, top, 1).clip(0)
    np.put_along_axis(gains, top, highest, 1)
    return gains


def true_sound(actions: list[str]) -> np.ndarray:
    """Return [A, 527]: 1 for the labels of each action's own sound in rendered training clips.

    Else 0; zeros without truth.
    """
    present = np.zeros((len(actions), len(LABELS)))
    for action, audio_labels in truth.own_sound_labels():
        if action in actions:
            labels = [LABELS.index(name) for name in audio_labels]
            present[actions.index(action), labels] = 1
    return present


def agreement(similarity: np.ndarray, gains: np.ndarray) -> dict:
    """Return how well the JUDGED closest labels of each action meet its true ones.

    similarity [A, 527]; gains [A, 527] are above 0 for true labels.  top5_relevant: how many are
    true; `maximum`: how many could be.  ndcg5: gain / log2(1 + rank), summed, relative to the best
    order (Jarvelin & Kekalainen 2002, gains linear).  `permuted`: the mean if each action had
    another one's entry.  Actions without true label are left out; intervals are over actions.
    """
    known = gains.any(1)
    gains = gains[known]
    # [A, A, 5]: what the labels in the entry of the second action gain the first.
    entry_gains = gains[:, closest(similarity[known], JUDGED)]
    discount = 1 / np.log2(np.arange(JUDGED) + 2)
    best = -np.sort(-gains, 1)[:, :JUDGED]
    maximum = float((best > 0).sum(1).mean()) if known.any() else None
    relevant = (entry_gains > 0).sum(2)
    ndcg = entry_gains @ discount / (best @ discount)[:, None]
    return {
        "top5_relevant": _own_and_permuted(relevant) | {"maximum": maximum},
        "ndcg5": _own_and_permuted(ndcg),
    }


def _own_and_permuted(value: np.ndarray) -> dict:
    """Return figures of value [A, A]: the first action's labels by the second one's entry."""
    others = value[~np.eye(len(value), dtype=bool)]
    own = intervals.interval(np.diag(value), np.arange(len(value)))
    del own["sources"]
    return own | {"permuted": float(others.mean()) if len(others) else None}


def spread(similarity: np.ndarray) -> dict:
    """Return the distribution of cosines over all pairs of a kind: what a threshold means."""
    low, middle, high = np.percentile(similarity, [5, 50, 95])
    share = float((similarity >= PUBLISHED_THRESHOLD).mean())
    return {
        "mean": float(similarity.mean(dtype=float)),
        "p5": float(low),
        "p50": float(middle),
        "p95": float(high),
        "share_072": share,
    }


def named_actions() -> list[str]:
    """Return the actions of the clips, sorted; raise UserError when no clip has one."""
    clips = shards.read_table(layout.CLIPS, ["action", "status"]).to_pylist()
    actions = {clip["action"] for clip in clips if clip["status"] == "ok"} - {None}
    if not actions:
        raise UserError(
            "no clip has an action label, so there is nothing to look up: see metrics/clips.json"
        )
    return sorted(actions)


def save_embeddings(actions: list[str], vectors: np.ndarray, label_vectors: np.ndarray) -> None:
    """Write data/dictionary_embeddings.safetensors."""
    from safetensors.numpy import save_file

    # One key of metadata: several would be written in any order.
    names = {"names": json.dumps({"actions": actions, "labels": LABELS})}
    tensors = {"actions": vectors, "labels": label_vectors}
    save_file(tensors, layout.DICTIONARY_EMBEDDINGS, names)


def main(stage: stage_run.StageRun) -> None:
    p = params.load("dictionary", DictionaryParams)
    actions = named_actions()
    vectors = embed(p.model, [words(action) for action in actions])
    label_vectors = embed(p.model, LABELS)
    similarity = cosines(vectors, label_vectors)
    shards.write_table(entries(actions, similarity, p.top_k), layout.DICTIONARY)
    save_embeddings(actions, vectors, label_vectors)

    metrics = {"actions": len(actions), **agreement(similarity, lift(actions))}
    own_sound = true_sound(actions)
    if own_sound.any():
        metrics["truth"] = agreement(similarity, own_sound)
    between_labels = cosines(label_vectors, label_vectors)[np.triu_indices(len(LABELS), 1)]
    metrics["random_pairs"] = {
        "label_label": spread(between_labels),
        "action_label": spread(similarity),
    }
    metrics["closest_label"] = spread(similarity.max(1))
    stage.write_metrics(metrics)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "dictionary")
