"""What all trainings of a generator share: its parameters, the clips that it reads, and the network with its inputs."""

from dataclasses import dataclass

import numpy as np
import torch

from audio_from_video.backbones import hub
from audio_from_video.generation.conditioning import Conditions, TextEncoder, TunedConditions
from audio_from_video.generation.networks import AudioGenerator, MappedAudioGenerator
from audio_from_video.generation.settings import GeneratorParams, MappingNetwork
from audio_from_video.learning.features import Features
from audio_from_video.runtime.digests import digest


@dataclass
class Inputs:
    """What all trainings share: the clips' features, their folds [N], what `mapping` is conditioned on, and whether clips
    learn from the sound of others."""

    data: Features
    fold: np.ndarray
    conditions: Conditions | None
    shuffled: bool = False

    def key(self) -> str:
        """Digest of what all trainings read: part of a checkpoint's key."""
        data, conditions = self.data, self.conditions.key() if self.conditions else None
        places = [data.audio_row.tolist(), self.fold.tolist(), data.clips.clip_id.tolist()]
        return digest(data.video.digest(), data.audio.digest(), places, conditions, self.shuffled)


class Generator:
    """The network of an architecture with what it reads: rows in, standardised audio features out."""

    def __init__(self, inputs: Inputs, seed: int, p: GeneratorParams):
        self.data, self.read, self.seed, net = inputs.data, None, seed, p.lstm
        self.noise, self.device = p.caption_mapping.noise, hub.device()
        self.drawn = torch.Generator().manual_seed(seed)
        video, audio = self.data.video.shape[-1], self.data.audio.shape[-1]
        sizes = net.hidden, net.projection, net.dropout, net.bidirectional
        self.groups: dict[str, float] = {}  # learning rates of parts
        self.refresh = lambda: None
        self.model: AudioGenerator
        if inputs.conditions is None:
            self.model = AudioGenerator(video, audio, *sizes)
        else:
            m, text = p.caption_mapping, inputs.conditions.embedding.shape[-1]
            self.model = MappedAudioGenerator(
                video,
                audio,
                text,
                *sizes,
                m.noise,
                m.propagation,
                m.anchors,
                m.visual,
                m.temperature,
            )
            self.read = inputs.conditions.read
            if m.finetune_text != "off" and m.condition == "mapped":
                self.tune_text(inputs.conditions, m)
        self.model.to(self.device)

    def tune_text(self, conditions: Conditions, p: MappingNetwork) -> None:
        """Let the text encoder learn with the model, and the mapping follow it."""
        how = conditions.settings
        encoder = TextEncoder(
            how["model"], conditions.captions + conditions.labels, p.finetune_text
        ).to(self.device)
        tuned = TunedConditions(
            conditions, encoder, how["via"], how["top_k"], how["min_similarity"]
        )
        self.model.text = encoder
        self.read, self.refresh, self.groups = (
            tuned.read,
            tuned.refresh,
            {"text.": p.text_learning_rate},
        )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Standardised audio features [n, T, A]; noise is drawn anew in training, else it is the clip's and the seed's own."""
        video = self.data.video.read(rows.tolist()).to(self.device)
        if self.read is None:
            return self.model(video)
        shape = (video.shape[1], self.noise)
        noise = (
            torch.randn(len(rows), *shape, generator=self.drawn)
            if self.model.training
            else self.data.noise(rows, shape, self.seed, 0)
        )
        return self.model(video, self.read(rows).to(self.device), noise.to(self.device))
