"""Turn a Hugging Face data set on this disk into a list of clips.

    pip install -r requirements-datasets.txt
    python -m tools.import_hugging_face saved/ --root /data/media --out /data/media/list.csv

saved/ is what `datasets.Dataset.save_to_disk` wrote.  The columns are named by --video, --audio and
--label.  A column of media holds bytes, or paths as text.  A video whose file lies below --root is
referred to; other media are written to <root>/media once.  Where the audio column is named, its
sound replaces the video's.
Splits called train, validation or test are taken over.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from audio_from_video.clipset import annotations, roots
from audio_from_video.clipset.lists import Complaints, ListedClip
from audio_from_video.runtime import remote
from audio_from_video.runtime.digests import new_hash
from audio_from_video.runtime.errors import UserError

MEDIA = "media"


def folder(text: str) -> Path:
    """Return the root as a folder of this machine, in which files can be written."""
    if remote.is_url(text):
        raise argparse.ArgumentTypeError(
            f"{text} is a URL: name a folder, and copy it there with its list afterwards"
        )
    return Path(roots.plain(text))


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per row; media that are not files below the root are written."""
    for name, rows in splits(arguments.saved).items():
        split = annotations.SPLITS.get(name, "")
        for number, row in enumerate(as_stored(rows, arguments), start=1):
            video = row[arguments.video]
            audio = row[arguments.audio] if arguments.audio else None
            if not video or (arguments.audio and not audio):
                left_out.add("lack their video or sound", f"{name} row {number}")
                continue
            path = media_file(video, audio, arguments.root)
            yield ListedClip(path, str(row[arguments.label]), split=split)


def splits(saved: Path) -> dict[str, Any]:
    """Return the data sets of a folder by the name of their split ('' for one alone)."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            "the package datasets is not installed: pip install -r requirements-datasets.txt"
        ) from None
    try:
        loaded = datasets.load_from_disk(str(saved))
    except FileNotFoundError as error:
        raise UserError(f"{saved} is no saved data set: {error}") from None
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}


def as_stored(rows: Any, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield rows with media as {bytes, path}, not decoded, and labels as names."""
    import datasets

    media = {"video": datasets.Video(decode=False), "audio": datasets.Audio(decode=False)}
    for kind, feature in media.items():
        column = getattr(arguments, kind)
        if column:
            require(column, rows)
            # A path as text becomes a medium without bytes.
            rows = rows.cast_column(column, feature)
    require(arguments.label, rows)
    label = rows.features[arguments.label]
    for row in rows:
        if isinstance(label, datasets.ClassLabel):
            row[arguments.label] = label.int2str(row[arguments.label])
        yield row


def require(column: str, rows: Any) -> None:
    """Raise UserError where the data set lacks a column."""
    if column not in rows.column_names:
        raise UserError(f"no column {column!r}; the data set has {', '.join(rows.column_names)}")


def media_file(video: dict, audio: dict | None, root: Path) -> str:
    """Return the path below the root of a file with these pictures and this sound."""
    path = Path(video["path"] or "")
    is_there = path.is_absolute() and path.is_file()
    if audio is None and is_there and path.resolve().is_relative_to(root.resolve()):
        return path.resolve().relative_to(root.resolve()).as_posix()

    pictures = content(video)
    sound = content(audio) if audio else b""
    name = new_hash(pictures + sound).hexdigest()
    suffix = ".mkv" if audio else path.suffix or ".mp4"
    written = root / MEDIA / f"{name}{suffix}"
    if not written.exists():
        written.parent.mkdir(parents=True, exist_ok=True)
        temporary = written.with_name(f".{written.name}")
        if audio:
            join(pictures, sound, temporary)
        else:
            temporary.write_bytes(pictures)
        temporary.replace(written)
    return written.relative_to(root).as_posix()


def content(media: dict) -> bytes:
    """Return the bytes of a medium, from the data set or from its file."""
    return media["bytes"] or Path(media["path"]).read_bytes()


def join(pictures: bytes, sound: bytes, path: Path) -> None:
    """Write a Matroska file of a video's pictures, as they are, and of sound, as FLAC."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pictures").write_bytes(pictures)
        (Path(folder) / "sound").write_bytes(sound)
        streams = (
            ffmpeg.input(f"{folder}/pictures")["v:0"],
            ffmpeg.input(f"{folder}/sound")["a:0"],
        )
        joined = ffmpeg.output(*streams, str(path), vcodec="copy", acodec="flac", format="matroska")
        try:
            joined.run(imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
        except ffmpeg.Error as error:
            message = error.stderr.decode(errors="replace").strip().splitlines()[-1]
            raise UserError(f"a video and its sound cannot be joined: {message}") from None


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("saved", type=Path, help="folder of the saved data set")
    command.add_argument("--root", type=folder, required=True, help="clips.root")
    command.add_argument("--video", default="video", help="column (default: %(default)s)")
    command.add_argument("--audio", default="", help="column, where sound is apart")
    command.add_argument("--label", default="label", help="column (default: %(default)s)")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
