"""What captions name of the sound that is really there."""

from pathlib import Path

import numpy as np

from stages.common import caption_words, shards, text_embedding
from stages.common.caption_trainings import AUDIO, TOP_K, some

MEASURED = 300  # clips of a split behind the metrics


def measure(
    source: Path,
    heard: list[dict],
    some_steps: int,
    tag_score: float,
    names: list[str],
    reader: str,
) -> dict:
    """How many captions there are in `source`, and how well they name what AST hears with at least `tag_score` in the clips' real
    sound.  `before` are the original captions of the same frames: as `heard` has them or, where nothing was fine-tuned, those of
    at most `some_steps` frames a clip.  names: of the labels; reader: the text model that maps captions to them."""
    meanings = text_embedding.embed(reader, names)
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
        clip: {step: row[step] for step in some([*row], some_steps)}
        for clip, row in written.items()
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
                cosines = text_embedding.cosines(text_embedding.embed(reader, texts), meanings)
                mapped = text_embedding.closest(cosines, TOP_K).tolist()
                found[key][name] = (
                    caption_words.quality(texts, before, labels, names, mapped) | counts
                )
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
