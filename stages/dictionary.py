"""Build the semantic dictionary: for each action the audio labels that are closest to it in meaning.

Reads    data/clips.parquet (the actions' names); for metrics alone data/audio_features and data/truth.parquet
Writes   data/dictionary.parquet, `top_k` rows per action, closest label first:
             action       string
             rank         int32     1 = closest
             audio_label  string    AudioSet display name
             mid          string    the label's id in AudioSet's ontology
             similarity   float32   cosine of the two embeddings, -1..1
         data/dictionary_embeddings.safetensors: actions float32 [A, D], labels float32 [527, D], L2-normalised; its
             metadata `names` is JSON {actions, labels}: what the rows stand for
Both kinds of names are embedded by one sentence model (common/text_embedding.py).  The dictionary of other actions, one
name a line, needs no other stage's output:
    python -c "from stages.dictionary import print_for; print_for('actions.txt')" > dictionary.csv
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.text import embed
from audio_from_video.clipset import truth
from audio_from_video.evaluation import intervals
from audio_from_video.meaning.similarity import closest, cosines
from audio_from_video.reporting import tables
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

FEATURES = layout.AUDIO_FEATURES
JUDGED = (
    5  # entries per action behind the metrics, whatever `top_k`: the research description's number
)
TRUE_LABELS = 10  # an action's labels of highest lift that count as truly present
PUBLISHED_THRESHOLD = 0.72  # how rare such a cosine is depends on the model
LABELS = [label.display_name for label in load_labels()]


class DictionaryParams(params.Section):
    model: str
    top_k: int = Field(ge=1, le=527)


def words(action: str) -> str:
    """An action's folder name as words: `adult+male+speaking` -> `adult male speaking`."""
    return " ".join(action.replace("+", " ").replace("_", " ").split())


def entries(actions: list[str], similarity: np.ndarray, top_k: int) -> pa.Table:
    """The dictionary of actions with similarity [A, 527] as the table described above."""
    top = closest(similarity, top_k)  # [A, k]
    labels = [load_labels()[i] for i in top.ravel()]
    return pa.table(
        {
            "action": pa.array(np.repeat(actions, top.shape[1]), pa.string()),
            "rank": pa.array(np.tile(np.arange(1, top.shape[1] + 1), len(actions)), pa.int32()),
            "audio_label": [label.display_name for label in labels],
            "mid": [label.mid for label in labels],
            "similarity": pa.array(np.take_along_axis(similarity, top, 1).ravel(), pa.float32()),
        }
    )


def print_for(path: str) -> None:
    """Print the dictionary of the action names in a text file, one a line, as CSV."""
    p = params.load("dictionary", DictionaryParams)
    actions = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    similarity = cosines(
        embed(p.model, [words(action) for action in actions]), embed(p.model, LABELS)
    )
    table = entries(actions, similarity, p.top_k).to_pandas()
    table.assign(action=table.action.map(tables.plain)).to_csv(
        sys.stdout, index=False, float_format="%.4f"
    )


def lift(actions: list[str]) -> np.ndarray:
    """How much more AST hears of a label in an action's training clips than in all actions': [A, 527], zeros where unheard.

    Mean score of the action minus the mean over actions, for the action's TRUE_LABELS highest, else 0.  A difference, no
    ratio: for most labels both means are AST's floor, and a ratio of floors is noise that weighs as much as a real sound.
    """
    action_of = {row["clip_id"]: row["action"] for row in shards.ok_rows(FEATURES)}
    sums, clips = np.zeros((len(actions), len(LABELS))), np.zeros(len(actions))
    for row in shards.iter_rows(FEATURES, ["label_scores"], ["training"]):
        if row["label_scores"].shape != (len(LABELS),):
            raise UserError(
                f"audio_features.model gives {len(row['label_scores'])} label scores, not AudioSet's {len(LABELS)}"
            )
        action = actions.index(action_of[row["clip_id"]])
        sums[action] += row["label_scores"]
        clips[action] += 1
    means = sums[clips > 0] / clips[clips > 0, None]
    more = np.zeros_like(sums)
    more[clips > 0] = means - means.mean(0)
    gains, top = np.zeros_like(more), closest(more, TRUE_LABELS)
    np.put_along_axis(gains, top, np.take_along_axis(more, top, 1).clip(0), 1)
    return gains


def true_sound(actions: list[str]) -> np.ndarray:
    """1 for the labels of each action's own sound in rendered training clips, else 0: [A, 527]; zeros without truth."""
    present = np.zeros((len(actions), len(LABELS)))
    for action, audio_labels in truth.own_sound_labels():
        if action in actions:
            present[actions.index(action), [LABELS.index(name) for name in audio_labels]] = 1
    return present


def agreement(similarity: np.ndarray, gains: np.ndarray) -> dict:
    """How well the JUDGED closest labels of each action (similarity [A, 527]) meet its true ones (gains [A, 527] > 0).

    top5_relevant: how many are true; `maximum`: how many could be.  ndcg5: gain / log2(1 + rank), summed, relative to the
    best order (Jarvelin & Kekalainen 2002, gains linear).  `permuted`: the mean if each action had another one's entry.
    Actions without true label are left out; intervals are over actions.
    """
    known = gains.any(1)
    similarity, gains = similarity[known], gains[known]
    found = gains[
        :, closest(similarity, JUDGED)
    ]  # [A, A, 5]: what the labels in the entry of the second gain the first
    discount, best = 1 / np.log2(np.arange(JUDGED) + 2), -np.sort(-gains, 1)[:, :JUDGED]
    maximum = float((best > 0).sum(1).mean()) if known.any() else None
    return {
        "top5_relevant": _own_and_permuted((found > 0).sum(2)) | {"maximum": maximum},
        "ndcg5": _own_and_permuted(found @ discount / (best @ discount)[:, None]),
    }


def _own_and_permuted(value: np.ndarray) -> dict:
    """Figures of value [A, A], the first's labels by the second's entry."""
    others = value[~np.eye(len(value), dtype=bool)]
    own = intervals.interval(np.diag(value), np.arange(len(value)))
    del own["sources"]
    return own | {"permuted": float(others.mean()) if len(others) else None}


def spread(similarity: np.ndarray) -> dict:
    """The distribution of cosines, over all pairs of a kind: what a threshold on them means."""
    low, middle, high = np.percentile(similarity, [5, 50, 95])
    share = float((similarity >= PUBLISHED_THRESHOLD).mean())
    return {
        "mean": float(similarity.mean(dtype=float)),
        "p5": float(low),
        "p50": float(middle),
        "p95": float(high),
        "share_072": share,
    }


def main(stage: stage_run.StageRun) -> None:
    from safetensors.numpy import save_file

    p = params.load("dictionary", DictionaryParams)
    clips = shards.read_table(layout.CLIPS, ["action", "status"]).to_pylist()
    actions = sorted(
        {clip["action"] for clip in clips if clip["status"] == "ok" and clip["action"] is not None}
    )
    if not actions:
        raise UserError(
            "no clip has an action label, so there is nothing to look up: see metrics/clips.json"
        )
    action_vectors, label_vectors = (
        embed(p.model, [words(action) for action in actions]),
        embed(p.model, LABELS),
    )
    similarity = cosines(action_vectors, label_vectors)
    shards.write_table(entries(actions, similarity, p.top_k), layout.DICTIONARY)
    save_file(
        {"actions": action_vectors, "labels": label_vectors},
        layout.DICTIONARY_EMBEDDINGS,
        {
            "names": json.dumps({"actions": actions, "labels": LABELS})
        },  # one key: several would be written in any order
    )
    own_sound = true_sound(actions)
    stage.write_metrics(
        {
            "actions": len(actions),
            **agreement(similarity, lift(actions)),
            **({"truth": agreement(similarity, own_sound)} if own_sound.any() else {}),
            "random_pairs": {
                "label_label": spread(
                    cosines(label_vectors, label_vectors)[np.triu_indices(len(LABELS), 1)]
                ),
                "action_label": spread(similarity),
            },
            "closest_label": spread(similarity.max(1)),
        }
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "dictionary")
