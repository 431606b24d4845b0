"""Files as AudioSet publishes its features: TFRecord files of VGGish embeddings."""

from pathlib import Path

import numpy as np
from tfrecord.writer import TFRecordWriter


def write_records(path: Path, clips: list[tuple[list[int], np.ndarray]], **changes) -> None:
    """Write clips (labels, embeddings [seconds, 128] uint8) to a TFRecord file.

    `changes` replaces context features by name; an empty value leaves the feature out.
    """
    writer = TFRecordWriter(str(path))
    for i, (labels, embeddings) in enumerate(clips):
        context = {
            "video_id": (f"video {i}".encode(), "byte"),
            "start_time_seconds": (30.0, "float"),
            "end_time_seconds": (40.0, "float"),
            "labels": (labels, "int"),
        }
        context |= changes
        context = {name: value for name, value in context.items() if value}
        sequence = [second.tobytes() for second in embeddings]
        writer.write(context, {"audio_embedding": (sequence, "byte")})
    writer.close()
