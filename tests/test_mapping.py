"""Captions to labels: the published example, both ways against loops, and who answers for whom."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.text import embed
from audio_from_video.clipset import folds
from audio_from_video.evaluation import mapping as mapping_evaluation
from audio_from_video.meaning import stored_embeddings
from audio_from_video.storage import shards
from stages import mapping
from tests.support import synthetic
from tests.support.synthetic import CAPTIONS, LABEL_NAMES, LABELS, STEPS
from tests.support.text_models import MINILM

TOP_K, KEYS, TEMPERATURE = 3, 2, 0.05
RNG = np.random.default_rng(0)


@pytest.fixture
def data(workspace, bert, in_process):
    """`rows` with their captions; `whole` and `by_fold`, the labels' audio."""
    section = {
        "via": "labels",
        "model": bert,
        "top_k": TOP_K,
        "min_similarity": -1.0,
        "key_captions": KEYS,
        "temperature": TEMPERATURE,
    }
    workspace.set(frames={"count": STEPS}, generator={"folds": 3}, mapping=section)
    workspace.rows = synthetic.make_clips()
    for row in workspace.rows:  # from a few to nearly all labels are heard
        row["label_scores"] = RNG.uniform(0, 1, LABELS).astype(np.float16).astype(float)
    synthetic.write_data(workspace.rows)
    synthetic.write_captions(workspace.rows)
    workspace.whole, workspace.by_fold = synthetic.write_label_audio()
    return workspace


def mapped() -> dict[str, dict[str, np.ndarray]]:
    """Each clip's row of data/mapping."""
    return {
        row["clip_id"]: row
        for row in shards.iter_rows(Path("data/mapping"), ["caption", "labels", "similarity"])
    }


def output() -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in Path("data/mapping").rglob("*") if path.is_file()
    }


def fold_by_clip(rows: list[dict]) -> dict[str, int]:
    table = pd.DataFrame(rows)[["clip_id", "split", "source_id"]]
    return dict(zip(table.clip_id, folds.of_clips(table, 3).tolist(), strict=True))


def softmax(scores: list[float]) -> np.ndarray:
    weights = np.exp(np.array(scores, float) / TEMPERATURE)
    return weights / weights.sum()


# By way of the labels' names


@pytest.mark.slow
def test_the_published_example(workspace, in_process):
    workspace.set(frames={"count": STEPS})
    rows = synthetic.make_clips(sizes={"training": 2, "validation": 1, "test": 1}, unlabelled=2)
    rows[0]["captions"] = {4: "a group of people in a crowd with their hands up"}
    synthetic.write_data(rows)
    synthetic.write_captions(rows)
    names = [label.display_name for label in load_labels()]
    synthetic.write_label_audio(names)
    synthetic.map_captions()
    found = mapped()[rows[0]["clip_id"]]
    assert [names[label] for label in found["labels"][4]] == ["Crowd", "Hands", "Applause"]
    expected = (
        embed(MINILM, ["Crowd", "Hands", "Applause"])
        @ embed(MINILM, list(rows[0]["captions"].values()))[0]
    )
    np.testing.assert_allclose(found["similarity"][4], expected, atol=1e-5)
    assert (np.diff(expected) < -0.01).all()  # in this order by more than rounding


@pytest.mark.parametrize("cut", ["none", "some"])
def test_labels_and_cosines_against_a_loop_over_the_steps(data, bert, cut):
    vectors = {text: embed(bert, [text])[0].astype(float) for text in (*CAPTIONS, *LABEL_NAMES)}
    cosine = {
        text: {label: vectors[text] @ vectors[label] for label in LABEL_NAMES} for text in CAPTIONS
    }
    ranked = {
        text: sorted(LABEL_NAMES, key=lambda label, of=cosine[text]: -of[label])
        for text in CAPTIONS
    }
    lowest = (
        -1.0
        if cut == "none"
        else float(np.median([cosine[text][ranked[text][1]] for text in CAPTIONS]))
    )
    data.set(mapping={"min_similarity": lowest})
    metrics = synthetic.map_captions()["labels"]
    found, missing = mapped(), 0
    for row in data.rows:
        mine = found[row["clip_id"]]
        assert mine["labels"].shape == mine["similarity"].shape == (STEPS, TOP_K) and mine[
            "caption"
        ].shape == (STEPS,)
        for step in range(STEPS):
            names = ranked[row["captions"][step]][:TOP_K] if step in row["captions"] else []
            names = [name for name in names if cosine[row["captions"][step]][name] >= lowest]
            missing += TOP_K - len(names)
            padding = [-1] * (TOP_K - len(names))
            assert (
                mine["labels"][step].tolist()
                == [LABEL_NAMES.index(name) for name in names] + padding
            )
            values = [cosine[row["captions"][step]][name] for name in names] + [0] * len(padding)
            np.testing.assert_allclose(mine["similarity"][step], values, atol=1e-6)
    assert missing > TOP_K * sum(STEPS - len(row["captions"]) for row in data.rows) or cut == "none"

    fold = fold_by_clip(data.rows)
    learned = [
        row["audio"]
        for row in data.rows
        if row["audible"] and row["split"] in ("training", "unlabelled")
    ]
    mean = np.concatenate(learned).mean(0)
    for name, split in (
        ("validation", "validation"),
        ("test", "test"),
        ("out_of_fold", "training"),
    ):
        margins, entropies, cosines, hits, shares, firsts, count = [], [], [], [], [], [], 0
        for row in (row for row in data.rows if row["split"] == split and row["audible"]):
            audio = data.whole if split != "training" else data.by_fold[fold[row["clip_id"]]]
            heard = [LABEL_NAMES[i] for i in np.flatnonzero(row["label_scores"] >= 0.3)]
            for step, text in row["captions"].items():
                count += 1
                names = [name for name in ranked[text][:TOP_K] if cosine[text][name] >= lowest]
                margins.append(
                    cosine[text][ranked[text][TOP_K - 1]] - cosine[text][ranked[text][TOP_K]]
                )
                hits.append(any(name in heard for name in names))
                firsts.append(bool(names) and names[0] in heard)
                shares.append(np.mean([name in heard for name in names]) if names else 0)
                if names:
                    weights = softmax([cosine[text][label] for label in names])
                    entropies.append(-(weights * np.log(weights)).sum())
                    condition = weights @ audio[[LABEL_NAMES.index(label) for label in names]]
                    real = row["audio"][step] - mean
                    cosines.append(
                        condition @ real / np.linalg.norm(condition) / np.linalg.norm(real)
                    )
        measured = metrics[name]
        assert measured["captions"] == count and measured["with_labels"] == pytest.approx(
            len(cosines) / count, abs=1e-6
        )
        assert measured["margin"] == pytest.approx(np.mean(margins), abs=1e-5)
        assert measured["entropy"] == pytest.approx(np.mean(entropies), abs=1e-5)
        assert measured["condition_cosine"]["mean"] == pytest.approx(np.mean(cosines), abs=2e-3)
        assert (measured["hit"]["mean"], measured["first_hit"]) == pytest.approx(
            (np.mean(hits), np.mean(firsts)), abs=1e-6
        )
        assert measured["precision"] == pytest.approx(np.mean(shares), abs=1e-6)


def test_more_labels_change_nothing_but_the_labels(data):
    outputs = {}
    for top_k in (2, 5):
        data.set(mapping={"top_k": top_k})
        synthetic.map_captions()
        outputs[top_k] = (
            mapped(),
            Path("data/mapping/_captions.parquet").read_bytes(),
            load_file("data/mapping/_labels.safetensors"),
        )
    (few, texts, tensors), (many, same_texts, same_tensors) = outputs.values()
    assert texts == same_texts and all(
        np.array_equal(value, same_tensors[key]) for key, value in tensors.items()
    )
    for name, row in few.items():
        assert np.array_equal(row["caption"], many[name]["caption"])
        for key in ("labels", "similarity"):
            assert many[name][key].shape == (STEPS, 5) and np.array_equal(
                row[key], many[name][key][:, :2]
            )


# What is written


def test_numbers_stand_for_captions_and_labels(data, bert):
    synthetic.map_captions()
    table = pq.read_table("data/mapping/_captions.parquet")
    texts = table["caption"].to_pylist()
    assert (
        len(texts) == len(set(texts)) == len(CAPTIONS)
    )  # clips with the same caption share its number
    assert np.array_equal(shards.as_array(table["embedding"]), embed(bert, texts))
    found = mapped()
    for row in data.rows:
        expected = [row["captions"].get(step) for step in range(STEPS)]
        assert [
            texts[number] if number >= 0 else None for number in found[row["clip_id"]]["caption"]
        ] == expected
    tensors = load_file("data/mapping/_labels.safetensors")
    assert np.array_equal(tensors["text"], embed(bert, list(LABEL_NAMES)))
    assert np.array_equal(tensors["audio"], np.concatenate([data.by_fold, data.whole[None]]))
    with safe_open("data/mapping/_labels.safetensors", "np") as file:
        (content,) = (
            file.metadata().values()
        )  # a second entry would make the order of the bytes vary
    expected = {
        "names": list(LABEL_NAMES),
        "model": bert,
        "via": "labels",
        "top_k": TOP_K,
        "min_similarity": -1.0,
    }
    assert json.loads(content) == expected


def test_clips_stand_in_the_order_of_the_captions(data):
    refused, still = data.rows[3], data.rows[20]
    refused["status"], still["captions"] = "timeout", {}
    synthetic.write_captions(data.rows)
    index = shards.read_index(Path("data/captions")).to_pylist()
    metrics = synthetic.map_captions()
    assert metrics["clips"] == {
        "in": len(data.rows),
        "ok": len(data.rows) - 1,
        "refused": {"timeout": 1},
    }
    written = shards.read_index(Path("data/mapping")).to_pylist()
    assert written == [row for row in index if row["status"] == "ok"]
    assert (
        list(mapped()) == [row["clip_id"] for row in written] and refused["clip_id"] not in mapped()
    )
    empty = mapped()[still["clip_id"]]
    assert (
        (empty["caption"] == -1).all()
        and (empty["labels"] == -1).all()
        and (empty["similarity"] == 0).all()
    )


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_workers_and_what_is_stored(data, monkeypatch):
    def run_once(workers: int) -> dict:
        mapping.main(mapping.stage_run.StageRun("mapping", "", workers))
        return output() | {"metrics": Path("metrics/mapping.json").read_bytes()}

    first = run_once(1)
    assert len(first) > 10
    assert run_once(1) == first
    monkeypatch.undo()
    monkeypatch.chdir(data.folder)
    monkeypatch.setenv("ITEM_STORE", str(data.folder / "other items"))
    monkeypatch.setattr(stored_embeddings, "TEXTS_PER_TASK", 5)
    assert run_once(2) == first


# By way of key captions


@pytest.fixture
def keyed(data):
    data.set(mapping={"via": "key_captions"})
    return data


def attended(
    rows: list[dict], vectors: dict[str, np.ndarray], text: str, source: str
) -> np.ndarray:
    """The reference: label scores [L] that a caption of a source attends to."""
    said: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if (
            row["audible"]
            and row["split"] in ("training", "unlabelled")
            and row["source_id"] != source
        ):
            for other in set(row["captions"].values()):
                said.setdefault(other, []).append(row["label_scores"])
    nearest = sorted(said, key=lambda other: -vectors[text] @ vectors[other])[:KEYS]
    return softmax([vectors[text] @ vectors[other] for other in nearest]) @ [
        np.mean(said[other], axis=0) for other in nearest
    ]


def test_key_captions_against_a_loop(keyed, bert):
    keyed.rows[2]["captions"] = {
        0: "a saw and a hammer",
        3: "a saw and a hammer",
    }  # the same caption twice in a clip counts once
    assert keyed.rows[2]["split"] == "training" and keyed.rows[2]["audible"]
    only = next(
        row
        for row in keyed.rows
        if row["split"] == "training" and row["audible"] and row is not keyed.rows[2]
    )
    only["captions"] = {1: "hands"}  # a key of one source alone, which may not use it
    synthetic.write_captions(keyed.rows)
    synthetic.map_captions()
    vectors = {
        text: embed(bert, [text])[0].astype(float)
        for text in {text for row in keyed.rows for text in row["captions"].values()}
    }
    found = mapped()
    for row in keyed.rows:
        mine = found[row["clip_id"]]
        for step, text in row["captions"].items():
            scores = attended(keyed.rows, vectors, text, row["source_id"])
            best = np.argsort(-scores)[:TOP_K]
            assert mine["labels"][step].tolist() == best.tolist()
            np.testing.assert_allclose(mine["similarity"][step], scores[best], atol=1e-5)
        others = [step for step in range(STEPS) if step not in row["captions"]]
        assert (mine["labels"][others] == -1).all() and (mine["similarity"][others] == 0).all()


def test_a_sources_own_sound_says_nothing_of_its_captions(keyed):
    synthetic.map_captions()
    before = mapped()
    row = next(row for row in keyed.rows if row["split"] == "training" and row["audible"])
    row["label_scores"] = row["label_scores"][::-1].copy()
    synthetic.write_data(keyed.rows)
    synthetic.map_captions()
    after = mapped()
    changed = {
        name
        for name in before
        if not np.array_equal(before[name]["similarity"], after[name]["similarity"])
    }
    source = {row["clip_id"]: row["source_id"] for row in keyed.rows}
    assert changed and row["source_id"] not in {source[name] for name in changed}
    said = set(row["captions"].values())
    saying = {
        other["clip_id"]
        for other in keyed.rows
        if said & set(other["captions"].values()) and other["source_id"] != row["source_id"]
    }
    assert saying <= changed  # whoever says the same heard of it


@pytest.mark.parametrize(
    ("splits", "counts"), [(("validation", "test"), False), (("unlabelled",), True)]
)
def test_validation_and_test_clips_are_no_keys(keyed, splits, counts):
    synthetic.map_captions()
    before = output()
    for row in keyed.rows:
        if row["split"] in splits:
            row["label_scores"] = 1 - row["label_scores"]
    synthetic.write_data(keyed.rows)
    synthetic.map_captions()
    assert (output() != before) == counts


# The metrics


def test_metrics_name_both_ways_and_count_the_clips(data):
    metrics = synthetic.map_captions()
    assert metrics["via"] == "labels" and metrics["clips"]["ok"] == len(data.rows)
    assert metrics["captions"] == sum(len(row["captions"]) for row in data.rows)
    assert metrics["distinct_captions"] == len(CAPTIONS)
    for way in ("labels", "key_captions"):
        assert set(metrics[way]) == {"validation", "test", "out_of_fold"}
    data.set(mapping={"via": "key_captions"})
    other = synthetic.map_captions()
    assert other["via"] == "key_captions" and all(
        other[way] == metrics[way] for way in ("labels", "key_captions")
    )


def test_of_many_clips_some_are_measured_and_all_are_mapped(data, monkeypatch):
    synthetic.map_captions()
    before = output()
    monkeypatch.setattr(mapping_evaluation, "MEASURED_CLIPS", 2)
    metrics = synthetic.map_captions()
    assert output() == before
    for split, name in mapping_evaluation.MEASURED_SPLITS.items():
        audible = [row for row in data.rows if row["split"] == name and row["audible"]]
        captions = sorted(len(row["captions"]) for row in audible)
        for way in ("labels", "key_captions"):
            assert 0 < metrics[way][split]["captions"] <= sum(captions[-2:])
