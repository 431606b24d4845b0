"""One training of a row of the main table: what it learns, what it is asked, and what its network hears."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax

from audio_from_video.backbones import hub
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ActionClassifier,
    GatedClassifier,
    MultitaskClassifier,
    ReconstructingClassifier,
    matched_hidden,
)
from audio_from_video.classification.settings import (
    SOURCES,
    ClassifierParams,
    Condition,
    NetworkParams,
)
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.features import AUDIO
from audio_from_video.learning.loop import fit
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage import shards
from audio_from_video.storage.predictions import Predictions


@dataclass
class Training:
    """One training: rows [n] learned with their targets [N, actions], rows asked afterwards; a worker runs it."""

    data: ActionData
    condition: Condition
    p: ClassifierParams
    seed: int
    learned: torch.Tensor
    targets: torch.Tensor
    asked: torch.Tensor
    name: str
    rates: list[float]  # missing rates at which test clips are asked again
    key: str = ""  # digest of the data, with which a killed training goes on where it was; "": it begins anew

    def checkpoint(self, drawn: torch.Generator) -> Checkpoint | None:
        """Where it stores its state; drawn: what its losses draw from."""
        if not self.key:
            return None
        targets = hashlib.blake2b(self.targets.numpy().tobytes(), digest_size=16).hexdigest()
        others = self.p.model_dump(include={"missing_rates", "extra_weight"})
        return Checkpoint(digest(self.key, targets, self.condition.model_dump(), others), (drawn,))

    def draw_missing(self, count: int, drawn: torch.Generator) -> torch.Tensor:
        """Which clips of a training batch lack their audio [count]: a share of them, or one of the missing rates, drawn per batch."""
        rates, rate = self.p.missing_rates, self.condition.missing_rate
        share = (
            rates[int(torch.randint(len(rates), (1,), generator=drawn))]
            if rate == "drawn"
            else float(rate)
        )
        return torch.rand(count, generator=drawn) < share


def hear(
    task: Training,
    model: ActionClassifier | None,
    rows: torch.Tensor,
    kind: str,
    missing: torch.Tensor,
    drawn: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the network is given of the sound of `rows`: a kind of audio, or where `missing` [n] what the condition has in its
    place; audio [n, T, A], whether the network is to hear it [n], and whether it is the clip's own real sound [n]."""
    audio, heard = task.data.sounds[kind].read(rows, task.seed)
    known, gone = heard & (kind == "real"), torch.nonzero(missing)[:, 0]
    filler = task.condition.test_audio
    if not len(gone) or filler in ("real", "token", "reconstructed"):
        return audio, heard & ~missing, known
    if filler == "zeros":
        audio[gone], heard[gone] = 0.0, True
    elif filler in ("mean", "noise") and model is not None:
        shape = audio.shape[1:]
        audio[gone] = model.audio_mean.cpu().expand(len(gone), *shape).clone()
        if filler == "noise":
            noise = (
                task.data.noise(rows[gone], shape, task.seed)
                if drawn is None
                else torch.randn(len(gone), *shape, generator=drawn)
            )
            audio[gone] += model.audio_std.cpu() * noise
        heard[gone] = True
    else:
        audio[gone], heard[gone] = task.data.sounds[filler].read(rows[gone], task.seed)
    return audio, heard, known


def answered(data: ActionData, asked: torch.Tensor, probabilities: np.ndarray) -> Predictions:
    """Probabilities [seeds, all clips, actions] as the predictions for the clips that were asked."""
    rows = asked.sort().values.numpy()
    return Predictions(
        data.clips.iloc[rows].reset_index(drop=True), data.actions, probabilities[:, rows]
    )


def train_one(task: Training) -> dict:
    """Train once (runs in a worker): weights, loss curve, probabilities [asked rows, actions], and at each missing rate
    whether the answers on test clips are right [rates, test clips]."""
    data, condition, p, seed = task.data, task.condition, task.p.lstm, task.seed
    one_thread()
    torch.manual_seed(seed)
    where = hub.device()
    model = build(data, condition, p, task.learned).to(where)
    drawn = torch.Generator().manual_seed(seed)

    def answer(
        rows: torch.Tensor, missing: torch.Tensor, training: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        video = data.video.read(rows.tolist()).to(where)
        if condition.learns == "audio":
            audio, heard = data.sounds["real"].read(rows)
            return model.answer(video, audio.to(where), None, heard.to(where) if training else None)
        if not data.sounds:
            return model.answer(video)
        kind = condition.train_audio if training else "real"
        audio, heard, known = (
            value.to(where)
            for value in hear(task, model, rows, kind, missing, drawn if training else None)
        )
        relevant = data.relevant[rows].to(where) if data.relevant is not None and training else None
        return model.answer(video, audio, heard, known if training else None, relevant)

    def learn(rows: torch.Tensor) -> torch.Tensor:
        logits, extra = answer(rows, task.draw_missing(len(rows), drawn), True)
        targets = task.targets[rows].to(where)
        loss = -(targets * log_softmax(logits, 1)).sum() / targets.sum().clamp(min=1)
        return loss if extra is None else loss + task.p.extra_weight * extra

    def logits(rows: torch.Tensor, missing: torch.Tensor | None = None) -> torch.Tensor:
        all_missing = torch.full((len(rows),), condition.test_audio != "real")
        return answer(rows, all_missing if missing is None else missing)[0].cpu()

    def validate() -> float:
        parts = data.rows("validation").split(512)
        return float(
            np.average(
                [cross_entropy(logits(part), data.labels[part]) for part in parts],
                weights=[len(part) for part in parts],
            )
        )

    curve = fit(
        model,
        learn,
        task.learned,
        validate,
        p,
        seed,
        f"classifier/{task.name}",
        checkpoint=task.checkpoint(drawn),
    )
    test = data.rows("test")
    with torch.inference_mode():
        probabilities = torch.cat(
            [logits(part).softmax(1) for part in task.asked.split(512)]
        ).numpy()
        right = []
        for missing in data.missing_at(task.rates, test, seed).values():
            answers = [
                logits(part, gone).argmax(1)
                for part, gone in zip(test.split(512), missing.split(512), strict=True)
            ]
            right.append((torch.cat(answers) == data.labels[test]).numpy())
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    return {"weights": weights, "curve": curve, "probabilities": probabilities, "right": right}


def build(
    data: ActionData, condition: Condition, p: NetworkParams, learned: torch.Tensor
) -> ActionClassifier:
    """The network of a condition, with the scale of the features of the clips it learns from."""
    (steps, video_width), hidden = data.video.shape, p.hidden
    audio_width = data.sounds["real"].file.shape[-1] if data.sounds else 0
    if condition.match_parameters:
        other = shards.tensor_shape(AUDIO, "features")[-1]
        hidden = matched_hidden(video_width, other, len(data.actions), p.hidden, p.projection)
    sizes = video_width, audio_width, len(data.actions), hidden, p.projection, p.dropout
    model: ActionClassifier
    if condition.learns == "audio":
        model = MultitaskClassifier(*sizes)
    elif condition.gate == "dictionary":
        model = GatedClassifier(*sizes)
    elif condition.test_audio == "reconstructed":
        model = ReconstructingClassifier(*sizes, steps)
    else:
        model = ActionClassifier(*sizes)
    model.set_scale("video", *data.video.moments(learned.tolist()))
    if data.sounds:
        sound = data.sounds[condition.train_audio if condition.train_audio in SOURCES else "real"]
        heard = sound.row[learned]
        if (heard >= 0).any():  # a gate may reject all clips: then there is only the token
            model.set_scale("audio", *sound.file.moments(heard[heard >= 0].tolist()))
    return model
