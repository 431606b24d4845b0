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

from audio_from_video.evaluation import labels as label_evaluation
from audio_from_video.learning.features import AUDIO, Features, noted
from audio_from_video.meaning.mel_head import (
    DecoderParams,
    MelDecoder,
    fit_decoder,
    predict_by_mel,
    real_mels,
)
from audio_from_video.meaning.pooled_head import fit_map, predict_by_map
from audio_from_video.reporting import mel_figure
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, LABELLED, SEMANTIC_VALIDATION, SPLITS
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile, scratch


class LabelPredictorParams(params.Section):
    head: Literal["mel", "features"]
    threshold: float = Field(gt=0, lt=1)
    ridge_penalties: list[float] = Field(min_length=1)
    decoder: DecoderParams


def main(stage: stage_run.StageRun) -> None:
    p = params.load("label_predictor", LabelPredictorParams)
    model = params.read("audio_features", "model", str)
    trained = params.read("generator", "architectures", dict[str, str])
    architectures = [name for name in ARCHITECTURES if name in trained]
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
                name,
                data,
                rows,
                scores[f"{ARCHITECTURES[name].generated}_{p.head}"],
                scores[f"real_path_{p.head}"],
            )
        mel_figure.draw_mels(
            layout.MEL_FIGURE,
            data,
            rows,
            generated[SEMANTIC_VALIDATION],
            decoder,
            mel,
            mel_row,
        )
    stage.write_metrics(
        label_evaluation.measure(data, rows, scores, real_scores, p.threshold)
        | {"head": p.head, "threshold": p.threshold}
    )


def read_generated(folder: Path, architecture: str, data: Features, rows: torch.Tensor) -> RowFile:
    """What an architecture generated [seeds, T, A] for the clips `rows`, in a file."""
    source, names = layout.generated(architecture), list[str]()
    file = RowFile(folder / f"generated-{architecture}", shards.tensor_shape(source, "features"))
    file.write(noted(names, shards.iter_rows(source, ["features"], LABELLED), "features"))
    if names != data.clips.clip_id[rows.numpy()].tolist():
        raise UserError(
            f"{source} holds other clips than data/video_features: run `dvc repro generator@{architecture}`"
        )
    return file


def real_labels(data: Features) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """AST's label scores and pooled output of the real sound, by row."""
    position = {name: i for i, name in enumerate(data.clips.clip_id)}
    scores, pooled = {}, {}
    for row in shards.iter_rows(AUDIO, ["label_scores", "pooled"], SPLITS):
        if row["clip_id"] in position:
            scores[position[row["clip_id"]]] = row["label_scores"].astype(np.float32)
            pooled[position[row["clip_id"]]] = row["pooled"].astype(np.float32)
    return scores, pooled


def save_models(decoder: MelDecoder, weights: torch.Tensor) -> None:
    folder = layout.LABEL_PREDICTOR
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
    shards.write(layout.predicted_labels(architecture), schema, table, index, "")


if __name__ == "__main__":
    stage_run.main(main, __doc__, "label_predictor")
