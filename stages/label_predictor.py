"""Predict AudioSet labels from generated audio features, through the pretrained audio model.

Reads    data/generated/<architecture>, data/audio_features, data/audio (the real log-mel, which
         the decoder learns)
Writes   data/predicted_labels/<architecture>, a row per labelled clip:
             generated   tensor float16 [labels]  scores for the generated features by `head`, mean
                                                  over seeds
             real_path   tensor float16 [labels]  scores for the real features through the same
                                                  path; 0 where inaudible
         data/log_mels, a row per test clip with log-mels for the report's clip browser, as JPEG
         (reporting/mel_picture.py):
             real              binary  of the real sound; null where inaudible
             <architecture>    binary  decoded from the features of its generator's first seed
         models/label_predictor/decoder.safetensors, config.json (its sizes) and map.safetensors
         metrics/figures/mel.png
         metrics/label_predictor.json: the same by either head, on validation and test; `map`: the
         penalty of the ridge map, and by which errors of held-out sources it was chosen
Two ways lead from [T, components] to AudioSet's 527 labels (`label_predictor.head`), both fitted on
audible training clips only:
    mel        a decoder back to log-mel in AST's input form, then the whole AST
    features   a ridge map from mean and deviation over time to the audio model's pooled output,
               then its classification head (CLAP: cosines with the labels' names); its penalty
               is chosen by cross-validation over the sources of these clips
Where the labels are not AST's, the head `mel` is left out, and its decoder, which learns the
published AST's log-mel, serves the pictures alone.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import is_ast
from audio_from_video.clipset import folds
from audio_from_video.evaluation import labels as label_evaluation
from audio_from_video.learning.features import Features, iter_column
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.meaning.mel_head import (
    MelDecoder,
    MelHead,
    RealMels,
    fit_decoder,
    real_mels,
)
from audio_from_video.meaning.pooled_head import PooledHead, fit_map
from audio_from_video.meaning.settings import LabelPredictorParams
from audio_from_video.reporting import mel_picture
from audio_from_video.reporting.mel_figure import MelColumn, draw_mels
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, LABELLED, SPLITS
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile, scratch

CLIPS_IN_FIGURE = 4


def main(stage: stage_run.StageRun) -> None:
    p = params.load("label_predictor", LabelPredictorParams)
    model = params.read("audio_features", "model", str)
    model = params.read("audio_features", "label_model", str) or model
    require_ast_for_mel(p.head, model)
    fold_count = params.read("generator", "folds", int)
    architectures = trained_architectures()
    parallel.preload("stages.label_predictor", hub.PRELOADED)
    with scratch() as files:
        data = Features(files, SPLITS)
        # Neither head needs an action: unlabelled clips teach them, too.
        learned = to_fit_on(data, data.clip_indices("training", "unlabelled"))
        held_out = to_fit_on(data, data.clip_indices("validation"))
        require_clips(learned, held_out)

        mels = real_mels(stage, data, files, model)
        decoder = fit_decoder(data, mels, learned, held_out, p.decoder)
        real_scores, pooled = real_labels(data)
        fold = folds.of_clips(data.clips, fold_count, data.fitted.numpy())[learned.numpy()]
        pooled_map = fit_map(data, pooled, learned, fold, p.ridge_penalties)
        save_models(decoder, pooled_map.weights)

        labelled = data.clip_indices(*LABELLED)
        generated = {name: read_generated(files, name, data, labelled) for name in architectures}
        scores = PooledHead(pooled_map.weights, model).predict(data, labelled, generated)
        # AST's pass over each mel takes long: without need only the measured clips go through it.
        scored = labelled if p.head == "mel" else data.clip_indices("validation", "test")
        if is_ast(model):
            scores |= MelHead(decoder, model).predict(stage, data, labelled, scored, generated)

        # Both heads are measured where there are two; one of them writes.
        for name in architectures:
            own = scores[f"{ARCHITECTURES[name].generated}_{p.head}"]
            write_labels(name, data, labelled, own, scores[f"real_path_{p.head}"])
        write_log_mels(data, labelled, generated, decoder, mels)
        columns = figure_columns(data, labelled, generated[architectures[0]], decoder, mels)
        draw_mels(layout.MEL_FIGURE, columns)
    threshold = label_cut(p.threshold)
    figures = label_evaluation.label_figures(data, labelled, scores, real_scores, threshold)
    errors = {f"{penalty:g}": error for penalty, error in pooled_map.held_out_errors.items()}
    ridge_map = {
        "penalty": pooled_map.penalty,
        "held_out_errors": errors,
        "clips": len(learned),
        "folds": len(np.unique(fold)),
    }
    stage.write_metrics(figures | {"head": p.head, "threshold": threshold, "map": ridge_map})


def require_ast_for_mel(head: str, model: str) -> None:
    """Raise UserError when the head `mel` is to lead through a model that reads no log-mel."""
    if head == "mel" and not is_ast(model):
        raise UserError(
            f"label_predictor.head = mel leads through an Audio Spectrogram Transformer, and "
            f"'{model}', whose labels audio_features takes, is none: set label_predictor.head: "
            "features"
        )


def trained_architectures() -> list[str]:
    """Return the architectures whose generators are trained, in the vocabulary's order.

    Raises UserError when there is none.
    """
    trained = params.read("generator", "architectures", dict[str, str])
    architectures = [name for name in ARCHITECTURES if name in trained]
    if not architectures:
        raise UserError(
            f"generator.architectures names none of {', '.join(ARCHITECTURES)}, "
            "so there are no generated features to predict labels of"
        )
    return architectures


def audible(data: Features, clip_indices: torch.Tensor) -> torch.Tensor:
    """Return those clips [n] that have audio features."""
    return clip_indices[data.audio_row[clip_indices] >= 0]


def to_fit_on(data: Features, clip_indices: torch.Tensor) -> torch.Tensor:
    """Return those clips [n] that have audio features and that models are fitted on."""
    clip_indices = audible(data, clip_indices)
    return clip_indices[data.fitted[clip_indices]]


def require_clips(learned: torch.Tensor, held_out: torch.Tensor) -> None:
    """Raise UserError when there is nothing to learn from or nothing to stop by."""
    if not len(learned) or not len(held_out):
        raise UserError(
            "the label predictor needs audible training and validation clips; "
            "metrics/audio.json says what became of the sound"
        )


def read_generated(
    folder: Path, architecture: str, data: Features, clip_indices: torch.Tensor
) -> RowFile:
    """Copy what an architecture generated for the clips into a file of rows [seeds, T, A].

    Raises UserError when it was generated for other clips.
    """
    source = layout.generated(architecture)
    clip_ids: list[str] = []
    file = RowFile(folder / f"generated-{architecture}", shards.tensor_shape(source, "features"))
    rows = shards.iter_rows(source, ["features"], LABELLED)
    file.write(iter_column(rows, "features", clip_ids))
    # The heads read rows by their place in this order.
    if clip_ids != data.clips.clip_id[clip_indices.numpy()].tolist():
        raise UserError(
            f"{source} holds other clips than data/video_features: "
            f"run `dvc repro generator@{architecture}`"
        )
    return file


def real_labels(data: Features) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return label scores [L] and pooled output [P] of the real sound, by clip index."""
    index_of = {clip_id: i for i, clip_id in enumerate(data.clips.clip_id)}
    scores: dict[int, np.ndarray] = {}
    pooled: dict[int, np.ndarray] = {}
    for row in shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores", "pooled"], SPLITS):
        clip_index = index_of.get(row["clip_id"])
        if clip_index is not None:
            scores[clip_index] = row["label_scores"].astype(np.float32)
            pooled[clip_index] = row["pooled"].astype(np.float32)
    return scores, pooled


def save_models(decoder: MelDecoder, weights: torch.Tensor) -> None:
    """Write both heads' fitted weights, and the decoder's sizes, below models/label_predictor."""
    folder = layout.LABEL_PREDICTOR
    folder.mkdir(parents=True, exist_ok=True)
    save_file(decoder.state_dict(), folder / "decoder.safetensors")
    sizes = {
        "hidden": decoder.decode[0].out_features,
        "frames": decoder.frames,
        "mel_bins": decoder.mel_bins,
    }
    atomic.write_json(folder / "config.json", sizes)
    save_file({"weights": weights}, folder / "map.safetensors")


def write_labels(
    architecture: str,
    data: Features,
    clip_indices: torch.Tensor,
    generated: np.ndarray,
    real: np.ndarray,
) -> None:
    """Write an output directory (see the module's docstring) of label scores [n, L]."""
    clips = [data.clips.iloc[clip_index].to_dict() for clip_index in clip_indices.tolist()]
    index = [{**clip, "item_key": None, "status": "ok", "reason": ""} for clip in clips]
    scores = shards.tensor(pa.float16(), generated.shape[1])
    schema = pa.schema([("generated", scores), ("real_path", scores)])
    rows = (
        {**clip, "generated": generated[i], "real_path": real[i]} for i, clip in enumerate(clips)
    )
    shards.write(layout.predicted_labels(architecture), schema, rows, index, "")


def write_log_mels(
    data: Features,
    clip_indices: torch.Tensor,
    generated: dict[str, RowFile],
    decoder: MelDecoder,
    mels: RealMels,
) -> None:
    """Write data/log_mels (see the module's docstring).

    generated: by architecture, rows [seeds, T, A] in the order of `clip_indices`.
    """
    rows = []
    for position, clip_index in enumerate(clip_indices.tolist()):
        clip = data.clips.iloc[clip_index].to_dict()
        if clip["split"] != "test":
            continue
        row = clip | {"real": None}
        if mels.row[clip_index] >= 0:
            (real,) = mels.read(clip_indices[position : position + 1])
            row["real"] = mel_picture.encode(real.numpy())
        for name, file in generated.items():
            first_seed = file.read([position])[0][:1]
            with torch.inference_mode():
                row[name] = mel_picture.encode(decoder(first_seed)[0].numpy())
        rows.append(row)
    index = [{**row, "item_key": None, "status": "ok", "reason": ""} for row in rows]
    schema = pa.schema([(name, pa.binary()) for name in ("real", *generated)])
    shards.write(layout.LOG_MELS, schema, rows, index, "")


def figure_columns(
    data: Features,
    clip_indices: torch.Tensor,
    generated: RowFile,
    decoder: MelDecoder,
    mels: RealMels,
) -> list[MelColumn]:
    """Return the log-mels of some audible test clips, evenly spread, for the figure.

    generated: rows [seeds, T, A] in the order of `clip_indices`, of which seed 0 is shown.
    """
    split = data.clips.split.to_numpy()
    test = [
        position
        for position, clip_index in enumerate(clip_indices.tolist())
        if split[clip_index] == "test" and mels.row[clip_index] >= 0
    ]
    count = min(CLIPS_IN_FIGURE, len(test))
    shown = np.linspace(0, len(test) - 1, count).astype(int)
    columns = []
    for position in (test[i] for i in shown):
        clip = clip_indices[position : position + 1]
        audio, _ = data.sound(clip)
        with torch.inference_mode():
            decoded = decoder(audio)[0]
            from_generated = decoder(generated.read([position])[0][:1])[0]
        columns.append(
            MelColumn(
                action=data.clips.action[int(clip)],
                real=mels.read(clip)[0].numpy(),
                decoded=decoded.numpy(),
                generated=from_generated.numpy(),
            )
        )
    return columns


if __name__ == "__main__":
    stage_run.main(main, __doc__, "label_predictor")
