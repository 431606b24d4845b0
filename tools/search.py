"""Search the hyper-parameters of every row, with the same budget for each (outside the default pipeline).

    python -m tools.search [condition ...]      writes metrics/experiments/search.csv: a row per condition

Random search (Bergstra & Bengio 2012): `search.draws` settings, the same for all rows, params.yaml's own as the first; one
seed each, and the highest validation accuracy (the lower loss where equal) decides.  The chosen setting is then trained with
all seeds and scored on test once, beside params.yaml's own.  Logistic regression has one hyper-parameter: to the candidates of
`classifier.logistic` come the first of `search.inverse_regularisation`, until there are as many as draws.  Reads what
`classifier` reads: run `dvc repro` first.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.logistic import logistic_regression
from audio_from_video.classification.settings import ClassifierParams, Condition
from audio_from_video.classification.targets import lessons
from audio_from_video.classification.training import Training, train_one
from audio_from_video.evaluation import intervals
from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import default_workers, one_thread
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import predictions
from audio_from_video.storage.predictions import Predictions
from audio_from_video.storage.row_file import scratch
from tools.experiments import machine


class SearchParams(params.Section):
    draws: int = Field(ge=1)
    seed: int
    space: dict[str, list[int | float]] = Field(min_length=1)
    inverse_regularisation: list[float]


def draw(p: SearchParams) -> list[dict]:
    """The settings to try; {} is params.yaml's own."""
    rng = np.random.default_rng(p.seed)
    return [{}] + [
        {key: values[rng.integers(len(values))] for key, values in p.space.items()}
        for _ in range(p.draws - 1)
    ]


def training(
    data: ActionData, condition: Condition, p: ClassifierParams, setting: dict, seed: int, name: str
) -> Training:
    """A training of a row on all its training clips, asked for validation and test."""
    changed = p.model_copy(update={"lstm": p.lstm.model_copy(update=setting)})
    taught = data.rows("training")
    learned, targets = lessons(
        data, condition, taught[data.taught[taught]], changed.lstm.label_smoothing, p.teaching, seed
    )
    return Training(
        data, condition, changed, seed, learned, targets, data.rows("validation", "test"), name, []
    )


def train_all(tasks: list[Training], what: str) -> list[Predictions]:
    """What each training answers."""
    answers = []
    for task, result in zip(
        tasks,
        tqdm(parallel.map_items(train_one, tasks, default_workers()), what, len(tasks)),
        strict=True,
    ):
        if isinstance(result, Failure):
            raise UserError(
                f"training {task.name} failed: {result.reason}; the machine may lack memory, try WORKERS=1"
            )
        clips = task.data.clips.iloc[task.asked.numpy()].reset_index(drop=True)
        answers.append(Predictions(clips, task.data.actions, result["probabilities"][None]))
    return answers


def quality(found: Predictions) -> tuple[float, float]:
    """Validation accuracy and negative cross-entropy: higher is better."""
    part = found.of("validation")
    likelihood = part.probabilities[0][np.arange(len(part.clips)), part.labels]
    return float(part.hits().mean()), float(np.log(np.maximum(likelihood, 1e-9)).mean())


def row_of(
    name: str,
    setting: dict,
    chosen: list[Predictions],
    tried: list[tuple[float, float]],
    draws: int,
) -> dict:
    """A condition's row of the table: the chosen setting's test accuracy, and its difference to params.yaml's own.
    tried: quality of each setting, params.yaml's own first; draws: how many these stand for."""
    test = [found.of("test") for found in chosen]
    hits, clips = np.mean([part.hits() for part in test], axis=0), test[0].clips
    own = predictions.read(name).of("test")
    if own.clips.clip_id.tolist() != clips.clip_id.tolist():
        raise UserError(f"{name} was scored on other clips: run `dvc repro classifier@{name}`")
    figures = {
        "accuracy": intervals.interval(hits, clips.source_id.to_numpy()),
        "gain": intervals.paired_difference(hits, own.hits(), clips.source_id.to_numpy()),
    }
    ends = {"": "mean", "_low": "ci95_low", "_high": "ci95_high"}
    return {
        "condition": name,
        "draws": draws,
        "chosen setting": ", ".join(f"{k} {v}" for k, v in setting.items()) or "params.yaml's own",
        "validation, chosen %": f"{100 * max(tried)[0]:.1f}",
        "validation, params.yaml's own %": f"{100 * tried[0][0]:.1f}",
        **{
            f"{key}{end}": figure[part]
            for key, figure in figures.items()
            for end, part in ends.items()
        },
        "clips": len(clips),
        "sources": clips.source_id.nunique(),
        "seeds": sum(len(part.probabilities) for part in test),
        "machine": machine(),
    }


def search_logistic(name: str, p: ClassifierParams, candidates: list[float], draws: int) -> dict:
    """A row without LSTM: params.yaml's own candidates together, then others alone."""
    own = p.logistic.inverse_regularisation
    settings = [own, *([value] for value in candidates[: max(0, draws - len(own))])]
    with scratch() as folder:
        data = ActionData(folder, p.conditions[name], p.labels_per_action)
        found = []
        for values in tqdm(settings, name):
            changed = {
                "logistic": p.logistic.model_copy(update={"inverse_regularisation": values}),
                "missing_rates": [],
            }
            found.append(
                logistic_regression(data, p.conditions[name], p.model_copy(update=changed), name)[0]
            )
    tried = [quality(answers) for answers in found]
    best = tried.index(max(tried))
    setting = {"inverse_regularisation": settings[best][0]} if best else {}
    return row_of(name, setting, [found[best]], tried, len(own) + len(settings) - 1)


def search(names: list[str], p: ClassifierParams, settings: list[dict]) -> list[dict]:
    """Try all settings on all rows with an LSTM, then train the best of each with all seeds."""
    if not names:
        return []
    with scratch() as folder:
        data = {
            name: ActionData(
                Path(tempfile.mkdtemp(dir=folder)), p.conditions[name], p.labels_per_action
            )
            for name in names
        }

        def tasks(asked: list[tuple[str, dict, int]]) -> list[Training]:
            return [
                training(data[name], p.conditions[name], p, setting, seed, name)
                for name, setting, seed in asked
            ]

        tried = [(name, setting, 0) for name in names for setting in settings]
        scores = [quality(found) for found in train_all(tasks(tried), "search")]
        by_name = {
            name: scores[i * len(settings) : (i + 1) * len(settings)]
            for i, name in enumerate(names)
        }
        best = {name: settings[found.index(max(found))] for name, found in by_name.items()}
        final = train_all(
            tasks([(name, best[name], seed) for name in names for seed in range(p.seeds)]), "best"
        )
        return [
            row_of(
                name,
                best[name],
                final[i * p.seeds : (i + 1) * p.seeds],
                by_name[name],
                len(settings),
            )
            for i, name in enumerate(names)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("condition", nargs="*", help="rows to search (default: all)")
    asked = parser.parse_args().condition
    one_thread()  # as in the stages: the same bytes everywhere
    try:
        p = params.load("classifier", ClassifierParams)
        if unknown := sorted(set(asked) - set(p.conditions)):
            raise UserError(
                f"{', '.join(unknown)}: no condition of params.yaml; there are {', '.join(p.conditions)}"
            )
        names, searched = asked or list(p.conditions), params.load("search", SearchParams)
        rows = [
            search_logistic(name, p, searched.inverse_regularisation, searched.draws)
            for name in names
            if p.conditions[name].model == "logistic"
        ]
        rows += search(
            [name for name in names if p.conditions[name].model == "lstm"], p, draw(searched)
        )
    except UserError as error:
        sys.exit(f"search: error: {error}")
    table = pd.DataFrame(sorted(rows, key=lambda row: names.index(row["condition"])))
    path = Path("metrics/experiments/search.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
