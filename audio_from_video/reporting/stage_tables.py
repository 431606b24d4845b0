"""Tables of what the stages before the classifier measured.

*Reported* figures are those of the research description and stand beside ours.
"""

import json

import pandas as pd

from audio_from_video.reporting.tables import (
    COUNT,
    SHARE,
    SHORT_NUMBER,
    Content,
    Table,
    estimate,
    interval,
    number,
    share,
)
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, CAPTION_MAPPING, SEMANTIC_VALIDATION
from audio_from_video.storage import layout

GENERATOR_KEYS = (
    "cosine",
    "relative_mse",
    "variance_ratio",
    "own_minus_same_action",
    "time_correlation",
)
FRAME_KEYS = (
    "frames_per_clip",
    "clips_without",
    "event_recall",
    "event_recall_random",
    "event_recall_exact",
    "event_recall_random_exact",
    "chosen_near_event",
    "chosen_near_event_random",
)
CAPTION_KEYS = ("named_labels", "named_precision", "named_recall", "mapped_hits", "kept_words")
MAPPING_KEYS = (
    "hit",
    "hit_shuffled",
    "first_hit",
    "precision",
    "hit_in_truth",
    "margin",
    "entropy",
    "condition_cosine",
)
LABEL_KEYS = ("precision", "recall", "f1", "map", "cosine")
CLIPS_SOURCES = "clips / sources"
NOT_COMPARABLE = (
    "*Reported* is the research description's figure, on Moments in Time with other models: it "
    "cannot be compared with ours."
)


def read_metrics(stage: str, item: str = "") -> dict:
    """Return the metrics of a stage, or of one of its items.

    Raises:
        UserError: the file is missing.
    """
    path = layout.metrics(stage, item)
    if not path.is_file():
        target = f"{stage}@{item}" if item else stage
        raise UserError(f"{path} is missing: run `dvc repro {target}`")
    return json.loads(path.read_text())


def stage_tables(seeds: dict[str, int]) -> list[Table]:
    """Return the tables of the stages before the classifier; architecture 2's where it ran.

    seeds: trainings of each architecture's generator.
    """
    tables = [generator_table(SEMANTIC_VALIDATION, seeds[SEMANTIC_VALIDATION])]
    if CAPTION_MAPPING in seeds:
        tables += [
            generator_table(CAPTION_MAPPING, seeds[CAPTION_MAPPING]),
            frame_table(),
            caption_table(),
            mapping_table(),
        ]
    return [*tables, label_table(), dictionary_table(), threshold_table()]


def clips_sources(figures: dict) -> str:
    """Return the clips and sources behind figures, such as 480 / 204."""
    return f"{figures['clips']} / {figures['sources']}"


def titles(keys: tuple[str, ...]) -> list[str]:
    """Return headings of columns for keys of metrics."""
    return [key.replace("_", " ") for key in keys]


# ---- generators ----


def generator_table(architecture: str, seeds: int) -> Table:
    """Return generated features against real ones, beside baselines and controls."""
    metrics = read_metrics("generator", architecture)
    header = [
        "split",
        "features",
        "centred cosine",
        "cosine",
        "relative MSE",
        "variance ratio",
        "own minus same action",
        "correlation over time",
        "n",
        "sources",
        "seeds",
    ]
    rows: list[list[Content]] = []
    for split in ("test", "out_of_fold", "own_training_clips"):
        for name, figures in metrics[split].items():
            centred = figures["centred_cosine"]
            # Baselines and controls have one training or none.
            is_trained = name == "generated" and split != "own_training_clips"
            others = [number(figures[key]) for key in GENERATOR_KEYS]
            size = [centred["n"], centred["sources"], seeds if is_trained else 1]
            rows.append([split, name, interval(centred), *others, *size])
    title = (
        "Generated features against real ones: architecture "
        f"{ARCHITECTURES[architecture].number}, `{architecture}`"
    )
    return Table(f"generator_{architecture}", title, header, rows, "Audible clips.")


def architecture_lines() -> list[list[Content]]:
    """Return rows that compare the architectures, a column for each.

    They hold the generators' measures on test and the labels that their features sound like.
    """
    generators = [read_metrics("generator", name) for name in ARCHITECTURES]
    lines: list[list[Content]] = []
    for split in ("test", "out_of_fold"):
        cosines = [metrics[split]["generated"]["centred_cosine"] for metrics in generators]
        sizes = [f"{cosine['n']} / {cosine['sources']}" for cosine in cosines]
        title = split.replace("_", " ")
        lines.append([f"centred cosine, {title}", *(interval(cosine) for cosine in cosines)])
        lines.append([f"audible clips / sources, {title}", *sizes])
    for key in ("relative_mse", "variance_ratio", "own_minus_same_action", "time_correlation"):
        values = [number(metrics["test"]["generated"][key]) for metrics in generators]
        lines.append([key.replace("_", " "), *values])

    # Labels as the filter reads them: by the head that the label predictor uses.
    labels = read_metrics("label_predictor")
    ways = [f"{architecture.generated}_{labels['head']}" for architecture in ARCHITECTURES.values()]
    for key in ("precision", "recall", "f1"):
        lines.append([f"labels: {key}", *(number(labels["test"][way][key]) for way in ways)])
    parameters = [number(metrics["parameters"], COUNT) for metrics in generators]
    return [*lines, ["generator's parameters", *parameters]]


# ---- frames, captions and labels ----


def frame_table() -> Table:
    """Return what thresholds of motion choose as representative frames."""
    by_threshold = read_metrics("representative_frames")["thresholds"]
    rows: list[list[Content]] = []
    for name, figures in by_threshold.items():
        values = [number(figures.get(key)) for key in FRAME_KEYS]
        rows.append([name, *values, clips_sources(figures)])
    header = ["threshold", *titles(FRAME_KEYS), CLIPS_SOURCES]
    note = "All clips but test; events by the rendered clips' truth."
    return Table("representative_frames", "Representative frames", header, rows, note)


def caption_table() -> Table:
    """Return figures of captions before and after fine-tuning."""
    metrics = read_metrics("captions")
    stages = {"before": "as it was", "after": metrics["finetune"]}
    rows: list[list[Content]] = []
    for split in ("validation", "out_of_fold"):
        for when, how in stages.items():
            figures = metrics[when].get(split)
            if not figures:
                continue
            values = [number(figures[key]) for key in CAPTION_KEYS]
            title = f"{when} ({how})"
            size = [figures["captions"], clips_sources(figures)]
            rows.append([title, split.replace("_", " "), *values, *size])
    header = ["captioning model", "split", *titles(CAPTION_KEYS), "captions", CLIPS_SOURCES]
    apart = told_apart_sentence("captions", metrics["captions_tell_actions_apart"])
    note = (
        "Before and after fine-tuning, against the labels that the audio model hears in the clip's "
        f"real sound. {apart}"
    )
    return Table("captions", "Captions", header, rows, note)


def told_apart_sentence(subject: str, figures: dict) -> str:
    """Return whether something tells clips of different actions apart (evaluation/told_apart.py).

    subject: what, in the plural.  figures: of `told_apart`.
    """
    if figures["difference"] is None:
        return f"Too few training clips to say whether their {subject} tell actions apart."
    beyond = f"{figures['difference_low']:+.3f} to {figures['difference_high']:+.3f}"
    words = (
        f"Two training clips of one action have {subject} that are alike by {beyond} (cosine) more "
        "than those of different actions, with what shuffled actions would give taken off"
    )
    if figures["difference_low"] > 0:
        return f"{words}."
    return f"{words}: they tell actions apart no better than chance, and nothing rests on them."


def mapping_table() -> Table:
    """Return the labels that captions were mapped to, against those that are heard."""
    metrics = read_metrics("mapping")
    rows: list[list[Content]] = []
    for way in ("labels", "key_captions"):
        title = f"`{way}` (used)" if way == metrics["via"] else f"`{way}`"
        for split in ("validation", "test", "out_of_fold"):
            figures = metrics[way].get(split)
            if not figures:
                continue
            values: list[Content] = []
            for key in MAPPING_KEYS:
                value = figures.get(key)
                values.append(interval(value) if isinstance(value, dict) else number(value))
            size = [figures["captions"], figures["hit"]["sources"]]
            rows.append([title, split, *values, *size])
    header = ["way", "split", *titles(MAPPING_KEYS), "captions", "sources"]
    note = (
        "Captions of audible clips. A hit: at least one of the labels is among those that the "
        "audio model hears in the clip's real sound (shuffled: in another clip's); entropy in "
        "nats; condition cosine: of the mapped label audio with the real features at the anchor, "
        "both centred. "
        + told_apart_sentence("captions", read_metrics("captions")["captions_tell_actions_apart"])
    )
    return Table("mapping", "Mapping of captions to labels", header, rows, note)


def label_table() -> Table:
    """Return labels predicted from features against those found in the real waveform."""
    metrics = read_metrics("label_predictor")
    test = metrics["test"]
    rows: list[list[Content]] = []
    for name, figures in test.items():
        if isinstance(figures, dict):
            values = [number(figures[key]) for key in LABEL_KEYS]
            rows.append([name, *values, clips_sources(test)])
    rows.append(["*reported* (generated)", "*0.41*", "*0.36*", "", "", "", ""])
    header = ["features and way", "precision", "recall", "F1", "mAP", "cosine", CLIPS_SOURCES]
    note = (
        "Test clips with audible sound, against the labels that the audio model finds in the real "
        f"waveform (score at least {metrics['threshold']:.3g}); *reported* on MiT. "
        f"{labels_sentence()}"
    )
    title = "Labels that audio features sound like"
    return Table("labels", title, header, rows, note, NOT_COMPARABLE)


def dictionary_table() -> Table:
    """Return how well the dictionary's labels meet those that are truly there."""
    metrics = read_metrics("dictionary")
    references = {
        "labels of highest lift in the sound": metrics,
        "truth of the rendered clips": metrics.get("truth"),
    }
    rows: list[list[Content]] = []
    for name, figures in references.items():
        if not figures:
            continue
        top = figures["top5_relevant"]
        ndcg = figures["ndcg5"]
        rows.append(
            [
                name,
                estimate(top, SHORT_NUMBER),
                number(top["maximum"], SHORT_NUMBER),
                number(top["permuted"], SHORT_NUMBER),
                number(ndcg["mean"]),
                number(ndcg["permuted"]),
                top["n"],
            ]
        )
    rows.append(["*reported*", "*3.7*", "", "", "", "", ""])
    header = ["true labels", "of the top 5", "at most", "permuted", "nDCG@5", "permuted", "actions"]
    return Table("dictionary", "Dictionary", header, rows, below=NOT_COMPARABLE)


# ---- the filter ----


def threshold_table() -> Table:
    """Return the sweep over the filter's threshold (evaluation/filter.py)."""
    sweep = pd.read_csv(layout.filter_sweep(SEMANTIC_VALIDATION))
    generated = ARCHITECTURES[SEMANTIC_VALIDATION].generated
    kept = read_metrics("filter")[SEMANTIC_VALIDATION]["kept_fraction"]
    seeds = read_metrics("classifier", generated)["accuracy"]["seeds"]
    size = f"{kept['n']} / {kept['sources']} / {seeds}"
    rows: list[list[Content]] = []
    for _, step in sweep.iterrows():
        shares = [None if pd.isna(value) else value for value in step.iloc[1:]]
        cells = [number(value, SHARE) for value in shares]
        rows.append([number(step.threshold, SHORT_NUMBER), *cells, size])
    rows.append(["*reported* (0.72)", "*62.3*", "", "", "", "", "*35.6*", "", "", "", ""])
    header = [
        "threshold",
        "kept",
        "precision",
        "recall",
        "informedness, validation",
        "validation accuracy",
        "test accuracy",
        "random filter, test",
        "random within action, test",
        "confident within action, test",
        f"{CLIPS_SOURCES} / seeds",
    ]
    note = (
        f"{filter_sentence()} {labels_sentence()}\n\n"
        "Precision and recall: of keeping audible test clips whose "
        "strongest generated label is found in the real sound. Accuracies: `generated` answers "
        "where kept, `video_only` where rejected. Beside them filters that keep as many clips at "
        "random, or as many of each predicted action, at random or the most confident. All in per "
        "cent."
    )
    return Table("filter", "Filter", header, rows, note, NOT_COMPARABLE)


def filter_sentence() -> str:
    """Return what the filter decided, and how well its score ranks."""
    figures = read_metrics("filter")[SEMANTIC_VALIDATION]
    kept = figures["kept_fraction"]
    alone = {name: f"{100 * value:.1f} %" for name, value in figures["kept_bit_alone"].items()}
    found = figures["auroc_found_in_real"]
    text = (
        f"At the threshold {figures['threshold']:g} (`filter.threshold` says how it is chosen) the "
        f"filter keeps {share(kept)} % of the {kept['n']} test clips. The kept bit alone names the "
        f"action of {alone['keep']} of them (of the leaky one, `keep_oracle`: "
        f"{alone['keep_oracle']}; always the most frequent action: "
        f"{alone['most_frequent_action']}). AUROC of the score for "
        '"its strongest label is found in the real sound": '
        f"{'not defined, as that holds for all clips or none' if found is None else number(found)}"
    )
    if "auroc" in figures:
        text += f"; {truth_sentence(figures)}"
    return text + "."


def labels_sentence() -> str:
    """Return whether the labels of the real sound tell clips of different actions apart."""
    figures = read_metrics("audio_features")["labels_tell_actions_apart"]
    return told_apart_sentence("labels of the real sound", figures)


def truth_sentence(figures: dict) -> str:
    """Return how well the filter's score ranks by the truth of rendered clips."""
    right = 100 * (figures["generated_sounds_right"] or 0)
    kept_right = 100 * (figures["kept_sounds_right"] or 0)
    return (
        'for "the generated audio sounds like its true action" (a probe on real features): '
        f"{number(figures['auroc'])}, within predicted actions "
        f"{number(figures['auroc_within_action'])}, against the true action "
        f"{number(figures['auroc_oracle'])}; of real audio for "
        f'"this sound belongs to the action": {number(figures["auroc_real"])}, within predicted '
        f"actions {number(figures['auroc_real_within_action'])}. The probe assigns {right:.1f} % "
        f"of the generated features to the true action, {kept_right:.1f} % of the kept ones"
    )
