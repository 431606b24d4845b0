"""The semantic dictionary: its table, and its figures against counts by hand."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from sklearn.metrics import ndcg_score

from audio_from_video.backbones.text import embed
from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import dictionary
from stages.dictionary import LABELS, TRUE_LABELS, agreement, entries, lift, spread, words
from tests.support.text_models import write_bert

OUTPUTS = [Path("data/dictionary_embeddings.safetensors"), Path("data/dictionary.parquet")]
RNG = np.random.default_rng(0)
BOILING, MUSIC, RAIN = (LABELS.index(name) for name in ("Boiling", "Music", "Rain"))


def test_action_names_become_words():
    assert [
        words(name) for name in ("clapping", "adult+male+speaking", "playing_music", "+a+_b ")
    ] == [
        "clapping",
        "adult male speaking",
        "playing music",
        "a b",
    ]


def test_entries():
    similarity = np.zeros((2, 527), np.float32)
    similarity[0, [BOILING, RAIN]] = 0.5, 0.75
    similarity[1, MUSIC] = -0.5
    table = entries(["a", "b"], similarity, 2).to_pylist()
    assert [row["rank"] for row in table] == [1, 2, 1, 2]
    assert table[0] == {
        "action": "a",
        "rank": 1,
        "audio_label": "Rain",
        "mid": "/m/06mb1",
        "similarity": 0.75,
    }
    assert table[1]["audio_label"] == "Boiling"
    assert [row["audio_label"] for row in table[2:]] == LABELS[
        :2
    ]  # ties in the labels' order, the negative one last


def test_agreement_counted_by_hand():
    similarity, gains = np.zeros((2, 527)), np.zeros((2, 527))
    similarity[0, :5] = 5, 4, 3, 2, 1
    similarity[1, 10:15] = 5, 4, 3, 2, 1
    gains[0, [1, 10]] = (
        2,
        1,
    )  # its own entry has the first label at rank 2; the other's has the second at rank 1
    gains[1, [10, 14, 20]] = 1  # ranks 1 and 5, and one that nobody lists
    result = agreement(similarity, gains)
    top5, ndcg = result["top5_relevant"], result["ndcg5"]
    assert (top5["mean"], top5["maximum"], top5["permuted"], top5["n"]) == (1.5, 2.5, 0.5, 2)
    ideal = 2 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 0.5
    own = 2 / np.log2(3) / ideal[0], (1 + 1 / np.log2(6)) / ideal[1]
    assert ndcg["mean"] == pytest.approx(np.mean(own))
    assert ndcg["permuted"] == pytest.approx((1 / ideal[0] + 0) / 2)


def test_agreement_equals_scikit_learn_and_brute_force():
    similarity = RNG.random((4, 527))
    gains = np.where(RNG.random((4, 527)) < 0.2, RNG.random((4, 527)), 0)
    result = agreement(similarity, gains)
    assert result["ndcg5"]["mean"] == pytest.approx(ndcg_score(gains, similarity, k=5))
    others = [
        list(order) for order in permutations(range(4)) if all(order[i] != i for i in range(4))
    ]
    assert result["ndcg5"]["permuted"] == pytest.approx(
        np.mean([ndcg_score(gains, similarity[order], k=5) for order in others])
    )
    hits = [
        sum((gains[i, np.argsort(-similarity[j])[:5]] > 0).sum() for i, j in enumerate(order)) / 4
        for order in others
    ]
    assert result["top5_relevant"]["permuted"] == pytest.approx(np.mean(hits))
    assert result["top5_relevant"]["maximum"] == 5


def test_a_perfect_dictionary_reaches_the_maximum():
    gains = np.zeros((3, 527))
    gains[[0, 1, 1, 2], [13, 14, 15, 16]] = 1, 2, 1, 1
    result = agreement(gains, gains)
    assert (
        result["top5_relevant"]["mean"]
        == result["top5_relevant"]["maximum"]
        == pytest.approx(4 / 3)
    )
    assert result["ndcg5"]["mean"] == pytest.approx(1) and result["top5_relevant"]["permuted"] == 0


def test_actions_without_true_labels_are_left_out():
    similarity, gains = RNG.random((3, 527)), np.zeros((3, 527))
    assert agreement(similarity, gains)["top5_relevant"]["mean"] is None
    gains[1] = similarity[1]
    assert agreement(similarity, gains)["ndcg5"] == {
        "mean": 1.0,
        "ci95_low": 1.0,
        "ci95_high": 1.0,
        "n": 1,
        "permuted": None,
    }


def test_spread():
    figures = spread(np.linspace(0, 1, 101))
    assert [round(figures[key], 6) for key in ("mean", "p5", "p50", "p95", "share_072")] == [
        0.5,
        0.05,
        0.5,
        0.95,
        round(29 / 101, 6),
    ]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two actions with sound, one without, a refused and an unlabelled clip; a tiny BERT."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        f"dictionary: {{model: {write_bert(tmp_path / 'bert')}, top_k: 3}}"
    )
    clips = [
        ("boiling", "test", "ok"),
        ("boiling", "training", "ok"),
        ("playing+music", "training", "ok"),
        ("waving", "training", "ok"),
        ("gone", "training", "unreadable"),
        (None, "unlabelled", "ok"),
    ]
    clips_table = pa.Table.from_pylist(
        [dict(zip(("action", "split", "status"), clip, strict=True)) for clip in clips]
    )
    shards.write_table(clips_table, tmp_path / "data/clips.parquet")
    scores = {
        "a": ("boiling", "test", {MUSIC: 1.0}),
        "b": ("boiling", "training", {BOILING: 0.75, RAIN: 0.25}),
        "c": ("boiling", "training", {BOILING: 0.25}),
        "d": ("playing+music", "training", {MUSIC: 0.5}),
        "e": (None, "unlabelled", {RAIN: 1.0}),
    }  # in the index's order: by split, action, clip
    rest = {"source_id": "s", "item_key": "k", "status": "ok", "reason": ""}
    index = [
        {"clip_id": clip, "action": action, "split": split} | rest
        for clip, (action, split, _) in scores.items()
    ]
    rows = [
        row | {"label_scores": np.bincount(list(score), list(score.values()), 527)}
        for row, (_, _, score) in zip(index, scores.values(), strict=True)
    ]
    shards.write(
        tmp_path / "data/audio_features",
        pa.schema([("label_scores", shards.tensor(pa.float16(), 527))]),
        rows,
        index,
        "v",
    )
    write_truth([])


def write_truth(rows: list[dict]) -> None:
    numbered = [row | {"clip_id": f"clip_{number}"} for number, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(numbered, TRUTH_SCHEMA), "data/truth.parquet")


def test_lift_is_of_training_clips_alone_and_relative_to_all_actions(data):
    gains = lift(["boiling", "playing+music", "waving"])
    assert gains.shape == (3, 527) and (gains > 0).sum() == 3 <= TRUE_LABELS
    assert gains[0, BOILING] == pytest.approx(
        0.25
    )  # mean 0.5 over its two clips, minus (0.5 + 0) / 2
    assert gains[0, RAIN] == pytest.approx(0.0625) and gains[1, MUSIC] == pytest.approx(0.25)
    assert not gains[2].any()


def test_only_the_highest_labels_count_as_true(data, monkeypatch):
    monkeypatch.setattr(dictionary, "TRUE_LABELS", 1)
    gains = lift(["boiling", "playing+music", "waving"])
    assert np.argwhere(gains).tolist() == [[0, BOILING], [1, MUSIC]]


def test_the_stage(data):
    dictionary.main(stage_run.StageRun("dictionary", None, 1))
    table = pq.read_table("data/dictionary.parquet")
    assert table.schema.names == ["action", "rank", "audio_label", "mid", "similarity"]
    assert table.schema.field("similarity").type == pa.float32()
    assert (
        table["action"].unique().to_pylist() == ["boiling", "playing+music", "waving"]
        and len(table) == 9
    )
    with safe_open("data/dictionary_embeddings.safetensors", "np") as file:
        names, actions, labels = (
            json.loads(file.metadata()["names"]),
            file.get_tensor("actions"),
            file.get_tensor("labels"),
        )
    assert names["labels"] == LABELS and labels.shape == (527, 32)
    model = params.load("dictionary", dictionary.DictionaryParams).model
    assert np.array_equal(actions, embed(model, ["boiling", "playing music", "waving"]))
    assert table["similarity"][0].as_py() == pytest.approx(np.sort(labels @ actions[0])[-1])
    metrics = json.loads(Path("metrics/dictionary.json").read_text())
    assert "truth" not in metrics and metrics["actions"] == 3 and metrics["top5_relevant"]["n"] == 2
    assert metrics["top5_relevant"]["maximum"] == 1.5
    first = [path.read_bytes() for path in OUTPUTS]
    write_truth(
        [
            {
                "split": "training",
                "action": "boiling",
                "sound_kind": "own",
                "audio_labels": ["Boiling", "Gurgling"],
            },
            {
                "split": "training",
                "action": "boiling",
                "sound_kind": "mixed",
                "audio_labels": ["Boiling", "Drum"],
            },
            {"split": "training", "action": "gone", "sound_kind": "own", "audio_labels": ["Rain"]},
            {
                "split": "test",
                "action": "playing+music",
                "sound_kind": "own",
                "audio_labels": ["Music"],
            },
        ]
    )
    dictionary.main(stage_run.StageRun("dictionary", None, 1))
    truth = json.loads(Path("metrics/dictionary.json").read_text())["truth"]["top5_relevant"]
    assert (truth["n"], truth["maximum"]) == (1, 2.0)
    assert first == [path.read_bytes() for path in OUTPUTS]  # truth is for metrics alone


def test_a_set_without_actions_is_one_sentence(data):
    shards.write_table(
        pa.table({"action": pa.array([None], pa.string()), "status": ["ok"]}),
        Path("data/clips.parquet"),
    )
    with pytest.raises(UserError, match="no clip has an action label"):
        dictionary.main(stage_run.StageRun("dictionary", None, 1))


def test_print_for_needs_nothing_but_names(data, tmp_path, capsys):
    (tmp_path / "actions.txt").write_text("clapping\n\nplaying+music\n")
    dictionary.print_for(str(tmp_path / "actions.txt"))
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "action,rank,audio_label,mid,similarity"
        and len(lines) == 7
        and lines[4].startswith("playing+music,1,")
    )


def test_printed_names_are_no_formulas(data, tmp_path, capsys):
    (tmp_path / "actions.txt").write_text("=HYPERLINK(1)\n")
    dictionary.print_for(str(tmp_path / "actions.txt"))
    assert capsys.readouterr().out.splitlines()[1].startswith("'=HYPERLINK(1),1,")
