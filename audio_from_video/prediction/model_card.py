"""The model card of a bundle, in Hugging Face's form: a YAML header, then Markdown."""

from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from audio_from_video.prediction.settings import BundleSettings

NAME = "audio-from-video"
INTRODUCTION = """\
These models recognise the action in a video and generate the features of its missing sound.
They were trained by the pipeline `audio-from-video`; its `docs/predict.md` says how to use them."""
USE = """\
## Use

```python
from audio_from_video import Pipeline

pipeline = Pipeline.from_pretrained("this folder")
for video in pipeline.predict(["clip.mp4"]):
    print(video.name, [window.action for window in video.windows])
```

On a command line: `python -m tools.predict clip.mp4 --bundle "this folder"`.
No pickle is read and no network is used. `bundle.json` holds the digest of every file."""
INTENDED = """\
## Intended use and limits

For research on missing modalities: to answer clips of the actions named below, and to feed
generated audio features to a classifier of one's own.

- A video of another action still gets one of these actions.
- Generated sound tells what is probable given the picture, never what was heard. It is no evidence.
- The models know the kind of video that they were trained on. Measure them on yours before use.
- Do not use them to decide about people."""
RENDERED_LIMIT = """\
- The training clips are rendered, and so are those that taught the embedded backbones: the figures
  make no claim about real video."""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells beside the settings, from the metrics.

    root: the data set.  rendered: whether it is the embedded one.  clips, sources: by split.
    accuracy: of each condition on test, with interval (`evaluation.intervals.interval`).
    kept: by architecture the share of test clips whose audio the filter keeps, likewise.
    """

    root: str
    rendered: bool
    clips: dict[str, int]
    sources: dict[str, int]
    accuracy: dict[str, dict]
    kept: dict[str, dict]


def model_card(settings: BundleSettings, facts: CardFacts) -> str:
    """Return the card of a bundle."""
    limits = f"{INTENDED}\n{RENDERED_LIMIT}" if facts.rendered else INTENDED
    parts = [
        f"---\n{header(facts)}---",
        f"# {NAME}",
        INTRODUCTION,
        USE,
        limits,
        data_section(settings, facts),
        result_section(settings, facts),
        licence_section(facts),
    ]
    return "\n\n".join(parts) + "\n"


def header(facts: CardFacts) -> str:
    """Return the YAML header that Hugging Face reads."""
    metrics = [
        {"type": "accuracy", "name": f"accuracy, {name}", "value": round(each["mean"], 4)}
        for name, each in facts.accuracy.items()
    ]
    result = {
        "task": {"type": "video-classification"},
        "dataset": {"type": data_name(facts).replace(" ", "-"), "name": data_name(facts)},
        "metrics": metrics,
    }
    content = {
        "license": "apache-2.0" if facts.rendered else "other",
        "library_name": NAME,
        "pipeline_tag": "video-classification",
        "tags": ["video", "audio", "missing-modality", "action-recognition"],
        "metrics": ["accuracy"],
        "model-index": [{"name": NAME, "results": [result]}],
    }
    text = StringIO()
    YAML().dump(content, text)
    return text.getvalue()


def data_name(facts: CardFacts) -> str:
    """Return the name of the data set: its folder's, as a path may tell of its owner."""
    return "rendered sample" if facts.rendered else Path(facts.root).name


def data_section(settings: BundleSettings, facts: CardFacts) -> str:
    """Return what the models learned from."""
    counts = [
        f"| {split} | {facts.clips[split]} | {facts.sources[split]} |" for split in facts.clips
    ]
    backbones = []
    for kind, each in settings.backbones.items():
        where = "inside" if each.folder else "found by this name"
        backbones.append(f"| {kind} | `{each.name}` | {where} | `{each.digest}` |")
    length_s = settings.frames.count / settings.frames.fps
    return "\n".join(
        [
            "## Data",
            "",
            f"Data set: {data_name(facts)}. A window is {settings.frames.count} frames at "
            f"{settings.frames.fps:g} a second, {length_s:g} s.",
            f"Actions: {', '.join(settings.actions)}.",
            "",
            "| split | clips | source videos |",
            "| --- | --- | --- |",
            *counts,
            "",
            "| backbone | model | where | digest |",
            "| --- | --- | --- | --- |",
            *backbones,
        ]
    )


def result_section(settings: BundleSettings, facts: CardFacts) -> str:
    """Return accuracies, thresholds and what was left out."""
    lines = []
    for name, each in facts.accuracy.items():
        audio = settings.classifiers[name].test_audio
        lines.append(f"| `{name}` | {audio} | {per_cent(each)} | {each['seeds']} |")
    filters = []
    for name, each in facts.kept.items():
        threshold = settings.generators[name].threshold
        filters.append(f"| `{name}` | {threshold:g} | {per_cent(each)} |")
    left_out = [f"- `{name}` is left out: {why}." for name, why in settings.left_out.items()]
    return "\n".join(
        [
            "## Results",
            "",
            "On the test clips, per cent, with 95 % intervals over source videos.",
            "",
            "| condition | audio at test | accuracy | seeds |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
            "| generator | filter's threshold | kept |",
            "| --- | --- | --- |",
            *filters,
            *([""] if left_out else []),
            *left_out,
        ]
    )


def per_cent(estimate: dict) -> str:
    """Return a share with its interval, such as 62.6 [56.4, 68.6]."""
    mean, low, high = (100 * estimate[key] for key in ("mean", "ci95_low", "ci95_high"))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def licence_section(facts: CardFacts) -> str:
    """Return under which licence the files stand."""
    terms = "The models are under the Apache License 2.0."
    if not facts.rendered:
        terms = (
            "The software is under the Apache License 2.0. For the weights the terms of the data "
            "set and of the published backbones hold."
        )
    return f"## Licence\n\n{terms} AudioSet's labels are Google's, under CC BY 4.0."
