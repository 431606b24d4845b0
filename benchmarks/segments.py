"""What windows of an audio model are worth: a linear read-out of a run's sound, out of fold.

    python -m benchmarks.segments /data/models/yamnet --out segments.json

Reads data/audio and data/clips.parquet of the run in the current directory.  The labelled clips are
heard by the model once for each value of `audio_features.segments` that is compared.  Logistic
regression finds their actions by mean and standard deviation of the features over time, as the
conditions `logistic` do: in five folds by source, drawn several times, with C chosen within them.
Prints and writes accuracies and the differences to the first value, with 95 % intervals over
sources.  It takes about two minutes for 200 clips.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_steps import encode_sound
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.clipset import folds
from audio_from_video.evaluation import intervals
from audio_from_video.media import codecs
from audio_from_video.runtime import atomic
from audio_from_video.runtime.vocabulary import LABELLED
from audio_from_video.storage import layout, shards

STEPS = 18
FOLDS = 5
INNER_FOLDS = 3
INVERSE_REGULARISATION = [0.0003, 0.001, 0.01, 0.1]  # candidates for scikit-learn's C


def summaries(model: str, segments: str, sounds: list[np.ndarray]) -> np.ndarray:
    """Return mean and deviation over time [N, 2 D] of the features of sounds [samples] int16."""
    backbone = load_audio(model, "cpu")
    settings = {"model": model, "segments": segments, "window_s": 1.0, "components": 128}
    p = AudioFeaturesParams.model_validate(settings)
    rows = []
    for sound in sounds:
        features = encode_sound(backbone, sound, STEPS, p, None).patches  # [T, D]
        rows.append(np.concatenate([features.mean(0), features.std(0)]))
    return np.stack(rows)


def held_out_hits(
    x: np.ndarray, actions: np.ndarray, sources: np.ndarray, repeats: int
) -> np.ndarray:
    """Return whether clips [N] are found right by what other sources teach, [N, repeats] bool.

    x [N, D].  Each repeat deals out the sources anew.
    """
    hits = np.zeros((len(x), repeats), bool)
    for repeat in range(repeats):
        names = np.array([f"{repeat}/{source}" for source in sources])
        fold = folds.of_sources(names, FOLDS)
        for number in np.unique(fold):
            inside = fold == number
            inner = PredefinedSplit(folds.of_sources(names[~inside], INNER_FOLDS))
            # In its own axes a quadratic penalty is the same, and the fit takes a tenth.
            model = make_pipeline(
                StandardScaler(), PCA(svd_solver="full"), LogisticRegression(max_iter=2000)
            )
            search = GridSearchCV(
                model, {"logisticregression__C": INVERSE_REGULARISATION}, cv=inner
            )
            search.fit(x[~inside], actions[~inside])
            hits[inside, repeat] = search.predict(x[inside]) == actions[inside]
    return hits


def compare(
    model: str, segments: list[str], clips: pd.DataFrame, sounds: list[np.ndarray], repeats: int
) -> dict[str, dict[str, dict]]:
    """Return figures by value of `segments`; clips: columns action and source_id, as the sounds."""
    sources = clips.source_id.to_numpy()
    figures: dict[str, dict[str, dict]] = {}
    first: np.ndarray | None = None
    for each in segments:
        x = summaries(model, each, sounds)
        hits = held_out_hits(x, clips.action.to_numpy(), sources, repeats)
        figures[each] = {"accuracy": intervals.interval(hits, sources)}
        if first is None:
            first = hits
        else:
            # The same folds: a repeat is compared with its own.
            difference = hits.astype(float) - first
            figures[each]["difference"] = intervals.interval(difference, sources)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory or hub name of an audio model")
    parser.add_argument("--segments", nargs="+", default=["pooled", "windows"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    rows = list(shards.iter_rows(layout.AUDIO, ["flac"], LABELLED))
    table = shards.read_table(layout.CLIPS, ["clip_id", "action", "source_id"]).to_pandas()
    clips = table.set_index("clip_id").loc[[row["clip_id"] for row in rows]]
    sounds = [codecs.decode_flac(row["flac"]) for row in rows]
    figures = compare(arguments.model, arguments.segments, clips, sounds, arguments.repeats)
    for name, of_segments in figures.items():
        for key, value in of_segments.items():
            mean, low, high = (100 * value[k] for k in ("mean", "ci95_low", "ci95_high"))
            print(f"{name}, {key}: {mean:.1f} [{low:.1f}, {high:.1f}]")
    if arguments.out:
        atomic.write_json(arguments.out, {"repeats": arguments.repeats} | figures)


if __name__ == "__main__":
    main()
