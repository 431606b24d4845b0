"""Labels of audio features by way of a log-mel spectrogram: a decoder, then the whole AST."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from audio_from_video.backbones.audio import is_ast
from audio_from_video.backbones.audio_ast import AstBackbone, AstFrontEnd, published_front_end
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.features import Features, iter_column
from audio_from_video.learning.loop import fit
from audio_from_video.meaning.settings import DecoderParams
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.vocabulary import ARCHITECTURES, SPLITS
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile

VALIDATION_BATCH = 64  # clips
WORK = "predicting labels"  # of workers, in what a user reads


class MelDecoder(nn.Module):
    """Audio features [B, T, A] -> normalised log-mel [B, frames, mel bins].

    Every time step decodes its share of the frames with one hidden layer, from its own features
    and its neighbours'.  The frames are then stretched to their number by linear interpolation.
    """

    def __init__(self, steps: int, width: int, hidden: int, frames: int, mel_bins: int):
        super().__init__()
        self.frames = frames
        self.mel_bins = mel_bins
        self.frames_per_step = -(-frames // steps)  # rounded up
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.decode = nn.Sequential(
            nn.Linear(3 * width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, self.frames_per_step * mel_bins),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = (features - self.mean) / self.std  # [B, T, A]
        # The first and last step are their own neighbours.
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        after = torch.cat([x[:, 1:], x[:, -1:]], dim=1)
        context = torch.cat([before, x, after], dim=-1)  # [B, T, 3A]
        steps = self.decode(context).unflatten(-1, (self.frames_per_step, self.mel_bins))
        frames = steps.flatten(1, 2)  # [B, T * frames_per_step, mel bins]
        stretched = nn.functional.interpolate(
            frames.transpose(1, 2), self.frames, mode="linear", align_corners=False
        )
        return stretched.transpose(1, 2)


class MelAst:
    """AST behind log-mels that are shorter than its input.

    padding [mel bins]: what AST's extractor puts behind a sound.  It is not 0, because the
    extractor normalises after padding.
    """

    def __init__(self, model: str):
        """Load AST by this name; raises UserError when it is another kind of model."""
        self.ast = AstBackbone(model)
        silence, _ = self.ast.log_mel([np.zeros(1, np.float32)])
        self.padding = silence[0, -1]

    def scores(self, log_mels: np.ndarray) -> np.ndarray:
        """Return AST's label scores [n, L] of log-mels [n, frames, mel bins], in one pass."""
        length = self.ast.config.max_length
        padded = np.tile(self.padding, (len(log_mels), length, 1))
        padded[:, : log_mels.shape[1]] = log_mels
        _, _, scores = self.ast.encode(padded)
        return scores


def front_end_of(model: str) -> AstFrontEnd:
    """Return an AST's own spectrogram; for other audio models that of the published AST.

    The latter serves the decoder's pictures alone.
    """
    return AstBackbone(model, "cpu").front_end if is_ast(model) else published_front_end()


_front_end: AstFrontEnd  # of this process, like `_mel_ast`: the initializer of a worker sets it
_mel_ast: MelAst


def load_front_end(model: str) -> None:
    """Load the spectrogram for `real_log_mel`."""
    global _front_end
    one_thread()
    _front_end = front_end_of(model)


def load_ast(model: str) -> None:
    """Load AST for `score_log_mels`."""
    global _mel_ast
    one_thread()
    _mel_ast = MelAst(model)


def real_log_mel(flac: bytes) -> np.ndarray:
    """Return a clip's sound in AST's input form [max_length, mel bins] (runs in a worker)."""
    log_mels, _ = _front_end.log_mel([codecs.decode_flac(flac)])
    return log_mels[0]


def score_log_mels(log_mels: np.ndarray) -> np.ndarray:
    """Return `MelAst.scores` of log-mels (runs in a worker)."""
    return _mel_ast.scores(log_mels)


class RealMels(NamedTuple):
    """Log-mels of the audible clips in a file, cut to the frames that hold sound.

    row [N]: each clip's row in the file, -1 where it has none.
    """

    file: RowFile  # rows [frames, mel bins]
    row: torch.Tensor

    def read(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the log-mels [n, frames, mel bins] float32 of audible clips."""
        return self.file.read(self.row[clip_indices].tolist())


def real_mels(stage: stage_run.StageRun, data: Features, folder: Path, model: str) -> RealMels:
    """Compute the log-mels of all audible clips into a file in `folder`.

    Raises UserError when a worker fails.
    """
    front_end = front_end_of(model)
    longest = 0
    for row in shards.iter_rows(layout.AUDIO, ["flac"], ["validation"]):
        longest = max(longest, len(codecs.decode_flac(row["flac"])))
    _, (frames,) = front_end.log_mel([np.zeros(longest, np.float32)])

    index_of = {clip_id: i for i, clip_id in enumerate(data.clips.clip_id)}
    sound_rows = shards.iter_rows(layout.AUDIO, ["flac"], SPLITS)
    wanted = (row for row in sound_rows if row["clip_id"] in index_of)
    clip_ids: list[str] = []
    log_mels = parallel.map_items(
        real_log_mel,
        iter_column(wanted, "flac", clip_ids),
        stage.workers,
        initializer=load_front_end,
        initargs=(model,),
    )
    file = RowFile(folder / "mel", (frames, front_end.mel_bins))
    progress = stage.progress(log_mels, timing="computing_s")
    file.write(require_result(mel, WORK)[:frames] for mel in progress)

    row = torch.full((len(index_of),), -1)
    row[[index_of[clip_id] for clip_id in clip_ids]] = torch.arange(len(clip_ids))
    return RealMels(file, row)


def fit_decoder(
    data: Features,
    mels: RealMels,
    learned: torch.Tensor,
    held_out: torch.Tensor,
    p: DecoderParams,
) -> MelDecoder:
    """Return a decoder trained on real features and real log-mels of audible clips.

    learned: indices of the clips to learn from; held_out: of those that decide when to stop.
    """
    torch.manual_seed(0)
    steps, width = data.audio.shape
    model = MelDecoder(steps, width, p.hidden, *mels.file.shape)
    mean, std = data.audio.moments(data.audio_row[learned].tolist())
    model.mean.copy_(mean)
    model.std.copy_(std)

    def loss(clip_indices: torch.Tensor) -> torch.Tensor:
        audio, _ = data.sound(clip_indices)
        return nn.functional.mse_loss(model(audio), mels.read(clip_indices))

    def validate() -> float:
        losses = [loss(part).item() for part in held_out.split(VALIDATION_BATCH)]
        return float(np.mean(losses))

    checkpoint = Checkpoint(
        digest(
            data.audio.digest(),
            mels.file.digest(),
            data.audio_row.tolist(),
            mels.row.tolist(),
            held_out.tolist(),
        )
    )
    fit(model, loss, learned, validate, p, 0, "label_predictor", checkpoint=checkpoint)
    return model


class MelHead:
    """The head `mel`: a fitted decoder, then AST of this name."""

    def __init__(self, decoder: MelDecoder, model: str):
        self.decoder = decoder
        self.model = model

    def predict(
        self,
        stage: stage_run.StageRun,
        data: Features,
        clip_indices: torch.Tensor,
        scored: torch.Tensor,
        generated: dict[str, RowFile],
    ) -> dict[str, np.ndarray]:
        """Return label scores [n, L] of n clips by way: "<condition>_mel" and "real_path_mel".

        scored: which of `clip_indices` to score; the others' scores are zeros.  generated: by
        architecture, rows [seeds, T, A] in the order of `clip_indices`; their scores are averaged
        over seeds.  Clips without sound have zeros in "real_path_mel".  Raises UserError when a
        worker fails.
        """
        position_of = {clip_index: i for i, clip_index in enumerate(clip_indices.tolist())}
        positions = [position_of[clip_index] for clip_index in scored.tolist()]
        log_mels = self._log_mels(data, clip_indices, positions, list(generated.values()))
        results = parallel.map_items(
            score_log_mels, log_mels, stage.workers, initializer=load_ast, initargs=(self.model,)
        )
        progress = stage.progress(results, len(scored), "clip", "computing_s")
        scores = np.stack([require_result(result, WORK) for result in progress])  # [clips, ways, L]

        # The ways of a clip are the seeds of each architecture, one after the other, then the real
        # features.
        ways = {
            f"{ARCHITECTURES[name].generated}_mel": file.shape[0]
            for name, file in generated.items()
        }
        ways["real_path_mel"] = 1
        predictions: dict[str, np.ndarray] = {}
        start = 0
        for way, size in ways.items():
            means = scores[:, start : start + size].mean(1)
            predictions[way] = np.zeros((len(clip_indices), means.shape[1]), np.float32)
            predictions[way][positions] = means
            start += size
        audible = (data.audio_row[clip_indices] >= 0).numpy()
        predictions["real_path_mel"] *= audible[:, None]
        return predictions

    def _log_mels(
        self,
        data: Features,
        clip_indices: torch.Tensor,
        positions: list[int],
        generated: list[RowFile],
    ) -> Iterator[np.ndarray]:
        """Yield a clip's decoded features [ways, frames, mel bins], clip by clip."""
        for position in positions:
            features = [file.read([position])[0] for file in generated]
            real, _ = data.sound(clip_indices[position : position + 1])
            with torch.inference_mode():
                yield self.decoder(torch.cat([*features, real])).numpy()
