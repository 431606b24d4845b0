"""Train and score the action classifier under one condition: what audio it has in training and at test.

Reads    data/video_features/{rgb,flow}, and data/audio_features where the condition uses audio
Writes   data/predictions/<condition>.parquet, a row per seed and validation or test clip:
             seed           int32
             clip_id, split, action, source_id   string
             predicted      string     the most probable action
             probabilities  tensor float32 [actions], in the order of the schema's metadata `actions` (JSON)
         models/classifier/<condition>/seed-<n>.safetensors and config.json
         metrics/classifier/<condition>.json and, as DVC plots, metrics/plots/{loss,confusion}/<condition>.csv
The LSTM reads RGB and flow features, concatenated [T, 2D], with audio [T, 2D + components]; its last hidden state gives
the action.  Early stopping and all choices on validation; test is scored once.  `logistic` conditions use logistic
regression on mean and standard deviation over time instead: a weak LSTM would make any gain meaningless.
"""
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from stages.common import params, run, shards, statistics
from stages.common.errors import UserError
from stages.common.networks.classifier import ActionClassifier, matched_hidden, parameter_count
from stages.common.parallel import Failure, map_items, one_thread
from stages.common.training import RowFile, TrainingParams, fit, scratch

VIDEO = [Path("data/video_features/rgb"), Path("data/video_features/flow")]
AUDIO = Path("data/audio_features")
SPLITS = ("training", "validation", "test")


class Condition(params.Section):
    """One row of the main table: what audio stands in training and at validation and test."""

    model: Literal["lstm", "logistic"]
    train_audio: Literal["none", "real"]
    test_audio: Literal["none", "real", "zeros", "token"]
    modality_dropout: float = Field(ge=0, lt=1)
    match_parameters: bool
    depends_on: str


class NetworkParams(TrainingParams):
    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=0, le=4096)
    dropout: float = Field(ge=0, lt=1)


class LogisticParams(params.Section):
    inverse_regularisation: list[float] = Field(min_length=1)


class ClassifierParams(params.Section):
    seeds: int = Field(ge=1, le=100)
    lstm: NetworkParams
    logistic: LogisticParams
    conditions: dict[str, Condition]


class Data:
    """Labels and features of the labelled clips; features lie in `folder`, so an instance is cheap to send to a worker.

    clips: a row per clip with clip_id, split, action, source_id.  audio_row [N]: the clip's row in `audio`, -1 where it
    has no audible sound.
    """

    def __init__(self, folder: Path, with_audio: bool):
        shapes = [shards.tensor_shape(path, "features") for path in VIDEO]
        self.video = RowFile(folder / "video", (shapes[0][0], shapes[0][1] + shapes[1][1]))
        joined = shards.iter_joined(VIDEO, ["features"], SPLITS)
        names: list[str] = []
        self.video.write(self._noted(names, joined))
        index = pd.DataFrame(shards.ok_rows(VIDEO[0])).set_index("clip_id")
        self.clips = index.loc[names, ["split", "action", "source_id"]].reset_index()
        self.actions = sorted(self.clips.action[self.clips.split == "training"].unique())
        self._check()
        self.labels = torch.tensor(self.clips.action.map({action: i for i, action in enumerate(self.actions)}).to_numpy())
        self.audio: RowFile | None = None
        if with_audio:
            heard: list[str] = []
            rows = ((row,) for row in shards.iter_rows(AUDIO, ["features"], SPLITS) if row["clip_id"] in set(names))
            self.audio = RowFile(folder / "audio", shards.tensor_shape(AUDIO, "features")).write(self._noted(heard, rows))
            position = {name: i for i, name in enumerate(heard)}
            self.audio_row = torch.tensor([position.get(name, -1) for name in names])

    @staticmethod
    def _noted(names: list[str], rows):
        """Features of joined rows, concatenated over the last dimension, while `names` takes the clip ids."""
        for row in rows:
            names.append(row[0]["clip_id"])
            yield np.concatenate([part["features"] for part in row], axis=-1)

    def _check(self) -> None:
        if len(self.actions) < 2:
            raise UserError(f"the classifier needs training clips of at least two actions; there are: {self.actions}")
        for split in SPLITS:
            if not (self.clips.split == split).any():
                raise UserError(f"no {split} clip is left for the classifier; metrics/clips.json and metrics/frames.json say why")
        if strangers := sorted(set(self.clips.action) - set(self.actions)):
            raise UserError(f"{', '.join(strangers)}: validation or test clips, but no training clip; add some, or leave them out by clips.actions")

    def rows(self, *splits: str) -> torch.Tensor:
        """Indices of the clips of the given splits."""
        return torch.from_numpy(np.flatnonzero(self.clips.split.isin(splits)))

    def sound(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio features [n, T, A], zeros where there is none, and whether there is [n]."""
        where = self.audio_row[rows]
        audio = torch.zeros(len(rows), *self.audio.shape)
        audio[where >= 0] = self.audio.read(where[where >= 0].tolist())
        return audio, where >= 0


def train_seed(task: tuple[Data, Condition, NetworkParams, int, str]) -> dict:
    """Train one seed (runs in a worker): its weights, loss curve and probabilities [validation + test clips, actions]."""
    data, condition, p, seed, name = task
    one_thread()
    torch.manual_seed(seed)
    model = build(data, condition, p)
    dropped = torch.Generator().manual_seed(seed)

    def answer(rows: torch.Tensor, training: bool) -> torch.Tensor:
        video = data.video.read(rows.tolist())
        if data.audio is None:
            return model(video)
        audio, heard = data.sound(rows)
        if training:
            heard = heard & (torch.rand(len(rows), generator=dropped) >= condition.modality_dropout)
        elif condition.test_audio != "real":
            audio, heard = torch.zeros_like(audio), torch.zeros_like(heard)
        if condition.test_audio == "zeros":
            audio, heard = audio * heard[:, None, None], torch.ones_like(heard)
        return model(video, audio, heard)

    def loss(rows: torch.Tensor, training: bool = True) -> torch.Tensor:
        return cross_entropy(answer(rows, training), data.labels[rows])

    validation, scored = data.rows("validation"), data.rows("validation", "test")
    curve = fit(
        model, loss, data.rows("training"), lambda: float(np.average(
            [loss(rows, False).item() for rows in validation.split(512)], weights=[len(rows) for rows in validation.split(512)]
        )), p, seed, f"classifier/{name}",
    )  # fmt: skip
    with torch.inference_mode():
        probabilities = torch.cat([answer(rows, False).softmax(1) for rows in scored.split(512)])
    return {"weights": model.state_dict(), "curve": curve, "probabilities": probabilities.numpy()}


def build(data: Data, condition: Condition, p: NetworkParams) -> ActionClassifier:
    """The network of a condition, with the scale of the training clips' features."""
    video_width, audio_width = data.video.shape[-1], data.audio.shape[-1] if data.audio else 0
    hidden = p.hidden
    if condition.match_parameters:
        other = shards.tensor_shape(AUDIO, "features")[-1]
        hidden = matched_hidden(video_width, other, len(data.actions), p.hidden, p.projection)
    model = ActionClassifier(video_width, audio_width, len(data.actions), hidden, p.projection, p.dropout)
    training = data.rows("training")
    model.set_scale("video", *data.video.moments(training.tolist()))
    if data.audio:
        heard = data.audio_row[training]
        model.set_scale("audio", *data.audio.moments(heard[heard >= 0].tolist()))
    return model


def logistic_regression(data: Data, p: LogisticParams) -> np.ndarray:
    """Probabilities [validation + test clips, actions] of logistic regression (scikit-learn) on the mean and standard
    deviation over time of the video features, standardised; its regularisation is chosen on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def summary(split_rows: torch.Tensor) -> np.ndarray:
        parts = [data.video.read(rows.tolist()) for rows in split_rows.split(512)]
        return torch.cat([torch.cat([part.mean(1), part.std(1)], dim=1) for part in parts]).numpy()

    training, validation = data.rows("training"), data.rows("validation")
    x, y = summary(training), data.labels[training].numpy()
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x, y) for c in p.inverse_regularisation]
    held_out = summary(validation)
    best = max(models, key=lambda model: model.score(held_out, data.labels[validation].numpy()))
    return best.predict_proba(summary(data.rows("validation", "test")))


def score(data: Data, probabilities: np.ndarray) -> dict:
    """Figures of probabilities [seeds, validation + test clips, actions]: accuracy, top5, macro_f1 on test, and accuracy
    on validation; values are averaged over seeds per clip, intervals resample sources."""
    clips = data.clips.iloc[data.rows("validation", "test").numpy()]
    labels = data.labels[data.rows("validation", "test")].numpy()
    rank = (-probabilities).argsort(2, kind="stable").argsort(2)[:, np.arange(len(labels)), labels]  # [seeds, clips]
    figures = {}
    for name, split, hit in (("accuracy", "test", rank < 1), ("top5", "test", rank < 5), ("validation_accuracy", "validation", rank < 1)):
        chosen = (clips.split == split).to_numpy()
        per_seed = hit[:, chosen].mean(1)
        figures[name] = statistics.interval(hit[:, chosen].mean(0), clips.source_id[chosen].to_numpy()) | {
            "seeds": len(hit), "seed_sd": float(per_seed.std(ddof=1)) if len(hit) > 1 else 0.0,
        }  # fmt: skip
    test = (clips.split == "test").to_numpy()
    figures["macro_f1"] = statistics.macro_f1(
        labels[test], probabilities.argmax(2)[:, test], len(data.actions), clips.source_id[test].to_numpy()
    ) | {"seeds": len(rank)}
    return figures


def write_predictions(path: Path, data: Data, probabilities: np.ndarray) -> None:
    """A row per seed and validation or test clip (see the module's docstring)."""
    clips = data.clips.iloc[data.rows("validation", "test").numpy()]
    schema = pa.schema([
        ("seed", pa.int32()), *((name, pa.string()) for name in ("clip_id", "split", "action", "source_id", "predicted")),
        ("probabilities", shards.tensor(pa.float32(), len(data.actions))),
    ], {"actions": json.dumps(data.actions)})  # fmt: skip
    rows = [
        {"seed": seed, **clip, "predicted": data.actions[int(vector.argmax())], "probabilities": vector}
        for seed, vectors in enumerate(probabilities)
        for clip, vector in zip(clips.to_dict("records"), vectors, strict=True)
    ]
    shards.write_table(shards.to_table(rows, schema), path)


def write_plots(name: str, data: Data, curves: list[list[dict]], probabilities: np.ndarray) -> None:
    """CSV files for DVC's plots: losses by epoch and seed, and the test clips' true and predicted actions."""
    clips = data.clips.iloc[data.rows("validation", "test").numpy()]
    test = (clips.split == "test").to_numpy()
    loss = pd.DataFrame([{"seed": seed, **epoch} for seed, curve in enumerate(curves) for epoch in curve])
    loss = loss if len(loss) else pd.DataFrame(columns=["seed", "epoch", "training_loss", "validation_loss"])
    answers = [np.array(data.actions)[vectors[test].argmax(1)] for vectors in probabilities]
    confusion = pd.DataFrame({"actual": np.tile(clips.action[test], len(answers)), "predicted": np.concatenate(answers)})
    for kind, table in (("loss", loss), ("confusion", confusion)):
        path = Path("metrics/plots") / kind / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6f")


def main(stage: run.StageRun) -> None:
    p = params.load("classifier", ClassifierParams)
    name, condition = stage.item, p.conditions[stage.item]
    folder = Path("models/classifier") / name
    folder.mkdir(parents=True, exist_ok=True)
    with scratch() as files:
        data = Data(files, with_audio=condition.train_audio != "none")
        config = {"condition": condition.model_dump(), "actions": data.actions, "video_width": data.video.shape[-1]}
        curves: list[list[dict]] = []
        if condition.model == "logistic":
            probabilities = logistic_regression(data, p.logistic)[None]
            parameters = (2 * data.video.shape[-1] + 1) * len(data.actions)
        else:
            tasks = [(data, condition, p.lstm, seed, name) for seed in range(p.seeds)]
            results = list(stage.progress(map_items(train_seed, tasks, min(stage.workers, p.seeds)), p.seeds, "seed"))
            if failed := [result for result in results if isinstance(result, Failure)]:
                raise UserError(f"training {name} failed: {failed[0].reason}; the machine may lack memory, try --workers 1")
            for seed, result in enumerate(results):
                save_file(result["weights"], folder / f"seed-{seed}.safetensors")
            curves = [result["curve"] for result in results]
            probabilities = np.stack([result["probabilities"] for result in results])
            model = build(data, condition, p.lstm)
            parameters = parameter_count(model)
            config |= {"hidden": model.lstm.hidden_size, "projection": p.lstm.projection, "audio_width": len(model.token)}
        write_predictions(Path("data/predictions") / f"{name}.parquet", data, probabilities)
        write_plots(name, data, curves, probabilities)
        run.write_json(folder / "config.json", config)
        counts = data.clips.split.value_counts()
        stage.write_metrics({
            **score(data, probabilities), "parameters": parameters,
            "clips": {split: int(counts[split]) for split in SPLITS},
        })  # fmt: skip


if __name__ == "__main__":
    run.main(main, __doc__, "classifier", "condition", lambda: params.load("classifier", ClassifierParams).conditions)
