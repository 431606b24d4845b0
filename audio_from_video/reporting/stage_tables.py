"""Tables of what the stages before the classifier measured, and of experiments; *reported* figures stand beside ours."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from audio_from_video.reporting.tables import Cell, Content, Table, interval, number, percent
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, CAPTION_MAPPING, SEMANTIC_VALIDATION

METRICS = Path("metrics")
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
CLIPS_SOURCES = "clips / sources"
NOT_COMPARABLE = "*Reported* is the research description's figure, on Moments in Time with other models: it cannot be compared with ours."


def metrics_of(name: str) -> dict:
    """A stage's metrics file."""
    path = METRICS / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro {name.replace('/', '@')}`")
    return json.loads(path.read_text())


def clips_sources(figures: dict) -> str:
    return f"{figures['clips']} / {figures['sources']}"


def generator_table(architecture: str, number_of: int, seeds: int) -> Table:
    """Generated features against real ones, beside baselines and controls, on test and out of fold."""
    found = metrics_of(f"generator/{architecture}")
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
    keys = ("cosine", "relative_mse", "variance_ratio", "own_minus_same_action", "time_correlation")
    rows: list[list[Content]] = []
    for split in ("test", "out_of_fold", "own_training_clips"):
        for name, row in found[split].items():
            centred, trained = (
                row["centred_cosine"],
                seeds if name == "generated" and split != "own_training_clips" else 1,
            )
            rows.append(
                [
                    split,
                    name,
                    interval(centred),
                    *(number(row[key]) for key in keys),
                    centred["n"],
                    centred["sources"],
                    trained,
                ]
            )
    title = f"Generated features against real ones: architecture {number_of}, `{architecture}`"
    return Table(f"generator_{architecture}", title, header, rows, "Audible clips.")


def architecture_figures(architectures: Iterable[str]) -> list[list[Content]]:
    """Rows of a comparison: the generators' measures on test, and the labels their features sound like."""
    generators = [metrics_of(f"generator/{name}") for name in architectures]
    labels = metrics_of("label_predictor")
    ways = [
        f"{way}_{labels['head']}"
        for way in (ARCHITECTURES[name].generated for name in architectures)
    ]
    rows: list[list[Content]] = []
    for split in ("test", "out_of_fold"):
        centred = [found[split]["generated"]["centred_cosine"] for found in generators]
        title = split.replace("_", " ")
        rows.append([f"centred cosine, {title}", *(interval(value) for value in centred)])
        rows.append(
            [
                f"audible clips / sources, {title}",
                *(f"{value['n']} / {value['sources']}" for value in centred),
            ]
        )
    for key in ("relative_mse", "variance_ratio", "own_minus_same_action", "time_correlation"):
        rows.append(
            [
                key.replace("_", " "),
                *(number(found["test"]["generated"][key]) for found in generators),
            ]
        )
    for key in ("precision", "recall", "f1"):
        rows.append([f"labels: {key}", *(number(labels["test"][way][key]) for way in ways)])
    return [
        *rows,
        ["generator's parameters", *(number(found["parameters"], "{:,}") for found in generators)],
    ]


def frames_table() -> Table:
    """What thresholds of motion choose as representative frames."""
    found = metrics_of("representative_frames")["thresholds"]
    rows: list[list[Content]] = [
        [name, *(number(row.get(key)) for key in FRAME_KEYS), clips_sources(row)]
        for name, row in found.items()
    ]
    header = ["threshold", *(key.replace("_", " ") for key in FRAME_KEYS), CLIPS_SOURCES]
    return Table(
        "representative_frames",
        "Representative frames",
        header,
        rows,
        "All clips but test; events by the rendered clips' truth.",
    )


def caption_table() -> Table:
    """Captions before and after fine-tuning, on validation clips."""
    found = metrics_of("captions")
    keys = ("named_labels", "named_precision", "named_recall", "mapped_hits", "kept_words")
    rows: list[list[Content]] = [
        [
            f"{when} ({how})",
            split.replace("_", " "),
            *(number(row[key]) for key in keys),
            row["captions"],
            clips_sources(row),
        ]
        for split in ("validation", "out_of_fold")
        for when, how in (("before", "as it was"), ("after", found["finetune"]))
        if (row := found[when].get(split))
    ]
    header = ["BLIP", "split", *(key.replace("_", " ") for key in keys), "captions", CLIPS_SOURCES]
    note = (
        "Before and after fine-tuning, against the labels that AST hears in the clip's real sound."
    )
    return Table("captions", "Captions", header, rows, note)


def mapping_table() -> Table:
    """Labels that captions were mapped to, against those that are heard."""
    found = metrics_of("mapping")
    keys = (
        "hit",
        "hit_shuffled",
        "first_hit",
        "precision",
        "hit_in_truth",
        "margin",
        "entropy",
        "condition_cosine",
    )
    rows: list[list[Content]] = []
    for way in ("labels", "key_captions"):
        for split in ("validation", "test", "out_of_fold"):
            if row := found[way].get(split):
                values = (
                    interval(row[key]) if isinstance(row.get(key), dict) else number(row.get(key))
                    for key in keys
                )
                used = " (used)" if way == found["via"] else ""
                rows.append(
                    [f"`{way}`{used}", split, *values, row["captions"], row["hit"]["sources"]]
                )
    header = ["way", "split", *(key.replace("_", " ") for key in keys), "captions", "sources"]
    note = (
        "Captions of audible clips. A hit: at least one of the labels is among those AST hears in the clip's real sound (shuffled: in "
        "another clip's); entropy in nats; condition cosine: of the mapped label audio with the real features at the anchor, both centred."
    )
    return Table("mapping", "Mapping of captions to labels", header, rows, note)


def label_table() -> Table:
    """Labels predicted from audio features against those that AST finds in the real waveform, on test."""
    found = metrics_of("label_predictor")
    test = found["test"]
    keys = ("precision", "recall", "f1", "map", "cosine")
    rows: list[list[Content]] = [
        [name, *(number(row[key]) for key in keys), clips_sources(test)]
        for name, row in test.items()
        if isinstance(row, dict)
    ]
    rows.append(["*reported* (generated)", "*0.41*", "*0.36*", "", "", "", ""])
    header = ["features and way", "precision", "recall", "F1", "mAP", "cosine", CLIPS_SOURCES]
    note = (
        "Test clips with audible sound, against the labels that AST finds in the real waveform "
        f"(score at least {found['threshold']:g}); *reported* on MiT."
    )
    return Table(
        "labels", "Labels that audio features sound like", header, rows, note, NOT_COMPARABLE
    )


def dictionary_table() -> Table:
    """How well the dictionary's labels meet those that are truly there."""
    found = metrics_of("dictionary")
    rows: list[list[Content]] = []
    for name, block in (
        ("labels of highest AST lift", found),
        ("truth of the rendered clips", found.get("truth")),
    ):
        if block:
            top, ndcg = block["top5_relevant"], block["ndcg5"]
            chance = (number(top["maximum"], "{:.2f}"), number(top["permuted"], "{:.2f}"))
            mean = Cell((top["mean"], top["ci95_low"], top["ci95_high"]), "{:.2f}")
            rows.append(
                [name, mean, *chance, number(ndcg["mean"]), number(ndcg["permuted"]), top["n"]]
            )
    rows.append(["*reported*", "*3.7*", "", "", "", "", ""])
    header = ["true labels", "of the top 5", "at most", "permuted", "nDCG@5", "permuted", "actions"]
    return Table("dictionary", "Dictionary", header, rows, below=NOT_COMPARABLE)


def threshold_table() -> Table:
    """The sweep over the filter's threshold (common/filter_measures.py)."""
    table = pd.read_csv(METRICS / "plots/filter/semantic_validation.csv")
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
    kept, seeds = (
        metrics_of("filter")[SEMANTIC_VALIDATION]["kept_fraction"],
        metrics_of("classifier/generated")["accuracy"]["seeds"],
    )
    on = f"{kept['n']} / {kept['sources']} / {seeds}"
    rows: list[list[Content]] = [
        [
            number(row.threshold, "{:.2f}"),
            *(number(None if pd.isna(value) else 100 * value, "{:.1f}") for value in row.iloc[1:]),
            on,
        ]
        for _, row in table.iterrows()
    ]
    rows.append(["*reported* (0.72)", "*62.3*", "", "", "", "", "*35.6*", "", "", "", ""])
    note = (
        f"{filter_sentence()}\n\nPrecision and recall: of keeping audible test clips whose strongest generated label is "
        "found in the real sound. Accuracies: `generated` answers where kept, `video_only` where rejected. Beside them filters that "
        "keep as many clips at random, or as many of each predicted action, at random or the most confident. All in per cent."
    )
    return Table("filter", "Filter", header, rows, note, NOT_COMPARABLE)


def filter_sentence() -> str:
    """What the filter decided, and how well its score ranks."""
    found = metrics_of("filter")[SEMANTIC_VALIDATION]
    kept, alone = found["kept_fraction"], found["kept_bit_alone"]
    text = (
        f"At the threshold {found['threshold']:g} (chosen on validation unless params.yaml names one) the filter keeps "
        f"{percent(kept)} % of the {kept['n']} test clips. The kept bit alone names the action of {100 * alone['keep']:.1f} % of them "
        f"(of the leaky one, `keep_oracle`: {100 * alone['keep_oracle']:.1f} %; always the most frequent action: "
        f'{100 * alone["most_frequent_action"]:.1f} %). AUROC of the score for "its strongest label is found in the real sound": '
        f"{number(found['auroc_found_in_real'])}"
    )
    if "auroc" in found:
        right, kept_right = (
            100 * (found[key] or 0) for key in ("generated_sounds_right", "kept_sounds_right")
        )
        text += (
            f'; for "the generated audio sounds like its true action" (a probe on real features): {number(found["auroc"])}, within '
            f"predicted actions {number(found['auroc_within_action'])}, against the true action {number(found['auroc_oracle'])}; of real "
            f'audio for "this sound belongs to the action": {number(found["auroc_real"])}, within predicted actions '
            f"{number(found['auroc_real_within_action'])}. The probe assigns {right:.1f} % of the generated features to the true action, "
            f"{kept_right:.1f} % of the kept ones"
        )
    return text + "."


def of_stages(seeds: dict[str, int]) -> list[Table]:
    """What the stages before the classifier measured; architecture 2's where it ran.  seeds: of each architecture."""
    tables = [generator_table(SEMANTIC_VALIDATION, 1, seeds[SEMANTIC_VALIDATION])]
    if CAPTION_MAPPING in seeds:
        tables += [
            generator_table(CAPTION_MAPPING, 2, seeds[CAPTION_MAPPING]),
            frames_table(),
            caption_table(),
            mapping_table(),
        ]
    return [*tables, label_table(), dictionary_table(), threshold_table()]
