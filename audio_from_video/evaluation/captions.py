"""What captions name of the sound that is really there, and whether they tell clips apart."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from audio_from_video.evaluation.told_apart import told_apart
from audio_from_video.meaning import similarity, stored_embeddings
from audio_from_video.meaning.attention import CaptionReader
from audio_from_video.meaning.label_words import named, words
from audio_from_video.storage import layout, shards

MEASURED = 300  # clips of a split behind the figures of naming, at most
COMPARED = 2000  # training clips whose captions are compared, at most
SPLITS = {"validation": "validation", "out_of_fold": "training"}

StepCaptions = dict[int, str]  # the captions of a clip, by time step


def captions_by_step(row: Mapping[str, Any]) -> StepCaptions:
    """Return the captions of a row with `steps` and `captions`, by step."""
    return dict(zip(row["steps"], row["captions"], strict=True))


def captions_by_clip(source: Path) -> dict[str, StepCaptions]:
    """Return the captions in a directory of shards, by clip_id."""
    rows = shards.iter_rows(source, ["steps", "captions"])
    return {row["clip_id"]: captions_by_step(row) for row in rows}


def audible_labels(lowest_score: float) -> dict[str, set[int]]:
    """Return by clip_id the indices of the labels that AST hears with at least this score.

    These are training and validation clips; those without such a label are left out.
    """
    labels: dict[str, set[int]] = {}
    rows = shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores"], ["training", "validation"])
    for row in rows:
        heard = np.flatnonzero(row["label_scores"] >= lowest_score)
        if len(heard):
            labels[row["clip_id"]] = set(heard.tolist())
    return labels


def caption_figures(
    clips: list[dict],
    captions: dict[str, StepCaptions],
    originals: dict[str, StepCaptions],
    heard: dict[str, set[int]],
    reader: CaptionReader,
) -> dict[str, Any]:
    """Return how many captions there are, and how well they name what is heard.

    clips: dicts with clip_id, split and source_id.  captions, originals: by clip_id; figures are
    over the steps of `originals`, which are captions of the unchanged model.  heard: indices of
    the labels that are heard, at least one a clip, by clip_id.  The result's `before` are figures
    of the originals, `after` those of the captions in the same places.
    """
    meanings = stored_embeddings.embed(reader.text_model, reader.names)  # [L, D]

    def naming_figures(
        texts: list[str], before: list[str], labels: list[set[int]]
    ) -> dict[str, Any]:
        embeddings = stored_embeddings.embed(reader.text_model, texts)
        closest = similarity.closest(similarity.cosines(embeddings, meanings), reader.top_k)
        return quality(texts, before, labels, reader.names, closest.tolist())

    known_ids = heard.keys() & originals.keys()
    known = [clip for clip in clips if clip["clip_id"] in known_ids]
    figures: dict[str, dict] = {"before": {}, "after": {}}
    for name, split in SPLITS.items():
        measured = evenly_spread([clip for clip in known if clip["split"] == split])
        counts = {
            "clips": len(measured),
            "sources": len({clip["source_id"] for clip in measured}),
        }
        labels: list[set[int]] = []
        before: list[str] = []
        after: list[str] = []
        for clip in measured:
            clip_id = clip["clip_id"]
            for step, text in originals[clip_id].items():
                labels.append(heard[clip_id])
                before.append(text)
                after.append(captions[clip_id][step])
        if labels:
            figures["before"][name] = naming_figures(before, before, labels) | counts
            figures["after"][name] = naming_figures(after, before, labels) | counts

    texts = [text for by_step in captions.values() for text in by_step.values()]
    return {
        "frames": len(texts),
        "frames_per_clip": len(texts) / max(1, len(captions)),
        "distinct_captions": len(set(texts)),
        **figures,
    }


def evenly_spread(clips: list[dict], most: int = MEASURED) -> list[dict]:
    """Return at most `most` of the clips, which bounds the time that embedding takes."""
    return clips[:: len(clips) // most + 1]


def captions_tell_actions_apart(
    clips: list[dict], captions: dict[str, StepCaptions], text_model: str
) -> dict[str, Any]:
    """Return whether the captions of training clips tell their actions apart (`told_apart`).

    clips: dicts with clip_id, split, source_id and action.  captions: by clip_id.  A clip's vector
    is the mean of its captions' embeddings.
    """
    measured = evenly_spread([clip for clip in clips if clip["split"] == "training"], COMPARED)
    texts = [list(captions[clip["clip_id"]].values()) for clip in measured]
    different = list(dict.fromkeys(text for of_clip in texts for text in of_clip))
    embeddings = stored_embeddings.embed(text_model, different)
    place = {text: i for i, text in enumerate(different)}
    vectors = [embeddings[[place[text] for text in of_clip]].mean(0) for of_clip in texts]
    return told_apart(
        np.stack(vectors),
        np.array([clip["action"] for clip in measured]),
        np.array([clip["source_id"] for clip in measured]),
    )


def caption_warnings(figures: Mapping[str, Any]) -> list[str]:
    """Return what is to be said where captions are no better than shuffled ones.

    figures: of `captions_tell_actions_apart`.
    """
    low = figures["difference_low"]
    if low is None or low > 0:
        return []
    return [
        "the captions do not tell the training clips' actions apart (difference of similarity "
        f"{figures['difference']:+.3f}, against shuffled actions "
        f"[{low:+.3f}, {figures['difference_high']:+.3f}]): caption_mapping has nothing to go by; "
        "choose another captions.model or captions.prompt"
    ]


def quality(
    texts: list[str],
    originals: list[str],
    heard: list[set[int]],
    names: list[str],
    mapped: list[list[int]],
) -> dict[str, Any]:
    """Return figures of N captions against the labels that are heard and the original captions.

    heard: indices of the labels, at least one a caption.  names: of all labels.  mapped: the
    labels that each caption is mapped to.  named_labels: per caption; mapped_hits: share of the
    captions with a heard label among their mapped ones; kept_words: share of the original's words.
    """
    named_labels = [named(text, names) for text in texts]
    count = sum(len(labels) for labels in named_labels)
    right = sum(len(a & b) for a, b in zip(named_labels, heard, strict=True))
    hits = [not b.isdisjoint(a) for a, b in zip(mapped, heard, strict=True)]
    kept = [kept_words(old, new) for old, new in zip(originals, texts, strict=True)]
    return {
        "captions": len(texts),
        "named_labels": count / len(texts),
        "named_precision": right / max(1, count),
        "named_recall": right / sum(len(labels) for labels in heard),
        "mapped_hits": float(np.mean(hits)),
        "kept_words": float(np.mean(kept)),
    }


def kept_words(original: str, text: str) -> float:
    """Return the share of an original caption's words that another one has, too."""
    old = Counter(words(original))
    new = Counter(words(text))
    return (old & new).total() / max(1, old.total())
