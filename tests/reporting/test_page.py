"""The HTML report: what is in it, that no text breaks out, and that it works in Chromium."""

import base64
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from audio_from_video.audioset import labels as audioset_labels
from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.evaluation.filter_gains import filter_gains
from audio_from_video.media import codecs
from audio_from_video.reporting import (
    clip_browser,
    first_screen,
    mel_picture,
    page,
    threshold_section,
)
from audio_from_video.reporting.condition_groups import arranged
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import SHARE, Cell, Table, csv_text
from audio_from_video.runtime import atomic, vocabulary
from audio_from_video.storage import layout, predictions, shards
from tests.support import synthetic
from tests.support.synthetic import LABEL_NAMES, LABELS, STEPS

EVIL, CAPTION = (
    "<script>alert(1)</script>&\"'",
    'a dog </script><script>alert(2)</script> \u2028 & "rain"',
)
ACTIONS = ("boiling", EVIL, "waving")
CONDITIONS = ["video_only", "generated", "mapped", "real_audio", "published"]
GROUPS = {
    "Baselines": {"video_only": "The one that all are compared with"},
    "Real sound": {"real_audio": "Hears real sound"},
    "Architectures": {
        "generated": f"Definition {EVIL}",
        "mapped": "Hears what was mapped",
        "published": "Answers kept clips",
    },
}
SOURCE = [("date", "2026-11-27"), ("code", f"`abc` {EVIL}")]
VALUES = {"generated": 0.629, "mapped": 0.58, "real_audio": 0.7, "published": None}
TABLES = [
    Table(
        "main",
        "Main table",
        ["condition", "accuracy", "minus `video_only`", "*reported*"],
        [
            ["`video_only`", Cell((0.619, 0.55, 0.684), SHARE), "", "a|b"],
            *(
                [f"`{name}`", Cell((value, 0.5, 0.8), SHARE, "none"), "+1.0 [-2.0, +3.9]", ""]
                for name, value in VALUES.items()
            ),
        ],
        below="See *here* <b>bold</b> `my|media`, [x](javascript:alert(3))",
    ),
    Table("on", "On <img src=x onerror=alert(4)>", ["a", "b"], [["<i>1</i>", "2"]], EVIL),
    Table(
        "experiment_wide",
        "Experiment: wide",
        ["setting", *(f"figure_{i}" for i in range(30))],
        [[f"a_rather_long_setting {n}", *("61.9 [55.0, 68.4]",) * 30] for n in range(2)],
    ),
]
SWEEP = pd.DataFrame(
    {
        "threshold": [-1.0, 0.0, 0.4, 0.8],
        "kept_fraction": [1.0, 0.9, 0.6, 0.0],
        "precision": [0.5, 0.55, 0.7, np.nan],
        "recall": [1.0, 0.95, 0.8, 0.0],
        "validation_informedness": [0.0, 0.1, 0.3, 0.0],
        "validation_accuracy": [0.61, 0.62, 0.63, 0.6],
        "test_accuracy": [0.621, 0.632, 0.643, 0.654],
        "random_clips_accuracy": [0.62, 0.63, 0.64, 0.65],
        "random_filter_accuracy": [0.6, 0.61, 0.62, 0.63],
        "confidence_filter_accuracy": [0.59, 0.58, 0.57, 0.56],
    }
)


def write(rows: list[dict]) -> None:
    """All that the page reads, in the current directory."""
    rng = np.random.default_rng(0)
    rows.sort(key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    synthetic.write_data(rows)
    for row in rows:
        row["jpegs"] = [
            codecs.encode_jpeg(rng.integers(0, 255, (48, 64, 3), np.uint8), 80)
            for _ in range(STEPS)
        ]
        row |= {
            "times_s": np.arange(STEPS) / 6,
            "magnitudes": rng.random(STEPS),
            "steps": [1, 4],
            "chosen": [False] * STEPS,
        }
        row |= {"generated": rng.random(LABELS), "captions": {1: CAPTION, 4: "a saw"}}
    images = [("jpegs", pa.list_(pa.binary()))]
    shards.write(
        Path("data/frames"),
        pa.schema([*images, ("times_s", shards.tensor(pa.float32(), STEPS))]),
        rows,
        rows,
        "v",
    )
    shards.write(Path("data/optical_flow"), pa.schema(images), rows, rows, "v")
    moving = pa.schema(
        [("magnitudes", shards.tensor(pa.float32(), STEPS)), ("steps", pa.list_(pa.int32()))]
    )
    shards.write(Path("data/representative_frames"), moving, rows, rows, "v")
    synthetic.write_captions(rows)
    write_mapping(rows)
    write_log_mels(rows)
    happened = {
        "sound_kind": "own",
        "audible": True,
        "audio_labels": ["Saw"],
        "event_times_s": [0.34, 0.4, 0.9, 5.0],
    }
    known = [row | happened for row in pq.read_table("data/truth.parquet").to_pylist()]
    shards.write_table(pa.Table.from_pylist(known, schema=TRUTH_SCHEMA), Path("data/truth.parquet"))
    labelled = [row for row in rows if row["action"]]
    for architecture in vocabulary.ARCHITECTURES:
        synthetic.write_shards(
            Path("data/predicted_labels") / architecture, {"generated": (LABELS,)}, labelled
        )
        decisions = [
            {
                "clip_id": row["clip_id"],
                "split": row["split"],
                "predicted_action": EVIL,
                "score": 0.3 + 0.4 * (i % 2),
                "keep": bool(i % 2),
            }
            for i, row in enumerate(labelled)
        ]
        shards.write_table(pa.Table.from_pylist(decisions), layout.decisions(architecture))
    for seed, condition in enumerate(CONDITIONS):
        answering = [row for i, row in enumerate(rows) if condition != "published" or i % 2]
        synthetic.write_predictions(condition, answering, seed, skill=1 + seed % 3, actions=ACTIONS)
    thresholds = {"semantic_validation": 0.4, "caption_mapping": 0.0}
    filter_metrics = {name: {"threshold": value} for name, value in thresholds.items()}
    atomic.write_json(Path("metrics/filter.json"), filter_metrics)
    Path("metrics/plots/filter").mkdir(parents=True)
    SWEEP.to_csv("metrics/plots/filter/semantic_validation.csv", index=False)
    SWEEP.assign(kept_fraction=SWEEP.kept_fraction / 2).to_csv(
        "metrics/plots/filter/caption_mapping.csv", index=False
    )
    cv2.imwrite("figure.png", np.zeros((4, 6, 3), np.uint8))
    Path("figure.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
        "<style>h1{display:none}</style></svg>"
    )


def write_mapping(rows: list[dict]) -> None:
    labels = np.full((STEPS, 2), -1)
    labels[1], labels[4] = (5, 2), (0, -1)
    stored = [
        row | {"labels": labels, "similarity": np.where(labels >= 0, 0.625, 0)} for row in rows
    ]
    schema = pa.schema(
        [
            ("labels", shards.tensor(pa.int32(), STEPS, 2)),
            ("similarity", shards.tensor(pa.float32(), STEPS, 2)),
        ]
    )
    about = {"mapping": json.dumps({"names": LABEL_NAMES})}
    shards.write(
        Path("data/mapping"),
        schema,
        stored,
        rows,
        "v",
        extras=lambda folder: save_file(
            {"text": np.zeros(1)}, folder / "_labels.safetensors", about
        ),
    )


def write_log_mels(rows: list[dict]) -> None:
    rng = np.random.default_rng(1)
    names = ("real", *vocabulary.ARCHITECTURES)
    stored = []
    for row in rows:
        if row["split"] == "test":
            mels = {name: mel_picture.encode(rng.normal(size=(98, 64))) for name in names}
            stored.append(row | mels | ({} if row["audible"] else {"real": None}))
    schema = pa.schema([(name, pa.binary()) for name in names])
    shards.write(layout.LOG_MELS, schema, stored, stored, "v")


@dataclass
class Settings:
    """What a report needs to know of a condition."""

    audio_at_test: str
    leaky: bool = False
    kept_only: bool = False
    train_audio: str = "none"
    test_audio: str = "none"


SETTINGS = {
    "video_only": Settings("none"),
    "generated": Settings("generated"),
    "mapped": Settings("generated"),
    "real_audio": Settings("real"),
    "published": Settings("generated", leaky=True, kept_only=True),
}


def measure(conditions: list[str]) -> Results:
    """What the conditions' predictions show."""
    answers = {
        name: condition_evaluation.condition_answers(predictions.read(name).of("test"))
        for name in conditions
    }
    audible = np.arange(len(answers["video_only"].clips)) % 2 == 0
    return Results(
        root="my|media",
        settings={name: SETTINGS[name] for name in conditions},
        answers=answers,
        figures=condition_evaluation.condition_figures(
            answers, {"with_audio": audible}, {"published"}
        ),
        checks={},
        classifier_metrics={},
        missing_rates={},
        missing_rate_differences={},
        action_accuracy={},
    )


def build(clips: int = 10, conditions: list[str] | None = None) -> str:
    conditions = conditions or CONDITIONS
    figures = {f"Decoded {EVIL}": Path("figure.png"), "Curves": Path("figure.svg")}
    groups = arranged(GROUPS, conditions)
    names = {f"`{name}`" for name in conditions}
    main = replace(TABLES[0], rows=[row for row in TABLES[0].rows if row[0] in names])
    return page.report_html(
        measure(conditions), groups, [main, *TABLES[1:]], figures, SOURCE, clips
    )


def island(text: str) -> dict:
    """The JSON that the page carries."""
    return json.loads(
        re.search('<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with everything the page reads, as the current directory, and in it report.html."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write(synthetic.make_clips(actions=ACTIONS))
        Path("report.html").write_text(build())
        yield Path.cwd()


@pytest.fixture
def data(folder) -> dict:
    return island(Path("report.html").read_text())


class Elements(HTMLParser):
    """All elements of a page, with their attributes, and the text of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_same_inputs_same_bytes(folder):
    text = Path("report.html").read_text()
    assert build() == text
    assert (
        len(text.encode()) / 10 < 10_000_000 / 40
    )  # a clip's share of the 10 MB that forty may take; these pictures are pure noise
    assert island(build(clips=3))["clips"] != island(text)["clips"]


def test_no_text_breaks_out(folder):
    text = Path("report.html").read_text()
    elements = Elements(text)
    assert [attributes.get("type") for attributes in elements.of("script")] == [
        "application/json",
        None,
    ]
    assert not [
        name for _, attributes in elements.found for name in attributes if name.startswith("on")
    ]
    assert "<b>bold</b>" not in text
    assert "javascript:alert(3)" in text  # as text: there is no such link, see below
    assert {image["src"][:15] for image in elements.of("img")} == {
        "data:image/png;",
        "data:image/svg+",
    }
    assert [image["alt"] for image in elements.of("img")] == [f"Decoded {EVIL}", "Curves"]
    links = [link["href"] for link in elements.of("a")]
    assert all(link.startswith(("#", "data:text/csv;base64,")) for link in links)
    assert "<script>" not in text.replace("<script>\n", "")
    assert "\u2028" not in text


def test_data_arrives_unchanged(data):
    assert {clip["action"] for clip in data["clips"]} == set(ACTIONS)
    assert data["clips"][0]["captions"][0]["text"] == CAPTION


def test_tables_are_sections_with_headings_and_links(folder):
    text = Path("report.html").read_text()
    assert "<em>here</em> &lt;b&gt;bold&lt;/b&gt; <code>my|media</code>" in text
    assert '<section><h3 id="table-0">Main table</h3>' in text
    assert '<section><h3 id="table-1">On &lt;img src=x onerror=alert(4)&gt;</h3>' in text
    assert '<li><a href="#table-1">On &lt;img src=x onerror=alert(4)&gt;</a></li>' in text
    assert '<details><summary><h3 id="table-2">Experiment: wide</h3></summary>' in text
    assert text.count("<details>") == 1
    assert 'href="#table-3"' not in text
    assert "<i>1" not in text
    regions = [element for element in Elements(text).of("div") if element.get("class") == "table"]
    assert [region["aria-label"] for region in regions] == [table.title for table in TABLES]


def test_a_table_is_saved_as_its_csv(folder):
    elements = Elements(Path("report.html").read_text())
    links = [link for link in elements.of("a") if "download" in link]
    assert [link["download"] for link in links] == ["main.csv", "on.csv", "experiment_wide.csv"]
    for link, table in zip(links[1:], TABLES[1:], strict=True):
        assert base64.b64decode(link["href"].partition(",")[2]).decode() == csv_text(table)


def test_generated_sound_is_also_compared_with_its_like(folder):
    found = measure(CONDITIONS)
    assert first_screen.generated_contrasts(found) == []
    asked = [("mapped", "generated"), ("real_audio", "video_only")]
    contrasts = [condition_evaluation.contrast(found.answers, *names) for names in asked]
    settings = found.settings | {"mapped": Settings("generated", test_audio="mapped")}
    found = replace(found, contrasts=contrasts, settings=settings)
    assert first_screen.same_head_sentence(found) == (
        "*Compared with its like*: `mapped` against `generated` "
        f"{first_screen.effect(contrasts[0].difference)}."
    )


def test_the_first_screen_has_the_figures_of_the_run(folder):
    text = Path("report.html").read_text()
    found = measure(CONDITIONS)
    for name in ("video_only", "real_audio"):
        assert f"<b>{100 * found.accuracy(name)['mean']:.1f} %</b>" in text
    gain = found.difference("real_audio")
    interval = f"[{100 * gain['ci95_low']:+.1f}, {100 * gain['ci95_high']:+.1f}]"
    assert interval in text.partition("<main>")[0]
    assert "architecture 2 (<code>mapped</code>)" in text
    assert "<dt>date</dt><dd>2026-11-27</dd>" in text


def test_the_best_without_sound_is_neither_leaky_nor_partial(folder):
    found = measure(CONDITIONS)
    best = first_screen.best_without_sound(found)
    candidates = ("video_only", "generated", "mapped")
    assert best == max(candidates, key=lambda name: found.accuracy(name)["mean"])
    assert set(first_screen.without_sound(found)) == set(candidates)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.03, "adds +2.0"), (-0.03, -0.01, "costs -2.0"), (-0.01, 0.05, "no difference")],
)
def test_words_follow_the_interval(low, high, words):
    difference = {"mean": (low + high) / 2, "ci95_low": low, "ci95_high": high}
    assert words in first_screen.effect(difference)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        ((-0.02, -0.05, 0.01), "X does better than the filter: +2.0 [-1.0, +5.0] points, which"),
        ((-0.02, -0.05, -0.01), "X does better than the filter: +2.0 [+1.0, +5.0] points."),
        ((0.02, 0.01, 0.05), "X does worse than the filter: -2.0 [-5.0, -1.0] points."),
        ((0.0, 0.0, 0.0), "X does as well as the filter."),
    ],
)
def test_the_filter_is_compared_by_its_interval(gain, expected):
    estimate = dict(zip(("mean", "ci95_low", "ci95_high"), gain, strict=True))
    assert threshold_section.comparison("X", estimate).startswith(expected)


def test_what_the_filter_gains_is_that_counted_clip_by_clip(folder):
    thresholds = np.array([-1.0, 0.5, 2.0])
    gains = filter_gains("semantic_validation", thresholds)
    decisions = pd.read_parquet(layout.decisions("semantic_validation"))
    hits = {}
    for name in ("generated", "video_only"):
        answers = predictions.read(name)
        hits[name] = dict(zip(answers.clips.clip_id, answers.hits(), strict=True))
    test = decisions[decisions.split == "test"]
    difference = [hits["generated"][name] - hits["video_only"][name] for name in test.clip_id]
    kept = test.keep.to_numpy()
    gain = float(np.mean(difference * kept))
    base = float(np.mean([hits["video_only"][name] for name in test.clip_id]))
    assert gains.accuracy["mean"] == pytest.approx(base + gain)
    assert gains.over_nothing["mean"] == pytest.approx(gain)
    assert gains.over_all["mean"] == pytest.approx(gain - np.mean(difference))
    assert gains.over_random["mean"] == pytest.approx(gain - kept.mean() * np.mean(difference))
    means = [estimate["mean"] for estimate in gains.by_threshold]
    assert means == pytest.approx([np.mean(difference), gain, 0.0])
    assert gains.random_by_threshold == pytest.approx(
        [np.mean(difference), kept.mean() * np.mean(difference), 0.0]
    )
    assert gains.over_nothing["ci95_low"] <= gain <= gains.over_nothing["ci95_high"]


def test_conditions_that_no_group_names_come_last():
    groups = {"A": {"b": "of b", "x": "is not there"}, "C": {"y": "neither"}}
    assert arranged(groups, ["a", "b", "c"]) == {
        "A": {"b": "of b"},
        "other conditions": {"a": "", "c": ""},
    }


def test_the_browser_starts_with_a_telling_clip(data):
    def answers(record: dict, condition: str) -> bool:
        return record["answers"][condition][0] == record["action"]

    telling = {
        clip["id"]: clip["answers"]["real_audio"][1] + clip["answers"]["video_only"][1]
        for clip in data["clips"]
        if answers(clip, "real_audio") and not answers(clip, "video_only")
    }
    assert telling[data["start"]] == max(telling.values())
    assert clip_browser.telling_clip(data["clips"], "video_only", "video_only") is None


def test_log_mels_are_cut_to_the_clip_and_keep_their_place():
    log_mel = np.full((100, 64), -1.2)
    log_mel[:, :8] = 1.2  # low frequencies
    picture = codecs.decode_jpeg(mel_picture.coloured(mel_picture.encode(log_mel), 0.5))
    assert picture.shape == (32, 25, 3)  # half the bins; 20 ms a pixel
    assert picture[-2].mean() > 150 > 20 > picture[4].mean()


def test_names_come_from_the_vocabulary(data):
    assert data["architectures"] == {
        "semantic_validation": "1: semantic validation",
        "caption_mapping": "2: caption mapping",
    }
    assert data["baseline"] == "video_only"
    assert ["mapped_validated", "video_only"] in data["comparisons"]
    assert data["sweeps"]["caption_mapping"]["condition"] == "mapped"


def test_clips_are_drawn_by_turns_whatever_else_is_there():
    clips = [
        {"clip_id": f"{action}/{i}", "split": "test", "action": action}
        for action in "abc"
        for i in range(5 if action == "a" else 20)
    ]
    drawn = clip_browser.draw_test_clips(clips, 25, 0)
    counts = pd.Series([row["action"] for row in drawn]).value_counts()
    assert counts["a"] == 5
    assert {counts["b"], counts["c"]} == {10}
    assert drawn == sorted(drawn, key=lambda row: row["clip_id"])
    more = [*clips, {"clip_id": "a/x", "split": "training", "action": "a"}]
    assert (
        clip_browser.draw_test_clips(more[::-1], 25, 0)
        == drawn
        != clip_browser.draw_test_clips(clips, 25, 1)
    )
    assert len(clip_browser.draw_test_clips(clips, 99, 0)) == 45
    assert clip_browser.draw_test_clips([], 5, 0) == []


def test_answers_are_those_of_most_seeds(folder, monkeypatch):
    votes = np.array(
        [
            [[0.4, 0.6, 0], [0.1, 0.2, 0.7]],
            [[0.9, 0.1, 0], [0.3, 0.1, 0.6]],
            [[0.45, 0.55, 0], [0.9, 0.1, 0]],
        ],
        np.float32,
    )
    clips = pd.DataFrame(
        {"clip_id": ["x/1", "x/2"], "split": "test", "action": "x", "source_id": "s"}
    )
    known = {
        "three": predictions.Predictions(clips, list("xyz"), votes),
        "two": predictions.Predictions(clips, list("xyz"), votes[:2]),
    }
    monkeypatch.setattr(predictions, "read", known.__getitem__)
    found = clip_browser.condition_answers(known, ["x/2", "x/1", "x/3"])
    assert found["three"] == {
        "x/1": ["y", 2, 3],
        "x/2": ["z", 2, 3],
    }  # x is more probable on average, but y has more seeds
    assert found["two"]["x/1"] == ["x", 1, 2]  # of equals the more probable


def test_a_clip_shows_what_the_stages_wrote(data, folder):
    clip = next(clip for clip in data["clips"] if clip["sound"]["status"] == "ok")
    silent = next(clip for clip in data["clips"] if clip["sound"]["status"] == "silent")
    moving = clip_browser.shard_rows(layout.REPRESENTATIVE_FRAMES, ["magnitudes"], [clip["id"]])[
        clip["id"]
    ]["magnitudes"]
    assert clip["moving"] == {"motion": pytest.approx(moving.tolist(), abs=0.006), "chosen": [1, 4]}
    assert [(caption["step"], caption["labels"]) for caption in clip["captions"]] == [
        (1, [["Saw", 0.625], ["Applause", 0.625]]),
        (4, [["Crowd", 0.625]]),
    ]
    scores = clip_browser.shard_rows(layout.AUDIO_FEATURES, ["label_scores"], [clip["id"]])[
        clip["id"]
    ]["label_scores"]
    names = [label.display_name for label in audioset_labels.load_labels()[:LABELS]]
    assert clip["real_labels"][0] == [
        names[int(scores.argmax())],
        pytest.approx(float(scores.max()), abs=1e-3),
    ]
    assert len(clip["real_labels"]) == 3
    truth = {"kind": "own", "audible": True, "belongs": clip["truth"]["belongs"], "labels": ["Saw"]}
    assert clip["truth"] == truth | {"events": [2, 5]}
    assert isinstance(truth["belongs"], bool)  # 0.9 s is on the last frame, 5 s after it
    assert "wave" not in silent["sound"]
    assert silent["real_labels"] is None
    assert max(clip["sound"]["wave"]) == 100
    picture = codecs.decode_jpeg(base64.b64decode(clip["frames"].partition(",")[2]))
    assert picture.shape == (48, STEPS * 64, 3)  # no larger than they were
    assert set(clip["mels"]) == {"real", *vocabulary.ARCHITECTURES}
    assert set(silent["mels"]) == set(vocabulary.ARCHITECTURES)


def test_sound_to_listen_to_is_the_clips_own():
    time = np.arange(48_000) / codecs.SAMPLE_RATE_HZ
    samples = (0.02 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    heard = codecs.decode_flac(clip_browser.listening_flac(samples))
    assert np.abs(heard).max() > 0.99
    assert np.corrcoef(samples, heard)[0, 1] > 0.99999
    assert not codecs.decode_flac(clip_browser.listening_flac(np.zeros(100, np.float32))).any()


@pytest.fixture
def sparse(tmp_path, monkeypatch):
    """A folder that has only what every run has."""
    monkeypatch.chdir(tmp_path)
    write(synthetic.make_clips(actions=ACTIONS))
    for name in (
        "optical_flow",
        "audio",
        "audio_features",
        "representative_frames",
        "captions",
        "log_mels",
        "mapping",
        "predicted_labels",
    ):
        shutil.rmtree(f"data/{name}")
    for name in (
        "data/filter/semantic_validation.parquet",
        "data/filter/caption_mapping.parquet",
        "metrics/filter.json",
        "metrics/plots/filter/caption_mapping.csv",
    ):
        Path(name).unlink()
    shards.write_table(pa.Table.from_pylist([], schema=TRUTH_SCHEMA), Path("data/truth.parquet"))


def test_all_clips_may_be_silent(sparse):
    rows = [row | {"audible": False} for row in synthetic.make_clips(actions=ACTIONS)]
    index = [row | {"status": "silent"} for row in rows]
    shards.write(
        Path("data/audio"),
        pa.schema([("flac", pa.binary())]),
        [],
        index,
        "v",
        [pa.field("rms_dbfs", pa.float32())],
    )
    assert {json.dumps(clip["sound"]) for clip in island(build())["clips"]} == {
        '{"status": "silent", "level": null}'
    }


def test_optional_inputs_may_be_absent(sparse):
    found = island(build(conditions=["video_only", "real_audio"]))
    clip = found["clips"][0]
    assert list(found["sweeps"]) == ["semantic_validation"]
    assert found["sweeps"]["semantic_validation"]["chosen"] is None
    assert (clip["flow"], clip["moving"], clip["captions"], clip["real_labels"], clip["truth"]) == (
        None,
    ) * 5
    assert (clip["architectures"], clip["mels"]) == ({}, {})
    assert clip["sound"] == {"status": "unknown", "level": None}


# ---- in headless Chromium ----

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    arguments = (
        ["--no-sandbox"] if os.geteuid() == 0 else []
    )  # Chromium refuses to run as root with its sandbox
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture
def shown(folder, browser):
    """The page, opened.

    At the end it must have made no request but for itself, and no complaint on the console.
    """
    page_shown = browser.new_page(viewport={"width": 1280, "height": 900})
    page_shown.set_default_timeout(5000)
    requests: list[str] = []
    complaints: list[str] = []
    page_shown.on("request", lambda request: requests.append(request.url))
    page_shown.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page_shown.on("pageerror", lambda error: complaints.append(str(error)))
    address = (folder / "report.html").as_uri()
    page_shown.goto(address)
    yield page_shown
    page_shown.close()
    assert requests == [address]
    assert complaints == []


def outputs(
    shown, names: tuple[str, ...] = ("kept_fraction", "precision", "recall", "test_accuracy")
) -> list[str]:
    return [shown.text_content(f"#out-{name}") for name in names]


def expected(sweep: pd.DataFrame, i: int) -> list[str]:
    values = sweep.loc[i, ["kept_fraction", "precision", "recall", "test_accuracy"]]
    return ["–" if pd.isna(value) else f"{100 * value:.1f} %" for value in values]


def title(shown) -> str:
    return shown.text_content("#clip-title small").split(" · ")[0]


@needs_chromium
def test_slider_shows_the_sweep(shown):
    assert shown.text_content("#threshold") == "0.40"
    assert outputs(shown) == expected(SWEEP, 2)  # starts where the filter stands
    for i in (0, 3, 1):
        shown.locator("#slider").fill(str(i))
        assert outputs(shown) == expected(SWEEP, i)
        assert (
            shown.text_content("#out-random_clips_accuracy")
            == f"{100 * SWEEP.random_clips_accuracy[i]:.1f} %"
        )
        assert f"{SWEEP.threshold[i]:.2f}" in shown.get_attribute("#slider", "aria-valuetext")
    before = shown.inner_html("#upper")
    shown.get_by_label("2: caption mapping").check()
    assert shown.text_content("#threshold") == "0.00"
    assert outputs(shown)[0] == "45.0 %"
    assert shown.inner_html("#upper") != before
    shown.get_by_role("button", name="Research description: 0.72").click()
    assert shown.text_content("#threshold") == "0.80"  # of the sweep's thresholds the closest


@needs_chromium
def test_charts_and_slider_share_their_scale(shown):
    shown.locator("#slider").fill("0")
    box, line = shown.locator("#slider").bounding_box(), shown.locator("#upper .now").bounding_box()
    assert line["x"] == pytest.approx(box["x"] + 12, abs=2)
    shown.locator("#slider").fill("3")
    line = shown.locator("#upper .now").bounding_box()
    assert line["x"] == pytest.approx(box["x"] + box["width"] - 12, abs=2)


@needs_chromium
def test_clips_turn_by_button_and_by_key(shown, data):
    names = [clip["id"] for clip in data["clips"]]
    assert title(shown) == data["start"]
    shown.locator("#list button").first.click()
    assert title(shown) == names[0]
    assert shown.locator("#steps li").count() == STEPS
    shown.click("#next")
    assert title(shown) == names[1]
    assert shown.evaluate("document.activeElement.id") == "next"
    shown.keyboard.press("ArrowRight")
    assert title(shown) == names[2]
    assert names[2].split("/")[0] != ""
    assert "Clip 3 of 10" in shown.text_content("#said")
    shown.keyboard.press("ArrowLeft")
    shown.click("#previous")
    shown.click("#previous")
    assert title(shown) == names[-1]
    assert shown.text_content("#count") == f"Clip {len(names)} of {len(names)}"
    shown.locator("#list button").nth(4).click()
    assert title(shown) == names[4]
    assert shown.locator("#list [aria-current=true]").count() == 1


@needs_chromium
def test_a_clip_shows_pictures_labels_scores_and_answers(shown, data):
    i, clip = next(
        (i, clip) for i, clip in enumerate(data["clips"]) if clip["sound"]["status"] == "ok"
    )
    shown.locator("#list button").nth(i).click()
    assert shown.locator("#steps li.chosen").first.text_content().startswith("Step 1, motion")
    assert shown.locator("#steps .star").count() == 2
    assert shown.locator(".caption p").nth(1).text_content() == f"“{CAPTION}”"
    assert (
        shown.locator(".caption").first.locator("li").first.text_content()
        == "✓ Saw (truly heard)0.63"
    )
    signs = (
        shown.locator(".caption")
        .first.locator("li")
        .evaluate_all("items => items.map(item => item.className)")
    )
    assert signs == ["heard", "unheard"]  # Saw and Applause; the truth is a saw
    verdicts = [
        "✓ kept" if found["keep"] else "✗ rejected" for found in clip["architectures"].values()
    ]
    assert shown.locator(".verdict strong").all_text_contents() == verdicts
    rows = [
        row.split("\t")
        for row in shown.locator("#clip tbody tr").evaluate_all(
            "rows => rows.map(row => row.innerText)"
        )
    ]
    for (name, answer, seeds, verdict), condition in zip(rows, data["conditions"], strict=True):
        known = clip["answers"][condition]
        assert name == condition
        expected_answer = (known[0], f"{known[1]} of {known[2]}") if known else ("–", "")
        assert (answer, seeds) == expected_answer
        assert verdict == (
            "no answer" if known is None else "✓ right" if known[0] == clip["action"] else "✗ wrong"
        )
    titles = shown.locator("img.mel").evaluate_all("images => images.map(image => image.alt)")
    assert [text.partition(":")[0] for text in titles] == [
        "Real sound",
        "Generated, architecture 1",
        "Generated, architecture 2",
    ]
    assert shown.locator("img.mel").first.evaluate("image => image.naturalHeight") == 32


@needs_chromium
def test_filters_restrict_the_list(shown, data):
    def right(clip: dict, row: str) -> bool | None:
        return clip["answers"][row] and clip["answers"][row][0] == clip["action"]

    def listed() -> list[str]:
        found = []
        for i in range(shown.locator("#list button").count()):
            shown.locator("#list button").nth(i).click()
            found.append(title(shown))
        return found

    clips = data["clips"]
    shown.select_option("#action", label=EVIL)
    assert listed() == [clip["id"] for clip in clips if clip["action"] == EVIL] != []
    shown.select_option("#action", label="all actions")
    expected_clips = [
        clip["id"]
        for clip in clips
        if right(clip, "real_audio") is True and right(clip, "video_only") is False
    ]
    shown.select_option("#who", label=f"real_audio right, video_only wrong ({len(expected_clips)})")
    assert listed() == expected_clips != []
    shown.select_option("#who", "own")
    shown.select_option("#condition-right", "mapped")
    shown.select_option("#condition-wrong", "published")
    expected_clips = [
        clip["id"]
        for clip in clips
        if right(clip, "mapped") is True and right(clip, "published") is False
    ]
    assert listed() == expected_clips
    assert len(expected_clips) < len(clips)
    shown.select_option("#condition-wrong", "mapped")  # nothing can be right and wrong
    assert shown.is_visible("#none")
    assert not shown.is_visible("#clip")
    assert shown.text_content("#said") == "No clip fits."


@needs_chromium
def test_keyboard_alone_reaches_and_works_everything(shown, data):
    reached = []
    for _ in range(60):
        shown.keyboard.press("Tab")
        name = shown.evaluate("document.activeElement.id || document.activeElement.tagName")
        reached.append(name)
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", (
            name
        )  # focus is seen
        if name == "slider":
            shown.keyboard.press("ArrowRight")
            assert outputs(shown) == expected(SWEEP, 3)
        if name == "who":
            shown.keyboard.press("ArrowDown")
            assert shown.locator("#who").input_value() == "1"
            shown.keyboard.press("ArrowUp")
        if name == "next":
            names = [clip["id"] for clip in data["clips"]]
            following = names[(names.index(title(shown)) + 1) % len(names)]
            shown.keyboard.press("Enter")
            assert title(shown) == following
        if name == "scrubber":
            shown.keyboard.press("End")
            assert shown.text_content("#now").startswith(f"Step {STEPS - 1} of")
            break
    wanted = {"slider", "search", "action", "who", "previous", "play", "next", "scrubber"}
    assert wanted <= set(reached)


@needs_chromium
@pytest.mark.parametrize("status", ["ok", "silent"])
def test_playing_moves_through_the_steps(shown, data, status):
    shown.locator("#list button").nth(
        next(i for i, clip in enumerate(data["clips"]) if clip["sound"]["status"] == status)
    ).click()
    seen = shown.evaluate("""() => new Promise(done => {
        const seen = [], items = [...document.querySelectorAll("#steps li")];
        const button = document.getElementById("play");
        new MutationObserver(() => {
            const now = items.findIndex(item => item.className.includes("now"));
            if (now >= 0 && now !== seen.at(-1)) seen.push(now);
            if (seen.length && button.textContent === "▶ Play") done(seen);
        }).observe(
            document.getElementById("clip"),
            {subtree: true, attributes: true, childList: true, characterData: true}
        );
        setTimeout(() => done(seen), 8000);
        button.click();
    })""")
    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert seen[-1] >= STEPS - 2
    shown.click("#play")
    assert shown.text_content("#play") == "■ Stop"
    shown.click("#next")
    assert shown.text_content("#play") == "▶ Play"


@needs_chromium
@pytest.mark.parametrize(
    ("clips_shown", "conditions", "swept"),
    [(4, ["video_only", "real_audio"], True), (0, CONDITIONS, False)],
)
def test_a_page_with_little_to_show_works(sparse, browser, clips_shown, conditions, swept):
    if not swept:
        Path("metrics/plots/filter/semantic_validation.csv").unlink()
    Path("report.html").write_text(build(clips_shown, conditions))
    complaints: list[str] = []
    opened = browser.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text))
    opened.goto(Path("report.html").absolute().as_uri())
    assert opened.locator("#list button").count() == clips_shown
    assert opened.is_visible("#none") == (not clips_shown)
    if clips_shown:
        assert "There is no sound of this clip" in opened.text_content("#clip")
        assert "No captions" in opened.text_content("#clip")
        assert opened.locator("#clip tbody tr").count() == len(conditions)
        opened.click("#next")
    assert opened.locator("#slider").count() == swept
    assert ("No filter has run" in opened.text_content("#thresholds")) != swept
    opened.close()
    assert complaints == []


@needs_chromium
def test_the_first_screen_shows_the_answer(folder, browser):
    wide = browser.new_page(viewport={"width": 1440, "height": 900})
    wide.goto((folder / "report.html").as_uri())
    for name in ("h1", ".answer", ".numbers", ".main-figure", ".source h2"):
        box = wide.locator(name).bounding_box()
        assert box["y"] + box["height"] <= 900, name
    assert wide.locator(".answer li").count() == 3
    assert wide.locator(".answer .interval").count() >= 4
    assert wide.locator(".numbers b").count() == 3
    lines = wide.locator(".differences tr[class^=hue-]")
    shown_conditions = lines.locator("code").all_text_contents()
    assert shown_conditions == ["real_audio", "generated", "mapped", "published"]
    assert lines.locator(".badge").count() == 1
    # Each dot lies within its interval, and the intervals within the figure.
    places = lines.locator("svg").evaluate_all("""all => all.map(svg => {
        const box = part => svg.querySelector(part).getBoundingClientRect();
        const [line, dot, whole] = [box(".reach"), box("circle"), svg.getBoundingClientRect()];
        return [whole.left, line.left, dot.left + dot.width / 2, line.right, whole.right];
    })""")
    for place in places:
        assert place == sorted(place)
    wide.close()


@needs_chromium
def test_tables_sort_by_their_numbers_and_back(shown):
    def names() -> list[str]:
        return shown.locator("#results tbody tr:not(.group) th code").all_text_contents()

    def click(title: str) -> str | None:
        heading = shown.locator("#results th", has=shown.get_by_role("button", name=title))
        heading.locator("button").click()
        return heading.get_attribute("aria-sort")

    written = names()
    assert written == ["video_only", "real_audio", "generated", "mapped", "published"]
    assert shown.locator("#results tr.group").all_text_contents() == list(GROUPS)
    assert shown.locator("#results .definition").all_text_contents()[2] == f"Definition {EVIL}"
    rising = ["mapped", "video_only", "generated", "real_audio"]  # 58.0, 61.9, 62.9, 70.0
    assert click("accuracy") == "ascending"
    assert names() == [*rising, "published"]  # what has no value is last
    assert not shown.is_visible("#results tr.group >> nth=0")
    assert click("accuracy") == "descending"
    assert names() == [*rising[::-1], "published"]
    assert click("accuracy") is None
    assert names() == written
    assert shown.is_visible("#results tr.group >> nth=0")
    assert click("condition") == "ascending"
    assert names() == sorted(written)


@needs_chromium
def test_a_table_is_saved_by_its_link(shown):
    with shown.expect_download() as download:
        shown.get_by_role("link", name="Save as CSV: Main table").click()
    assert download.value.suggested_filename == "main.csv"
    assert download.value.path().read_text() == csv_text(TABLES[0])


@needs_chromium
def test_experiments_open_on_demand(shown):
    region = shown.get_by_role("region", name="Experiment: wide")
    assert not region.is_visible()
    shown.get_by_text("Experiment: wide", exact=True).last.click()
    assert region.is_visible()


@needs_chromium
def test_the_player_seeks_by_scrubber_and_by_track(shown, data):
    i = next(i for i, clip in enumerate(data["clips"]) if clip["sound"]["status"] == "ok")
    shown.locator("#list button").nth(i).click()
    assert shown.locator("#stage").bounding_box()["width"] == 256
    first = shown.locator("#stage").evaluate("frame => frame.style.backgroundPosition")
    duration = data["clips"][i]["duration"]
    shown.locator("#scrubber").fill(str(round(duration / 2, 2)))
    assert shown.text_content("#now").startswith(f"Step {STEPS // 2} of 0 to {STEPS - 1}")
    assert shown.locator("#steps li.now").count() == 1
    assert shown.locator("#stage").evaluate("frame => frame.style.backgroundPosition") != first
    sound, head = (shown.locator(name).bounding_box() for name in ("#sound", "#head-of-play"))
    assert head["x"] == pytest.approx(sound["x"] + sound["width"] / 2, abs=6)
    shown.locator("#sound").click(position={"x": 2, "y": 5})
    assert shown.text_content("#now").startswith("Step 0 of")
    shown.locator("#steps li").nth(STEPS - 1).click()
    assert shown.text_content("#now").startswith(f"Step {STEPS - 1} of")


@needs_chromium
def test_clips_are_found_by_their_id(shown, data):
    wanted = data["clips"][3]["id"]
    shown.locator("#search").fill(wanted[-3:].upper())
    assert shown.locator("#list button").count() == 1
    assert title(shown) == wanted
    shown.locator("#search").fill("no such clip")
    assert shown.is_visible("#none")
    shown.locator("#search").fill("")
    assert shown.locator("#list button").count() == len(data["clips"])


@needs_chromium
def test_the_list_of_clips_is_one_stop_for_the_keyboard(shown, data):
    buttons = shown.locator("#list button")
    stops = "all => all.map(button => button.tabIndex)"
    names = [clip["id"] for clip in data["clips"]]
    for place in (names.index(data["start"]), 4):
        buttons.nth(place).click()
        expected_stops = [-1] * len(names)
        expected_stops[place] = 0
        assert buttons.evaluate_all(stops) == expected_stops
    shown.keyboard.press("ArrowRight")
    assert shown.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    assert buttons.evaluate_all(stops).index(0) == 5


@needs_chromium
def test_tables_on_a_phone(folder, browser):
    narrow = browser.new_page(viewport={"width": 390, "height": 844})
    narrow.goto((folder / "report.html").as_uri())
    narrow.locator("summary").click()
    for place in (0, 2):  # the main table, and a wide one
        region = narrow.locator(".table").nth(place)
        column = region.locator("tbody th[scope=row]").first.bounding_box()
        assert column["width"] <= 0.4 * region.bounding_box()["width"]
        region.evaluate("region => { region.scrollLeft = 120; }")
        after = region.locator("tbody th[scope=row]").first.bounding_box()
        assert after["x"] == pytest.approx(column["x"], abs=1)  # it stays
    # Names break after underscores alone.
    pieces = narrow.locator("#results tbody th code").evaluate_all("""all => all.map(code =>
        [...code.childNodes].filter(node => node.nodeType === 3).map(node => {
            const range = document.createRange();
            range.selectNodeContents(node);
            return range.getClientRects().length;
        }))""")
    assert all(lines == 1 for name in pieces for lines in name)
    # So they do beside a clip's answers, where a long one would push the table out of the page.
    long_name = "logistic_self_training"
    narrow.evaluate(
        f"document.querySelector('#clip tbody th').append(conditionName('{long_name}'))"
    )
    assert narrow.locator("#clip tbody th code", has_text=long_name).locator("wbr").count() == 2
    assert narrow.evaluate("document.documentElement.scrollWidth") == 390
    hint = narrow.get_by_text("The table scrolls sideways.").last
    assert hint.is_visible()
    assert not narrow.get_by_text("The table scrolls sideways.").nth(1).is_visible()  # two columns
    narrow.close()


@needs_chromium
def test_screen_readers_find_names_and_headings(shown):
    assert shown.get_attribute("html", "lang") == "en"
    assert shown.locator("h1").count() == 1
    assert shown.locator("img").evaluate_all("images => images.every(image => image.alt)")
    assert shown.locator("input, select").evaluate_all(
        "fields => fields.every(field => field.labels.length === 1)"
    )
    assert shown.locator("button").evaluate_all(
        "buttons => buttons.every(button => button.textContent.trim())"
    )
    levels = [
        int(level)
        for level in shown.locator("h1, h2, h3, h4").evaluate_all(
            "all => all.map(one => one.tagName[1])"
        )
    ]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    assert shown.locator("[aria-live=polite]").count() == 1
    ids = shown.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))


@needs_chromium
def test_text_has_contrast_and_fits_a_phone(folder, browser):
    for scheme in ("light", "dark"):
        narrow = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        narrow.goto((folder / "report.html").as_uri())
        assert narrow.evaluate("document.documentElement.scrollWidth") == 390
        colours = narrow.evaluate("""() => {
            const style = getComputedStyle(document.documentElement);
            const colour = name => style.getPropertyValue("--" + name);
            const names = ["text", "soft", "accent", "right", "wrong", "mark", "event"];
            return ["page", "card", "sunk"].flatMap(
                ground => names.map(name => [name, ground, colour(name), colour(ground)])
            );
        }""")
        for name, ground, one, other in colours:
            assert contrast(one, other) >= 4.5, (scheme, name, ground)
        narrow.close()


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours like #14713f."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour.strip()[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
            @ [0.2126, 0.7152, 0.0722]
        )

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@needs_chromium
def test_the_policy_forbids_what_the_page_does_not_do(folder, browser):
    attacked, requests = browser.new_page(), []
    attacked.goto((folder / "report.html").as_uri())
    attacked.on("request", lambda request: requests.append(request))
    refused = attacked.evaluate("""() => new Promise(done => {
        const seen = [];
        document.addEventListener("securitypolicyviolation", event => {
            seen.push(event.effectiveDirective);
            if (seen.length === 3) done(seen);
        });
        setTimeout(() => done(seen), 5000);
        new Image().src = "http://127.0.0.1:9/x.png";
        fetch("http://127.0.0.1:9/").catch(() => 0);
        const script = document.createElement("script");
        script.textContent = "window.broken = true";
        document.body.append(script);
    })""")
    assert sorted(refused) == ["connect-src", "img-src", "script-src-elem"]
    assert [request.failure for request in requests] == ["csp"] * len(
        requests
    )  # listed, but stopped before they left
    assert attacked.evaluate("window.broken") is None
    attacked.close()
