"""Search the hyper-parameters of every condition, with the same budget for each.

    python -m tools.search [condition ...]

It is no part of the default pipeline. It writes metrics/experiments/search.csv, a row per
condition, and the stamp of its run, search.json (audio_from_video/reporting/stamps.py).

Random search (Bergstra & Bengio 2012): `search.draws` settings, the same for all conditions, with
params.yaml's own as the first. Each is trained with one seed without each fold of training sources
(`classifier.heads.folds`; validation decides when a training ends), and the highest accuracy on the
clips that were held out (the lower loss where equal) decides. The best setting is then trained with
all seeds and scored on test once, beside params.yaml's own. Logistic regression and support vector
machines choose by themselves, in the same way: their candidates are joined by the first of
`search.inverse_regularisation`, until there are as many as draws. Reads what `classifier` reads:
run `dvc repro` first.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.heads import fit_heads
from audio_from_video.classification.search_settings import SearchParams
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.classification.targets import training_targets
from audio_from_video.classification.training import TrainingTask, train_one
from audio_from_video.evaluation import intervals
from audio_from_video.reporting import stamps
from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import default_workers, one_thread
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout, predictions
from audio_from_video.storage.predictions import Predictions
from audio_from_video.storage.row_file import scratch
from tools.experiments import INTERVAL_COLUMNS, machine

OWN = "params.yaml's own"  # what the table says of params.yaml's setting
Setting = dict[str, int | float]


@dataclass(frozen=True)
class SearchResult:
    """What the search of a condition gives.

    setting: the best one; {} is params.yaml's own.
    trainings: its predictions, a training each.
    qualities: of every setting on held-out training clips, params.yaml's own first.
    draws: how many settings these stand for.
    """

    condition: str
    setting: Setting
    trainings: list[Predictions]
    qualities: list[tuple[float, float]]
    draws: int


def draw_settings(p: SearchParams) -> list[Setting]:
    """Return the settings to try: {}, which is params.yaml's own, and random ones."""
    rng = np.random.default_rng(p.seed)
    settings: list[Setting] = [{}]
    for _ in range(p.draws - 1):
        setting = {}
        for key, values in p.space.items():
            setting[key] = values[rng.integers(len(values))]
        settings.append(setting)
    return settings


def training_task(
    data: ActionData,
    p: ClassifierParams,
    setting: Setting,
    seed: int,
    name: str,
    left_out: int | None = None,
) -> TrainingTask:
    """Return a training on all training clips, which predicts validation and test.

    left_out: a fold of training clips that it predicts instead, and does not learn from.
    """
    lstm = p.lstm.model_copy(update=setting)
    p = p.model_copy(update={"lstm": lstm})
    training = data.participants("training")
    predicted = data.participants("validation", "test")
    if left_out is not None:
        in_fold = data.generator_fold(p.heads.folds)[training] == left_out
        predicted = training[in_fold]
        training = training[~in_fold]
    labelled = training[data.uses_label[training]]
    training_indices, targets = training_targets(
        data, labelled, p.lstm.label_smoothing, p.teaching, seed
    )
    return TrainingTask(
        data=data,
        p=p,
        seed=seed,
        name=name,
        training_indices=training_indices,
        targets=targets,
        predicted_indices=predicted,
        missing_rates=[],
    )


def train_all(tasks: list[TrainingTask], title: str) -> list[Predictions]:
    """Return the predictions of each training, in the tasks' order.

    Raises UserError when a training fails.
    """
    trainings = parallel.map_items(train_one, tasks, default_workers())
    predicted = []
    for task, result in zip(tasks, tqdm(trainings, title, len(tasks)), strict=True):
        require_result(result, f"training {task.name}")
        clips = task.data.clips.iloc[task.predicted_indices.numpy()].reset_index(drop=True)
        predicted.append(Predictions(clips, task.data.actions, result.probabilities[None]))
    return predicted


def quality(held_out: list[Predictions]) -> tuple[float, float]:
    """Return accuracy and mean log likelihood of the true action: higher is better.

    held_out: predictions of the clips of each fold.
    """
    hits = []
    log_likelihoods = []
    for predicted in held_out:
        clips = np.arange(len(predicted.clips))
        likelihood = predicted.probabilities[0][clips, predicted.labels]
        log_likelihoods.append(np.log(np.maximum(likelihood, 1e-9)))
        hits.append(predicted.hits())
    return float(np.concatenate(hits).mean()), float(np.concatenate(log_likelihoods).mean())


def table_row(result: SearchResult) -> dict:
    """Return a condition's row: test accuracy, and the difference to params.yaml's own.

    Raises UserError when the pipeline scored the condition on other clips.
    """
    name = result.condition
    tests = [predicted.of("test") for predicted in result.trainings]
    clips = tests[0].clips
    hits = np.mean([test.hits() for test in tests], axis=0)
    own = predictions.read(name).of("test")
    if own.clips.clip_id.tolist() != clips.clip_id.tolist():
        raise UserError(f"{name} was scored on other clips: run `dvc repro classifier@{name}`")

    sources = clips.source_id.to_numpy()
    figures = {
        "accuracy": intervals.interval(hits, sources),
        "gain": intervals.paired_difference(hits, own.hits(), sources),
    }
    setting = ", ".join(f"{key} {value}" for key, value in result.setting.items())
    row = {
        "condition": name,
        "draws": result.draws,
        "chosen setting": setting or OWN,
        "held out, chosen %": f"{100 * max(result.qualities)[0]:.1f}",
        f"held out, {OWN} %": f"{100 * result.qualities[0][0]:.1f}",
    }
    for key, figure in figures.items():
        for suffix, part in INTERVAL_COLUMNS.items():
            row[f"{key}{suffix}"] = figure[part]
    row["clips"] = len(clips)
    row["sources"] = clips.source_id.nunique()
    row["seeds"] = sum(len(test.probabilities) for test in tests)
    row["machine"] = machine()
    return row


def search_heads(
    name: str, p: ClassifierParams, candidates: list[float], draws: int
) -> SearchResult:
    """Search a condition without LSTM and return its best setting.

    params.yaml's own candidates are tried together, then others alone, up to `draws` in all.
    """
    model = p.conditions[name].model
    params_of_model = getattr(p, model)
    own = params_of_model.inverse_regularisation
    others = candidates[: max(0, draws - len(own))]
    settings = [own, *([value] for value in others)]
    trainings = []
    qualities = []
    with scratch() as folder:
        data = ActionData(folder, p.conditions[name], p.labels_per_action)
        for values in tqdm(settings, name):
            tried = params_of_model.model_copy(update={"inverse_regularisation": values})
            result = fit_heads(data, p.model_copy(update={model: tried, "missing_rates": []}))
            trainings.append(result.predictions)
            qualities.append((result.setting.accuracy or 0.0, 0.0))
    best = qualities.index(max(qualities))
    setting: Setting = {}
    if best:
        setting = {"inverse_regularisation": settings[best][0]}
    return SearchResult(name, setting, [trainings[best]], qualities, len(own) + len(others))


def search_lstm(
    names: list[str], p: ClassifierParams, settings: list[Setting]
) -> list[SearchResult]:
    """Try all settings on conditions with an LSTM, and train the best with all seeds.

    Returns a result per condition, in the order of `names`.
    """
    if not names:
        return []
    with scratch() as folder:
        data = {}
        for name in names:
            own_folder = Path(tempfile.mkdtemp(dir=folder))
            data[name] = ActionData(own_folder, p.conditions[name], p.labels_per_action)

        folds = range(p.heads.folds)
        tasks = []
        for name in names:
            for setting in settings:
                for fold in folds:
                    tasks.append(training_task(data[name], p, setting, 0, name, fold))
        held_out = train_all(tasks, "search")
        qualities = []
        for start in range(0, len(held_out), len(folds)):
            qualities.append(quality(held_out[start : start + len(folds)]))

        # The tasks' order: all settings of the first condition, then of the next one.
        best = {}
        qualities_of = {}
        for i, name in enumerate(names):
            own = qualities[i * len(settings) : (i + 1) * len(settings)]
            qualities_of[name] = own
            best[name] = settings[own.index(max(own))]

        final_tasks = []
        for name in names:
            for seed in range(p.seeds):
                final_tasks.append(training_task(data[name], p, best[name], seed, name))
        final = train_all(final_tasks, "best")

    results = []
    for i, name in enumerate(names):
        trainings = final[i * p.seeds : (i + 1) * p.seeds]
        results.append(SearchResult(name, best[name], trainings, qualities_of[name], len(settings)))
    return results


def search(names: list[str]) -> pd.DataFrame:
    """Search the given conditions of params.yaml (none: all) and return the table.

    Raises UserError when params.yaml does not have a condition.
    """
    p = params.load("classifier", ClassifierParams)
    search_params = params.load("search", SearchParams)
    unknown = sorted(set(names) - set(p.conditions))
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: no condition of params.yaml; "
            f"there are {', '.join(p.conditions)}"
        )
    names = names or list(p.conditions)
    heads = [name for name in names if p.conditions[name].model != "lstm"]
    lstm = [name for name in names if p.conditions[name].model == "lstm"]

    results = []
    for name in heads:
        candidates = search_params.inverse_regularisation
        results.append(search_heads(name, p, candidates, search_params.draws))
    results += search_lstm(lstm, p, draw_settings(search_params))
    results.sort(key=lambda result: names.index(result.condition))
    return pd.DataFrame([table_row(result) for result in results])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("condition", nargs="*", help="conditions to search (default: all)")
    names = parser.parse_args().condition
    one_thread()  # as in the stages: the same bytes everywhere
    path = layout.EXPERIMENTS / "search.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        stamp = stamps.begin(machine(), [])
        table = search(names)
        targets = [f"classifier@{condition}" for condition in table["condition"]]
        table.to_csv(path, index=False, float_format="%.6f")
        stamps.write(path.stem, {path.stem: stamps.finish_in_workspace(stamp, targets)})
    except UserError as error:
        sys.exit(f"search: error: {error}")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
