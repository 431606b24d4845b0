"""Predict AudioSet labels from generated audio features, through the pretrained AST.

Reads    data/generated/<architecture>, data/audio_features, data/audio (the real log-mel, which the decoder learns)
Writes   data/predicted_labels/<architecture>, a row per labelled clip:
             generated   tensor float16 [labels]  scores for the generated features, mean over seeds, by `head`
             real_path   tensor float16 [labels]  scores for the real features through the same path; 0 where inaudible
         models/label_predictor/decoder.safetensors and map.safetensors, metrics/figures/mel.png
         metrics/label_predictor.json: the same by either head, on validation and test
Two ways from [T, components] to AST's 527 labels (`label_predictor.head`), both fitted on audible training clips only:
    mel        a decoder back to log-mel in AST's input form, then the whole AST
    features   a ridge map from mean and deviation over time to AST's pooled output, then AST's classification head
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.torch import save_file

from stages.common import label_measures, media, params, run, shards
from stages.common.backbones import AudioBackbone
from stages.common.checkpoints import Checkpoint
from stages.common.errors import UserError
from stages.common.features import AUDIO, Features, noted
from stages.common.item_store import digest
from stages.common.networks.mel_decoder import MelDecoder
from stages.common.parallel import Failure, map_items, one_thread
from stages.common.training import RowFile, TrainingParams, fit, scratch

GENERATED = Path("data/generated")
PREFIX = {
    "validation": "generated",
    "mapping": "mapped",
}  # how the metrics name what an architecture generated
SOUND = Path("data/audio")
SPLITS = ("training", "unlabelled", "validation", "test")
LABELLED = ("training", "validation", "test")
HEADS = ("mel", "features")
JUDGED = ("validation", "mapping")  # architectures whose features are given labels


class DecoderParams(TrainingParams):
    hidden: int = Field(ge=1, le=8192)


class LabelPredictorParams(params.Section):
    head: Literal["mel", "features"]
    threshold: float = Field(gt=0, lt=1)
    ridge_penalties: list[float] = Field(min_length=1)
    decoder: DecoderParams


class AudioModel(params.Section):
    model: str


_ast: AudioBackbone  # one per worker process
_padding: (
    np.ndarray
)  # what AST's extractor puts behind the sound [mel bins]: not 0, because it normalises afterwards


def load_ast(model: str) -> None:
    global _ast, _padding
    one_thread()
    _ast = AudioBackbone(model)
    _padding = _ast.log_mel([np.zeros(1, np.float32)])[0][0, -1]


def real_log_mel(flac: bytes) -> np.ndarray:
    """A clip's sound in AST's input form [max_length, mel bins] (runs in a worker)."""
    return _ast.log_mel([media.decode_flac(flac)])[0][0]


def score_log_mel(log_mel: np.ndarray) -> np.ndarray:
    """AST's label scores [n, labels] of log-mels [n, frames, mel bins], padded to its input (runs in a worker)."""
    padded = np.tile(_padding, (len(log_mel), _ast.config.max_length, 1))
    padded[:, : log_mel.shape[1]] = log_mel
    return np.concatenate([_ast.encode(one[None])[2] for one in padded])


def fit_decoder(
    data: Features,
    mel: RowFile,
    mel_row: torch.Tensor,
    learned: torch.Tensor,
    held_out: torch.Tensor,
    p: DecoderParams,
) -> MelDecoder:
    """Train the decoder on real features and real log-mels of audible training clips; early stopping on validation."""
    torch.manual_seed(0)
    steps, width = data.audio.shape
    model = MelDecoder(steps, width, p.hidden, *mel.shape)
    mean, std = data.audio.moments(data.audio_row[learned].tolist())
    model.mean.copy_(mean)
    model.std.copy_(std)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(
            model(data.sound(rows)[0]), mel.read(mel_row[rows].tolist())
        )

    files = [
        data.audio.digest(),
        mel.digest(),
        data.audio_row.tolist(),
        mel_row.tolist(),
        held_out.tolist(),
    ]
    checkpoint = Checkpoint(digest(*files))
    validate = lambda: float(np.mean([loss(part).item() for part in held_out.split(64)]))  # noqa: E731
    fit(model, loss, learned, validate, p, 0, "label_predictor", checkpoint=checkpoint)
    return model


def summarise(audio: torch.Tensor) -> torch.Tensor:
    """[n, T, A] -> mean and deviation over time, and 1: [n, 2A + 1]."""
    return torch.cat([audio.mean(1), audio.std(1), torch.ones(len(audio), 1)], dim=1)


def fit_map(
    data: Features,
    pooled: dict[int, np.ndarray],
    learned: torch.Tensor,
    held_out: torch.Tensor,
    penalties: list[float],
) -> torch.Tensor:
    """Ridge weights [2A + 1, D] to AST's pooled output, the penalty chosen on validation."""

    def parts(rows: torch.Tensor):
        for part in rows.split(256):
            yield (
                summarise(data.sound(part)[0]).double(),
                torch.from_numpy(np.stack([pooled[row] for row in part.tolist()])).double(),
            )

    products = sum(x.T @ x for x, _ in parts(learned))
    targets = sum(x.T @ y for x, y in parts(learned))
    candidates = [
        torch.linalg.solve(
            products + penalty * torch.eye(len(products), dtype=torch.float64), targets
        )
        for penalty in penalties
    ]
    return (
        min(
            candidates,
            key=lambda weights: sum(
                ((x @ weights - y) ** 2).sum().item() for x, y in parts(held_out)
            ),
        )
        .float()
        .contiguous()
    )


class Architectures(params.Section):
    architectures: dict[str, str]


def main(stage: run.StageRun) -> None:
    p = params.load("label_predictor", LabelPredictorParams)
    model = params.load("audio_features", AudioModel, only=True).model
    trained = params.load("generator", Architectures, only=True).architectures
    architectures = [name for name in JUDGED if name in trained]
    with scratch() as files:
        data = Features(files, SPLITS, AUDIO)
        learned, held_out = (
            rows[data.audio_row[rows] >= 0]
            for rows in (data.rows("training", "unlabelled"), data.rows("validation"))
        )
        if not len(learned) or not len(held_out):
            raise UserError(
                "the label predictor needs audible training and validation clips; metrics/audio.json says what became of the sound"
            )
        mel, mel_row = real_mels(stage, data, files, model)
        decoder = fit_decoder(data, mel, mel_row, learned, held_out, p.decoder)
        real_scores, pooled = real_labels(data)
        weights = fit_map(data, pooled, learned, held_out, p.ridge_penalties)
        save_models(decoder, weights)
        rows = data.rows(*LABELLED)
        generated = {name: read_generated(files, name, data, rows) for name in architectures}
        scores = predict_by_map(data, rows, generated, weights, model)
        asked = (
            rows if p.head == "mel" else data.rows("validation", "test")
        )  # AST's pass over each mel takes long
        scores |= predict_by_mel(stage, data, rows, asked, generated, decoder, model)
        for name in architectures:
            write_labels(
                name, data, rows, scores[f"{PREFIX[name]}_{p.head}"], scores[f"real_path_{p.head}"]
            )
        label_measures.draw_mels(
            Path("metrics/figures/mel.png"),
            data,
            rows,
            generated["validation"],
            decoder,
            mel,
            mel_row,
        )
    stage.write_metrics(
        label_measures.measure(data, rows, scores, real_scores, p.threshold)
        | {"head": p.head, "threshold": p.threshold}
    )


def read_generated(folder: Path, architecture: str, data: Features, rows: torch.Tensor) -> RowFile:
    """What an architecture generated [seeds, T, A] for the clips `rows`, in a file."""
    source, names = GENERATED / architecture, list[str]()
    file = RowFile(folder / f"generated-{architecture}", shards.tensor_shape(source, "features"))
    file.write(noted(names, shards.iter_rows(source, ["features"], LABELLED), "features"))
    if names != data.clips.clip_id[rows.numpy()].tolist():
        raise UserError(
            f"{source} holds other clips than data/video_features: run `dvc repro generator@{architecture}`"
        )
    return file


def real_mels(
    stage: run.StageRun, data: Features, folder: Path, model: str
) -> tuple[RowFile, torch.Tensor]:
    """Log-mels of all audible clips in a file, cut to the frames that hold sound, and each clip's row there (-1: none)."""
    ast = AudioBackbone(model)
    wanted = {name: i for i, name in enumerate(data.clips.clip_id)}
    mel_row = torch.full((len(wanted),), -1)
    found = (row for row in shards.iter_rows(SOUND, ["flac"], SPLITS) if row["clip_id"] in wanted)
    names: list[str] = []
    sounds = noted(names, found, "flac")
    longest = max(
        len(media.decode_flac(row["flac"]))
        for row in shards.iter_rows(SOUND, ["flac"], ["validation"])
    )
    frames = ast.log_mel([np.zeros(longest, np.float32)])[1][0]
    file = RowFile(folder / "mel", (frames, ast.config.num_mel_bins))
    mels = stage.progress(
        map_items(real_log_mel, sounds, stage.workers, initializer=load_ast, initargs=(model,)),
        timing="computing_s",
    )
    file.write(_checked(mel)[:frames] for mel in mels)
    mel_row[[wanted[name] for name in names]] = torch.arange(len(names))
    return file, mel_row


def real_labels(data: Features) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """AST's label scores and pooled output of the real sound, by row."""
    position = {name: i for i, name in enumerate(data.clips.clip_id)}
    scores, pooled = {}, {}
    for row in shards.iter_rows(AUDIO, ["label_scores", "pooled"], SPLITS):
        if row["clip_id"] in position:
            scores[position[row["clip_id"]]] = row["label_scores"].astype(np.float32)
            pooled[position[row["clip_id"]]] = row["pooled"].astype(np.float32)
    return scores, pooled


def predict_by_map(
    data: Features,
    rows: torch.Tensor,
    generated: dict[str, RowFile],
    weights: torch.Tensor,
    model: str,
) -> dict[str, np.ndarray]:
    """Label scores [clips, labels] by the head `features`: of what each architecture generated (mean over seeds) and of the
    real features (0 where there is no sound)."""
    ast = AudioBackbone(model)

    def scores(audio: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return (
                ast.model.classifier((summarise(audio) @ weights).to(ast.device))
                .sigmoid()
                .cpu()
                .numpy()
            )

    found = {
        f"{PREFIX[name]}_features": np.concatenate(
            [
                scores(file.read(part.tolist()).flatten(0, 1))
                .reshape(len(part), file.shape[0], -1)
                .mean(1)
                for part in torch.arange(len(rows)).split(256)
            ]
        )
        for name, file in generated.items()
    }
    heard = (data.audio_row[rows] >= 0).numpy()[:, None]
    return found | {
        "real_path_features": np.concatenate(
            [scores(data.sound(part)[0]) for part in rows.split(256)]
        )
        * heard
    }


def predict_by_mel(
    stage: run.StageRun,
    data: Features,
    rows: torch.Tensor,
    asked: torch.Tensor,
    generated: dict[str, RowFile],
    decoder: MelDecoder,
    model: str,
) -> dict[str, np.ndarray]:
    """The same by the head `mel`, for the clips `asked`; zeros for the others."""
    position = {row: i for i, row in enumerate(rows.tolist())}
    places = [position[row] for row in asked.tolist()]

    def mels():
        for place, row in zip(places, asked.tolist(), strict=True):
            made = [file.read([place])[0] for file in generated.values()]
            with torch.inference_mode():
                yield decoder(torch.cat([*made, data.sound(torch.tensor([row]))[0]])).numpy()

    through_ast = map_items(
        score_log_mel, mels(), stage.workers, initializer=load_ast, initargs=(model,)
    )
    answers = np.stack(
        [
            _checked(scores)
            for scores in stage.progress(through_ast, len(asked), "clip", "computing_s")
        ]
    )
    found, start = {}, 0
    for name, size in [
        *((f"{PREFIX[name]}_mel", file.shape[0]) for name, file in generated.items()),
        ("real_path_mel", 1),
    ]:
        found[name] = np.zeros((len(rows), answers.shape[-1]), np.float32)
        found[name][places] = answers[:, start : start + size].mean(1)
        start += size
    found["real_path_mel"] *= (data.audio_row[rows] >= 0).numpy()[:, None]
    return found


def _checked(result):
    if isinstance(result, Failure):
        raise UserError(
            f"predicting labels failed: {result.reason}; the machine may lack memory, try --workers 1"
        )
    return result


def save_models(decoder: MelDecoder, weights: torch.Tensor) -> None:
    folder = Path("models/label_predictor")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(decoder.state_dict(), folder / "decoder.safetensors")
    save_file({"weights": weights}, folder / "map.safetensors")


def write_labels(
    architecture: str, data: Features, rows: torch.Tensor, generated: np.ndarray, real: np.ndarray
) -> None:
    """An output directory (see the module's docstring)."""
    clips = [data.clips.iloc[row].to_dict() for row in rows.tolist()]
    index = [{**clip, "item_key": None, "status": "ok", "reason": ""} for clip in clips]
    schema = pa.schema(
        [
            (name, shards.tensor(pa.float16(), generated.shape[1]))
            for name in ("generated", "real_path")
        ]
    )
    table = (
        {**clip, "generated": generated[i], "real_path": real[i]} for i, clip in enumerate(clips)
    )
    shards.write(Path("data/predicted_labels") / architecture, schema, table, index, "")


if __name__ == "__main__":
    run.main(main, __doc__, "label_predictor")
