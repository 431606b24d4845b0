"""Labels of generated features by way of a log-mel spectrogram: a decoder, then AST."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import nn

from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.features import Features, noted
from audio_from_video.learning.loop import TrainingParams, fit
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.vocabulary import ARCHITECTURES, SPLITS
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile


class MelDecoder(nn.Module):
    """Audio features [B, T, A] -> normalised log-mel [B, frames, mel bins].

    Every time step decodes its share of the frames from its own features and its neighbours' with one hidden layer; the
    frames are then stretched to their number by linear interpolation.
    """

    def __init__(self, steps: int, width: int, hidden: int, frames: int, mel_bins: int):
        super().__init__()
        self.frames, self.mel_bins = frames, mel_bins
        self.per_step = -(-frames // steps)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.decode = nn.Sequential(
            nn.Linear(3 * width, hidden), nn.ReLU(), nn.Linear(hidden, self.per_step * mel_bins)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = (features - self.mean) / self.std  # [B, T, A]
        padded = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
        context = torch.cat([padded[:, :-2], x, padded[:, 2:]], dim=-1)  # [B, T, 3A]
        frames = (
            self.decode(context).unflatten(-1, (self.per_step, self.mel_bins)).flatten(1, 2)
        )  # [B, T * per_step, mel]
        return nn.functional.interpolate(
            frames.transpose(1, 2), self.frames, mode="linear", align_corners=False
        ).transpose(1, 2)


SOUND = layout.AUDIO


class DecoderParams(TrainingParams):
    hidden: int = Field(ge=1, le=8192)


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
    return _ast.log_mel([codecs.decode_flac(flac)])[0][0]


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


def real_mels(
    stage: stage_run.StageRun, data: Features, folder: Path, model: str
) -> tuple[RowFile, torch.Tensor]:
    """Log-mels of all audible clips in a file, cut to the frames that hold sound, and each clip's row there (-1: none)."""
    ast = AudioBackbone(model)
    wanted = {name: i for i, name in enumerate(data.clips.clip_id)}
    mel_row = torch.full((len(wanted),), -1)
    found = (row for row in shards.iter_rows(SOUND, ["flac"], SPLITS) if row["clip_id"] in wanted)
    names: list[str] = []
    sounds = noted(names, found, "flac")
    longest = max(
        len(codecs.decode_flac(row["flac"]))
        for row in shards.iter_rows(SOUND, ["flac"], ["validation"])
    )
    frames = ast.log_mel([np.zeros(longest, np.float32)])[1][0]
    file = RowFile(folder / "mel", (frames, ast.config.num_mel_bins))
    mels = stage.progress(
        parallel.map_items(
            real_log_mel, sounds, stage.workers, initializer=load_ast, initargs=(model,)
        ),
        timing="computing_s",
    )
    file.write(_checked(mel)[:frames] for mel in mels)
    mel_row[[wanted[name] for name in names]] = torch.arange(len(names))
    return file, mel_row


def predict_by_mel(
    stage: stage_run.StageRun,
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

    through_ast = parallel.map_items(
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
        *(
            (f"{ARCHITECTURES[name].generated}_mel", file.shape[0])
            for name, file in generated.items()
        ),
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
