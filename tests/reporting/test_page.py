"""The HTML report: what is in it, that no text breaks out, and that it works in Chromium."""

import base64
import json
import os
import re
import shutil
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
from audio_from_video.media import codecs
from audio_from_video.reporting import clip_browser, page
from audio_from_video.reporting.tables import Table
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
INTRODUCTION = "Data set: `my|media`; *nobody* <b>bold</b> `real_audio`."
TABLES = [
    Table(
        "main",
        "Main table",
        ["condition", "accuracy", "minus `video_only`", "*reported*"],
        [
            ["`video_only`", "61.9 [55.0, 68.4]", "", "a|b"],
            ["`generated`", "62.9 [56.0, 69.4]", "+1.0 [-2.0, +3.9]", "[x](javascript:alert(3))"],
        ],
    ),
    Table("on", "On <img src=x onerror=alert(4)>", ["a", "b"], [["<i>1</i>", "2"]], EVIL),
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


def build(clips: int = 10, conditions=CONDITIONS) -> str:
    figures = {f"Decoded {EVIL}": Path("figure.png"), "Curves": Path("figure.svg")}
    return page.report_html(INTRODUCTION, TABLES, figures, clips, list(conditions))


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
    assert not [link for link in elements.of("a") if not link["href"].startswith("#")]
    assert "\u2028" not in text


def test_data_arrives_unchanged(data):
    assert {clip["action"] for clip in data["clips"]} == set(ACTIONS)
    assert data["clips"][0]["captions"][0]["text"] == CAPTION


def test_tables_are_sections_with_headings_and_links(folder):
    text = Path("report.html").read_text()
    assert "<code>my|media</code>; <em>nobody</em> &lt;b&gt;bold&lt;/b&gt;" in text
    assert '<section><h2 id="table-0">Main table</h2>' in text
    assert '<section><h3 id="table-1">On &lt;img src=x onerror=alert(4)&gt;</h3>' in text
    assert '<li><a href="#table-1">On &lt;img src=x onerror=alert(4)&gt;</a></li>' in text
    assert 'href="#table-2"' not in text
    assert "<i>1" not in text
    regions = [element for element in Elements(text).of("div") if element.get("class") == "table"]
    assert [region["aria-label"] for region in regions] == [table.title for table in TABLES]


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
    assert picture.shape == (clip_browser.FRAME_PX, STEPS * 128, 3)


def test_sound_to_listen_to_is_the_clips_own():
    time = np.arange(48_000) / codecs.SAMPLE_RATE_HZ
    samples = (0.02 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    heard = codecs.decode_flac(clip_browser.listening_flac(samples))
    assert np.abs(heard).max() > 0.99
    assert np.corrcoef(samples, heard)[0, 1] > 0.99999
    assert not codecs.decode_flac(clip_browser.listening_flac(np.zeros(100, np.float32))).any()


@pytest.mark.parametrize("hz", [150, 440, 1000, 3000, 7000])
def test_log_mel_has_a_tone_in_its_band(hz):
    time = np.arange(48_000) / codecs.SAMPLE_RATE_HZ
    level = clip_browser.log_mel(np.sin(2 * np.pi * hz * time).astype(np.float32))
    mel = 2595 * np.log10(1 + hz / 700)
    expected = (
        mel / (2595 * np.log10(1 + 8000 / 700)) * (clip_browser.MEL_BANDS + 1) - 1
    )  # bands are evenly spaced in mel
    assert level.shape[0] == clip_browser.MEL_BANDS
    assert level.max() == 0
    assert level.min() >= clip_browser.MEL_FLOOR_DB
    assert abs(level.mean(1).argmax() - expected) <= 1


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
    found = island(build(conditions=["video_only"]))
    clip = found["clips"][0]
    assert list(found["sweeps"]) == ["semantic_validation"]
    assert found["sweeps"]["semantic_validation"]["chosen"] is None
    assert (clip["flow"], clip["moving"], clip["captions"], clip["real_labels"], clip["truth"]) == (
        None,
    ) * 5
    assert clip["architectures"] == {}
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
    assert shown.locator(".caption").first.locator("li").first.text_content() == "Saw0.63"
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
    for (name, answer, seeds, verdict), condition in zip(rows, CONDITIONS, strict=True):
        known = clip["answers"][condition]
        assert name == condition
        expected_answer = (known[0], f"{known[1]} of {known[2]}") if known else ("–", "")
        assert (answer, seeds) == expected_answer
        assert verdict == (
            "no answer" if known is None else "✓ right" if known[0] == clip["action"] else "✗ wrong"
        )
    assert (
        shown.locator("#sound img").evaluate("image => image.complete && image.naturalHeight")
        == clip_browser.MEL_BANDS
    )


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
            shown.keyboard.press("Enter")
            assert title(shown) == data["clips"][1]["id"]
            break
    assert {"slider", "action", "who", "previous", "play", "next"} <= set(reached)


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
    [(4, ["video_only"], True), (4, [], False), (0, CONDITIONS, False)],
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
