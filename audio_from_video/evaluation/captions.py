"""What captions name of the sound that is really there."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from audio_from_video.backbones import text as text_backbone
from audio_from_video.learning.features import AUDIO
from audio_from_video.meaning import similarity
from audio_from_video.meaning.label_words import named, words
from audio_from_video.storage import shards

MEASURED = 300  # clips of a split behind the metrics


def measure(
    source: Path,
    heard: list[dict],
    some_steps: Callable[[list[int]], list[int]],
    tag_score: float,
    names: list[str],
    reader: str,
    top_k: int,
) -> dict:
    """How many captions there are in `source`, and how well they name what AST hears with at least `tag_score` in the clips' real
    sound.  `before` are the original captions of the same frames: as `heard` has them or, where nothing was fine-tuned, those of
    the frames that `some_steps` chooses.  names: of the labels; reader: the text model that maps captions to them."""
    meanings = text_backbone.embed(reader, names)
    scores = {
        row["clip_id"]: row["label_scores"]
        for row in shards.iter_rows(AUDIO, ["label_scores"], ["training", "validation"])
    }
    audible = {
        clip: set(np.flatnonzero(row >= tag_score).tolist())
        for clip, row in scores.items()
        if (row >= tag_score).any()
    }
    written = {
        row["clip_id"]: captions_by_step(row)
        for row in shards.iter_rows(source, ["steps", "captions"])
    }
    originals = {clip["clip_id"]: captions_by_step(clip) for clip in heard} or {
        clip: {step: row[step] for step in some_steps([*row])} for clip, row in written.items()
    }
    found: dict = {"before": {}, "after": {}}
    for name, split in (("validation", "validation"), ("out_of_fold", "training")):
        clips = [
            row
            for row in shards.ok_rows(source)
            if row["split"] == split and row["clip_id"] in {*audible} & {*originals}
        ]
        clips = clips[:: len(clips) // MEASURED + 1]
        frames = [(row["clip_id"], step) for row in clips for step in originals[row["clip_id"]]]
        counts = {"clips": len(clips), "sources": len({row["source_id"] for row in clips})}
        labels, before = (
            [audible[clip] for clip, _ in frames],
            [originals[clip][step] for clip, step in frames],
        )
        after = [written[clip][step] for clip, step in frames]
        if frames:
            for key, texts in (("before", before), ("after", after)):
                cosines = similarity.cosines(text_backbone.embed(reader, texts), meanings)
                mapped = similarity.closest(cosines, top_k).tolist()
                found[key][name] = quality(texts, before, labels, names, mapped) | counts
    captions = [text for row in written.values() for text in row.values()]
    frames_per_clip = len(captions) / max(1, len(written))
    return {
        "frames": len(captions),
        "frames_per_clip": frames_per_clip,
        "distinct_captions": len(set(captions)),
        **found,
    }


def captions_by_step(row: dict) -> dict[int, str]:
    return dict(zip(row["steps"], row["captions"], strict=True))


def quality(
    texts: list[str],
    originals: list[str],
    heard: list[set[int]],
    labels: list[str],
    mapped: list[list[int]],
) -> dict:
    """Captions against the numbers of the labels that are heard (at least one each), and against the original captions.
    mapped: the labels that each caption is mapped to."""
    names = [named(text, labels) for text in texts]
    right = sum(len(a & b) for a, b in zip(names, heard, strict=True))
    pairs = [
        (Counter(words(old)), Counter(words(new)))
        for old, new in zip(originals, texts, strict=True)
    ]
    return {
        "captions": len(texts),
        "named_labels": sum(map(len, names)) / len(texts),  # per caption
        "named_precision": right / max(1, sum(map(len, names))),
        "named_recall": right / sum(map(len, heard)),
        "mapped_hits": float(
            np.mean([not b.isdisjoint(a) for a, b in zip(mapped, heard, strict=True)])
        ),  # one of them is heard
        "kept_words": float(
            np.mean([(old & new).total() / max(1, old.total()) for old, new in pairs])
        ),
    }
