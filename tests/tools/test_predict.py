"""The command: what it finds, prints, writes and refuses."""

import csv
import io
import json
import os
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel
from tests.support.map_items import without_processes
from tests.support.media_files import sine, write_video
from tests.support.tiny_bundle import ARCHITECTURES, COMPONENTS, SEEDS, STEPS, write_bundle
from tools import predict


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def clips(tmp_path):
    """A folder with a clip of a second, one of three, a text file named .mp4 and a note."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", 24, "24", sound=sine(300, 1, -12))
    write_video(folder / "b.mp4", 72, "24")
    (folder / "text.mp4").write_text("no video")
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def run(bundle, monkeypatch, capsys):
    """Run the command in this process; return exit status, what it printed, and its errors."""
    monkeypatch.setattr(parallel, "map_items", without_processes)
    # Its limit on memory would stay with this process, and Chromium needs more.
    monkeypatch.setattr(untrusted, "decoding_process", lambda: None)
    monkeypatch.setattr(parallel, "start_server", lambda *_: None)
    monkeypatch.setenv("DEVICE", "cpu")

    def run(*arguments) -> tuple[int | str, str, str]:
        command = ["predict", *map(str, arguments)]
        if "--bundle" not in command:
            command += ["--bundle", str(bundle)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            predict.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return run


def test_a_folder_is_answered_window_by_window_and_refusals_are_listed(run, clips):
    code, printed, errors = run(clips)
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].split() == list(predict.TABLE_COLUMNS)
    assert [line.split()[0].rpartition("/")[2] for line in lines[1:]] == [
        "a.mp4",
        "b.mp4",
        "b.mp4",
        "b.mp4",
        "text.mp4",
    ]
    assert lines[-1].split()[-1] == "unreadable"
    assert "text.mp4: unreadable: Invalid data" in errors
    assert "1 of 3 files refused" in errors
    assert "notes.txt" not in printed + errors


def test_parquet_json_and_csv_hold_the_same(run, clips, tmp_path):
    out = tmp_path / "new" / "answers.parquet"
    _, printed, _ = run(clips, "--format", "json", "--out", out, "--top-k", 2)
    rows = json.loads(printed)
    stored = pq.read_table(out).to_pylist()
    assert len(stored) == len(rows) == 5
    for row, expected in zip(stored, rows, strict=True):
        assert set(row) == set(expected)
        assert row["file"] == expected["file"]
        assert row["captions"] == expected["captions"]
        assert row["action"] == expected["action"]
        if expected["probability"] is not None:
            assert row["probability"] == pytest.approx(expected["probability"])
    assert len(rows[0]["real_audio_actions"]) == len(rows[0]["caption_mapping_labels"]) == 2
    assert rows[0]["audible"] and not rows[1]["audible"]
    assert [row["start_s"] for row in rows[1:4]] == pytest.approx([0, 1, 2])

    _, printed, _ = run(clips, "--format", "csv", "--top-k", 2)
    [first, *_] = csv.DictReader(io.StringIO(printed))
    assert first["action"] == rows[0]["action"]
    assert first["validated_actions"].split("; ") == rows[0]["validated_actions"]


def test_a_stride_makes_windows_overlap(run, clips):
    _, printed, _ = run(clips / "b.mp4", "--stride-s", 0.5, "--format", "json")
    assert [row["start_s"] for row in json.loads(printed)] == pytest.approx([0, 0.5, 1, 1.5, 2])


def test_features_are_arrays_with_an_index(run, clips, tmp_path):
    folder = tmp_path / "features"
    code, _, _ = run(clips, "--features", folder)
    assert code == 0
    index = pq.read_table(folder / predict.FEATURES_INDEX).to_pylist()
    assert len(index) == 4 * len(ARCHITECTURES)  # the windows of both files
    for row in index:
        features = np.load(folder / row["features"], allow_pickle=False)
        assert features.shape == (SEEDS, STEPS, COMPONENTS)
    assert {row["architecture"] for row in index} == set(ARCHITECTURES)


def test_patterns_and_repeated_names_give_each_file_once(clips):
    pattern = str(clips / "*.mp4")
    files = predict.find_videos([pattern, str(clips / "a.mp4"), str(clips)])
    assert [name.rpartition("/")[2] for name in files] == ["a.mp4", "b.mp4", "text.mp4"]


def test_cells_are_no_formulas():
    assert predict.csv_cell("=cmd()") == "'=cmd()"
    assert predict.csv_cell(["a", 0.25]) == "a; 0.25"


def test_bad_input_is_a_sentence_and_exit_status_1(run, clips, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    file = clips / "notes.txt"
    for arguments, sentence in (
        ([empty], "there is no video"),
        ([tmp_path / "nowhere"], "there is no video"),
        ([clips, "--bundle", empty], "is no bundle"),
        ([clips, "--out", file / "a.parquet"], "cannot be made"),
        ([clips, "--features", file], "cannot be made"),
        ([clips, "--out", empty], "cannot be written, it is a folder"),
        ([clips, "--out", "/proc/answers.parquet"], "/proc/answers.parquet cannot be written ("),
        ([clips, "--html", "/proc/page.html"], "/proc/page.html cannot be written ("),
        ([clips, "--stride-s", "0"], "--stride-s 0"),
        ([clips, "--top-k", "0"], "at least 1"),
    ):
        code, printed, _ = run(*arguments)
        assert isinstance(code, str) and code.startswith("predict: error: "), arguments
        assert sentence in code
        assert not printed


def test_where_nothing_can_be_read_the_status_is_1(run, clips):
    code, printed, errors = run(clips / "text.mp4")
    assert code == 1
    assert "1 of 1 files refused" in errors
    assert printed


# ---- the page ----

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def test_a_page_holds_the_windows_and_loads_nothing(run, clips, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    run(clips, "--html", page)
    text = page.read_text()
    assert "@@" not in text
    assert "4 windows of 3 files." in text
    assert "default-src 'none'" in text
    monkeypatch.setattr(predict, "MOST_ON_PAGE", 2)
    run(clips, "--html", page)
    assert "The first 2 windows" in page.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_the_page_shows_frames_captions_labels_and_answers(run, clips, tmp_path):
    from playwright.sync_api import sync_playwright

    page = tmp_path / "page.html"
    _, printed, _ = run(clips, "--html", page, "--format", "json")
    rows = [row for row in json.loads(printed) if row["status"] == "ok"]
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=as_root)
        shown = browser.new_page(viewport={"width": 1280, "height": 900})
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto(page.as_uri())
        assert shown.is_visible("#clips") and not shown.is_visible("#results")
        assert not shown.is_visible("#who")
        for place, row in enumerate(rows):
            assert shown.text_content("#clip-title").startswith(row["action"])
            assert row["file"] in shown.text_content("#clip-title small")
            assert f"Answer: {row['action']}, by " in shown.text_content("#clip .facts")
            assert shown.locator("#steps > li").count() == STEPS
            assert shown.locator("#steps > li.chosen").count() == len(row["caption_steps"])
            assert row["captions"][0] in shown.text_content("#clip")
            answers = shown.locator("#clip table tbody tr")
            first = answers.nth(0).text_content()
            assert row["video_only_actions"][0] in first
            assert f"{100 * row['video_only_probabilities'][0]:.1f} %" in first
            assert ("waveform" in shown.text_content("#clip")) == row["audible"]
            if place + 1 < len(rows):
                shown.click("#next")
        browser.close()
    assert complaints == []
