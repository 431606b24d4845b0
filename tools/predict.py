"""Answer new clips with a bundle: their action, the sound that they lack, and its labels.

    python -m tools.predict clip.mp4                    a file, several, a folder or a 'pattern*'
    python -m tools.predict clips/ --out answers.parquet
    python -m tools.predict clips/ --features folder/   generated features as .npy, with an index
    python -m tools.predict clips/ --html page.html     frames, captions, labels, answers to look at
    python -m tools.predict talk.mp4 --stride-s 1       windows of a long video overlap

A video longer than a clip is answered in windows.  `recommended` says whose answer to take:
real_audio where its sound is audible and fits, caption_mapping where the filter keeps the generated
one, else video_only.  Columns, and the same as a library: docs/predict.md.
"""

import argparse
import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from audio_from_video.clipset.discovery import OTHER_SUFFIXES
from audio_from_video.meaning.recommended import CONDITION_OF
from audio_from_video.media.motion import mean_magnitudes
from audio_from_video.media.optical_flow import draw_clip
from audio_from_video.prediction import rows as answer_rows
from audio_from_video.prediction.answers import WindowAnswer
from audio_from_video.prediction.bundle import read_bundle
from audio_from_video.prediction.pipeline import Pipeline, VideoAnswer
from audio_from_video.prediction.settings import BASELINE
from audio_from_video.reporting.clip_browser import NewClip, generated_entry, new_clip_record
from audio_from_video.reporting.page import answers_html
from audio_from_video.reporting.tables import plain
from audio_from_video.runtime import parallel
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout

# What a worker needs, imported once in the server that they are forked from.
PRELOADED = ("audio_from_video.prediction.perception", "audio_from_video.prediction.videos")
FEATURES_INDEX = "index.parquet"
MOST_ON_PAGE = 200  # windows on a page: each takes about 100 KB
TABLE_COLUMNS = ("file", "start_s", "end_s", "action", "probability", "agreement", "recommended")


def find_videos(names: list[str]) -> list[str]:
    """Return the files that arguments name: files, all files below folders, patterns' matches.

    Raises UserError where a name leads to nothing.
    """
    files: dict[str, None] = {}  # in order, each once
    for name in names:
        if Path(name).is_file():
            found = [name]
        elif Path(name).is_dir():
            found = sorted(videos_below(name))
        else:
            matches = sorted(glob.glob(name, recursive=True))
            found = [match for match in matches if Path(match).is_file()]
        if not found:
            raise UserError(
                f"{name}: there is no video; give files, a folder with videos, or a pattern in "
                "quotes such as 'clips/*.mp4'"
            )
        files |= dict.fromkeys(found)
    return list(files)


def videos_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder that may be videos, hidden ones left out."""
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() not in OTHER_SUFFIXES:
                yield os.path.join(path, name)


def require_writable(path: Path, is_folder: bool) -> None:
    """Raise UserError where an output cannot be written, before anything is computed."""
    folder = path if is_folder else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): name another place") from None
    if not is_folder and path.is_dir():
        raise UserError(f"{path} cannot be written, it is a folder: name another place")
    try:
        # Permissions alone do not tell: a file system may be read-only, or full.
        with TemporaryFile(dir=folder) as file:
            file.write(b"written")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): name another place"
        ) from None


def answer(
    pipeline: Pipeline, files: list[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Answer all files; return the rows of the answers, and write the generated features."""
    answers: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    stream = pipeline.stream(files, arguments.stride_s)
    for number, video in enumerate(tqdm(stream, "predict", len(files), unit="file")):
        answers += answer_rows.rows(video, pipeline.settings, arguments.top_k)
        if arguments.features:
            index += answer_rows.write_features(arguments.features, number, video)
        if arguments.html:
            shown = video.windows[: MOST_ON_PAGE - len(records)]
            records += [page_record(pipeline, video, window) for window in shown]
        if video.status != "ok":
            report_refusal(video)
    if arguments.features:
        table = pa.Table.from_pylist(index, schema=answer_rows.FEATURES_INDEX)
        pq.write_table(table, arguments.features / FEATURES_INDEX)
    if arguments.html:
        about = f"{len(records)} windows of {len(files)} files."
        if len(records) == MOST_ON_PAGE:
            about = f"The first {about} A page holds no more."
        page = answers_html(records, list(pipeline.settings.classifiers), about)
        arguments.html.write_text(page)
    return answers


def page_record(pipeline: Pipeline, video: VideoAnswer, window: WindowAnswer) -> dict[str, Any]:
    """Return what the page shows of a window."""
    settings = pipeline.settings
    name = video.name
    if len(video.windows) > 1:
        name = f"{name}, {window.start_s:.2f} to {window.end_s:.2f} s"
    magnitudes = mean_magnitudes((window.jpegs, settings.representative_frames.camera))
    answers: dict[str, list[Any]] = {}
    for condition, each in window.answers.items():
        seeds = len(each.by_seed)
        votes = round(each.agreement * seeds)
        answers[condition] = [each.action, votes, seeds, float(each.probabilities.max())]
    generated = {}
    log_mels = {}
    for architecture, sound in window.generated.items():
        log_mels[architecture] = pipeline.log_mels(sound.features[:1])[0]
        generated[architecture] = generated_entry(
            label_scores=sound.label_scores,
            against=window.answers[BASELINE].action,
            score=sound.score,
            threshold=sound.threshold,
            keep=sound.keep,
        )
    clip = NewClip(
        name=name,
        action=window.action,
        recommended=CONDITION_OF[window.recommended],
        duration_s=window.end_s - window.start_s,
        jpegs=window.jpegs,
        flow_jpegs=draw_clip((window.jpegs, settings.optical_flow))["jpegs"],
        magnitudes=magnitudes["magnitudes"],
        chosen=list(window.captions),
        samples=window.samples,
        audible=window.real.audible,
        level_dbfs=window.real.level_dbfs,
        captions=window.captions,
        real_scores=window.real.label_scores,
        generated=generated,
        log_mels=log_mels,
        answers=answers,
    )
    return new_clip_record(clip)


def report_refusal(video: VideoAnswer) -> None:
    """Say on standard error why a file has no answer."""
    tqdm.write(printable(f"{video.name}: {video.status}: {video.reason}"), file=sys.stderr)


# ---- what is printed ----


def as_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows' main columns for people."""
    lines = [list(TABLE_COLUMNS)]
    for row in rows:
        if row["status"] != "ok":
            lines.append([printable(row["file"]), "", "", "-", "", "", row["status"]])
            continue
        cells = [printable(row["file"])]
        cells += [f"{row[name]:.2f}" for name in ("start_s", "end_s")]
        cells += [row["action"], f"{row['probability']:.2f}", f"{row['agreement']:.2f}"]
        lines.append([*cells, row["recommended"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(TABLE_COLUMNS))]
    padded = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        padded.append("  ".join(cells).rstrip())
    return "\n".join(padded)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Return all columns; the entries of a list are separated by semicolons."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: csv_cell(value) for name, value in row.items()})
    return text.getvalue().rstrip()


def csv_cell(value: Any) -> str:
    """Return a value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, list):
        return plain("; ".join(csv_cell(each) for each in value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain(str(value))


def as_json(rows: list[dict[str, Any]]) -> str:
    """Return all columns as a list of objects."""
    return json.dumps(rows, indent=1)


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv}


def parse_arguments() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", help="files, folders or patterns in quotes")
    parser.add_argument(
        "--bundle", type=Path, default=layout.BUNDLE, help=f"default: {layout.BUNDLE}"
    )
    parser.add_argument("--out", type=Path, help="a Parquet file for all answers")
    parser.add_argument("--features", type=Path, help="a folder for generated audio features")
    parser.add_argument("--html", type=Path, help="a page to look at the answers, one file")
    parser.add_argument("--format", choices=FORMATS, default="table", help="of what is printed")
    parser.add_argument(
        "--stride-s", type=float, help="between the starts of windows, s (default: their length)"
    )
    parser.add_argument("--top-k", type=int, default=5, help="actions and labels a row lists")
    parser.add_argument("--workers", type=int, help="processes (default: $WORKERS, else all cores)")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if arguments.top_k < 1 or (arguments.workers is not None and arguments.workers < 1):
        raise UserError("--top-k and --workers must be at least 1")
    if arguments.stride_s is not None and not arguments.stride_s > 0:
        raise UserError(f"--stride-s {arguments.stride_s:g}: it must be above 0")
    files = find_videos(arguments.videos)
    if arguments.out:
        require_writable(arguments.out, is_folder=False)
    if arguments.html:
        require_writable(arguments.html, is_folder=False)
    if arguments.features:
        require_writable(arguments.features, is_folder=True)

    # Its imports take seconds, in which this process loads the bundle.
    parallel.start_server(*PRELOADED)
    bundle = read_bundle(arguments.bundle)
    pipeline = Pipeline(bundle, arguments.workers or parallel.default_workers())
    answers = answer(pipeline, files, arguments)
    if arguments.out:
        table = pa.Table.from_pylist(answers, schema=answer_rows.schema(bundle.settings))
        pq.write_table(table, arguments.out)
    print(FORMATS[arguments.format](answers))

    refused = len({row["file"] for row in answers if row["status"] != "ok"})
    if refused:
        print(f"{refused} of {len(files)} files refused, see above", file=sys.stderr)
    return 1 if refused == len(files) else 0


def main() -> None:
    """Run the command."""
    try:
        sys.exit(run(parse_arguments()))
    except UserError as error:
        sys.exit(f"predict: error: {printable(str(error))}")
    except OSError as error:
        sys.exit(f"predict: error: {error.filename or 'an output'}: {error.strerror}")


if __name__ == "__main__":
    main()
