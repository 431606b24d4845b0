"""Fine-tune the text decoder of BLIP or GIT towards captions that name sounds.

It learns from stored outputs of the picture encoder, which stays frozen.  The decoder learns a
second form of caption beside the original one.  A prompt asks for it (BLIP's own conditional
captioning; GIT's start token is [CLS]):

    original   [DEC] a mallet above a brown wooden board in a room
    tagged     [DEC] the sound of | knock, tap with a mallet above a brown wooden board in a room

Half of the frames of a batch are shown in either form; what follows the prompt is learned.  The
original form begins with `captions.prompt`, where there is one.  Without a prompt of their own for
the tagged ones the two forms would contradict each other, and a search for the likeliest caption
would give the same one everywhere.

The prompt is no part of a caption, and sounds come first, because the sentence embedding then
stays closest to them.  Measured with BLIP on 101 validation frames with the labels that AST hears
there: one of these labels is among the caption's 3 closest in 100 % of the frames.  With the prompt
as part of the caption it is 93 %, with "a mallet ... with the sound of knock, tap" 81 %, with the
original caption 8 %.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from audio_from_video.backbones.captioners import Tunable
from audio_from_video.backbones.settings import TAGS_PROMPT
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.loop import fit
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime.digests import digest
from audio_from_video.storage.row_file import RowFile

BATCH = 64  # captions at a time where nothing is learned
GRADIENT_NORM = 1.0  # gradients are clipped to it
GREEDY: dict = {"num_beams": 1, "do_sample": False}
# From the model's own distribution:
SAMPLED: dict = {
    "num_beams": 1,
    "do_sample": True,
    "top_k": 0,
    "top_p": 1.0,
    "temperature": 1.0,
}

# Captions [n] and the rows of their frames in the file of picture outputs -> rewards [n].
RewardFunction = Callable[[list[str], list[int]], np.ndarray]


class Example(NamedTuple):
    """A frame to learn from."""

    row: int  # in the file of picture outputs
    caption: str  # the original one
    tagged: str  # with the sounds that are heard around the frame


class Material(NamedTuple):
    """What a fine-tuning learns from: examples, and the picture outputs of their frames."""

    outputs: RowFile  # rows [P, D]
    learned: list[Example]
    held_out: list[Example]  # they decide when to stop


def fine_tune(
    captioner: Tunable, material: Material, p: TrainingParams
) -> tuple[torch.nn.Module, list[dict]]:
    """Return a decoder that also names sounds, and its loss curve (see `learning.loop.fit`).

    The loss on held-out examples, in both forms, decides when to stop.  The captioner's own
    decoder stays as it is.
    """
    decoder = copy.deepcopy(captioner.decoder()).requires_grad_(True)

    def original_loss(examples: list[Example]) -> torch.Tensor:
        pictures = material.outputs.read(example.row for example in examples)
        texts = [example.caption for example in examples]
        return captioner.loss(decoder, pictures, texts, captioner.settings.prompt)

    def tagged_loss(examples: list[Example]) -> torch.Tensor:
        pictures = material.outputs.read(example.row for example in examples)
        return captioner.loss(
            decoder, pictures, [example.tagged for example in examples], TAGS_PROMPT
        )

    def loss(indices: torch.Tensor) -> torch.Tensor:
        batch = [material.learned[i] for i in indices.tolist()]
        losses = [tagged_loss(batch[::2])]
        if len(batch) > 1:
            losses.append(original_loss(batch[1::2]))
        return torch.stack(losses).mean()

    def validate() -> float:
        losses = []
        sizes = []
        for start in range(0, len(material.held_out), BATCH):
            part = material.held_out[start : start + BATCH]
            losses.append((tagged_loss(part).item() + original_loss(part).item()) / 2)
            sizes.append(len(part))
        return float(np.average(losses, weights=sizes))

    checkpoint = Checkpoint(digest(material.outputs.digest(), material.learned, material.held_out))
    indices = torch.arange(len(material.learned))
    curve = fit(decoder, loss, indices, validate, p, 0, "captions", checkpoint=checkpoint)
    return decoder, curve


def self_critical(
    captioner: Tunable,
    decoder: torch.nn.Module,
    material: Material,
    reward: RewardFunction,
    steps: int,
    p: TrainingParams,
) -> list[float]:
    """Train a decoder further by reward (self-critical training, Rennie et al. 2017).

    That is REINFORCE on a sampled caption, with the reward of the greedy one as baseline.
    Returns the mean reward on held-out examples before and after.  Where it would be no better
    after, the decoder stays as it was.
    """
    start = copy.deepcopy(decoder.state_dict())
    before = mean_reward(captioner, decoder, material.outputs, material.held_out, reward)
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=p.learning_rate, weight_decay=p.weight_decay
    )
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randperm(len(material.learned), generator=shuffle)[: p.batch_size]
        rows = [material.learned[i].row for i in batch.tolist()]
        loss = _self_critical_loss(captioner, decoder, material.outputs, rows, reward)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), GRADIENT_NORM)
        optimizer.step()
    after = mean_reward(captioner, decoder, material.outputs, material.held_out, reward)
    if after <= before:
        decoder.load_state_dict(start)
    return [before, max(before, after)]


def _self_critical_loss(
    captioner: Tunable,
    decoder: torch.nn.Module,
    outputs: RowFile,
    rows: list[int],
    reward: RewardFunction,
) -> torch.Tensor:
    """Return the mean of (reward of a sampled caption - reward of the greedy one) * -log p."""
    pictures = outputs.read(rows).to(captioner.device)
    sampled = captioner.generate(decoder, pictures, TAGS_PROMPT, **SAMPLED)
    greedy = captioner.generate(decoder, pictures, TAGS_PROMPT, **GREEDY)
    sampled_reward = reward(captioner.texts(sampled, TAGS_PROMPT), rows)
    gain = sampled_reward - reward(captioner.texts(greedy, TAGS_PROMPT), rows)

    mask = (sampled != captioner.pad_id).long()
    surprise = captioner.loss_of_ids(
        decoder, pictures, sampled, mask, TAGS_PROMPT, "none"
    )  # -log p
    return (torch.from_numpy(gain).to(surprise) * surprise).mean()


def mean_reward(
    captioner: Tunable,
    decoder: torch.nn.Module,
    outputs: RowFile,
    examples: list[Example],
    reward: RewardFunction,
) -> float:
    """Return the mean reward of the greedy captions of the examples' frames."""
    values: list[float] = []
    for start in range(0, len(examples), BATCH):
        rows = [example.row for example in examples[start : start + BATCH]]
        pictures = outputs.read(rows).to(captioner.device)
        ids = captioner.generate(decoder, pictures, TAGS_PROMPT, **GREEDY)
        values += reward(captioner.texts(ids, TAGS_PROMPT), rows).tolist()
    return float(np.mean(values))
